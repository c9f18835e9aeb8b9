"""Intervals and tests over problems: the problem is the unit, whatever was measured of its responses.

Nothing here knows what the numbers are of.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import lru_cache

import numpy
from jaxtyping import Float

RESAMPLES = 4000
FLIPS = 20_000


def mean_interval(scores: Sequence[float], *, level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of ``scores`` in [0, 1], for problems like these; NaN twice if there are none.

    Where every score is 0 or 1, as with one response to each problem, it is Wilson's: the mean is a share of problems.
    Otherwise it is Jeffreys' (Brown, Cai and DasGupta 2001) for scores in between: the posterior of a Dirichlet process
    (Ferguson 1973) whose prior is half a problem solved and half a problem not. Without that prior it is the Bayesian
    bootstrap (Rubin 1981), which like any bootstrap takes for absent what none of few problems shows.
    """
    if not scores or all(score in (0.0, 1.0) for score in scores):
        return wilson_interval(round(sum(scores)), len(scores), level=level)
    means = _weights(len(scores)) @ numpy.asarray([*scores, 1.0, 0.0])
    low, high = numpy.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    mean = statistics.fmean(scores)
    return min(float(low), mean), max(float(high), mean)


@lru_cache(maxsize=1)
def _weights(count: int) -> Float[numpy.ndarray, "R N"]:
    """Draws of what each of ``count`` problems, half a solved one and half an unsolved one weigh in the posterior."""
    return numpy.random.default_rng(0).dirichlet([1.0] * count + [0.5, 0.5], RESAMPLES)


def bootstrap_interval(values: Sequence[float], *, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of ``values``, the same for the same values; NaN twice if none.

    The percentiles are those that make it as wide as Student's interval where values are normal (Hesterberg's
    expansion, arXiv 1411.5279): without it few problems give too narrow an interval.
    """
    if not values:
        return float("nan"), float("nan")
    generator = numpy.random.default_rng(0)
    sample = numpy.asarray(values)
    means = sample[generator.integers(0, len(sample), (RESAMPLES, len(sample)))].mean(axis=1)
    tail = _expanded_tail((1 - level) / 2, len(sample))
    low, high = numpy.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _expanded_tail(tail: float, count: int) -> float:
    """The share below the lower end that a percentile interval of ``count`` values needs for a true one of ``tail``."""
    if count < 2:
        return tail
    normal, freedom = statistics.NormalDist(), count - 1
    z = normal.inv_cdf(1 - tail)
    student = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)  # Cornish-Fisher
    return normal.cdf(-student * math.sqrt(count / freedom))


def wilson_interval(successes: int, trials: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; NaN twice without a trial."""
    if not trials:
        return float("nan"), float("nan")
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * ((share * (1 - share) + z * z / (4 * trials)) / trials) ** 0.5
    return (centre - spread) / (1 + z * z / trials), (centre + spread) / (1 + z * z / trials)


def paired_gain(before: Sequence[float | None], after: Sequence[float | None]) -> tuple[float, float, float]:
    """Mean gain over the problems judged both times, with its bootstrap interval: (gain, low, high)."""
    gains = [b - a for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    low, high = bootstrap_interval(gains)
    return (statistics.fmean(gains) if gains else float("nan")), low, high


def sign_flip_p(gains: Sequence[float]) -> float:
    """Two-sided p-value of a mean of ``gains`` this far from 0, if each had either sign with the same chance.

    Exact for up to 14 gains that are not 0, otherwise over ``FLIPS`` random assignments of signs, always the same.
    """
    moved = numpy.asarray([gain for gain in gains if gain != 0.0])
    if 2 ** len(moved) <= FLIPS:
        signs = 1 - 2 * (numpy.arange(2 ** len(moved))[:, None] >> numpy.arange(len(moved)) & 1)
        return float((numpy.abs(signs @ moved) >= abs(moved.sum()) - 1e-9).mean())
    generator = numpy.random.default_rng(0)
    as_far = 1  # the signs that were seen are one of the assignments
    for _ in range(FLIPS // 1000):
        signs = 1 - 2 * generator.integers(0, 2, (1000, len(moved)), dtype=numpy.int8)
        as_far += int((numpy.abs(signs @ moved) >= abs(moved.sum()) - 1e-9).sum())
    return as_far / (FLIPS + 1)
