"""Log-probs of given tokens, and entropies, from logits. The only place in the package that shifts by one position.

Logits are the largest tensor of a step. They are read in blocks of ``chunk`` tokens, so no fp32 copy of all of them
ever exists, neither forward nor backward. Policy, PRM and reference all come through here: log-ratios between two
code paths would be noise.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from credo.algo.masked import full_precision

CHUNK = 256
"""Tokens per block: at 152k words of vocabulary, 150 MB of fp32 at a time."""


def token_logprobs(
    logits: Float[Tensor, "B S V"], tokens: Int[Tensor, "B S"], *, temperature: float = 1.0, chunk: int = CHUNK
) -> Float[Tensor, "B S"]:
    """The log-prob of token ``s`` given those before it, at index ``s``; index 0, which nothing predicts, is 0.

    Fp32 whatever the dtype of ``logits``. Tokens on the padding must be valid ids.
    """
    # All S positions are gathered and the last one dropped: a slice of the logits would be a copy of them.
    following = tokens.roll(-1, dims=1).flatten()
    gathered = gather_logprobs(logits.flatten(0, 1), following, temperature, chunk=chunk).view(tokens.shape)
    return F.pad(gathered[:, :-1], (1, 0))


def predicting_positions(mask: Bool[Tensor, "B S"]) -> Int[Tensor, " P"]:
    """The positions, ascending, whose logits predict a masked token of any row: the only logits worth making."""
    return mask[:, 1:].any(dim=0).nonzero().squeeze(1)


def logprobs_at(
    positions: Int[Tensor, " P"],
    logits: Float[Tensor, "B P V"],
    tokens: Int[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    *,
    temperature: float = 1.0,
    chunk: int = CHUNK,
) -> Float[Tensor, "B S"]:
    """``token_logprobs`` from the logits at ``positions`` (see ``predicting_positions``) alone; 0 off the mask.

    A mask must not hold index 0: nothing predicts the first token.
    """
    wanted = logits[mask[:, positions + 1]]
    return _placed(gather_logprobs(wanted, _targets(tokens, mask), temperature, chunk=chunk), mask)


def logprobs_and_entropies_at(
    positions: Int[Tensor, " P"],
    logits: Float[Tensor, "B P V"],
    tokens: Int[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    *,
    temperature: float = 1.0,
    chunk: int = CHUNK,
) -> tuple[Float[Tensor, "B S"], Float[Tensor, "B S"]]:
    """``logprobs_at``, and at the index of each masked token the entropy of what it was drawn from; 0 off the mask."""
    wanted = logits[mask[:, positions + 1]]
    logprobs = gather_logprobs(wanted, _targets(tokens, mask), temperature, chunk=chunk)
    return _placed(logprobs, mask), _placed(entropy(wanted, temperature, chunk=chunk), mask)


def gather_logprobs(
    logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"], temperature: float = 1.0, *, chunk: int = CHUNK
) -> Float[Tensor, " N"]:
    """``log_softmax(logits / temperature)`` at each target, in fp32.

    A row whose log-prob receives no gradient sends none back, even where its logits are NaN.
    """
    _check_temperature(temperature)
    return _GatherLogprobs.apply(logits, targets, temperature, chunk)


def entropy(logits: Float[Tensor, "N V"], temperature: float = 1.0, *, chunk: int = CHUNK) -> Float[Tensor, " N"]:
    """The entropy, in nats, of ``softmax(logits / temperature)`` for each row, in fp32.

    A row whose entropy receives no gradient sends none back, even where its logits are NaN.
    """
    _check_temperature(temperature)
    return _Entropy.apply(logits, temperature, chunk)


class _GatherLogprobs(torch.autograd.Function):
    """Keeps the logits themselves for the backward pass and recomputes the softmax from them, block by block."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, temperature: float, chunk: int) -> Tensor:
        ctx.save_for_backward(logits, targets)
        ctx.temperature, ctx.chunk = temperature, chunk
        blocks = zip(logits.split(chunk), targets.split(chunk), strict=True)
        return torch.cat(
            [
                torch.log_softmax(_tempered(block, temperature), dim=-1).gather(1, target[:, None]).squeeze(1)
                for block, target in blocks
            ]
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        logits, targets = ctx.saved_tensors
        grad_logits = torch.empty_like(logits)
        pieces = (
            tensor.split(ctx.chunk) for tensor in (logits, targets, grad_outputs[0] / ctx.temperature, grad_logits)
        )
        for block, target, grad, grad_block in zip(*pieces, strict=True):
            # d log p[target] / d logits = onehot(target) - p
            gradient = torch.softmax(_tempered(block, ctx.temperature), dim=-1).mul_(-grad[:, None])
            gradient.scatter_add_(1, target[:, None], grad[:, None])
            grad_block.copy_(gradient.masked_fill_(grad[:, None] == 0, 0.0))
        return grad_logits, None, None, None


class _Entropy(torch.autograd.Function):
    """As :class:`_GatherLogprobs`: logits are kept, the softmax is not."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, temperature: float, chunk: int) -> Tensor:
        ctx.save_for_backward(logits)
        ctx.temperature, ctx.chunk = temperature, chunk
        return torch.cat([_surprises(block, temperature)[1].sum(dim=-1) for block in logits.split(chunk)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (logits,) = ctx.saved_tensors
        grad_logits = torch.empty_like(logits)
        pieces = (tensor.split(ctx.chunk) for tensor in (logits, grad_outputs[0] / ctx.temperature, grad_logits))
        for block, grad, grad_block in zip(*pieces, strict=True):
            # d H / d logits = -p * (log p + H)
            p, gradient = _surprises(block, ctx.temperature)
            gradient.addcmul_(p, gradient.sum(dim=-1, keepdim=True), value=-1.0).mul_(grad[:, None])
            grad_block.copy_(gradient.masked_fill_(grad[:, None] == 0, 0.0))
        return grad_logits, None, None


def _surprises(block: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The probabilities p of each row and ``-p * log p``, which is 0 for a forbidden word."""
    p = torch.softmax(_tempered(block, temperature), dim=-1)
    return p, torch.special.entr(p)


def _targets(tokens: Tensor, mask: Tensor) -> Tensor:
    return tokens[:, 1:][mask[:, 1:]]


def _placed(values: Tensor, mask: Tensor) -> Tensor:
    """``values`` of the masked tokens, row by row, at their places in (B, S); 0 elsewhere."""
    later = mask[:, 1:]
    return F.pad(torch.zeros_like(later, dtype=values.dtype).masked_scatter(later, values), (1, 0))


def _tempered(block: Tensor, temperature: float) -> Tensor:
    block = full_precision(block)
    return block if temperature == 1.0 else block / temperature


def _check_temperature(temperature: float) -> None:
    if temperature <= 0:
        raise ValueError(
            f"Log-probs need a temperature above 0, got {temperature}: greedy decoding has none. "
            "Set `rollout.temperature` above 0."
        )
