"""Sums, means and whitening over the response tokens of a batch, local or global. It knows neither rewards nor losses.

What lies off the mask is garbage, NaN and infinity included: it is replaced by zero before any arithmetic, so it
reaches neither a value nor a gradient. Everything is computed in fp32 (float64 stays float64) on new tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

AllReduce = Callable[[Tensor, Literal["sum", "max"]], Tensor]
"""Combines a tensor over all ranks and returns the result on each. Every rank has to call it, in the same order."""


def local(x: Tensor, operation: Literal["sum", "max"]) -> Tensor:
    """The ``AllReduce`` of a single process: what is here is all there is."""
    return x


def full_precision(x: Tensor) -> Tensor:
    """``x`` in fp32, or as it is when it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def zero_off(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``x`` in full precision, exactly 0 off the mask."""
    return torch.where(mask, full_precision(x), 0.0)


def masked_sum(x: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Float[Tensor, ""]:
    """The sum of ``x`` over the mask, on this rank."""
    return zero_off(x, mask).sum()


def masked_mean(x: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"], all_reduce: AllReduce = local) -> Float[Tensor, ""]:
    """Collective. The mean of ``x`` over the masked tokens of the global batch; 0 where there are none."""
    count = all_reduce(mask.sum(), "sum")
    return all_reduce(masked_sum(x, mask), "sum") / count.clamp(min=1)


def masked_whiten(
    x: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"], all_reduce: AllReduce = local, eps: float = 1e-8
) -> Float[Tensor, "B S"]:
    """Collective. ``x`` shifted and scaled to mean 0 and unbiased variance 1 over the masked tokens; 0 off the mask.

    ``(x - mean) / sqrt(variance + eps)`` with the variance divided by N - 1, over all response tokens of the global
    batch, so long responses weigh more. Both released code bases do this and the paper does not mention it; they leave
    values on the padding. One token alone is whitened to 0.
    """
    count = all_reduce(mask.sum(), "sum")
    mean = all_reduce(masked_sum(x, mask), "sum") / count.clamp(min=1)
    centred = zero_off(full_precision(x) - mean, mask)
    variance = all_reduce(centred.square().sum(), "sum") / (count - 1).clamp(min=1)
    return centred * torch.rsqrt(variance + eps)


def row_sum(x: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Float[Tensor, " B"]:
    """The sum over the masked tokens of each row."""
    return zero_off(x, mask).sum(dim=1)


def row_mean(x: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Float[Tensor, " B"]:
    """The mean over the masked tokens of each row; 0 for a row without any."""
    return row_sum(x, mask) / mask.sum(dim=1).clamp(min=1)


def suffix_sum(x: Float[Tensor, "B S"], gamma: float = 1.0) -> Float[Tensor, "B S"]:
    """The discounted return-to-go ``G[s] = x[s] + gamma * G[s + 1]`` of each row; ``x`` must be 0 off the mask."""
    x = full_precision(x)
    if gamma == 1.0:
        return x.flip(1).cumsum(dim=1).flip(1)
    returns, following = torch.empty_like(x), torch.zeros_like(x[:, 0])
    for s in reversed(range(x.shape[1])):
        following = x[:, s] + gamma * following
        returns[:, s] = following
    return returns
