"""Log-ratios that have lost what a claim rests on: their place in the response, or all of their meaning.

A run that learns as well with a control did not owe it to which token got which reward.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from credo.algo.masked import masked_mean, zero_off


def shuffled(log_ratios: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"], seed: int) -> Float[Tensor, "B S"]:
    """The log-ratios of each response in random order: its sum stays, the credit of its tokens is chance."""
    generator = torch.Generator().manual_seed(seed)
    result = zero_off(log_ratios, mask)
    for row, tokens in zip(result, mask, strict=True):
        values = row[tokens]
        row[tokens] = values[torch.randperm(len(values), generator=generator).to(values.device)]
    return result


def noise(log_ratios: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"], seed: int) -> Float[Tensor, "B S"]:
    """Normal noise around 0 with the root mean square of the log-ratios over the masked tokens."""
    generator = torch.Generator().manual_seed(seed)
    scale = masked_mean(zero_off(log_ratios, mask).square(), mask).sqrt()
    result = zero_off(log_ratios, mask)
    result[mask] = scale * torch.randn(int(mask.sum()), generator=generator, dtype=result.dtype).to(result.device)
    return result
