"""Prompts, responses and conversations to token ids. It reads no file and decodes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, cast

from credo.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Template = Literal["auto", "chat", "plain"]


def render(
    prompt: str | tuple[Message, ...],
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: Template,
    system: str = "",
    suffix: str = "",
) -> tuple[int, ...]:
    """The token ids of a prompt, ready to be continued.

    ``chat`` goes through the tokenizer's chat template up to the place where the assistant speaks (a string becomes the
    user's message); ``plain`` is the text itself, messages joined by newlines, with the tokenizer's
    beginning-of-sequence token once and no end token. ``auto`` is ``chat`` for messages if the tokenizer has a
    template, and ``plain`` otherwise. ``system`` comes first, instead of a system message; ``suffix`` follows the last
    words of the user. Raises ValueError for ``chat`` without a template, for messages that the template refuses, and
    for a prompt without tokens.
    """
    turns = _turns(prompt, system=system, suffix=suffix)
    if speaks_by_template(prompt, tokenizer, template):
        token_ids = _chat_ids(turns, tokenizer)
    else:
        token_ids = _plain_ids("\n".join(turn.content for turn in turns), tokenizer)
    if not token_ids:
        raise ValueError(
            f"The prompt '{turns[-1].content[:60]}' has no token in this tokenizer; use another tokenizer."
        )
    return token_ids


def encode_response(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The token ids of a response to learn, the end-of-sequence token included.

    Raises ValueError if the tokenizer has no such token: the model could never learn to stop.
    """
    end = cast("int | None", tokenizer.eos_token_id)
    if end is None:
        raise ValueError("The tokenizer has no end-of-sequence token, so no response could end; set its eos_token.")
    token_ids = _encoded(text, tokenizer, special=False)
    return token_ids if token_ids[-1:] == (end,) else (*token_ids, end)


def speaks_by_template(
    prompt: str | tuple[Message, ...], tokenizer: PreTrainedTokenizerBase, template: Template
) -> bool:
    """Whether :func:`render` puts ``prompt`` through the chat template."""
    return template == "chat" or (template == "auto" and not isinstance(prompt, str) and bool(tokenizer.chat_template))


def encode_conversation(
    turns: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    *,
    ends: frozenset[int],
    system: str = "",
    suffix: str = "",
) -> tuple[tuple[int, ...], ...]:
    """The token ids of a conversation as the chat template has it, in pieces: what is given, what the assistant says to
    it, what is given next, and so on. What it says ends with the token of ``ends`` that the template ends it with.

    ``system`` comes first, instead of a system message; ``suffix`` follows all words of the user. Raises ValueError if
    the prompt of a turn, as :func:`render` makes it, is not the beginning of the conversation token by token, so that
    the model would learn to answer what it is never asked; and if a turn does not end.
    """
    spoken = [replace(turn, content=turn.content + suffix) if turn.role == "user" else turn for turn in turns]
    if system:
        spoken = [Message(role="system", content=system), *(turn for turn in spoken if turn.role != "system")]
    whole = _chat_ids(spoken, tokenizer, asking=False)
    pieces: list[tuple[int, ...]] = []
    done = 0
    for index in (index for index, turn in enumerate(spoken) if index > 0 and turn.role == "assistant"):
        asked, said = _chat_ids(spoken[:index], tokenizer), _chat_ids(spoken[: index + 1], tokenizer, asking=False)
        if whole[: len(asked)] != asked or whole[: len(said)] != said:
            raise ValueError(
                f"the chat template writes message {index + 1} otherwise, or in other tokens, when the conversation "
                "goes on; give each answer a row of its own, with what came before it as the prompt"
            )
        end = max((place for place in range(len(asked), len(said)) if said[place] in ends), default=None)
        if end is None:
            raise ValueError(
                f"the chat template ends message {index + 1} with none of the tokens that end a response; set the "
                "tokenizer's eos_token to the one it writes there"
            )
        pieces += [whole[done : len(asked)], whole[len(asked) : end + 1]]
        done = end + 1
    return tuple(pieces)


def _turns(prompt: str | tuple[Message, ...], *, system: str, suffix: str) -> list[Message]:
    turns = [Message(role="user", content=prompt)] if isinstance(prompt, str) else list(prompt)
    if system:
        turns = [Message(role="system", content=system), *(turn for turn in turns if turn.role != "system")]
    last = max((index for index, turn in enumerate(turns) if turn.role == "user"), default=len(turns) - 1)
    turns[last] = replace(turns[last], content=turns[last].content + suffix)
    return turns


def _chat_ids(turns: Sequence[Message], tokenizer: PreTrainedTokenizerBase, *, asking: bool = True) -> tuple[int, ...]:
    """``turns`` through the chat template; ``asking`` goes on to where the assistant speaks."""
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise ValueError("The tokenizer has no chat template; use template = 'plain', or a tokenizer that has one.")
    conversation = [{"role": turn.role, "content": turn.content} for turn in turns]
    try:
        text = tokenizer.apply_chat_template(conversation, add_generation_prompt=asking, tokenize=False)
    except TemplateError as error:
        raise ValueError(
            f"The tokenizer's chat template refuses a conversation: {error}. Change system or data."
        ) from error
    return _encoded(str(text), tokenizer, special=False)


def _plain_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    bare, dressed = (_encoded(text, tokenizer, special=special) for special in (False, True))
    for start in range(len(dressed) - len(bare) + 1):
        if dressed[start : start + len(bare)] == bare:
            prefix = dressed[:start]
            return bare if bare[:start] == prefix else prefix + bare
    return bare


def _encoded(text: str, tokenizer: PreTrainedTokenizerBase, *, special: bool) -> tuple[int, ...]:
    token_ids: list[int] = tokenizer(text, add_special_tokens=special)["input_ids"]  # pyright: ignore
    return tuple(token_ids)
