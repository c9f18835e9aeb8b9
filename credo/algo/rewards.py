"""From log-ratios to implicit process rewards, the sequence logit and the PRM's pair accuracy.

``log_ratios`` are q = log pi_phi - log pi_ref of each token, in fp32 and at temperature 1 (PRIME, Eq. 3). How they
were computed, and what the rewards are used for, is not known here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from credo.algo.credit import CreditRules
from credo.algo.masked import AllReduce, full_precision, local, masked_mean, row_sum, suffix_sum, zero_off

NORMALIZER_EPS = 1e-6
QUANTILE = 0.999
"""Of the sizes of all returns, the one that ``normalizer = "quantile"`` divides by."""


def log_ratios_to_rewards(
    log_ratios: Float[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    *,
    rules: CreditRules | None = None,
    step_ends: Bool[Tensor, "B S"] | None = None,
    all_reduce: AllReduce = local,
    **options: Any,
) -> Float[Tensor, "B S"]:
    """Collective. The process reward of each token, 0 off the mask: ``r = beta * q`` (PRIME, Eq. 3) up to its scale.

    ``options`` are the fields of :class:`~credo.algo.credit.CreditRules`. ``paper`` is Eq. 3 as printed. ``official``
    (the released ``dp_prime.py``) leaves beta out and divides by the largest ``|suffix sum|`` of the batch. ``verl``
    (``prime_dp_rm.py``) multiplies by beta, gives the last response token no reward, and divides likewise.
    """
    rules = replace(rules or CreditRules(), **options)
    rewards = place_rewards(log_ratios, mask, rules, step_ends)
    return rewards / reward_divisor(rewards, mask, rules, all_reduce)


def place_rewards(
    log_ratios: Float[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    rules: CreditRules,
    step_ends: Bool[Tensor, "B S"] | None = None,
) -> Float[Tensor, "B S"]:
    """The rewards of tokens, or their sums at the end of each step or response, before any normaliser.

    ``whole`` puts the sum over the response on its last token; verl means to do so too and raises a shape error
    instead. ``credit = "min"`` leaves the lowest reward of each response alone: PURE (arXiv 2504.15275) in the limit of
    temperature 0. Equal lowest rewards share it. Raises ValueError for steps without ``step_ends``.
    """
    last = last_token(mask)
    match rules.granularity:
        case "token":
            rewarded = mask & ~last if rules.published.drops_last else mask
            rewards = zero_off(log_ratios, rewarded)
        case "step":
            if step_ends is None:
                raise ValueError("Rewards of steps need to know where steps end; give step_ends.")
            rewarded = (step_ends | last) & mask
            rewards = _sums_at(rewarded, log_ratios, mask)
        case "whole":
            rewarded = last
            rewards = row_sum(log_ratios, mask)[:, None] * last
    return rules.unit * (rewards if rules.credit == "sum" else _lowest(rewards, rewarded))


def reward_divisor(
    rewards: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"], rules: CreditRules, all_reduce: AllReduce = local
) -> Float[Tensor, ""]:
    """Collective. What the rewards of a batch are divided by: a statistic of the sizes of their undiscounted returns.

    Both released codes take the maximum over one rank, here every statistic is over all. Both blow up the numerical
    noise of an untrained PRM to returns of 1, here the divisor is at least ``normalizer_floor`` (in units of q).
    """
    sizes = zero_off(suffix_sum(rewards), mask).abs()
    match rules.divides_by:
        case "none":
            return rewards.new_ones(())
        case "max_return":
            statistic = all_reduce(sizes.max(), "max")
        case "rms":
            statistic = masked_mean(sizes.square(), mask, all_reduce).sqrt()
        case "quantile":
            statistic = _quantile(sizes, mask, QUANTILE, all_reduce)
    return statistic.clamp(min=rules.unit * rules.normalizer_floor) + NORMALIZER_EPS


def sequence_logits(log_ratios: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"], beta: float) -> Float[Tensor, " B"]:
    """``z = beta * sum of q`` over the response: its reward in PRIME's Eq. 3 and the logit of the cross-entropy."""
    return beta * row_sum(log_ratios, mask)


