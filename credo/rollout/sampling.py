"""Drawing one token a row from logits: pure functions, exact in every option, row by row independent.

What may be drawn is decided by a least logit, so no row is ever sorted as a whole unless its nucleus is very wide.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

ROWS = 16
"""Rows worked on at once: their numbers stay in the processor's cache."""
BLOCK = 256
"""Tokens summed as one when a cumulative distribution is inverted."""
CANDIDATES = 512
"""Tokens that are looked at first for a nucleus."""


def draw(
    logits: Float[Tensor, "N V"],
    uniforms: Float[Tensor, " N"],
    *,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> tuple[Int[Tensor, " N"], Float[Tensor, " N"]]:
    """One token a row and its log-prob, in fp32, under the distribution it was drawn from.

    The cumulative distribution is inverted at ``uniforms`` in [0, 1). In this order: logits are divided by
    ``temperature``; the ``top_k`` most likely tokens are kept (0: all); of those the most likely ones that together
    reach ``top_p`` of their probability; of those the ones at least ``min_p`` times as likely as the most likely.
    Tokens as likely as the last one kept are kept too. Temperature 0 takes the most likely token and reports its
    log-prob at temperature 1, without any cut.
    """
    parts = [
        _draw(some, numbers, temperature, top_k, top_p, min_p)
        for some, numbers in zip(logits.split(ROWS), uniforms.split(ROWS), strict=True)
    ]
    tokens, logprobs = zip(*parts, strict=True)
    return torch.cat(tokens), torch.cat(logprobs)


def least_logits(logits: Float[Tensor, "N V"], *, top_k: int, top_p: float, min_p: float) -> Float[Tensor, "N 1"]:
    """The logit, at the sampling temperature, that a token must reach to be drawn."""
    least = logits.new_full((len(logits), 1), -torch.inf)
    if 0 < top_k < logits.shape[1]:
        least = logits.topk(top_k).values[:, -1:]
    if top_p < 1:
        least = torch.maximum(least, _nucleus(logits, least, top_p))
    if min_p > 0:
        least = torch.maximum(least, logits.amax(dim=1, keepdim=True) + math.log(min_p))
    return least


def _draw(
    logits: Float[Tensor, "N V"],
    uniforms: Float[Tensor, " N"],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
) -> tuple[Int[Tensor, " N"], Float[Tensor, " N"]]:
    shifted = logits.to(torch.float32, copy=True)
    shifted -= shifted.amax(dim=1, keepdim=True)
    if temperature == 0:
        return shifted.argmax(dim=1), -shifted.exp_().sum(dim=1).log()
    if temperature != 1:
        shifted /= temperature
    if top_k > 0 or top_p < 1 or min_p > 0:
        least = least_logits(shifted, top_k=top_k, top_p=top_p, min_p=min_p)
        shifted.masked_fill_(shifted < least, -torch.inf)
    weights = shifted.exp_()
    tokens, totals = _invert(weights, uniforms)
    chosen = weights.gather(1, tokens).squeeze(1).double()
    return tokens.squeeze(1), (chosen / totals).log().float()


def _nucleus(logits: Float[Tensor, "N V"], least: Float[Tensor, "N 1"], top_p: float) -> Float[Tensor, "N 1"]:
    """The smallest logit of the fewest tokens that reach ``top_p`` of the probability of those from ``least`` on."""
    weights = (logits - logits.amax(dim=1, keepdim=True)).exp_().masked_fill_(logits < least, 0.0)
    mass = top_p * weights.sum(dim=1, keepdim=True, dtype=torch.float64)
    smallest = torch.empty_like(least)
    rows, count, vocabulary = torch.arange(len(logits), device=logits.device), CANDIDATES, logits.shape[1]
    while len(rows):
        count = min(count, vocabulary)
        heaviest, order = weights[rows].topk(count, dim=1)
        sums = heaviest.double().cumsum(dim=1)
        kept = ((sums - heaviest) < mass[rows]).sum(dim=1, keepdim=True)
        smallest[rows] = logits[rows].gather(1, order.gather(1, kept - 1))
        unfinished = (kept.squeeze(1) == count) & (count < vocabulary)
        rows, count = rows[unfinished], vocabulary
    return smallest


def _invert(
    weights: Float[Tensor, "N V"], uniforms: Float[Tensor, " N"]
) -> tuple[Int[Tensor, "N 1"], Float[Tensor, " N"]]:
    """The token at each of ``uniforms`` and the sum of each row's weights, in fp64 from blocks upwards."""
    vocabulary = weights.shape[1]
    missing = -vocabulary % BLOCK
    blocks = (pad(weights, (0, missing)) if missing else weights).unflatten(1, (-1, BLOCK))
    sums = blocks.sum(dim=2).double().cumsum(dim=1)
    targets = uniforms.double().unsqueeze(1) * sums[:, -1:]
    block = _first_above(sums, targets)
    before = torch.where(block > 0, sums.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks.gather(1, block.unsqueeze(2).expand(-1, -1, BLOCK)).squeeze(1).double().cumsum(dim=1)
    tokens = block * BLOCK + _first_above(inside, targets - before)
    return tokens.clamp(max=vocabulary - 1), sums[:, -1]


def _first_above(sums: Float[Tensor, "N M"], targets: Float[Tensor, "N 1"]) -> Int[Tensor, "N 1"]:
    """Where each row of running sums first exceeds its target, at most at its last increase."""
    found = torch.searchsorted(sums, targets, right=True)
    last = torch.searchsorted(sums, sums[:, -1:].contiguous())
    return torch.minimum(found, last).clamp(max=sums.shape[1] - 1)
