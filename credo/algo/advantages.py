"""From process rewards and outcomes to advantages: baseline, return, sum of the two sources, whitening.

Each step is a function of its own; ``prime_returns`` and ``prime_advantages`` compose them as ``CreditRules`` say.
Rows of one prompt share a group id and may come in any order and number. Nothing here has a gradient to give.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from credo.algo.baselines import (
    centre_as_released,
    centre_by_greedy,
    centre_by_group,
    centre_by_position,
    centre_by_totals,
    centre_leave_one_out,
    group_spread,
    leave_one_out_mean,
    whiten_groups,
)
from credo.algo.credit import CreditRules
from credo.algo.masked import AllReduce, full_precision, local, masked_whiten, suffix_sum, zero_off
from credo.algo.rewards import last_token, place_rewards, reward_divisor
from credo.algo.value_losses import gae


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What some estimators, baselines and granularities need to know besides log-ratios and outcomes."""

    step_ends: Bool[Tensor, "B S"] | None = None
    """True at the last token of each step, for ``granularity = "step"``."""
    values: Float[Tensor, "B S"] | None = None
    """The critic's value of what stands before each token, for ``estimator = "gae"``."""
    greedy_outcomes: Float[Tensor, " B"] | None = None
    """Outcome of the greedy response to the prompt of each row, for ``estimator = "remax"``."""
    greedy_log_ratios: Float[Tensor, " B"] | None = None
    """Token mean of q over that response, for ``estimator = "remax"`` with a PRM."""
    expected_log_ratios: Float[Tensor, "B S"] | None = None
    """The policy's expectation of q at each position, for ``baseline = "expected"``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrimeReturns:
    """The return of each token before whitening, by source, coefficients included; 0 off the mask.

    Their ratio decides who is heard: in the released codes the process source can overrule the outcome.
    """

    process: Float[Tensor, "B S"]
    outcome: Float[Tensor, "B S"]
    rewards: Float[Tensor, "B S"]
    """The process rewards themselves, normalised, before any baseline; all 0 where there are none."""
    divisor: Float[Tensor, ""]
    """What they were divided by."""

    @property
    def total(self) -> Float[Tensor, "B S"]:
        """Process and outcome together."""
        return self.process + self.outcome


def prime_advantages(
    log_ratios: Float[Tensor, "B S"] | None,
    outcomes: Float[Tensor, " B"],
    mask: Bool[Tensor, "B S"],
    group_ids: Int[Tensor, " B"],
    *,
    rules: CreditRules | None = None,
    evidence: Evidence | None = None,
    all_reduce: AllReduce | None = None,
    **options: Any,
) -> Float[Tensor, "B S"]:
    """Collective. PRIME's advantage of each token, 0 off the mask.

    ``options`` are the fields of :class:`~credo.algo.credit.CreditRules`, such as ``semantics="paper"``. ``paper`` is
    Eq. 5: returns on rewards beta * q, not whitened. ``official`` (``core_algos.py``, ``compute_rloo_returns``) and
    ``verl`` (``prime_core_algos.py``) differ from it in the scale of the process rewards, in the baseline (see
    ``centre_as_released``) and by whitening the sum over all response tokens. Whitening cancels a common factor of the
    coefficients, so verl's 5:5 is 1:1; official reads none. Without ``log_ratios``, or with ``process_coef`` 0, the
    outcome is the only reward.
    """
    rules = replace(rules or CreditRules(), **options)
    returns = prime_returns(
        log_ratios, outcomes, mask, group_ids, rules=rules, evidence=evidence, all_reduce=all_reduce
    )
    return whiten_returns(returns, mask, group_ids, rules, all_reduce or local)


@torch.no_grad()
def prime_returns(
    log_ratios: Float[Tensor, "B S"] | None,
    outcomes: Float[Tensor, " B"],
    mask: Bool[Tensor, "B S"],
    group_ids: Int[Tensor, " B"],
    *,
    rules: CreditRules | None = None,
    evidence: Evidence | None = None,
    all_reduce: AllReduce | None = None,
    **options: Any,
) -> PrimeReturns:
    """Collective. What ``prime_advantages`` adds up and whitens: the centred returns of the two sources.

    A response without tokens has no return; its outcome, and a process mean of 0, still count for its group. Raises
    ValueError for an option that does not exist, and for evidence that an option needs and that is missing.
    """
    rules = replace(rules or CreditRules(), **options)
    evidence = evidence or Evidence()
    outcome = rules.outcome_coef * outcome_returns(outcomes, mask, group_ids, rules, evidence)
    process, rewards, divisor = torch.zeros_like(outcome), torch.zeros_like(outcome), outcome.new_ones(())
    if log_ratios is not None and rules.values_prefixes:
        process = rules.process_coef * -prefix_values(log_ratios, mask, rules)
    elif log_ratios is not None and rules.process_coef > 0:
        if rules.baseline == "expected":
            log_ratios = full_precision(log_ratios) - _known("expected_log_ratios", evidence)
        placed = place_rewards(log_ratios, mask, rules, evidence.step_ends)
        divisor = reward_divisor(placed, mask, rules, all_reduce or local)
        rewards = placed / divisor
        process = rules.process_coef * process_returns(rewards, mask, group_ids, rules, evidence, divisor=divisor)
    return PrimeReturns(process=process, outcome=outcome, rewards=rewards, divisor=divisor)


def whiten_returns(
    returns: PrimeReturns,
    mask: Bool[Tensor, "B S"],
    group_ids: Int[Tensor, " B"],
    rules: CreditRules,
    all_reduce: AllReduce = local,
) -> Float[Tensor, "B S"]:
    """Collective. The advantages: the two returns together, shifted and scaled if the rules say so."""
    match rules.whitens:
        case "none":
            return returns.total
        case "batch":
            return masked_whiten(returns.total, mask, all_reduce)
        case "group":
            return whiten_groups(returns.total, mask, group_ids)


def outcome_returns(
    outcomes: Float[Tensor, " B"],
    mask: Bool[Tensor, "B S"],
    group_ids: Int[Tensor, " B"],
    rules: CreditRules,
    evidence: Evidence,
) -> Float[Tensor, "B S"]:
    """The outcome's share of each token's return less its baseline, 0 off the mask.

    The reward stands on the last token and is summed backwards, discounted by ``gamma_outcome``: at 1, the authors'
    setting and the only one of Eq. 5, every token gets the same.
    """
    outcomes, last = full_precision(outcomes), last_token(mask)
    match rules.estimator:
        case "rloo":
            centred = outcomes - leave_one_out_mean(outcomes, group_ids)
        case "grpo":
            mean, spread = group_spread(outcomes, group_ids)
            centred = (outcomes - mean) / spread.clamp(min=1e-6)
        case "remax":
            centred = outcomes - _known("greedy_outcomes", evidence)
        case "gae":
            rewards = zero_off(outcomes[:, None].expand(mask.shape), last)
            values = _known("values", evidence)
            return gae(rewards, values, mask, gamma=rules.gamma_outcome, lam=rules.gae_lambda)
        case "reinforce" | "reinforce_pp" | "implicit_value" | "calibrated_value":
            centred = outcomes
    at_end = zero_off(centred[:, None].expand(mask.shape), last)
    return zero_off(suffix_sum(at_end, rules.gamma_outcome), mask)


def process_returns(
    rewards: Float[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    group_ids: Int[Tensor, " B"],
    rules: CreditRules,
    evidence: Evidence,
    *,
    divisor: Float[Tensor, ""],
) -> Float[Tensor, "B S"]:
    """The discounted return of the process rewards less their baseline, 0 off the mask.

    GRPO's Eq. 7 divides by the spread of the token means of its group, however small; here that is at least
    ``normalizer_floor`` (in units of q), or an untrained PRM would be as loud as the outcome.
    """
    match rules.baseline, rules.estimator:
        case "position", _:
            return centre_by_position(suffix_sum(rewards, rules.gamma_process), mask, group_ids)
        case "sequence", _:
            centred = centre_by_totals(rewards, mask, group_ids)
        case ("token_mean", _) | (None, "rloo"):
            centre = centre_as_released if rules.published.stretches else centre_leave_one_out
            centred = centre(rewards, mask, group_ids)
        case None, "grpo":
            centred = centre_by_group(rewards, mask, group_ids, floor=rules.unit * rules.normalizer_floor)
        case None, "remax":
            scale = rules.unit / divisor
            centred = centre_by_greedy(rewards, mask, scale * _known("greedy_log_ratios", evidence))
        case _:
            centred = rewards
    if rules.negative_only:
        centred = centred.clamp(max=0.0)
    return zero_off(suffix_sum(centred, rules.gamma_process), mask)


def prefix_values(
    log_ratios: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"], rules: CreditRules
) -> Float[Tensor, "B S"]:
    """The implicit PRM as a value: ``v = beta * sum of q`` over the tokens before each (PRIME, section 5.4, variant 3).

    The cross-entropy trains v as a logit, the paper subtracts it from an outcome in [0, 1] as it is. The calibrated
    form takes its sigmoid, which is the PRM's probability of success.
    """
    q = zero_off(log_ratios, mask)
    value = rules.beta * (q.cumsum(dim=1) - q)
    return zero_off(torch.sigmoid(value) if rules.estimator == "calibrated_value" else value, mask)


def value_targets(returns: PrimeReturns, values: Float[Tensor, "B S"], rules: CreditRules) -> Float[Tensor, "B S"]:
    """What the critic learns: its own values moved by the advantages of the outcome, which it alone predicts."""
    return returns.outcome / rules.outcome_coef + values


def _known(name: str, evidence: Evidence) -> Tensor:
    value = getattr(evidence, name)
    if value is None:
        raise ValueError(f"This estimator or baseline needs Evidence({name}=...), which was not given.")
    return cast(Tensor, value)
