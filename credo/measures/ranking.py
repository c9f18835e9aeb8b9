"""How well scores tell right responses from wrong ones: pair accuracy, AUC and calibration, with intervals.

The problem is the unit of every interval: whole problems are drawn again, with all their responses.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from credo.algo.rewards import pair_accuracy
from credo.measures.intervals import mean_interval, paired_gain

RESAMPLES = 2000
MOST_AT_ONCE = 4_000_000
"""Numbers in one tensor of resampled rows."""
Statistic = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Responses to held-out problems, in the order of the problems or any other."""

    outcomes: Float[Tensor, " N"]
    problems: Int[Tensor, " N"]
    """Responses to one problem share a number."""


def ranking_figures(
    judged: Judged, scores: Mapping[str, Float[Tensor, " N"]], first: str
) -> dict[str, dict[str, Figure]]:
    """``{name: {"pair_accuracy": .., "auc": ..}}`` of every way of scoring.

    Those besides ``first`` also have "pair_accuracy_gain" and "auc_gain": how far ``first`` is above them, paired.
    """
    pairs = {name: problem_pair_accuracies(judged, values) for name, values in scores.items()}
    areas = {name: partial(weighted_auc, values, judged.outcomes > 0.5) for name, values in scores.items()}
    found: dict[str, dict[str, Figure]] = {}
    for name in scores:
        low, high = mean_interval(pairs[name])
        mean = statistics.fmean(pairs[name]) if pairs[name] else float("nan")
        found[name] = {
            "pair_accuracy": Figure(value=mean, low=low, high=high),
            "auc": over_problems(judged.problems, areas[name]),
        }
        if name != first:
            gain, low, high = paired_gain(pairs[name], pairs[first])
            found[name]["pair_accuracy_gain"] = Figure(value=gain, low=low, high=high)
            above = partial(_difference, areas[first], areas[name])
            found[name]["auc_gain"] = over_problems(judged.problems, above)
    return found


def calibration_figure(judged: Judged, logits: Float[Tensor, " N"]) -> Figure:
    """The expected calibration error of ``sigmoid(z)`` against the outcomes."""
    return over_problems(judged.problems, partial(weighted_calibration_error, logits.sigmoid(), judged.outcomes))


def problem_pair_accuracies(judged: Judged, scores: Float[Tensor, " N"]) -> list[float]:
    """The pair accuracy within each problem whose outcomes differ, in the order of their numbers."""
    found = []
    for problem in judged.problems.unique():
        rows = (judged.problems == problem).nonzero().flatten()
        outcomes = judged.outcomes[rows]
        if (outcomes != outcomes[0]).any():
            column, alike = scores[rows].unsqueeze(1), torch.zeros_like(rows)
            mask = torch.ones_like(column, dtype=torch.bool)
            found.append(pair_accuracy(column, outcomes, mask, alike).item())
    return found


def over_problems(problems: Int[Tensor, " N"], statistic: Statistic) -> Figure:
    """``statistic`` with each row counted once, and its percentile bootstrap interval over problems.

    ``statistic`` takes how often each row counts, (R, N), and gives R numbers. The same figure each time.
    """
    count, of_row = len(problems.unique()), problems.unique(return_inverse=True)[1]
    generator = torch.Generator().manual_seed(0)
    values = []
    for rows in torch.arange(RESAMPLES).split(max(1, MOST_AT_ONCE // len(problems))):
        draws = torch.randint(count, (len(rows), count), generator=generator)
        times = torch.zeros(len(rows), count, dtype=torch.float64)
        values.append(statistic(times.scatter_add(1, draws, torch.ones_like(times))[:, of_row]))
    low, high = torch.cat(values).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    once = torch.ones(1, len(problems), dtype=torch.float64)
    return Figure(value=statistic(once).item(), low=low, high=high)


def weighted_auc(
    scores: Float[Tensor, " N"], positive: Bool[Tensor, " N"], weights: Float[Tensor, "R N"]
) -> Float[Tensor, " R"]:
    """:func:`credo.algo.measures.auc` where row n counts ``weights[r, n]`` times, for each r."""
    _, level = scores.unique(return_inverse=True)
    zeros = weights.new_zeros(len(weights), int(level.max()) + 1)
    positives = zeros.index_add(1, level, weights * positive)
    negatives = zeros.index_add(1, level, weights * ~positive)
    beaten = (positives * (negatives.cumsum(dim=1) - negatives / 2)).sum(dim=1)
    pairs = positives.sum(dim=1) * negatives.sum(dim=1)
    return torch.where(pairs > 0, beaten / pairs, 0.5)


def weighted_calibration_error(
    probabilities: Float[Tensor, " N"], outcomes: Float[Tensor, " N"], weights: Float[Tensor, "R N"], bins: int = 10
) -> Float[Tensor, " R"]:
    """:func:`credo.algo.measures.calibration_error` where row n counts ``weights[r, n]`` times, for each r."""
    index = (probabilities.double() * bins).long().clamp(max=bins - 1)
    gaps = weights * (outcomes.double() - probabilities.double())
    return weights.new_zeros(len(weights), bins).index_add(1, index, gaps).abs().sum(dim=1) / weights.sum(dim=1)


def _difference(first: Statistic, second: Statistic, weights: Float[Tensor, "R N"]) -> Float[Tensor, " R"]:
    return first(weights) - second(weights)
