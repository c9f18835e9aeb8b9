"""From the rewards within a response to one score of the response. Pure functions of the rewards alone."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from credo.algo.masked import full_precision

Aggregation = Literal["min", "sum", "mean", "last", "product"]
Form = Literal["single", "accumulated"]


def rewards_at(
    token_rewards: Float[Tensor, " N"], ends: Bool[Tensor, " N"], *, form: Form = "single"
) -> Float[Tensor, " K"]:
    """The reward at each of the K ``ends``: the sum of the tokens since the end before it, or since the beginning.

    Accumulated rewards are the Q values of the prefixes (PRIME, section 2.1); tokens behind the last end do not count.
    """
    reached = full_precision(token_rewards).cumsum(dim=0)[ends]
    return reached if form == "accumulated" else reached.diff(prepend=reached.new_zeros(1))


def aggregated(rewards: Float[Tensor, " K"], how: Aggregation) -> Float[Tensor, ""]:
    """One score from the rewards of a response: their least, sum, mean, last, or the product of their sigmoids.

    The last accumulated reward is the reward of the whole response. The product is given as its logarithm, which ranks
    alike and cannot underflow. Raises ValueError without rewards, and for another name.
    """
    if len(rewards) == 0:
        raise ValueError("A response without rewards has no score; it needs at least one token or step.")
    rewards = full_precision(rewards)
    match how:
        case "min":
            return rewards.min()
        case "sum":
            return rewards.sum()
        case "mean":
            return rewards.mean()
        case "last":
            return rewards[-1]
        case "product":
            return torch.nn.functional.logsigmoid(rewards).sum()
        case _:
            raise ValueError(f"Unknown aggregation {how!r}. Choose {', '.join(get_args(Aggregation))}.")
