"""What a choice of k among n judged responses to one problem is worth: by luck, by votes, by scores. Pure functions.

Each is the expectation over all sets of k of the n responses, drawn without replacement, so that a curve over k
needs no more than the n responses that are there. They do not know where answers, verdicts and scores come from.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import combinations, groupby
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy

Ties = Literal["share", "first"]
"""Equal scores or votes count as often as each other, or the one whose response came first wins (as in Qwen's code)."""

MOST_SETS = 5000
"""Majorities are exact for up to so many sets of k responses; beyond, they are the mean over so many random ones."""


def pass_at_k(correct: int, n: int, k: int) -> float:
    """The chance that at least one of k responses is correct: ``1 - C(n - correct, k) / C(n, k)``.

    Unbiased for the model's own pass@k (Chen et al., arXiv 2107.03374, Eq. 1). Raises ValueError unless
    ``0 <= correct <= n`` and ``1 <= k <= n``.
    """
    _check_size(n, k)
    if not 0 <= correct <= n:
        raise ValueError(f"Of {n} responses {correct} cannot be correct; give the number of correct ones.")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def best_of_k(scores: Sequence[int | float], correct: Sequence[int | float], k: int, *, ties: Ties = "share") -> float:
    """The mean correctness of the response with the highest score among k, in closed form.

    Response number i in the order of falling scores (from 0) is the best of ``C(n - 1 - i, k - 1)`` sets. ``correct``
    is 0 or 1 for each response, or partial credit. Raises ValueError for scores that are not numbers.
    """
    n = len(scores)
    _check_size(n, k)
    if any(math.isnan(score) for score in scores):
        raise ValueError("A score is not a number, so nothing can be ranked by it; score the responses again.")
    ranked = sorted(zip(scores, correct, strict=True), key=lambda pair: -pair[0])  # stable: the first comes first
    worth = [value for _, value in ranked]
    if ties == "share":
        equal = [[value for _, value in group] for _, group in groupby(ranked, key=lambda pair: pair[0])]
        worth = [sum(values) / len(values) for values in equal for _ in values]
    return sum(math.comb(n - 1 - i, k - 1) * value for i, value in enumerate(worth[: n - k + 1])) / math.comb(n, k)


def majority_at_k(
    answers: Sequence[Hashable],
    correct: Sequence[int | float],
    k: int,
    *,
    weights: Sequence[int | float] | None = None,
    ties: Ties = "share",
) -> float:
    """The mean correctness of the answer with the most votes among k responses, or with the most weight.

    Equal ``answers`` are the same answer; None is a response without one, which does not vote; a set without votes is
    wrong. An answer is worth the mean correctness of those who gave it. ``weights`` are at least 0, 1 for each by
    default. Exact for up to ``MOST_SETS`` sets of k, otherwise over that many random ones, always the same. Raises
    ValueError for a negative weight or one that is not a number.
    """
    import numpy

    n = len(answers)
    _check_size(n, k)
    weights = [1.0] * n if weights is None else weights
    if not all(0 <= weight < math.inf for weight in weights):
        raise ValueError("The weights of votes are finite and 0 or more; map the scores to such weights first.")
    voters = list(dict.fromkeys(answer for answer in answers if answer is not None))
    if not voters:
        return 0.0
    given = numpy.array([[answer == voter for voter in voters] for answer in answers])  # (n, answers)
    worth = (given * numpy.asarray(correct, dtype=float)[:, None]).sum(axis=0) / given.sum(axis=0)
    sets = _sets(n, k)
    present = given[sets]  # (sets, k, answers)
    totals = (present * numpy.asarray(weights, dtype=float)[sets][:, :, None]).sum(axis=1)
    totals[~present.any(axis=1)] = -numpy.inf
    highest = totals.max(axis=1, keepdims=True)
    winners = (totals >= highest - 1e-9 * numpy.abs(highest)) & numpy.isfinite(totals)
    if ties == "first":
        place = numpy.where(present.any(axis=1), present.argmax(axis=1), k)  # where each answer was given first
        place = numpy.where(winners, place, k)
        winners &= place == place.min(axis=1, keepdims=True)
    return float(((winners * worth).sum(axis=1) / numpy.maximum(winners.sum(axis=1), 1)).mean())


def _sets(n: int, k: int) -> numpy.ndarray:
    """All sets of k of the numbers below n, each in rising order, or ``MOST_SETS`` random ones; (sets, k)."""
    import numpy

    if math.comb(n, k) <= MOST_SETS:
        return numpy.array(list(combinations(range(n), k)))
    generator = numpy.random.default_rng(0)
    return numpy.sort(generator.random((MOST_SETS, n)).argpartition(k - 1, axis=1)[:, :k], axis=1)


def _check_size(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"Cannot choose {k} of {n} responses; choose from 1 up to as many as there are.")
