"""Responses with their outcome labels, from files: what offline PRMs learn from and are measured on.

A row states one response, or all responses to a problem as lists. It knows neither tokens nor rewards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from credo.data.rows import prompt_of
from credo.data.sources import as_object, expand, file_rows, sift
from credo.types import Message

LABEL_KEYS = ("label", "score", "correct", "outcome")
LISTS = {"responses": "response", "labels": "label", "preds": "pred", "rm_scores": "rm_score"}
"""Columns of a row that states all responses to a problem, and what they are called in a row of one response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One response to a prompt."""

    prompt: str | tuple[Message, ...]
    """Messages go through the chat template of the tokenizer; a string is continued as it stands."""
    text: str
    score: float | None
    """Its outcome in [0, 1]; None where it is not known."""
    problem: str
    """The words of the prompt; :func:`by_problem` says which responses are to one problem."""
    source: str
    finished: bool
    """False if it ran into a length limit, so that no end-of-sequence token follows."""
    row: Mapping[str, Any]
    """Everything the file says of it."""


def load_responses(sources: Sequence[str], *, labelled: bool, max_bad_share: float = 0.0) -> list[Response]:
    """The responses of ``sources``: .jsonl and .parquet files and folders of them, in order.

    A row is a prompt (as in :func:`credo.data.rows.prompt_of`) with ``response`` and ``label``, ``score``, ``correct``
    or ``outcome`` (true, false, or a number in [0, 1]; null is unknown), or with ``responses`` and ``labels``, lists.
    Only with ``labelled`` does a row need a label. Raises ValueError with place and reason of the first row that does
    not fit, as :func:`credo.data.sources.sift` does.
    """
    found: list[Response] = []
    for label, origin in expand(sources).items():
        if not isinstance(origin, Path):
            raise ValueError(f"{label} makes problems, not responses; sample some with credo prm rollouts.")
        parse = partial(_responses, source=label, labelled=labelled)
        for responses in sift(file_rows(origin), parse, label=label, max_bad_share=max_bad_share)[0]:
            found += responses
    return found


def fingerprint(responses: Sequence[Response]) -> str:
    """SHA-256 of prompts, responses and scores in their order; where they were read from does not enter."""
    digest = hashlib.sha256()
    for response in responses:
        prompt = response.prompt
        turns = prompt if isinstance(prompt, str) else [[message.role, message.content] for message in prompt]
        digest.update(json.dumps([turns, response.text, response.score, response.finished]).encode() + b"\n")
    return digest.hexdigest()


def by_problem(responses: Sequence[Response]) -> dict[str, list[int]]:
    """The indices of the responses to each problem, by the words of its first prompt, in order of first mention.

    Prompts of the same words are one problem, and so are those that share the ``group`` of a row.
    """
    above: dict[str, str] = {}

    def top(key: str) -> str:
        while (over := above.setdefault(key, key)) != key:
            above[key] = key = above[over]
        return key

    for response in responses:
        if (group := response.row.get("group")) is not None:
            above[top(response.problem)] = top(f"\n{group}")  # no prompt's words hold a line break
    problems: dict[str, list[int]] = {}
    for index, response in enumerate(responses):
        problems.setdefault(top(response.problem), []).append(index)
    return {responses[indices[0]].problem: indices for indices in problems.values()}


def _responses(number: int, raw: object, *, source: str, labelled: bool) -> list[Response]:
    row = as_object(raw)
    prompt = prompt_of(row)
    words = prompt if isinstance(prompt, str) else "\n".join(turn.content for turn in prompt)
    return [
        Response(
            prompt=prompt,
            text=_text(single),
            score=_score(single, needed=labelled),
            problem=" ".join(words.split()),
            source=source,
            finished=single.get("finish") != "length",
            row=single,
        )
        for single in _singles(row)
    ]


def _singles(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The row itself, or a row for each of its ``responses``, numbered."""
    if "responses" not in row:
        yield dict(row)
        return
    lists = {name: row[name] for name in LISTS if name in row}
    count = len(row["responses"]) if isinstance(row["responses"], list) else 0
    uneven = [name for name, values in lists.items() if not isinstance(values, list) or len(values) != count]
    if uneven or not count:
        raise ValueError(f"{', '.join(uneven) or 'responses'}: expected a list with an entry for each of the responses")
    common = {name: value for name, value in row.items() if name not in lists}
    for index in range(count):
        yield common | {LISTS[name]: values[index] for name, values in lists.items()} | {"sample": index}


def _text(row: Mapping[str, Any]) -> str:
    text = row.get("response")
    if not isinstance(text, str):
        raise ValueError(f"response: expected text, got {'nothing' if text is None else type(text).__name__}")
    return text


def _score(row: Mapping[str, Any], *, needed: bool) -> float | None:
    key = next((key for key in LABEL_KEYS if key in row), None)
    if key is None:
        if needed:
            raise ValueError(f"has none of {', '.join(LABEL_KEYS)}; null under one of them is an unknown label")
        return None
    value = row[key]
    if value is None:
        return None
    if not isinstance(value, (bool, int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{key}: expected true, false, null or a number from 0 to 1, got {value!r}")
    return float(value)
