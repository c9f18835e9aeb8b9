"""What trains the implicit PRM: outcome labels only. Optimisers, batches and the forward pass are not known here."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from credo.algo.rewards import sequence_logits


def prm_cross_entropy(
    log_ratios: Float[Tensor, "B S"],
    outcomes: Float[Tensor, " B"],
    mask: Bool[Tensor, "B S"],
    *,
    beta: float = 0.05,
    count: int | None = None,
) -> Float[Tensor, ""]:
    """The cross-entropy of ``sigmoid(beta * sum of q)`` against the outcomes (PRIME, Algorithm 1, line 8).

    Summed over rows and divided by ``count``, the rows of the global mini-batch (by default those given), so the
    losses of micro-batches and ranks add up. Partial credit makes soft labels. Taken on logits: both released codes
    take logarithms of a sigmoid, whose gradient is gone when a wrong response has come to look certain.
    """
    logits = sequence_logits(log_ratios, mask, beta)
    total = F.binary_cross_entropy_with_logits(logits, outcomes.to(logits.dtype), reduction="sum")
    return total / (len(outcomes) if count is None else count)


@torch.no_grad()
def dead_gradient_share(
    log_ratios: Float[Tensor, "B S"],
    outcomes: Float[Tensor, " B"],
    mask: Bool[Tensor, "B S"],
    beta: float,
    threshold: float = 1e-6,
) -> Float[Tensor, ""]:
    """The share of responses that teach the PRM nothing more: ``|sigmoid(z) - outcome|`` is at most ``threshold``.

    That difference times beta is the gradient of the cross-entropy for each token; an empty response has none.
    """
    logits = sequence_logits(log_ratios, mask, beta)
    residual = (torch.sigmoid(logits) - outcomes).abs() * mask.any(dim=1)
    return (residual <= threshold).to(logits.dtype).mean()
