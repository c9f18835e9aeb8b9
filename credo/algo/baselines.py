"""What a reward is compared with: the other responses to the prompt, their spread, or the greedy one; whole groups too.

Rewards are ``(B, S)`` and 0 off the mask. Where they come from, and what becomes of them, is not known here.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from credo.algo.masked import full_precision, row_mean, row_sum, zero_off


def centre_leave_one_out(
    rewards: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"], group_ids: Int[Tensor, " B"]
) -> Float[Tensor, "B S"]:
    """The bracket of PRIME's Eq. 5: the reward less the mean, over the other responses, of their token means.

    Read literally Eq. 5 subtracts whole-sequence rewards at every token; its prose, Eq. 7 and all code use token means.
    """
    baseline = leave_one_out_mean(row_mean(rewards, mask), group_ids)
    return zero_off(full_precision(rewards) - baseline[:, None], mask)


def centre_as_released(
    rewards: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"], group_ids: Int[Tensor, " B"]
) -> Float[Tensor, "B S"]:
    """``n/(n-1) * reward - (sum of the group's token means, its own included) / (n-1)``: official and verl code.

    It is Eq. 5's bracket plus ``(reward - own token mean) / (n-1)``, which sums to 0 over a response: differences
    within a response are stretched by ``n/(n-1)``, totals agree.
    """
    others = _others(group_ids)
    total = group_sum(row_mean(rewards, mask), group_ids)
    stretched = full_precision(rewards) * ((others + 1) / others)[:, None]
    return zero_off(stretched - (total / others)[:, None], mask)


def centre_by_totals(
    rewards: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"], group_ids: Int[Tensor, " B"]
) -> Float[Tensor, "B S"]:
    """The reward less the mean total of the other responses, spread evenly over the row's own tokens.

    The first token's return is then the row's total less the others', whatever the lengths: no length effect.
    """
    baseline = leave_one_out_mean(row_sum(rewards, mask), group_ids) / mask.sum(dim=1).clamp(min=1)
    return zero_off(full_precision(rewards) - baseline[:, None], mask)


def centre_by_group(
    rewards: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"], group_ids: Int[Tensor, " B"], *, floor: float
) -> Float[Tensor, "B S"]:
    """The process part of PRIME's Eq. 7 (GRPO): the reward less the group's mean token mean, over their spread."""
    mean, spread = group_spread(row_mean(rewards, mask), group_ids)
    return zero_off((full_precision(rewards) - mean[:, None]) / spread.clamp(min=floor)[:, None], mask)


def centre_by_greedy(
    rewards: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"], greedy: Float[Tensor, " B"]
) -> Float[Tensor, "B S"]:
    """The reward less the token mean of the greedy response: ReMax (arXiv 2310.10505), a token at a time."""
    return zero_off(full_precision(rewards) - greedy[:, None], mask)


def centre_by_position(
    returns: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"], group_ids: Int[Tensor, " B"]
) -> Float[Tensor, "B S"]:
    """The return less the mean return of the other responses at the same fraction of their length.

    Token k of a response of m tokens is compared with token ``floor(k * n / m)`` of one of n; an empty one counts 0.
    """
    others = _others(group_ids)
    lengths = mask.sum(dim=1)
    place = (mask.cumsum(dim=1) - 1).clamp(min=0)  # of each token within its response
    packed = zero_off(returns, mask).new_zeros(mask.shape).scatter_add(1, place, zero_off(returns, mask))
    centred = zero_off(returns, mask)
    for group in group_ids.unique():
        rows = (group_ids == group).nonzero().squeeze(1)
        here, size = packed[rows], lengths[rows]
        fraction = place[rows][:, None, :] * size[None, :, None] // size.clamp(min=1)[:, None, None]
        theirs = here.expand(len(rows), -1, -1).gather(2, fraction)  # (row, other row, token)
        baseline = (theirs.sum(dim=1) - theirs.diagonal().T) / others[rows][:, None]
        centred[rows] = zero_off(centred[rows] - baseline, mask[rows])
    return centred


def leave_one_out_mean(x: Float[Tensor, " B"], group_ids: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """For each row, the mean of ``x`` over the other rows of its group. A row alone in its group is a ValueError."""
    return (group_sum(x, group_ids) - full_precision(x)) / _others(group_ids)


def group_spread(
    x: Float[Tensor, " B"], group_ids: Int[Tensor, " B"]
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """For each row, mean and standard deviation (over n - 1) of ``x`` in its group. One row alone is a ValueError."""
    mean = group_sum(x, group_ids) / group_sizes(group_ids)
    squares = group_sum((full_precision(x) - mean).square(), group_ids)
    return mean, (squares / _others(group_ids)).sqrt()


def whiten_groups(
    x: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"], group_ids: Int[Tensor, " B"], eps: float = 1e-8
) -> Float[Tensor, "B S"]:
    """``x`` shifted and scaled to mean 0 and unbiased variance 1 over the response tokens of each group."""
    count = group_sum(mask.sum(dim=1).float(), group_ids)[:, None]
    mean = group_sum(row_sum(x, mask), group_ids)[:, None] / count.clamp(min=1)
    centred = zero_off(full_precision(x) - mean, mask)
    variance = group_sum(centred.square().sum(dim=1), group_ids)[:, None] / (count - 1).clamp(min=1)
    return centred * torch.rsqrt(variance + eps)


def group_sum(x: Float[Tensor, " B"], group_ids: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """For each row, the sum of ``x`` over its group, itself included."""
    groups, index = group_ids.unique(return_inverse=True)
    x = full_precision(x)
    return x.new_zeros(len(groups)).index_add(0, index, x)[index]


def group_sizes(group_ids: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """For each row, how many rows its group has, itself included."""
    _, index, counts = group_ids.unique(return_inverse=True, return_counts=True)
    return counts[index]


def _others(group_ids: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    others = group_sizes(group_ids) - 1
    if (others == 0).any():
        lonely = group_ids[others == 0][0].item()
        raise ValueError(
            f"A baseline over the group needs 2 or more rollouts of a prompt, but group {lonely} has 1. "
            "Raise `rollout.per_prompt`."
        )
    return others
