"""What a critic is for and how it learns: generalised advantages, and PPO's clipped squared error.

Values stand at the token whose prefix they judge: ``values[b, s]`` is V(y_<s), what is expected before token ``s`` is
drawn. Where rewards come from is not asked here; the two sources of PRIME come one at a time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from credo.algo.masked import AllReduce, local, masked_mean, suffix_sum, zero_off


@torch.no_grad()
def gae(
    rewards: Float[Tensor, "B S"],
    values: Float[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
) -> Float[Tensor, "B S"]:
    """Generalised advantage estimation (arXiv 1506.02438, Eq. 16) over the response tokens, 0 off the mask.

    ``A_t = sum_k (gamma * lam)^k delta_(t+k)`` with ``delta_t = r_t + gamma * V_(t+1) - V_t``, and V = 0 after the last
    response token, whether it ended the response or ran into the limit. Computed as the lambda-return less the value,
    so that at gamma = lam = 1 it is the return less the value to the last bit. The mask of a row must have no gaps.
    """
    values = zero_off(values, mask)
    following = F.pad(values[:, 1:], (0, 1))
    targets = zero_off(rewards, mask) + gamma * (1.0 - lam) * following
    return zero_off(suffix_sum(targets, gamma * lam) - values, mask)


def clipped_value_loss(
    values: Float[Tensor, "B S"],
    old_values: Float[Tensor, "B S"],
    returns: Float[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    *,
    clip: float,
) -> Float[Tensor, "B S"]:
    """``0.5 * max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2)`` for each token, 0 off the mask.

    A value that has moved further than ``clip`` towards its return has no gradient left; one that moved away from it
    keeps all of it. As in the official code (``core_algos.py``), whose PRIME loop has no critic to use it.
    """
    unclipped, clipped = _squared_errors(values, old_values, returns, mask, clip)
    return 0.5 * torch.maximum(unclipped, clipped)


@torch.no_grad()
def value_clip_fraction(
    values: Float[Tensor, "B S"],
    old_values: Float[Tensor, "B S"],
    returns: Float[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    *,
    clip: float,
    all_reduce: AllReduce = local,
) -> Float[Tensor, ""]:
    """Collective. The share of response tokens whose gradient the clip takes away."""
    unclipped, clipped = _squared_errors(values, old_values, returns, mask, clip)
    return masked_mean((clipped > unclipped).to(unclipped.dtype), mask, all_reduce)


@torch.no_grad()
def explained_variance(
    values: Float[Tensor, "B S"],
    returns: Float[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    all_reduce: AllReduce = local,
) -> Float[Tensor, ""]:
    """Collective. ``1 - var(R - V) / var(R)`` over the response tokens of the global batch.

    1 is a perfect critic, 0 one that says the same of every prefix, and less is worse than that. Returns that do not
    vary, rounding aside, cannot be explained: 0.
    """

    def variance(x: Tensor) -> Tensor:
        return masked_mean((x - masked_mean(x, mask, all_reduce)).square(), mask, all_reduce)

    values, returns = zero_off(values, mask), zero_off(returns, mask)
    total, unexplained = variance(returns), variance(returns - values)
    varies = total > 1e-10 * masked_mean(returns.square(), mask, all_reduce)
    return torch.where(varies, 1.0 - unexplained / total, 0.0)


def _squared_errors(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    values, old_values, returns = (zero_off(x, mask) for x in (values, old_values, returns))
    near = torch.clamp(values, old_values - clip, old_values + clip)
    return (values - returns).square(), (near - returns).square()
