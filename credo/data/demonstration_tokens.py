"""Demonstrations as tokens: what of them is given, what is learnt, and how many there may be. It reads no file."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from credo.config import DemonstrationConfig
from credo.data.demonstrations import Demonstration
from credo.data.prompts import encode_conversation, encode_response, render, speaks_by_template
from credo.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Pieces = tuple[Sequence[int], ...]
"""Token ids of a demonstration: what is given, what is learnt, and so on in turn."""


def encode(
    demonstrations: Sequence[Demonstration],
    config: DemonstrationConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    ends: frozenset[int],
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[list[Pieces], int]:
    """The tokens of ``demonstrations`` in their order, without those that are dropped, and how many were truncated.

    ``ends`` are the tokens that end a response; ``advance`` is told of each demonstration. Raises ValueError, with its
    place, for one that cannot be encoded or is too long where that is refused.
    """
    rows: list[Pieces] = []
    truncated = 0
    for demonstration in demonstrations:
        try:
            pieces = _pieces(demonstration, config, tokenizer, ends)
            fitting = _fitting(pieces, config)
        except ValueError as error:
            raise ValueError(f"{demonstration.source}:{demonstration.line}: {str(error).rstrip('.')}.") from None
        if fitting:
            rows.append(tuple(array("i", piece) for piece in fitting))  # a tenth of the memory that numbers would take
            truncated += length(fitting) < length(pieces)
        advance(1)
    return rows, truncated


def length(pieces: Pieces) -> int:
    """Tokens of a demonstration."""
    return sum(map(len, pieces))


def learnt_tokens(rows: Sequence[Pieces]) -> int:
    """Tokens of ``rows`` that count in the loss."""
    return sum(len(piece) for row in rows for piece in row[1::2])


def fingerprint(rows: Sequence[Pieces]) -> str:
    """SHA-256 over every token and where it stands."""
    digest = hashlib.sha256()
    for pieces in rows:
        digest.update(repr([len(piece) for piece in pieces]).encode())
        for piece in pieces:
            digest.update(array("i", piece).tobytes())
    return digest.hexdigest()


def _pieces(
    demonstration: Demonstration, config: DemonstrationConfig, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int]
) -> Pieces:
    prompt, settings = demonstration.prompt, {"system": config.system, "suffix": config.suffix}
    if isinstance(prompt, str) or not demonstration.every_turn:
        pieces = (
            render(prompt, tokenizer, template=config.template, **settings),
            encode_response(demonstration.response, tokenizer),
        )
    elif not speaks_by_template(prompt, tokenizer, config.template):
        raise ValueError(
            "the assistant speaks several times, which plain text cannot tell from the user; use a tokenizer that has "
            "a chat template, or give each answer a row of prompt and response"
        )
    else:
        turns = (*prompt, Message(role="assistant", content=demonstration.response))
        pieces = encode_conversation(turns, tokenizer, ends=ends, **settings)
    _refuse_unknown(pieces, demonstration, tokenizer)
    return pieces


def _fitting(pieces: Pieces, config: DemonstrationConfig) -> Pieces:
    """``pieces`` within ``max_tokens``; nothing if there is nothing to learn in that many."""
    count, limit = length(pieces), config.max_tokens
    if count <= limit:
        return pieces
    if config.too_long == "refuse":
        raise ValueError(
            f"has {count:,} tokens, over sft.max_tokens = {limit:,}; raise the limit, shorten it, or set "
            "sft.too_long to drop or truncate"
        )
    if config.too_long == "drop":
        return ()
    kept: list[Sequence[int]] = []
    for piece in pieces:
        kept.append(piece[:limit])
        limit -= len(kept[-1])
    return tuple(kept) if any(kept[1::2]) else ()


def _refuse_unknown(pieces: Pieces, demonstration: Demonstration, tokenizer: PreTrainedTokenizerBase) -> None:
    unknown = cast("int | None", tokenizer.unk_token_id)
    has_other_use = unknown in (None, tokenizer.eos_token_id, tokenizer.bos_token_id)
    if not has_other_use and any(unknown in piece for piece in pieces):
        raise ValueError(
            f"has characters that the tokenizer does not know: {demonstration.prompt!r}; add them to "
            "architecture.alphabet"
        )
