"""Demonstrations for SFT: prompts with the response to learn, from files and from generated traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from credo.data.generated import gym_rows
from credo.data.rows import demonstration_of
from credo.data.sources import GeneratedSource, as_object, expand, file_rows, sift
from credo.data.traces import OWN_PARAMETERS, guess_share_of, trace_of
from credo.types import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """A prompt with the response to learn."""

    prompt: str | tuple[Message, ...]
    """Messages go through the chat template of the tokenizer; a string is continued as it stands."""
    response: str
    source: str


def load_demonstrations(sources: Sequence[str], *, max_bad_share: float = 0.0) -> list[Demonstration]:
    """The demonstrations of ``sources`` in the order given: .jsonl and .parquet files, folders of them, and
    ``trace:FAMILY?size=..&seed=..&guess_share=..&prompt=question|expression``.

    Rows that cannot be used are skipped up to the share ``max_bad_share`` of their source. Raises ValueError above it,
    with the place and the reason of the first.
    """
    demonstrations: list[Demonstration] = []
    for label, origin in expand(sources).items():
        if isinstance(origin, Path):
            rows, parse = file_rows(origin), partial(_from_file, label=label)
        else:
            rows, parse = gym_rows(_trace_source(origin), own=OWN_PARAMETERS), partial(_from_entry, source=origin)
        demonstrations += sift(rows, parse, label=label, max_bad_share=max_bad_share)[0]
    return demonstrations


def _from_file(number: int, raw: object, *, label: str) -> Demonstration:
    prompt, response = demonstration_of(as_object(raw))
    return Demonstration(prompt=prompt, response=response, source=label)


def _from_entry(number: int, raw: object, *, source: GeneratedSource) -> Demonstration:
    prompt, response = trace_of(cast(Mapping[str, Any], raw), source, number)
    return Demonstration(prompt=prompt, response=response, source=source.name)


def _trace_source(source: GeneratedSource) -> GeneratedSource:
    if source.scheme == "gym":
        raise ValueError(f"{source.name} makes problems without responses; use trace:{source.family} for SFT.")
    guess_share_of(source)
    return source
