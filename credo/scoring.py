"""What the models say of a batch before anyone learns from it: log-ratios, and what else its advantages rest on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from credo.algo.advantages import Evidence
from credo.algo.credit import CreditRules
from credo.algo.masked import row_mean
from credo.algo.rewards import informative_pair_accuracy
from credo.assemble import Parts
from credo.config import TrainConfig
from credo.data.batching import collate
from credo.models.expectation import expected_log_ratios
from credo.models.policy import Policy
from credo.models.prm import Prm
from credo.models.reference import Reference
from credo.types import Batch, Group


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The log-ratios that the policy learns from, and those of a PRM that had not learnt from their responses."""

    log_ratios: Float[Tensor, "B S"] | None
    """None without a PRM."""
    held_out: Float[Tensor, "B S"] | None
    """For measuring the PRM. The same, unless it learns before it scores: then each response as the learning pass met
    it, before its own mini-batch."""
    evidence: Evidence

    @property
    def finite(self) -> bool:
        """Whether every number here can be learnt from."""
        evidence = self.evidence
        numbers = self.log_ratios, evidence.values, evidence.greedy_log_ratios, evidence.expected_log_ratios
        return all(bool(x.isfinite().all()) for x in numbers if x is not None)


def score_and_learn(
    parts: Parts, batch: Batch, groups: Sequence[Group], config: TrainConfig
) -> tuple[Scores, dict[str, float]]:
    """Scores for the policy, and the PRM's own learning, in the order that ``prm.update`` names (paper, B.2).

    ``after`` scores the whole batch first; where one optimiser step takes all of it, the pass that learns has made the
    same scores, so there is no other (the paper's single forward). The released code scores each mini-batch just before
    learning from it, so that one batch carries the scores of several PRMs.
    """
    prm, reference = parts.prm, parts.reference
    if prm is None or reference is None:
        return Scores(log_ratios=None, held_out=None, evidence=_without_prm(parts, batch, groups)), {}
    reference_logprobs = reference.logprobs(batch)
    match config.prm.update:
        case "none":
            return score(parts, batch, groups, reference_logprobs, config), {}
        case "after":
            evidence = _without_prm(parts, batch, groups)
            if prm.learns_at_once(batch) and evidence.greedy_outcomes is None and parts.rules.baseline != "expected":
                met, learnt = prm.update(batch, reference_logprobs)
                return Scores(log_ratios=met, held_out=met, evidence=evidence), learnt
            scores = score(parts, batch, groups, reference_logprobs, config)
            _, learnt = prm.update(batch, reference_logprobs, scores.log_ratios)
            return scores, learnt
        case "before":
            old = prm.score(batch, reference_logprobs) if config.prm.loss != "ce" else None
            met, learnt = prm.update(batch, reference_logprobs, old)
            scores = score(parts, batch, groups, reference_logprobs, config)
            return replace(scores, held_out=met), learnt


def score(
    parts: Parts,
    batch: Batch,
    groups: Sequence[Group],
    reference_logprobs: Float[Tensor, "B S"],
    config: TrainConfig,
) -> Scores:
    """The batch as all models see it now."""
    prm, reference = parts.prm, parts.reference
    assert prm is not None
    assert reference is not None
    log_ratios, evidence = prm.score(batch, reference_logprobs), _without_prm(parts, batch, groups)
    if evidence.greedy_outcomes is not None:
        evidence = replace(evidence, greedy_log_ratios=_greedy_log_ratios(prm, reference, groups, batch, parts))
    if parts.rules.baseline == "expected":
        expected = expected_log_ratios(
            parts.policy.model,
            prm.scorer,
            reference.model,
            batch,
            temperature=config.rollout.temperature,
            token_budget=config.training.tokens_per_microbatch,
            compute=config.model.precision,
            world=parts.world,
        )
        evidence = replace(evidence, expected_log_ratios=expected)
    return Scores(log_ratios=log_ratios, held_out=log_ratios, evidence=evidence)


def heard(parts: Parts, batch: Batch, scores: Scores) -> CreditRules:
    """The rules of credit, the process reward as loud as the PRM has earned by ``gate_accuracy``."""
    if scores.held_out is None:
        return parts.rules
    accuracy = informative_pair_accuracy(scores.held_out, batch.outcomes, batch.mask, batch.group_ids)
    return replace(parts.rules, process_coef=parts.rules.process_coef * parts.gate.open(accuracy.item()))


def _without_prm(parts: Parts, batch: Batch, groups: Sequence[Group]) -> Evidence:
    """What the PRM has no part in."""
    greedy = [group.greedy.verdict.score for group in groups if group.greedy]
    return Evidence(
        step_ends=parts.step_ends(batch) if parts.step_ends is not None else None,
        values=parts.critic.values(batch) if parts.critic is not None else None,
        greedy_outcomes=torch.tensor(greedy)[batch.group_ids] if greedy else None,
    )


def _greedy_log_ratios(
    prm: Prm, reference: Reference | Policy, groups: Sequence[Group], batch: Batch, parts: Parts
) -> Float[Tensor, " B"]:
    """The token mean of q over the greedy response to the prompt of each row."""
    alone = [
        Group(problem=g.problem, rollouts=(g.greedy.rollout,), responses=("",), verdicts=(g.greedy.verdict,))
        for g in groups
        if g.greedy
    ]
    greedy = collate(alone, parts.start.pad_id)
    return row_mean(prm.score(greedy, reference.logprobs(greedy)), greedy.mask)[batch.group_ids]
