"""Drawing one token a row from logits: pure functions, exact in every option, row by row independent."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def sampling_logprobs(logits: Float[Tensor, "N V"], *, temperature: float, top_p: float) -> Float[Tensor, "N V"]:
    """Log-probs, in fp32, of the distribution that tokens are drawn from; -inf outside the nucleus.

    Temperature 0 is greedy: the log-probs are those at temperature 1 and the caller takes the largest.
    """
    logprobs = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
    if top_p == 1.0 or temperature == 0:
        return logprobs
    ordered, order = logprobs.sort(dim=-1, descending=True)
    mass_before = ordered.exp().cumsum(dim=-1) - ordered.exp()
    kept = torch.zeros_like(logprobs, dtype=torch.bool).scatter_(1, order, mass_before < top_p)
    return torch.log_softmax(logprobs.masked_fill(~kept, -torch.inf), dim=-1)


def draw(logprobs: Float[Tensor, "N V"], uniforms: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
    """One token a row by inverting the cumulative distribution at ``uniforms`` in [0, 1).

    Every row is summed on its own in fp64, so that a row's token depends on its own log-probs and number only.
    """
    cumulative = logprobs.double().exp().cumsum(dim=-1)
    targets = (uniforms.double() * cumulative[:, -1]).unsqueeze(1)
    chosen = torch.searchsorted(cumulative, targets, right=True).squeeze(1)
    return chosen.clamp(max=logprobs.shape[1] - 1)
