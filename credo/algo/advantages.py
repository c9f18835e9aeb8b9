"""From process rewards and outcomes to advantages: baseline, return, sum of the two sources, whitening.

Each step is a function of its own; ``prime_returns`` and ``prime_advantages`` compose them in the three published
ways. Rows of one prompt share a group id and may come in any order and number. Nothing here has a gradient to give.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from credo.algo.masked import AllReduce, full_precision, local, masked_whiten, row_mean, suffix_sum, zero_off
from credo.algo.rewards import Granularity, Normalizer, Semantics, last_token, log_ratios_to_rewards

Estimator = Literal["rloo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrimeReturns:
    """The return of each token before whitening, by source, coefficients included; 0 off the mask.

    Their ratio decides who is heard: in the released codes the process source can overrule the outcome.
    """

    process: Float[Tensor, "B S"]
    outcome: Float[Tensor, "B S"]

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
    semantics: Semantics = "official",
    estimator: Estimator = "rloo",
    beta: float = 0.05,
    gamma_process: float = 1.0,
    gamma_outcome: float = 1.0,
    process_coef: float = 1.0,
    outcome_coef: float = 1.0,
    granularity: Granularity = "token",
    normalizer_floor: float = 1e-2,
    normalizer: Normalizer | None = None,
    all_reduce: AllReduce | None = None,
) -> Float[Tensor, "B S"]:
    """Collective. PRIME's advantage of each token, 0 off the mask.

    ``paper`` is Eq. 5: returns on rewards beta * q, not whitened. ``official`` (``core_algos.py``,
    ``compute_rloo_returns``) and ``verl`` (``prime_core_algos.py``) differ from it in the scale of the process rewards
    (see ``log_ratios_to_rewards``), in the baseline (see ``centre_as_released``) and by whitening the sum over all
    response tokens. Whitening cancels a common factor of the coefficients, so verl's 5:5 is 1:1; official reads none.
    Without ``log_ratios``, or with ``process_coef`` 0, this is outcome-only RLOO.
    """
    all_reduce = all_reduce or local
    returns = prime_returns(
        log_ratios,
        outcomes,
        mask,
        group_ids,
        semantics=semantics,
        estimator=estimator,
        beta=beta,
        gamma_process=gamma_process,
        gamma_outcome=gamma_outcome,
        process_coef=process_coef,
        outcome_coef=outcome_coef,
        granularity=granularity,
        normalizer_floor=normalizer_floor,
        normalizer=normalizer,
        all_reduce=all_reduce,
    )
    return returns.total if semantics == "paper" else masked_whiten(returns.total, mask, all_reduce)


@torch.no_grad()
def prime_returns(
    log_ratios: Float[Tensor, "B S"] | None,
    outcomes: Float[Tensor, " B"],
    mask: Bool[Tensor, "B S"],
    group_ids: Int[Tensor, " B"],
    *,
    semantics: Semantics = "official",
    estimator: Estimator = "rloo",
    beta: float = 0.05,
    gamma_process: float = 1.0,
    gamma_outcome: float = 1.0,
    process_coef: float = 1.0,
    outcome_coef: float = 1.0,
    granularity: Granularity = "token",
    normalizer_floor: float = 1e-2,
    normalizer: Normalizer | None = None,
    all_reduce: AllReduce | None = None,
) -> PrimeReturns:
    """Collective. What ``prime_advantages`` adds up and whitens: the centred returns of the two sources.

    A response without tokens has no return; its outcome, and a process mean of 0, still count for its group.
    """
    centred = centre_outcomes(outcomes, group_ids, estimator=estimator)
    outcome = outcome_coef * outcome_returns(centred, mask, semantics=semantics, gamma=gamma_outcome)
    if log_ratios is None or process_coef == 0:
        return PrimeReturns(process=torch.zeros_like(outcome), outcome=outcome)
    rewards = log_ratios_to_rewards(
        log_ratios,
        mask,
        semantics=semantics,
        granularity=granularity,
        beta=beta,
        normalizer_floor=normalizer_floor,
        normalizer=normalizer,
        all_reduce=all_reduce or local,
    )
    centred = centre_process(rewards, mask, group_ids, semantics=semantics, estimator=estimator)
    process = process_coef * zero_off(suffix_sum(centred, gamma_process), mask)
    return PrimeReturns(process=process, outcome=outcome)


def centre_outcomes(
    outcomes: Float[Tensor, " B"], group_ids: Int[Tensor, " B"], *, estimator: Estimator = "rloo"
) -> Float[Tensor, " B"]:
    """Each outcome less its baseline. For ``rloo`` the mean of the others, the same in paper and released codes."""
    match estimator:
        case "rloo":
            return full_precision(outcomes) - leave_one_out_mean(outcomes, group_ids)
        case _:
            raise ValueError(f"Unknown estimator {estimator!r}. Choose rloo.")


def centre_process(
    rewards: Float[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    group_ids: Int[Tensor, " B"],
    *,
    semantics: Semantics = "official",
    estimator: Estimator = "rloo",
) -> Float[Tensor, "B S"]:
    """Each process reward less its baseline, 0 off the mask."""
    match estimator, semantics:
        case "rloo", "paper":
            return centre_leave_one_out(rewards, mask, group_ids)
        case "rloo", "official" | "verl":
            return centre_as_released(rewards, mask, group_ids)
        case _:
            raise ValueError(
                f"Unknown estimator {estimator!r} or semantics {semantics!r}. Choose rloo, and official, paper or verl."
            )


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


def outcome_returns(
    centred: Float[Tensor, " B"], mask: Bool[Tensor, "B S"], *, semantics: Semantics = "official", gamma: float = 1.0
) -> Float[Tensor, "B S"]:
    """The outcome's share of each token's return, 0 off the mask.

    Eq. 5 adds it undiscounted to every token. The released codes reward the last token and sum backwards: the same at
    gamma 1, the authors' setting.
    """
    match semantics:
        case "paper":
            if gamma != 1.0:
                raise ValueError(
                    f"Eq. 5 of the paper does not discount the outcome, but gamma_outcome is {gamma}. "
                    "Set it to 1 or choose the official semantics."
                )
            return zero_off(centred[:, None].expand(mask.shape), mask)
        case "official" | "verl":
            at_end = zero_off(centred[:, None].expand(mask.shape), last_token(mask))
            return zero_off(suffix_sum(at_end, gamma), mask)
        case _:
            raise ValueError(f"Unknown semantics {semantics!r}. Choose official, paper or verl.")


def leave_one_out_mean(x: Float[Tensor, " B"], group_ids: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """For each row, the mean of ``x`` over the other rows of its group. A row alone in its group is a ValueError."""
    return (group_sum(x, group_ids) - full_precision(x)) / _others(group_ids)


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
            f"A leave-one-out baseline needs 2 or more rollouts of a prompt, but group {lonely} has 1. "
            "Raise `rollout.per_prompt`."
        )
    return others
