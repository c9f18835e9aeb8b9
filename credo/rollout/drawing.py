"""Drawing without cuts as ``drawing.c`` does it: the fast way of :func:`credo.rollout.sampling.draw`."""

from __future__ import annotations

import ctypes
import functools

import torch
from jaxtyping import Float, Int
from torch import Tensor

from credo.rollout.native import address, library, misread

BLOCK = 256
"""Tokens summed as one when a cumulative distribution is inverted."""


class Drawing:
    """The function of ``drawing.c`` for logits of ``dtype``; a row does not depend on threads or on other rows."""

    def __init__(self, compiled: ctypes.CDLL, dtype: torch.dtype) -> None:
        self.dtype, self._draw = dtype, compiled.draw
        self._draw.restype = None
        self._draw.argtypes = [*[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 2, ctypes.c_float]
        self._draw.argtypes += [*[ctypes.c_void_p] * 3, ctypes.c_int]

    def __call__(
        self, logits: Float[Tensor, "N V"], uniforms: Float[Tensor, " N"], temperature: float
    ) -> tuple[Int[Tensor, " N"], Float[Tensor, " N"]]:
        """One token a row and its log-prob."""
        rows, count = logits.shape
        numbers = uniforms.to(torch.float64).contiguous()
        if numbers.shape != (rows,):
            raise misread(f"{len(numbers)} numbers for {rows} rows")
        tokens, logprobs = numbers.new_empty(rows, dtype=torch.long), numbers.new_empty(rows, dtype=torch.float32)
        sums = numbers.new_empty(rows, -(-count // BLOCK))
        self._draw(
            address(logits, self.dtype),
            address(numbers, torch.float64),
            rows,
            count,
            temperature,
            address(sums, torch.float64),
            address(tokens, torch.long),
            address(logprobs, torch.float32),
            torch.get_num_threads(),
        )
        return tokens, logprobs


@functools.cache
def compiled(dtype: torch.dtype) -> Drawing | None:
    """None where it cannot be compiled, or not for ``dtype``."""
    if dtype not in (torch.float32, torch.bfloat16):
        return None
    made = library("drawing.c", f"BLOCK={BLOCK}", *["BF16"] * (dtype == torch.bfloat16))
    return Drawing(made, dtype) if made is not None else None
