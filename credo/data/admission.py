"""Which problems a run trains on and is judged by: none in both, none too long. It loads no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from credo.config import DataConfig, TrainConfig
from credo.console import Console
from credo.data.problems import load_problems, without
from credo.types import Problem


def training_problems(config: TrainConfig, console: Console) -> tuple[list[Problem], list[Problem]]:
    """Training and held-out problems, which have no prompt in common."""
    data, evaluation = config.data, config.evaluation
    train, report = load_problems(data.train, kind=data.kind, max_bad_share=data.max_bad_share)
    if report.bad_rows:
        console.warn(f"{len(report.bad_rows)} unreadable rows skipped, the first: {report.bad_rows[0]}")
    held_out: list[Problem] = []
    if evaluation.sources:
        held_out, _ = load_problems(evaluation.sources, kind=data.kind, max_bad_share=data.max_bad_share)
        held_out = held_out[: evaluation.limit or None]
        train, shared = without(train, held_out)
        if shared:
            console.say(f"{shared:,} training problems are also held out; left out of training.")
    if not train:
        raise ValueError("data.train: no problem is left to train on; every one of them is also in evaluation.sources.")
    console.say(f"{len(train):,} problems to train on, {len(held_out):,} held out.")
    return train, held_out


def short_enough(
    problems: list[Problem], encode: Callable[[Problem], Sequence[int]], config: DataConfig, console: Console
) -> list[Problem]:
    """The problems whose prompts fit ``data.max_prompt_tokens``; others are refused, or dropped if asked for."""
    kept, limit = [], config.max_prompt_tokens
    for problem in problems:
        length = len(encode(problem))
        if length <= limit:
            kept.append(problem)
        elif not config.drop_long_prompts:
            raise ValueError(
                f"The prompt of {problem.id} has {length:,} tokens, over data.max_prompt_tokens = {limit:,}; raise the "
                "limit or set data.drop_long_prompts = true."
            )
    if len(kept) < len(problems):
        console.warn(f"{len(problems) - len(kept):,} problems dropped: prompts over {limit:,} tokens.")
    if not kept:
        raise ValueError(f"Every prompt is longer than data.max_prompt_tokens = {limit:,}; raise the limit.")
    return kept
