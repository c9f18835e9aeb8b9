"""One row of a file to one problem or demonstration: the schemas of verl, TRL, GSM8K and our own. It neither reads
files nor counts bad rows: a row that does not fit raises ValueError with the reason."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, cast, get_args

from credo.data.code_rows import program_tests, states_tests
from credo.data.sources import near
from credo.types import Kind, Message, Problem

Row = Mapping[str, Any]
PROMPT_KEYS = ("prompt", "messages", "question", "problem")
ANSWER_KEYS = ("answer", "solution", "ground_truth")
KNOWN_KEYS = {*PROMPT_KEYS, *ANSWER_KEYS, "id", "kind", "extra", "reward_model", "tests", "source", "conversations"}
ROLES = ("system", "user", "assistant")
SPEAKERS = {"human": "user", "gpt": "assistant"}
"""What the roles are called in ``conversations``."""


def problem_of(row: Row, *, default_id: str, default_kind: Kind, source: str) -> Problem:
    """The problem that ``row`` states.

    The prompt is the first of ``prompt``, ``messages``, ``question`` and ``problem`` that is there, the answer the
    first of ``answer``, ``solution``, ``ground_truth`` and ``reward_model.ground_truth``. A string under ``prompt``
    stays text to be continued; under other keys it becomes a user's message. ``id``, ``kind``, ``extra`` are optional.
    A row of kind ``code`` has ``tests`` in place of an answer (see ``program_tests``). Columns with other names, such
    as verl's ``data_source``, are kept in ``extra`` for a reward function of the user's that asks for them.
    """
    kind = _kind(row, default_kind)
    prompt = prompt_of(row)
    if not isinstance(prompt, str) and prompt[-1].role != "user":
        raise ValueError(f"the last message comes from the {prompt[-1].role}; a problem ends with the user's")
    extra = other_columns(row)
    if kind == "code":
        extra = {"tests": extra.get("tests") or program_tests(row), **extra}
    if kind == "gym" and not {"family", "entry"} <= extra.keys():
        raise ValueError("a row of kind 'gym' needs extra.family and extra.entry")
    unanswered = kind == "code" or (kind == "gym" and not row.get("answer"))
    answer = "" if unanswered else answer_of(row)
    return Problem(id=row_id(row, default_id), kind=kind, prompt=prompt, answer=answer, source=source, extra=extra)


def prompt_of(row: Row) -> str | tuple[Message, ...]:
    """The prompt of a row, as text or as messages."""
    key, value = _first(with_messages(row), PROMPT_KEYS)
    if isinstance(value, str) and key != "messages":
        text = _text(value, key)
        return text if key == "prompt" else (Message(role="user", content=text),)
    return messages_of(value, key)


def messages_of(value: object, key: str) -> tuple[Message, ...]:
    """A list of ``{"role", "content"}`` as messages; other keys of a message are ignored."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{key}: expected text or a list of messages, got {_what(value)}")
    messages = []
    for turn in value:
        if not isinstance(turn, dict) or not {"role", "content"} <= turn.keys():
            raise ValueError(f"{key}: a message needs a role and a content, got {_what(turn)}")
        if turn["role"] not in ROLES:
            raise ValueError(f"{key}: unknown role {turn['role']!r}, expected one of {', '.join(ROLES)}")
        messages.append(Message(role=turn["role"], content=_text(turn["content"], f"{key}.content")))
    return tuple(messages)


def answer_of(row: Row) -> str:
    """The gold answer as text: behind the ``####`` of a GSM8K solution, inside the last box of a ``solution``,
    or the only member of a list."""
    key, value = _first(_with_ground_truth(row), ANSWER_KEYS)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number(value, key)
    text = _text(value, key)
    _, mark, tail = text.rpartition("####")
    if mark:
        text = tail
    elif key == "solution":
        text = _last_box(text)
    if not text.strip():
        raise ValueError(f"{key}: nothing stands where the final answer should be")
    return text.strip()


def demonstration_of(row: Row) -> tuple[str | tuple[Message, ...], str]:
    """Prompt and response of a row: ``messages`` (or ``conversations``, after the text under ``system``) ending with
    the assistant's, or a prompt with ``response`` or ``completion`` (text, or a list of one assistant message)."""
    row = with_messages(row)
    if _is_conversation(row):
        *before, last = messages_of(row["messages"], "messages")
        if last.role != "assistant" or not before:
            raise ValueError("messages: a demonstration is a prompt that ends with a message of the assistant")
        prompt, response = tuple(before), last.content
    else:
        prompt, response = prompt_of(row), _response(row)
    if not isinstance(prompt, str) and prompt[-1].role != "user":
        raise ValueError(f"the message before the response comes from the {prompt[-1].role}, not from the user")
    return prompt, response


