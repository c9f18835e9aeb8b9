"""The distribution that tokens are drawn from, by sorting whole rows and in the order that the docs give."""

from __future__ import annotations

import torch
from torch import Tensor


def sampling_logprobs(
    logits: Tensor, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> Tensor:
    """(N, V) log-probs in fp64, -inf where nothing is drawn."""
    if temperature == 0:
        return torch.log_softmax(logits.double(), dim=-1)
    shares = torch.softmax(logits.double() / temperature, dim=-1)
    for row in shares:
        order = sorted(range(len(row)), key=lambda token: -row[token].item())
        kept = order[: top_k or len(order)]
        total, sums = row[kept].sum().item(), 0.0
        nucleus = []
        for token in kept:
            if sums >= top_p * total:
                break
            nucleus.append(token)
            sums += row[token].item()
        largest = row.max().item()
        final = [token for token in nucleus if row[token].item() >= min_p * largest]
        mask = torch.ones_like(row, dtype=torch.bool)
        mask[final] = False
        row.masked_fill_(mask, 0.0)
    return (shares / shares.sum(dim=-1, keepdim=True)).log()
