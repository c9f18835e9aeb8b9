"""Log-probs of given tokens, and entropies, from logits. The only place in the package that shifts by one position.

Logits are the largest tensor of a step. They are read in blocks of ``chunk`` tokens, so no fp32 copy of all of them
ever exists, neither forward nor backward. Policy, PRM and reference all come through here: log-ratios between two
code paths would be noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 256
"""Tokens whose logits are made at a time: at 152k words of vocabulary, 150 MB of fp32."""
ROWS = 32
"""Tokens whose softmax is made at a time."""
WORDS = 2048
"""Words of the vocabulary whose weights get their gradient at a time."""
KEPT = 2**28
"""Bytes of logits that are kept for the first backward pass rather than made again."""


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
    return placed(gather_logprobs(wanted, targets_of(tokens, mask), temperature, chunk=chunk), mask)


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
    _check_temperature(temperature)
    found = _Logprobs.apply(wanted, None, None, targets_of(tokens, mask), temperature, chunk, True)
    return placed(found[0], mask), placed(found[1], mask)


def gather_logprobs(
    logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"], temperature: float = 1.0, *, chunk: int = CHUNK
) -> Float[Tensor, " N"]:
    """``log_softmax(logits / temperature)`` at each target, in fp32.

    A row whose log-prob receives no gradient sends none back, even where its logits are NaN.
    """
    _check_temperature(temperature)
    return _Logprobs.apply(logits, None, None, targets, temperature, chunk, False)[0]


def entropy(logits: Float[Tensor, "N V"], temperature: float = 1.0, *, chunk: int = CHUNK) -> Float[Tensor, " N"]:
    """The entropy, in nats, of ``softmax(logits / temperature)`` for each row, in fp32.

    A row whose entropy receives no gradient sends none back, even where its logits are NaN.
    """
    _check_temperature(temperature)
    anything = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return _Logprobs.apply(logits, None, None, anything, temperature, chunk, True)[1]


def linear_logprobs(
    hidden: Float[Tensor, "N E"],
    weight: Float[Tensor, "V E"],
    bias: Float[Tensor, " V"] | None,
    targets: Int[Tensor, " N"],
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
    chunk: int = CHUNK,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Log-prob of each target, and the entropies (0 if not asked for), of ``hidden @ weight.T + bias``; both fp32.

    Logits are made ``chunk`` rows at a time in the precision of ``hidden`` and, unless those of all rows fit in
    :data:`KEPT` bytes, made again for the backward pass: their memory does not grow with the batch.
    """
    _check_temperature(temperature)
    return _Logprobs.apply(hidden, weight, bias, targets, temperature, chunk, with_entropy)