def has_several_answers(row: Row) -> bool:
    """Whether ``row`` is a conversation in which the assistant speaks more than once, all of it to be learnt: it has
    messages, and no response apart from them."""
    row = with_messages(row)
    turns = messages_of(row["messages"], "messages") if _is_conversation(row) else ()
    return sum(turn.role == "assistant" for turn in turns) > 1


def _is_conversation(row: Row) -> bool:
    return row.get("response") is None and row.get("completion") is None and row.get("messages") is not None


def _response(row: Row) -> str:
    key, value = _first(row, ("response", "completion"))
    if isinstance(value, str):
        return _text(value, key)
    messages = messages_of(value, key)
    if len(messages) != 1 or messages[0].role != "assistant":
        raise ValueError(f"{key}: expected one message of the assistant, got {len(messages)} message(s)")
    return messages[0].content


def _kind(row: Row, default_kind: Kind) -> Kind:
    kind = row.get("kind")
    if kind is None:
        return "code" if states_tests(row) else default_kind
    if kind not in get_args(Kind):
        raise ValueError(f"unknown kind {kind!r}.{near(str(kind), get_args(Kind)).rstrip('.')}")
    return cast(Kind, kind)


def row_id(row: Row, default_id: str) -> str:
    """The id that the row states, else ``default_id``."""
    value = row.get("id")
    if value is None:
        return default_id
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"id: expected text or an integer, got {_what(value)}")
    return _text(str(value), "id")


def other_columns(row: Row) -> dict[str, Any]:
    """What the row says besides, as far as JSON can hold it, and what stands under ``extra``."""
    others = {key: value for key, value in row.items() if key not in KNOWN_KEYS and value is not None}
    return {key: value for key, value in others.items() if is_json(value)} | _extra(row)


def is_json(value: object) -> bool:
    """Whether JSON can hold ``value``."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _extra(row: Row) -> dict[str, Any]:
    extra = row.get("extra")
    if extra is None:
        return {}
    if not is_json(extra):
        raise ValueError("extra: holds values that JSON does not have")
    if not isinstance(extra, dict):
        raise ValueError(f"extra: expected an object, got {_what(extra)}")
    return extra


def with_messages(row: Row) -> Row:
    """The row with its ``conversations``, turns of ``from`` and ``value`` as in Eurus-2-SFT-Data, as ``messages``."""
    turns = row.get("conversations")
    if turns is None or any(row.get(key) is not None for key in PROMPT_KEYS):
        return row
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("from"), str) for turn in turns
    ):
        raise ValueError("conversations: expected a list of objects with from and value")
    messages = [{"role": SPEAKERS.get(turn["from"], turn["from"]), "content": turn.get("value")} for turn in turns]
    system = row.get("system")
    if system and not (messages and messages[0]["role"] == "system"):
        messages.insert(0, {"role": "system", "content": system})
    return {**row, "messages": messages}


def _with_ground_truth(row: Row) -> Row:
    reward_model = row.get("reward_model")
    if reward_model is None or row.get("ground_truth") is not None:
        return row
    if not isinstance(reward_model, dict):
        raise ValueError(f"reward_model: expected an object with a ground_truth, got {_what(reward_model)}")
    return {**row, "ground_truth": reward_model.get("ground_truth")}


def _first(row: Row, keys: tuple[str, ...]) -> tuple[str, object]:
    for key in keys:
        if row.get(key) is not None:
            return key, row[key]
    raise ValueError(f"has none of {', '.join(keys)}; its keys are {', '.join(map(str, row)) or 'none'}")


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what}: expected text, got {_what(value)}")
    if not value.strip():
        raise ValueError(f"{what}: is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{what}: holds half a surrogate pair, which no tokenizer can read") from error
    return value


def _number(value: int | float, what: str) -> str:
    if not math.isfinite(value):
        raise ValueError(f"{what}: expected a finite number, got {value}")
    return str(int(value)) if value == int(value) else repr(value)


def _last_box(text: str) -> str:
    """What stands in the last complete ``\\boxed{}``; the whole text if it has none."""
    start = text.rfind("\\boxed{")
    depth = 0
    for position in range(start + len("\\boxed"), len(text)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : position]
    return text


def _what(value: object) -> str:
    return "nothing" if value is None or value == [] else type(value).__name__