def pair_accuracy(
    log_ratios: Float[Tensor, "B S"],
    outcomes: Float[Tensor, " B"],
    mask: Bool[Tensor, "B S"],
    group_ids: Int[Tensor, " B"],
    all_reduce: AllReduce = local,
) -> Float[Tensor, ""]:
    """Collective. How often the PRM ranks two responses of a prompt as their outcomes do, averaged over prompts.

    Pairs weigh ``|outcome difference|``; a prompt whose outcomes are all equal counts 0.5, as in both released codes.
    Two equal sums of q count as half right, whereas there the order of the rows decides.
    """
    accuracies, _ = _group_pair_accuracies(log_ratios, outcomes, mask, group_ids)
    return _mean_where(accuracies, torch.ones_like(accuracies, dtype=torch.bool), all_reduce)


def informative_pair_accuracy(
    log_ratios: Float[Tensor, "B S"],
    outcomes: Float[Tensor, " B"],
    mask: Bool[Tensor, "B S"],
    group_ids: Int[Tensor, " B"],
    all_reduce: AllReduce = local,
) -> Float[Tensor, ""]:
    """Collective. ``pair_accuracy`` over the prompts that have something to rank; 0.5 (chance) where none has."""
    accuracies, informative = _group_pair_accuracies(log_ratios, outcomes, mask, group_ids)
    return _mean_where(accuracies, informative, all_reduce)


def last_token(mask: Bool[Tensor, "B S"]) -> Bool[Tensor, "B S"]:
    """True at the last masked token of each row, normally the end of sequence; nowhere in a row without any."""
    return mask & (mask.flip(1).cumsum(dim=1).flip(1) == 1)


def _sums_at(ends: Bool[Tensor, "B S"], x: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Float[Tensor, "B S"]:
    """At each end, the sum of ``x`` since the end before it; 0 elsewhere."""
    index = ends.cumsum(dim=1) - ends.long()  # tokens up to an end, itself included, share a number
    sums = zero_off(x, mask).new_zeros(ends.shape[0], ends.shape[1] + 1).scatter_add(1, index, zero_off(x, mask))
    return zero_off(sums.gather(1, index), ends)


def _lowest(rewards: Float[Tensor, "B S"], rewarded: Bool[Tensor, "B S"]) -> Float[Tensor, "B S"]:
    lowest = rewards.masked_fill(~rewarded, torch.inf).amin(dim=1, keepdim=True)
    chosen = rewarded & (rewards == lowest)
    return zero_off(rewards / chosen.sum(dim=1, keepdim=True).clamp(min=1), chosen)


def _quantile(
    sizes: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"], share: float, all_reduce: AllReduce
) -> Float[Tensor, ""]:
    """The least size that ``share`` of all masked tokens do not exceed, to fp32: by bisection, so that ranks agree."""
    wanted = share * all_reduce(mask.sum(), "sum")
    low, high = sizes.new_zeros(()), all_reduce(sizes.max(), "max")
    for _ in range(32):
        middle = (low + high) / 2
        enough = all_reduce((mask & (sizes <= middle)).sum(), "sum") >= wanted
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high


def _group_pair_accuracies(
    log_ratios: Float[Tensor, "B S"],
    outcomes: Float[Tensor, " B"],
    mask: Bool[Tensor, "B S"],
    group_ids: Int[Tensor, " B"],
) -> tuple[Float[Tensor, " G"], Bool[Tensor, " G"]]:
    """The accuracy of each group, and whether its outcomes differ at all."""
    scores, outcomes = row_sum(log_ratios.detach(), mask), full_precision(outcomes)
    gaps = outcomes[:, None] - outcomes
    weights = gaps.abs() * (group_ids[:, None] == group_ids)  # (B, B), each pair in both orders
    agree = (scores[:, None] > scores) == (gaps > 0)
    groups, index = group_ids.unique(return_inverse=True)
    zeros = weights.new_zeros(len(groups))
    right = zeros.index_add(0, index, (weights * agree).sum(dim=1))
    total = zeros.index_add(0, index, weights.sum(dim=1))
    informative = total > 0
    return torch.where(informative, right / total, 0.5), informative


def _mean_where(x: Float[Tensor, " G"], keep: Bool[Tensor, " G"], all_reduce: AllReduce) -> Float[Tensor, ""]:
    count = all_reduce(keep.sum(), "sum")
    total = all_reduce(zero_off(x, keep).sum(), "sum")
    return torch.where(count > 0, total / count, 0.5)
