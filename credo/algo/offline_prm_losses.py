"""What trains an implicit PRM offline, besides the cross-entropy: DPO and NCA on pairs, KTO on single responses.

``logits`` are ``z = beta * h``, h the log-ratio of a whole response (Implicit PRM, arXiv 2412.01981, section 3). Every
loss is a sum over what is given, divided by ``count`` (by default as many), so the losses of micro-batches add up.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from credo.algo.masked import full_precision


def dpo_loss(better: Float[Tensor, " P"], worse: Float[Tensor, " P"], *, count: int | None = None) -> Float[Tensor, ""]:
    """``-log sigmoid(z_w - z_l)`` over pairs of a correct and a wrong response (DPO, arXiv 2305.18290, Eq. 7)."""
    losses = -F.logsigmoid(full_precision(better) - full_precision(worse))
    return losses.sum() / (len(losses) if count is None else count)


def nca_loss(better: Float[Tensor, " P"], worse: Float[Tensor, " P"], *, count: int | None = None) -> Float[Tensor, ""]:
    """``-log sigmoid(z_w) - log sigmoid(-z_w) / 2 - log sigmoid(-z_l) / 2`` over pairs (NCA, arXiv 2402.05369).

    The second term holds correct responses back, where DPO lets both of a pair fall as long as the gap grows. The code
    of Implicit PRM does not contain it.
    """
    better, worse = full_precision(better), full_precision(worse)
    losses = -F.logsigmoid(better) - 0.5 * F.logsigmoid(-better) - 0.5 * F.logsigmoid(-worse)
    return losses.sum() / (len(losses) if count is None else count)


def kto_baseline(mismatched: Float[Tensor, " M"]) -> Float[Tensor, ""]:
    """``max(0, mean z)`` over responses behind prompts of other problems: KTO's estimate of beta KL, no gradient.

    Without any the estimate is 0.
    """
    return full_precision(mismatched.detach()).sum().clamp(min=0) / max(1, len(mismatched))


def kto_loss(
    logits: Float[Tensor, " R"],
    outcomes: Float[Tensor, " R"],
    baseline: Float[Tensor, ""],
    *,
    correct_weight: float = 1.0,
    wrong_weight: float = 1.0,
    count: int | None = None,
) -> Float[Tensor, ""]:
    """``w sigmoid(z0 - z)`` for a correct and ``w sigmoid(z - z0)`` for a wrong response, z0 the ``baseline``
    (KTO, arXiv 2402.01306, Eq. 8). Partial credit is that much of both."""
    margins = full_precision(logits) - baseline
    outcomes = full_precision(outcomes)
    losses = correct_weight * outcomes * (-margins).sigmoid() + wrong_weight * (1 - outcomes) * margins.sigmoid()
    return losses.sum() / (len(losses) if count is None else count)
