"""``credo prm processbench``: does a PRM find the first wrong step? F1 per subset, with the threshold from elsewhere.

A step is called wrong if its reward is below a threshold. The released evaluation of Implicit PRM picks that threshold
on the rows it then scores; here no number comes from rows that its threshold was chosen on.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from credo.algo.reward_aggregation import Form, rewards_at
from credo.console import Console
from credo.data.prompts import encode_response
from credo.data.rows import prompt_of
from credo.data.sources import as_object, expand, file_rows, sift
from credo.measures.ranking import Figure, over_problems
from credo.models.row_logprobs import Tokens
from credo.offline.scorer import Scorer, open_scorer
from credo.options.offline import ProcessBenchOptions
from credo.options.shared import check_folder_of
from credo.types import Message

AT_ONCE = 64
"""Rows scored together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """A solution in steps."""

    id: str
    subset: str
    prompt: str | tuple[Message, ...]
    steps: tuple[str, ...]
    first_error: int
    """The index of the first wrong step; -1 if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetResult:
    """How the PRM did on one subset."""

    subset: str
    rows: int
    threshold: float
    """That of the first half, where the subset was judged in halves."""
    chosen_on: str
    f1: Figure
    erroneous: Figure
    """Share of the solutions with a wrong step whose first one was found."""
    correct: Figure
    """Share of the solutions without a wrong step in which none was found."""


def processbench(options: ProcessBenchOptions) -> None:
    """Prints a line a subset. Raises ValueError for what the user can mend."""
    console = Console()
    check_folder_of(options.output)
    solutions = _limited(load_solutions(options.input), options.limit)
    subsets = list(dict.fromkeys(solution.subset for solution in solutions))
    if options.chosen_on not in subsets:
        raise ValueError(
            f"{options.input} has no subset '{options.chosen_on}' to choose the threshold on; it has "
            f"{', '.join(subsets)}. Name one with --chosen-on."
        )
    if len({solution.prompt for solution in solutions if solution.subset == options.chosen_on}) < 2:
        raise ValueError(f"'{options.chosen_on}' needs two problems or more to choose a threshold on; give more rows.")
    for subset in subsets:
        if len({solution.first_error < 0 for solution in solutions if solution.subset == subset}) < 2:
            raise ValueError(f"'{subset}' needs solutions with an error and without one for an F1; give more rows.")
    scorer = open_scorer(options.scorer, console)
    with console.stage("scoring", "solutions", len(solutions)) as progress:
        rewards = [
            one
            for first in range(0, len(solutions), AT_ONCE)
            for one in step_rewards(scorer, solutions[first : first + AT_ONCE], options.form, progress)
        ]
    results = [judged_subset(solutions, rewards, subset, options.chosen_on) for subset in subsets]
    for result in results:
        console.say(
            f"{result.subset:<14} F1 {result.f1}  first errors found {result.erroneous}  right solutions passed "
            f"{result.correct}  {result.rows:,} rows, threshold chosen on {result.chosen_on}"
        )
    average = sum(result.f1.value for result in results) / len(results)
    console.say(f"Mean F1 of {len(results)} subsets: {average:.3f}. No threshold was chosen on the rows it judges.")
    if options.output is not None:
        rows = [
            {"id": solution.id, "subset": solution.subset, "label": solution.first_error, "rewards": found.tolist()}
            for solution, found in zip(solutions, rewards, strict=True)
        ]
        text = json.dumps({"mean_f1": average, "subsets": [asdict(result) for result in results], "rows": rows})
        options.output.write_text(text + "\n", encoding="utf-8")


def load_solutions(path: Path) -> list[Solution]:
    """The rows of a file or folder. Raises ValueError with place and reason of the first row that does not fit."""
    solutions: list[Solution] = []
    for label, origin in expand([str(path)]).items():
        if not isinstance(origin, Path):
            raise ValueError(f"{label} is no file of solutions; name a .jsonl or .parquet file.")
        parse = partial(_solution, default_subset=origin.stem)
        solutions += sift(file_rows(origin), parse, label=label, max_bad_share=0.0)[0]
    return solutions


def step_rewards(
    scorer: Scorer, solutions: Sequence[Solution], form: Form, progress: Callable[[int], None]
) -> list[Float[Tensor, " _"]]:
    """The reward of every step of each solution.

    Steps are joined by blank lines, and each is tokenised on its own, so that no token belongs to two. The end of the
    sequence is not scored: it belongs to no step.
    """
    made = [_tokens(scorer, solution) for solution in solutions]
    rewards = scorer.rewards([row for row, _ in made], progress)
    return [rewards_at(values, ends, form=form) for values, (_, ends) in zip(rewards, made, strict=True)]


def first_below(rewards: Float[Tensor, " K"], threshold: float) -> int:
    """The index of the first step whose reward is below the threshold; -1 if none is."""
    below = (rewards < threshold).nonzero().flatten()
    return int(below[0]) if len(below) else -1


def f1_score(right: Bool[Tensor, " N"], erroneous: Bool[Tensor, " N"], weights: Float[Tensor, "R N"]) -> Tensor:
    """The harmonic mean of the accuracies on erroneous and on correct solutions, where row n counts
    ``weights[r, n]`` times; 0 where one of the kinds is missing or never right. Shape (R,)."""
    first, second = accuracy(right, erroneous, weights), accuracy(right, ~erroneous, weights)
    return torch.where(first + second > 0, 2 * first * second / (first + second), 0.0)


def accuracy(right: Bool[Tensor, " N"], among: Bool[Tensor, " N"], weights: Float[Tensor, "R N"]) -> Tensor:
    """The share of ``right`` among these rows, weighted; 0 where there are none. Shape (R,)."""
    return (weights * (right & among)).sum(dim=1) / (weights * among).sum(dim=1).clamp(min=1e-9)


def best_threshold(rewards: Sequence[Float[Tensor, " _"]], first_errors: Sequence[int]) -> float:
    """The threshold with the highest F1 on these rows, the middle of the best ones.

    A solution is judged right by the thresholds of one interval: above the reward of its first wrong step, up to the
    least reward before it; so F1 changes at the ends of these intervals alone.
    """
    ends = [_interval(values, error) for values, error in zip(rewards, first_errors, strict=True)]
    low, high = torch.tensor(ends, dtype=torch.float64).T
    erroneous = torch.tensor([error >= 0 for error in first_errors])
    places = torch.cat([low, high]).unique()
    places = places[places.isfinite()]
    if len(places) == 0:
        return 0.0
    middles = torch.cat([places[:1] - 1, (places[1:] + places[:-1]) / 2, places[-1:] + 1])
    once = torch.ones(1, len(ends), dtype=torch.float64)
    scores = torch.cat([f1_score((low < t) & (t <= high), erroneous, once) for t in middles])
    best = (scores == scores.max()).nonzero().flatten()
    return middles[best[len(best) // 2]].item()


def judged_subset(
    solutions: Sequence[Solution], rewards: Sequence[Float[Tensor, " _"]], subset: str, chosen_on: str
) -> SubsetResult:
    """The figures of one subset by a threshold of other rows; of ``chosen_on`` itself by halves of its problems."""
    rows = [row for row, solution in enumerate(solutions) if solution.subset == subset]
    choosing = [row for row, solution in enumerate(solutions) if solution.subset == chosen_on]
    own = subset == chosen_on
    halves = _halves([solutions[row] for row in rows]) if own else [0] * len(rows)
    thresholds: dict[int, float] = {}
    for half in sorted(set(halves)):
        others = [row for row, its in zip(rows, halves, strict=True) if its != half] if own else choosing
        thresholds[half] = best_threshold(
            [rewards[row] for row in others], [solutions[row].first_error for row in others]
        )
    found = [first_below(rewards[row], thresholds[half]) for row, half in zip(rows, halves, strict=True)]
    right = torch.tensor([found[i] == solutions[row].first_error for i, row in enumerate(rows)])
    erroneous = torch.tensor([solutions[row].first_error >= 0 for row in rows])
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(solutions[row].prompt for row in rows))}
    problems = torch.tensor([numbers[solutions[row].prompt] for row in rows])
    return SubsetResult(
        subset=subset,
        rows=len(rows),
        threshold=thresholds[min(thresholds)],
        chosen_on=chosen_on if not own else f"the other half of {chosen_on}",
        f1=over_problems(problems, partial(f1_score, right, erroneous)),
        erroneous=over_problems(problems, partial(accuracy, right, erroneous)),
        correct=over_problems(problems, partial(accuracy, right, ~erroneous)),
    )


def _interval(rewards: Float[Tensor, " K"], first_error: int) -> tuple[float, float]:
    """The thresholds, above the first and up to the second number, by which this solution is judged right."""
    if first_error < 0:
        return -math.inf, rewards.min().item()
    before = rewards[:first_error].min().item() if first_error else math.inf
    return rewards[first_error].item(), before


def _halves(solutions: Sequence[Solution]) -> list[int]:
    """0 or 1 for each solution, the same for all solutions of a problem; half of the problems each."""
    texts = [repr(solution.prompt) for solution in solutions]
    order = sorted(set(texts), key=lambda text: hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    half = {text: place % 2 for place, text in enumerate(order)}
    return [half[text] for text in texts]


def _tokens(scorer: Scorer, solution: Solution) -> tuple[Tokens, Bool[Tensor, " N"]]:
    """The solution as token ids, and where its steps end."""
    tokenizer = scorer.prm.start.tokenizer
    prompt = scorer.prompting.render(solution.prompt, tokenizer)
    last = len(solution.steps) - 1
    pieces = [
        encode_response(text if place == last else f"{text}\n\n", tokenizer)[:-1]
        for place, text in enumerate(solution.steps)
    ]
    ends = torch.zeros(sum(map(len, pieces)), dtype=torch.bool)
    ends[torch.tensor([len(piece) for piece in pieces]).cumsum(dim=0) - 1] = True
    return (prompt, tuple(token for piece in pieces for token in piece)), ends


def _solution(number: int, raw: object, *, default_subset: str) -> Solution:
    row = as_object(raw)
    steps, label = row.get("steps"), row.get("label")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) and step.strip() for step in steps):
        raise ValueError("steps: expected a list of texts, none of them empty")
    if isinstance(label, bool) or not isinstance(label, int) or not -1 <= label < len(steps):
        raise ValueError(f"label: expected -1 or the index of one of {len(steps)} steps, got {label!r}")
    return Solution(
        id=str(row.get("id", number)),
        subset=str(row.get("subset", default_subset)),
        prompt=prompt_of(row),
        steps=tuple(steps),
        first_error=label,
    )


def _limited(solutions: Sequence[Solution], limit: int) -> list[Solution]:
    """``limit`` of each subset, always the same ones; 0 is all. Not the first ones: published files begin with those
    that have an error."""
    if limit < 0:
        raise ValueError(f"--limit is 0 or more, got {limit}.")
    drawn = random.Random(0).sample(range(len(solutions)), len(solutions))
    places: defaultdict[str, count[int]] = defaultdict(count)
    kept = [row for row in drawn if limit == 0 or next(places[solutions[row].subset]) < limit]
    return [solutions[row] for row in sorted(kept)]
