"""The numbers of a step that say whether the PRM deserves its influence; the dear ones only when they are due."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from credo.algo.advantages import PrimeReturns
from credo.assemble import Parts, sampling_params
from credo.config import TrainConfig
from credo.metrics import outcome_metrics, pair_accuracy_change, prm_metrics
from credo.prefix_check import check_prefixes
from credo.scoring import Scores
from credo.seeds import mixed_seed
from credo.types import Batch, Group


def observe(
    parts: Parts,
    batch: Batch,
    groups: Sequence[Group],
    scores: Scores,
    returns: PrimeReturns,
    advantages: Float[Tensor, "B S"],
    config: TrainConfig,
    step: int,
) -> dict[str, float]:
    """The metrics of step number ``step`` before the policy has learnt from it."""
    seen = dict(outcome_metrics(batch, advantages))
    if scores.held_out is None or scores.log_ratios is None:
        return seen
    seen |= prm_metrics(batch, scores.held_out, returns, beta=config.prm.beta)
    if config.advantage.gate_accuracy > 0:
        seen["prm/gate"] = parts.gate.factor
    if config.instruments.every and step % config.instruments.every == 0:
        seen |= _measured(parts, batch, groups, scores, config, step)
    return seen


def _measured(
    parts: Parts, batch: Batch, groups: Sequence[Group], scores: Scores, config: TrainConfig, step: int
) -> dict[str, float]:
    """What costs a forward pass or sampling of its own."""
    assert parts.prm is not None
    assert parts.reference is not None
    assert scores.log_ratios is not None
    assert scores.held_out is not None
    measured = dict(
        check_prefixes(
            groups,
            scores.log_ratios,
            batch,
            engine=parts.engine,
            verifier=parts.verifier,
            decode=parts.decode,
            params=sampling_params(config.rollout),
            prefixes=config.instruments.prefixes,
            completions=config.instruments.completions,
            seed=mixed_seed(config.run.seed, step),
            step_ends=scores.evidence.step_ends,
        )
    )
    if config.prm.update == "after":
        after = parts.prm.score(batch, parts.reference.logprobs(batch))
        measured |= pair_accuracy_change(batch, scores.held_out, after)
    if config.prm.update == "before":
        measured |= pair_accuracy_change(batch, scores.held_out, scores.log_ratios)
    return measured
