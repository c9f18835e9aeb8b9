"""How well a policy does on held-out problems, in one call: sampled, judged, summed up. Nothing is written down."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from credo.collect import judged_group
from credo.measures.intervals import mean_interval
from credo.rollout.engine import Progress, RolloutEngine, SamplingParams
from credo.seeds import mixed_seed
from credo.types import Group, Problem
from credo.verify.verifier import Verifier


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
