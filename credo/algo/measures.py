"""How well numbers rank, match and move with others: AUC, calibration error, correlations. Pure statistics.

Everything is computed in fp64 and without a gradient. It does not know what the numbers stand for.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

ROUNDING = 8
"""Units in the last place by which the values of a constant sample may differ: they are sums of many terms."""


@torch.no_grad()
def auc(scores: Float[Tensor, " N"], positive: Bool[Tensor, " N"]) -> Float[Tensor, ""]:
    """The chance that a random positive scores above a random negative, ties half; 0.5 where a class is missing.

    The area under the ROC curve, by the ranks of the positives (Mann and Whitney's U over the number of pairs).
    """
    positives = positive.sum().double()
    pairs = positives * (len(scores) - positives)
    above = average_ranks(scores)[positive].sum() - positives * (positives + 1) / 2
    return torch.where(pairs > 0, above / pairs, 0.5)


@torch.no_grad()
def calibration_error(
    probabilities: Float[Tensor, " N"], outcomes: Float[Tensor, " N"], bins: int = 10
) -> Float[Tensor, ""]:
    """``sum over bins of (n_bin / N) * |mean outcome - mean probability|``: the expected calibration error.

    ``bins`` of equal width divide [0, 1] (Guo et al., arXiv 1706.04599, Eq. 3, whose bins are closed above, these
    below). Outcomes may be soft; without any the error is 0. Raises ValueError for fewer than 1 bin.
    """
    if bins < 1:
        raise ValueError(f"A calibration error needs at least 1 bin to average over, got {bins}.")
    index = (probabilities.double() * bins).long().clamp(max=bins - 1)
    gaps = outcomes.double() - probabilities.double()
    return gaps.new_zeros(bins).index_add(0, index, gaps).abs().sum() / max(1, len(gaps))


@torch.no_grad()
def correlation(x: Float[Tensor, " N"], y: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """Pearson's correlation; 0 where ``x`` or ``y`` is constant up to the rounding of its type."""
    if _constant(x) or _constant(y):
        return torch.zeros((), dtype=torch.float64, device=x.device)
    units = [torch.nn.functional.normalize(each.double() - each.double().mean(), dim=0, eps=0.0) for each in (x, y)]
    return units[0].dot(units[1]).clamp(-1, 1)


@torch.no_grad()
def spearman(x: Float[Tensor, " N"], y: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """Spearman's rank correlation: Pearson's of the average ranks; 0 where ``x`` or ``y`` is constant."""
    return correlation(average_ranks(x), average_ranks(y))


def average_ranks(x: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The rank of each value, 1 for the smallest; equal values share the mean of their ranks."""
    _, index, counts = x.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1).double() / 2)[index]


def thirds(x: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
    """0, 1 or 2 for values in the lower, middle or upper third of the sample; equal values stay together."""
    return ((3 * average_ranks(x) - 1.5) / max(1, len(x))).long()


def _constant(x: Float[Tensor, " N"]) -> bool:
    if len(x) == 0:
        return True
    spread, size = x.max() - x.min(), x.abs().max()
    return bool(spread <= ROUNDING * torch.finfo(x.dtype).eps * size)
