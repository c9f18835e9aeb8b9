"""Drawing one token a row from logits: pure functions, exact in every option, row by row independent.

What may be drawn is decided by a least weight, which is found without sorting a row.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from credo.rollout import drawing

ROWS = 16
"""Rows worked on at once: their numbers stay in the processor's cache."""
FIRST, THEN = 12, 9
"""Bits of a weight that are looked at together for a nucleus, first and, twice, then: those up to 1.0 have 30."""


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
    in_c = drawing.compiled(logits.dtype) if logits.device.type == "cpu" else None
    if in_c is not None and (temperature == 0 or (top_k, top_p, min_p) == (0, 1.0, 0.0)):
        return in_c(logits.contiguous(), uniforms, temperature)
    parts = [
        _draw(some, numbers, temperature, top_k, top_p, min_p)
        for some, numbers in zip(logits.split(ROWS), uniforms.split(ROWS), strict=True)
    ]
    tokens, logprobs = zip(*parts, strict=True)
    return torch.cat(tokens), torch.cat(logprobs)


def least_weights(weights: Float[Tensor, "N V"], *, top_k: int, top_p: float, min_p: float) -> Float[Tensor, "N 1"]:
    """The weight that a token must reach to be drawn. Weights are probabilities, times what makes the largest 1."""
    least = weights.new_zeros(len(weights), 1)
    if 0 < top_k < weights.shape[1]:
        heaviest = weights.topk(top_k).values
        least = heaviest[:, -1:]
        with_ties = int((weights >= least).sum(dim=1).max())
        weights = _from(least, weights.topk(with_ties).values if with_ties > top_k else heaviest)
    if top_p < 1:
        least = torch.maximum(least, _nucleus(weights, top_p))
    return least.clamp(min=min_p)


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
    weights = shifted.exp_()
    if top_k > 0 or top_p < 1 or min_p > 0:
        weights = _from(least_weights(weights, top_k=top_k, top_p=top_p, min_p=min_p), weights)
    tokens, totals = _invert(weights, uniforms)
    chosen = weights.gather(1, tokens).squeeze(1).double()
    return tokens.squeeze(1), (chosen / totals).log().float()


def _from(least: Float[Tensor, "N 1"], weights: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
    """The weights, 0 where they are below ``least``."""
    kept = torch.ge(weights, least, out=torch.empty_like(weights))  # as numbers: masks are slower by far
    return kept.mul_(weights)


def _nucleus(weights: Float[Tensor, "N V"], top_p: float) -> Float[Tensor, "N 1"]:
    """The smallest of the fewest weights that reach ``top_p`` of a row's sum.

    Found digit by digit, without sorting: no weight is negative, so their bits, read as whole numbers, are in the same
    order. Weights are added up by their first digit, then those that share the smallest one's by the next.
    """
    count, vocabulary = weights.shape
    masses, bits = weights.double(), weights.view(torch.int32)
    digits = ((bits >> 2 * THEN) & ((1 << FIRST) - 1)).long()
    sums = masses.new_zeros(count, 1 << FIRST).scatter_add_(1, digits, masses)
    smallest, missing = _last_needed(sums, top_p * masses.sum(dim=1, keepdim=True))
    same = (digits == smallest).flatten().nonzero().squeeze(1)
    rows, bits, masses = same // vocabulary, bits.flatten()[same], masses.flatten()[same]
    for shift in (THEN, 0):
        digits = (bits >> shift) & ((1 << THEN) - 1)
        sums = masses.new_zeros(count << THEN).index_add_(0, (rows << THEN) + digits, masses)
        digit, missing = _last_needed(sums.view(count, -1), missing)
        smallest = smallest << THEN | digit
        same = digits == digit[rows, 0]
        rows, bits, masses = rows[same], bits[same], masses[same]
    return smallest.int().view(torch.float32)


def _last_needed(
    sums: Float[Tensor, "N D"], missing: Float[Tensor, "N 1"]
) -> tuple[Int[Tensor, "N 1"], Float[Tensor, "N 1"]]:
    """The lowest digit without which those above it stay below ``missing``, and what they leave of that."""
    above = sums.flip(1).cumsum(dim=1).flip(1) - sums
    digit = (above < missing).int().argmax(dim=1, keepdim=True)
    return digit, missing - above.gather(1, digit)


def _invert(
    weights: Float[Tensor, "N V"], uniforms: Float[Tensor, " N"]
) -> tuple[Int[Tensor, "N 1"], Float[Tensor, " N"]]:
    """The token at each of ``uniforms`` and the sum of each row's weights, in fp64 from blocks upwards."""
    vocabulary = weights.shape[1]
    missing = -vocabulary % drawing.BLOCK
    blocks = (pad(weights, (0, missing)) if missing else weights).unflatten(1, (-1, drawing.BLOCK))
    sums = blocks.sum(dim=2).double().cumsum(dim=1)
    targets = uniforms.double().unsqueeze(1) * sums[:, -1:]
    block = _first_above(sums, targets)
    before = torch.where(block > 0, sums.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks.gather(1, block.unsqueeze(2).expand(-1, -1, drawing.BLOCK)).squeeze(1).double().cumsum(dim=1)
    tokens = block * drawing.BLOCK + _first_above(inside, targets - before)
    return tokens.clamp(max=vocabulary - 1), sums[:, -1]


def _first_above(sums: Float[Tensor, "N M"], targets: Float[Tensor, "N 1"]) -> Int[Tensor, "N 1"]:
    """Where each row of running sums first exceeds its target, at most at its last increase."""
    found = torch.searchsorted(sums, targets, right=True)
    last = torch.searchsorted(sums, sums[:, -1:].contiguous())
    return torch.minimum(found, last).clamp(max=sums.shape[1] - 1)