class _Logprobs(torch.autograd.Function):
    """Of logits, or of the product of ``inputs`` and ``weight``; keeps no softmax, which costs less to make again."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk: int,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        head = _Head(inputs, weight, bias, chunk)
        memory = head.block()
        logprobs, entropies, norms = (memory.new_zeros(len(inputs)) for _ in range(3))
        keep = any(ctx.needs_input_grad) and head.bytes <= KEPT
        kept: list[Tensor] = []
        for start in range(0, len(inputs), chunk):
            logits = head.logits(start)
            if keep:
                kept.append(logits)
            for rows, block in _row_blocks(logits, start, temperature, memory):
                most = block.amax(dim=-1)
                block -= most[:, None]
                logprobs[rows] = block.gather(1, targets[rows, None]).squeeze(1)
                weights = block.exp() if with_entropy else block.exp_()
                total = weights.sum(dim=-1)
                if with_entropy:
                    # A forbidden word has weight 0 and a logit of -inf.
                    entropies[rows] = total.log() - weights.mul_(block.clamp_(min=-1e30)).sum(dim=-1) / total
                logprobs[rows] -= total.log()
                norms[rows] = most + total.log()
        ctx.save_for_backward(inputs, weight, bias, targets, norms, entropies)
        ctx.kept, ctx.options = kept, (temperature, chunk, with_entropy)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        inputs, weight, bias, targets, norms, entropies = ctx.saved_tensors
        temperature, chunk, with_entropy = ctx.options
        of_logprobs, of_entropies = grad_outputs
        head = _Head(inputs, weight, bias, chunk)
        gradients, memory = _Gradients(inputs, weight, bias, ctx.needs_input_grad), head.block()
        kept, ctx.kept = ctx.kept, []  # they are overwritten
        for start in range(0, len(inputs), chunk):
            logits = kept[start // chunk] if kept else head.logits(start)
            towards = torch.empty_like(logits) if weight is None else logits
            for rows, block in _row_blocks(logits, start, temperature, memory):
                block -= norms[rows, None]
                silent = of_logprobs[rows] == 0
                weights = block.exp() if with_entropy else block.exp_()
                gradient = torch.mul(weights, -of_logprobs[rows, None], out=None if with_entropy else weights)
                if with_entropy:
                    # d H / d logits = -p * (log p + H)
                    silent &= of_entropies[rows] == 0
                    surprise = block.clamp_(min=-1e30).add_(entropies[rows, None])
                    gradient -= weights.mul_(surprise).mul_(of_entropies[rows, None])
                # d log p[target] / d logits = onehot(target) - p
                gradient.scatter_add_(1, targets[rows, None], of_logprobs[rows, None]).div_(temperature)
                towards[rows.start - start : rows.stop - start] = gradient.masked_fill_(silent[:, None], 0.0)
            gradients.add(start, towards, head.weight)
        return gradients.inputs, gradients.weight, gradients.bias, None, None, None, None


class _Head:
    """Logits in chunks: of a linear layer, or given."""

    def __init__(self, inputs: Tensor, weight: Tensor | None, bias: Tensor | None, chunk: int) -> None:
        self.inputs, self.chunk = inputs, chunk
        self.weight = None if weight is None else weight.to(inputs.dtype)
        self.bias = None if bias is None else bias.to(inputs.dtype)

    @property
    def bytes(self) -> int:
        """Of all logits that are not given."""
        return 0 if self.weight is None else len(self.inputs) * len(self.weight) * self.inputs.element_size()

    def block(self) -> Tensor:
        """Memory for the fp32 copy of a few rows of logits, for one block after another."""
        words = self.inputs.shape[1] if self.weight is None else len(self.weight)
        full = torch.promote_types(self.inputs.dtype, torch.float32)
        return self.inputs.new_empty(min(ROWS, self.chunk, len(self.inputs)), words, dtype=full)

    def logits(self, start: int) -> Tensor:
        """Of the rows from ``start`` on."""
        some = self.inputs[start : start + self.chunk]
        return some if self.weight is None else F.linear(some, self.weight, self.bias)


class _Gradients:
    """What flows back from the logits, chunk by chunk; sums over rows are fp32."""

    def __init__(self, inputs: Tensor, weight: Tensor | None, bias: Tensor | None, needed: tuple[bool, ...]) -> None:
        self.rows = inputs
        self.inputs = torch.empty_like(inputs) if needed[0] else None
        self.weight = torch.zeros_like(weight) if weight is not None and needed[1] else None
        self.bias = torch.zeros_like(bias) if bias is not None and needed[2] else None

    def add(self, start: int, towards: Tensor, weight: Tensor | None) -> None:
        """What the logits of the rows from ``start`` on send back."""
        rows = slice(start, start + len(towards))
        if self.inputs is not None:
            self.inputs[rows] = towards if weight is None else towards @ weight
        if self.bias is not None:
            self.bias += towards.sum(dim=0, dtype=torch.float32)
        if self.weight is not None:
            for first in range(0, len(self.weight), WORDS):
                words = slice(first, first + WORDS)
                self.weight[words] += towards[:, words].T @ self.rows[rows]


def _row_blocks(logits: Tensor, start: int, temperature: float, memory: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Copies of a few rows at a time in fp32, which stay in the processor's cache, with their place among all rows.

    Each is made in the same ``memory``: fresh pages cost more than what is done here.
    """
    for first in range(0, len(logits), ROWS):
        some = logits[first : first + ROWS]
        block = memory[: len(some)].copy_(some)
        yield slice(start + first, start + first + len(block)), block if temperature == 1.0 else block.div_(temperature)


def targets_of(tokens: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Int[Tensor, " N"]:
    """The masked tokens, row by row."""
    return tokens[:, 1:][mask[:, 1:]]


def placed(values: Float[Tensor, " N"], mask: Bool[Tensor, "B S"]) -> Float[Tensor, "B S"]:
    """``values`` of the masked tokens, row by row, at their places in (B, S); 0 elsewhere."""
    later = mask[:, 1:]
    return F.pad(torch.zeros_like(later, dtype=values.dtype).masked_scatter(later, values), (1, 0))


def _check_temperature(temperature: float) -> None:
    if temperature <= 0:
        raise ValueError(
            f"Log-probs need a temperature above 0, got {temperature}: greedy decoding has none. "
            "Set `rollout.temperature` above 0."
        )
