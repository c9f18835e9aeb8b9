"""Avg@k of a policy on held-out problems, with intervals that take the problem as the unit."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from credo.collect import judged_group
from credo.rollout.engine import Progress, RolloutEngine, SamplingParams
from credo.seeds import mixed_seed
from credo.types import Group, Problem
from credo.verify.verifier import Verifier

RESAMPLES = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Judged responses to held-out problems."""

    groups: tuple[Group, ...]
    """One a problem, in the order of the problems; unknown verdicts are left out."""
    samples: int

    @property
    def scores(self) -> list[float | None]:
        """Mean score of each problem; None where no response could be judged."""
        return [group.accuracy if group.verdicts else None for group in self.groups]

    @property
    def accuracy(self) -> float:
        """Avg@k: the mean over problems of the mean score of their responses; NaN if nothing was judged."""
        judged = [score for score in self.scores if score is not None]
        return statistics.fmean(judged) if judged else float("nan")

    @property
    def unknown(self) -> int:
        """Responses that could not be judged."""
        return sum(self.samples - len(group.verdicts) for group in self.groups)

    def summary(self) -> dict[str, float]:
        """Metrics of the group ``eval/``."""
        low, high = mean_interval([score for score in self.scores if score is not None])
        lengths = [len(rollout.response_ids) for group in self.groups for rollout in group.rollouts]
        return {
            "eval/accuracy": self.accuracy,
            "eval/accuracy_low": low,
            "eval/accuracy_high": high,
            "eval/problems": float(len(self.groups)),
            "eval/samples": float(self.samples),
            "eval/unknown": float(self.unknown),
            "eval/truncated_share": sum(group.truncated for group in self.groups) / max(1, len(lengths)),
            "eval/mean_length": sum(lengths) / max(1, len(lengths)),
        }


def evaluate_policy(
    problems: Sequence[Problem],
    *,
    engine: RolloutEngine,
    verifier: Verifier,
    encode: Callable[[Problem], tuple[int, ...]],
    decode: Callable[[Sequence[int]], str],
    params: SamplingParams,
    samples: int,
    seed: int,
    progress: Progress | None = None,
) -> Evaluation:
    """Samples ``samples`` responses to every problem and judges them; the same seed gives the same responses."""
    prompts = [encode(problem) for problem in problems]
    seeds = [mixed_seed(seed, index) for index in range(len(problems))]
    rollouts = engine.sample(prompts, samples, params, seeds, progress)
    responses = [[decode(rollout.response_ids) for rollout in group] for group in rollouts]
    tasks = [(problem, text) for problem, texts in zip(problems, responses, strict=True) for text in texts]
    verdicts = verifier.verify(tasks)
    groups = [
        judged_group(problem, rollouts[i], responses[i], verdicts[i * samples : (i + 1) * samples])
        for i, problem in enumerate(problems)
    ]
    return Evaluation(groups=tuple(groups), samples=samples)


def mean_interval(scores: Sequence[float], *, level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of ``scores`` in [0, 1]: bootstrap over whole problems, NaN twice if there are none.

    Where all are 0 or all are 1 resampling sees no spread, and Wilson's interval is given instead.
    """
    if scores and len(set(scores)) == 1 and scores[0] in (0.0, 1.0):
        return wilson_interval(round(sum(scores)), len(scores), level=level)
    return bootstrap_interval(scores, level=level)


def bootstrap_interval(values: Sequence[float], *, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of ``values``, the same for the same values; NaN twice if none."""
    import numpy

    if not values:
        return float("nan"), float("nan")
    generator = numpy.random.default_rng(0)
    sample = numpy.asarray(values)
    means = sample[generator.integers(0, len(sample), (RESAMPLES, len(sample)))].mean(axis=1)
    low, high = numpy.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson_interval(successes: int, trials: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion."""
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
