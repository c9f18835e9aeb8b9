"""The policy's loss, token by token: four surrogates, importance weights, KL, and how much each token counts.

Where advantages come from, and the forward pass, are not known here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from credo.algo.masked import AllReduce, full_precision, local, masked_mean, row_mean, zero_off

Aggregation = Literal["token_mean", "seq_mean_token_mean"]
PolicyLoss = Literal["ppo", "pg", "gspo", "cispo"]
KlEstimate = Literal["k1", "k2", "k3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLosses:
    """The loss of each token, and what its clip did."""

    losses: Float[Tensor, "B S"]
    clipped: Bool[Tensor, "B S"]
    """Tokens whose gradient the clip takes away; for CISPO, which takes none away, those whose ratio it clips."""


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


def policy_losses(
    kind: PolicyLoss,
    logprobs: Float[Tensor, "B S"],
    old_logprobs: Float[Tensor, "B S"],
    advantages: Float[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 0.0,
) -> TokenLosses:
    """The loss called ``kind``. ``dual_clip`` is PPO's alone, and the plain policy gradient (``pg``) has no clip.

    Whatever the kind, ``advantages`` must be 0 off the mask; a token without advantage has neither loss nor gradient,
    whatever its log-probs. On the policy that sampled, all kinds have the same gradient.
    """
    clips = {"clip_low": clip_low, "clip_high": clip_high}
    match kind:
        case "ppo":
            return ppo(logprobs, old_logprobs, advantages, **clips, dual_clip=dual_clip)
        case "pg":
            return policy_gradient(logprobs, advantages)
        case "gspo":
            return gspo(logprobs, old_logprobs, advantages, mask, **clips)
        case "cispo":
            return cispo(logprobs, old_logprobs, advantages, **clips)
        case _:
            raise ValueError(f"Unknown policy loss {kind!r}. Choose ppo, pg, gspo or cispo.")


def clipped_surrogate(
    logprobs: Float[Tensor, "B S"],
    old_logprobs: Float[Tensor, "B S"],
    advantages: Float[Tensor, "B S"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Float[Tensor, "B S"]:
    """PPO's loss of each token (see :func:`ppo`), for people who bring their own trainer."""
    return ppo(logprobs, old_logprobs, advantages, clip_low=clip_low, clip_high=clip_high).losses


