"""Demonstrations for SFT: prompts with the response to learn, from files and from generated traces."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from credo.data.generated import gym_rows
from credo.data.rows import demonstration_of, has_several_answers
from credo.data.sources import GeneratedSource, as_object, expand, file_rows, sift
from credo.data.traces import OWN_PARAMETERS, guess_share_of, trace_of
from credo.types import Message

Prompt = str | tuple[Message, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """A prompt with the response to learn."""

    prompt: Prompt
    """Messages go through the chat template of the tokenizer; a string is continued as it stands."""
    response: str
    source: str
    line: int
    """Which of its source it is, from 1 in files."""
    every_turn: bool = False
    """Whether what the assistant says within ``prompt`` is learnt too."""


def load_demonstrations(
    sources: Sequence[str], *, max_bad_share: float = 0.0, warn: Callable[[str], None] = lambda line: None
) -> list[Demonstration]:
    """The demonstrations of ``sources`` in the order given: .jsonl and .parquet files, folders of them, and
    ``trace:FAMILY?size=..&seed=..&guess_share=..&prompt=question|expression``.

    Rows that cannot be used are skipped up to the share ``max_bad_share`` of their source, of which ``warn`` hears.
    Raises ValueError above it, with the place and the reason of the first.
    """
    demonstrations: list[Demonstration] = []
    for label, origin in expand(sources).items():
        if isinstance(origin, Path):
            rows, parse = file_rows(origin), partial(_from_file, label=label)
        else:
            rows, parse = gym_rows(_trace_source(origin), own=OWN_PARAMETERS), partial(_from_entry, source=origin)
        good, bad = sift(rows, parse, label=label, max_bad_share=max_bad_share)
        demonstrations += good
        if bad:
            warn(f"{len(bad):,} of {len(good) + len(bad):,} rows are unusable and left out. The first: {bad[0]}.")
    return demonstrations


def split_off(
    demonstrations: Sequence[Demonstration], share: float, seed: int
) -> tuple[list[Demonstration], list[Demonstration]]:
    """What is learnt, and about ``share`` of the prompts, drawn by ``seed``, to be held out: at least one of each.

    Raises ValueError if there is but one prompt.
    """
    prompts = list(dict.fromkeys(demonstration.prompt for demonstration in demonstrations))
    if len(prompts) < 2:
        raise ValueError("sft.held_out_share: all demonstrations have the same prompt; name a file in sft.held_out.")
    random.Random(f"{seed}:held out").shuffle(prompts)
    chosen = set(prompts[: min(max(1, round(share * len(prompts))), len(prompts) - 1)])
    held_out = [demonstration for demonstration in demonstrations if demonstration.prompt in chosen]
    return without(demonstrations, held_out), held_out


def without(demonstrations: Sequence[Demonstration], held_out: Sequence[Demonstration]) -> list[Demonstration]:
    """Those whose prompt is none of ``held_out``'s. Raises ValueError if there are none."""
    prompts = {demonstration.prompt for demonstration in held_out}
    training = [demonstration for demonstration in demonstrations if demonstration.prompt not in prompts]
    if not training:
        raise ValueError("sft.held_out has every prompt of sft.sources, so nothing is left to learn from.")
    return training


def _from_file(number: int, raw: object, *, label: str) -> Demonstration:
    row = as_object(raw)
    prompt, response = demonstration_of(row)
    several = has_several_answers(row)
    return Demonstration(prompt=prompt, response=response, source=label, line=number, every_turn=several)


def _from_entry(number: int, raw: object, *, source: GeneratedSource) -> Demonstration:
    prompt, response = trace_of(cast(Mapping[str, Any], raw), source, number)
    return Demonstration(prompt=prompt, response=response, source=source.name, line=number)


def _trace_source(source: GeneratedSource) -> GeneratedSource:
    if source.scheme == "gym":
        raise ValueError(f"{source.name} makes problems without responses; use trace:{source.family} for SFT.")
    guess_share_of(source)
    return source
