"""The policy's loss: PPO's clipped surrogate and a weight for each token. It ignores where advantages come from."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from credo.algo.masked import AllReduce, full_precision, local, masked_mean

Aggregation = Literal["token_mean", "seq_mean_token_mean"]


def loss_weights(
    mask: Bool[Tensor, "B S"], aggregation: Aggregation, *, count: int | None = None, all_reduce: AllReduce = local
) -> Float[Tensor, "B S"]:
    """Collective, unless ``count`` is given. Token weights that sum to 1 over the global mini-batch, 0 off the mask.

    A loss is the masked sum of weight times token loss, so the losses of micro-batches and ranks add up whatever their
    size. ``token_mean`` weighs all response tokens alike. ``seq_mean_token_mean`` weighs all responses alike (those
    without tokens aside): what both released codes do with one row in a micro-batch; with more rows they weigh tokens
    alike within each micro-batch. ``count`` is the number of response tokens, or of non-empty responses, in the global
    mini-batch.
    """
    lengths = mask.sum(dim=1)
    match aggregation:
        case "token_mean":
            here, row_weights = lengths.sum(), torch.ones_like(lengths, dtype=torch.float32)
        case "seq_mean_token_mean":
            here, row_weights = (lengths > 0).sum(), 1.0 / lengths.clamp(min=1)
        case _:
            raise ValueError(f"Unknown aggregation {aggregation!r}. Choose token_mean or seq_mean_token_mean.")
    everywhere = all_reduce(here, "sum").clamp(min=1) if count is None else count
    return mask * (row_weights / everywhere)[:, None]


def clipped_surrogate(
    logprobs: Float[Tensor, "B S"],
    old_logprobs: Float[Tensor, "B S"],
    advantages: Float[Tensor, "B S"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Float[Tensor, "B S"]:
    """``max(-A * rho, -A * clip(rho, 1 - clip_low, 1 + clip_high))`` for each token, rho the ratio to the old policy.

    ``advantages`` must be 0 off the mask; loss and gradient are then 0 there whatever the log-probs. Neither official's
    entropy term nor verl's second clip for negative advantages is part of it.
    """
    unclipped, clipped = _surrogates(logprobs, old_logprobs, advantages, clip_low, clip_high)
    return torch.maximum(unclipped, clipped)


@torch.no_grad()
def clip_fraction(
    logprobs: Float[Tensor, "B S"],
    old_logprobs: Float[Tensor, "B S"],
    advantages: Float[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    all_reduce: AllReduce = local,
) -> Float[Tensor, ""]:
    """Collective. The share of response tokens whose gradient the clip takes away."""
    unclipped, clipped = _surrogates(logprobs, old_logprobs, advantages, clip_low, clip_high)
    return masked_mean((clipped > unclipped).to(unclipped.dtype), mask, all_reduce)


@torch.no_grad()
def approx_kl(
    logprobs: Float[Tensor, "B S"],
    old_logprobs: Float[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    *,
    all_reduce: AllReduce = local,
) -> Float[Tensor, ""]:
    """Collective. KL(old policy || policy) per response token by ``rho - 1 - log rho``: never negative, unbiased."""
    log_rho = full_precision(logprobs) - full_precision(old_logprobs)
    return masked_mean(torch.expm1(log_rho) - log_rho, mask, all_reduce)


def _surrogates(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    log_rho = full_precision(logprobs) - full_precision(old_logprobs)
    # Zero times an infinite ratio is NaN, forward and backward: a token without advantage gets the ratio 1.
    rho = torch.where(advantages == 0, 0.0, log_rho).exp()
    return -advantages * rho, -advantages * rho.clamp(1.0 - clip_low, 1.0 + clip_high)
