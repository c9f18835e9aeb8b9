"""From log-ratios to implicit process rewards, the sequence logit and the PRM's pair accuracy.

``log_ratios`` are q = log pi_phi - log pi_ref of each token, in fp32 and at temperature 1 (PRIME, Eq. 3). How they
were computed, and what the rewards are used for, is not known here.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from credo.algo.masked import AllReduce, full_precision, local, row_sum, suffix_sum, zero_off

Semantics = Literal["official", "paper", "verl"]
Granularity = Literal["token", "whole"]
Normalizer = Literal["max_return", "none"]

NORMALIZER_EPS = 1e-6


def log_ratios_to_rewards(
    log_ratios: Float[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    *,
    semantics: Semantics = "official",
    granularity: Granularity = "token",
    beta: float = 0.05,
    normalizer_floor: float = 1e-2,
    normalizer: Normalizer | None = None,
    all_reduce: AllReduce = local,
) -> Float[Tensor, "B S"]:
    """Collective. The process reward of each token, 0 off the mask: ``r = beta * q`` (PRIME, Eq. 3) up to its scale.

    ``paper`` is Eq. 3 as printed. ``official`` (the released ``dp_prime.py``) leaves beta out and divides by the
    largest ``|suffix sum|`` of the batch. ``verl`` (``prime_dp_rm.py``) multiplies by beta, gives the last response
    token no reward, and divides likewise. ``whole`` puts the sum over the response on its last token; verl means to do
    so too and raises a shape error instead. ``normalizer`` overrules the division of the semantics.

    Both released codes take the maximum over one rank, here it is over all. Both blow up the numerical noise of an
    untrained PRM to returns of 1, here the divisor is at least ``normalizer_floor`` (in units of q).
    """
    match semantics:
        case "official":
            unit, own_normalizer = 1.0, "max_return"
        case "verl":
            unit, own_normalizer = beta, "max_return"
        case "paper":
            unit, own_normalizer = beta, "none"
        case _:
            raise ValueError(f"Unknown semantics {semantics!r}. Choose official, paper or verl.")
    rewards = unit * _place(log_ratios, mask, granularity, drops_last=semantics == "verl")
    match normalizer or own_normalizer:
        case "none":
            return rewards
        case "max_return":
            largest = all_reduce(suffix_sum(rewards).abs().max(), "max")
            return rewards / (largest.clamp(min=unit * normalizer_floor) + NORMALIZER_EPS)
        case _:
            raise ValueError(f"Unknown normalizer {normalizer!r}. Choose max_return or none.")


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


def _place(
    log_ratios: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"], granularity: Granularity, *, drops_last: bool
) -> Float[Tensor, "B S"]:
    last = last_token(mask)
    match granularity:
        case "token":
            return zero_off(log_ratios, mask & ~last if drops_last else mask)
        case "whole":
            return row_sum(log_ratios, mask)[:, None] * last
        case _:
            raise ValueError(f"Unknown granularity {granularity!r}. Choose token or whole.")


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