def ppo(
    logprobs: Float[Tensor, "B S"],
    old_logprobs: Float[Tensor, "B S"],
    advantages: Float[Tensor, "B S"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 0.0,
) -> TokenLosses:
    """PPO: ``max(-A * rho, -A * clip(rho, 1 - clip_low, 1 + clip_high))``, rho the ratio to the old policy.

    ``dual_clip`` c > 1 also bounds the loss where A < 0 by ``-c * A`` (arXiv 1912.09729; verl's recipe takes 3, the
    released code has none); 0 is off. ``clip_low`` must be below 1.
    """
    log_rho = full_precision(logprobs) - full_precision(old_logprobs)
    return _surrogate(log_rho, advantages, clip_low, clip_high, dual_clip)


def policy_gradient(logprobs: Float[Tensor, "B S"], advantages: Float[Tensor, "B S"]) -> TokenLosses:
    """``-A * log pi``: REINFORCE, right where the batch is the policy's own. Only its gradient means anything."""
    losses = -advantages * _where_it_counts(advantages, full_precision(logprobs))
    return TokenLosses(losses=losses, clipped=torch.zeros_like(losses, dtype=torch.bool))


def gspo(
    logprobs: Float[Tensor, "B S"],
    old_logprobs: Float[Tensor, "B S"],
    advantages: Float[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> TokenLosses:
    """GSPO-token (arXiv 2507.18071): PPO with the response's ratio ``s = exp(mean of log rho)`` at each of its tokens.

    The gradient of a token is that of ``sg[s] * pi / sg[pi]``, so that advantages may differ from token to token. A
    mean of logarithms stays near 0: the paper clips at 3e-4 below and 4e-4 above 1. Its loss is a mean over responses
    of means over tokens, which is the aggregation ``seq_mean_token_mean``.
    """
    logprobs = full_precision(logprobs)
    log_s = row_mean(logprobs.detach() - full_precision(old_logprobs), mask)
    return _surrogate(log_s[:, None] + (logprobs - logprobs.detach()), advantages, clip_low, clip_high)


def cispo(
    logprobs: Float[Tensor, "B S"],
    old_logprobs: Float[Tensor, "B S"],
    advantages: Float[Tensor, "B S"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> TokenLosses:
    """CISPO (arXiv 2506.13585): ``-sg[clip(rho, 1 - clip_low, 1 + clip_high)] * A * log pi``, sg for no gradient.

    No token is left out, whatever its ratio. The paper has in effect no lower clip.
    """
    logprobs = _where_it_counts(advantages, full_precision(logprobs))
    log_rho = logprobs.detach() - _where_it_counts(advantages, full_precision(old_logprobs))
    rho = log_rho.exp()
    bounded = rho.clamp(1.0 - clip_low, 1.0 + clip_high)
    return TokenLosses(losses=-bounded * advantages * logprobs, clipped=bounded != rho)


@torch.no_grad()
def importance_weights(
    old_logprobs: Float[Tensor, "B S"],
    sampling_logprobs: Float[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    cap: float,
) -> Float[Tensor, "B S"]:
    """``min(exp(old - sampling), cap)``: what the trainer's probability of a token is to the sampler's; 1 off the mask.

    Truncated importance sampling corrects an engine whose numbers differ from the trainer's. The weight multiplies the
    token's surrogate and has no gradient.
    """
    weights = (full_precision(old_logprobs) - full_precision(sampling_logprobs)).exp().clamp(max=cap)
    return torch.where(mask, weights, 1.0)


def kl_penalty(
    logprobs: Float[Tensor, "B S"],
    reference_logprobs: Float[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    kind: KlEstimate = "k3",
) -> Float[Tensor, "B S"]:
    """An estimate of KL(policy || reference) from each of the policy's own tokens, 0 off the mask (Schulman, 2020).

    With r the probability of the reference over that of the policy: ``k1 = -log r`` is unbiased and of either sign,
    ``k2 = (log r)^2 / 2`` is biased and positive, ``k3 = r - 1 - log r`` is unbiased and positive. Their gradients as
    losses are other matters: that of k1 is 0 on average, that of k2 is the one of KL(policy || reference), and that of
    k3 the one of KL(reference || policy).
    """
    log_r = zero_off(full_precision(reference_logprobs) - full_precision(logprobs), mask)
    match kind:
        case "k1":
            return -log_r
        case "k2":
            return log_r.square() / 2
        case "k3":
            return torch.expm1(log_r) - log_r
        case _:
            raise ValueError(f"Unknown KL estimate {kind!r}. Choose k1, k2 or k3.")


@torch.no_grad()
def approx_kl(
    logprobs: Float[Tensor, "B S"],
    old_logprobs: Float[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    *,
    all_reduce: AllReduce = local,
) -> Float[Tensor, ""]:
    """Collective. KL(old policy || policy) per response token by ``rho - 1 - log rho``: never negative, unbiased."""
    return masked_mean(kl_penalty(old_logprobs, logprobs, mask, "k3"), mask, all_reduce)


def _surrogate(
    log_rho: Tensor, advantages: Tensor, clip_low: float, clip_high: float, dual_clip: float = 0.0
) -> TokenLosses:
    # Seen from the sign of A, each clip bounds the ratio from one side. Bounding its logarithm instead of taking the
    # maximum of two losses leaves no infinite ratio for the backward pass to multiply by zero.
    log_rho = _where_it_counts(advantages, log_rho)
    most_if_negative = math.log(dual_clip) if dual_clip > 0 else math.inf
    least = torch.where(advantages < 0, math.log(1.0 - clip_low), -math.inf)
    most = torch.where(advantages < 0, most_if_negative, math.log(1.0 + clip_high))
    bounded = log_rho.clamp(least, most)
    return TokenLosses(losses=-advantages * bounded.exp(), clipped=bounded != log_rho)


def _where_it_counts(advantages: Tensor, x: Tensor) -> Tensor:
    # Zero times an infinite ratio is NaN, forward and backward: a token without advantage gets 0 for its logarithm.
    return torch.where(advantages == 0, 0.0, x)
