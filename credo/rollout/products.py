"""Products of ``products.c``: rows in bf16 with a packed matrix, where the processor multiplies bf16 in pairs.

At the few rows of a decode step they take 0.7 to 0.8 of oneDNN's time (``benchmarks/products.py``). Processors with
tiles (AMX) keep oneDNN, which uses those.
"""

from __future__ import annotations

import ctypes
import functools

import torch
from jaxtyping import Float
from torch import Tensor

from credo.rollout.native import address, library, misread

COLUMNS = 48
"""Outputs of a panel: three vectors of 16, which with eight rows leave no register of the processor unused."""
_BF16 = torch.bfloat16


class Products:
    """The function of ``products.c``; a number does not depend on threads or on other rows."""

    def __init__(self, compiled: ctypes.CDLL) -> None:
        self._multiply = compiled.multiply
        self._multiply.restype = None
        self._multiply.argtypes = [*[ctypes.c_void_p] * 4, ctypes.c_int, ctypes.c_void_p, *[ctypes.c_int64] * 3]
        self._multiply.argtypes += [ctypes.c_int]

    def __call__(
        self,
        inputs: Float[Tensor, "*rows I"],
        panels: Float[Tensor, "panels pairs columns 2"],
        bias: Float[Tensor, " O"] | None,
        outputs: int,
        *,
        swish: bool = False,
        factors: Float[Tensor, "*rows O"] | None = None,
    ) -> Float[Tensor, "*rows O"]:
        """The product with the matrix (O, I) that ``panels`` were packed from, plus ``bias``, or the ``silu`` of that,
        times ``factors``; rounded once."""
        *rows, width = inputs.shape
        product = inputs.new_empty(*rows, outputs)
        shapes = (
            panels.shape,
            bias.shape if bias is not None else (outputs,),
            (product if factors is None else factors).shape,
        )
        if shapes != ((-(-outputs // COLUMNS), width // 2, COLUMNS, 2), (outputs,), product.shape) or width % 2:
            raise misread(f"rows of {width} and {outputs} outputs for {tuple(panels.shape)}")
        self._multiply(
            address(inputs, _BF16),
            address(panels, _BF16),
            None if bias is None else address(bias, _BF16),
            None if factors is None else address(factors, _BF16),
            swish,
            address(product, _BF16),
            inputs.numel() // width,
            width,
            outputs,
            torch.get_num_threads(),
        )
        return product


@functools.cache
def compiled() -> Products | None:
    """None where nothing can be compiled, or the processor has no such products or better ones."""
    made = library("products.c", f"COLUMNS={COLUMNS}")
    return Products(made) if made is not None and hasattr(made, "multiply") else None


def packed(matrix: Float[Tensor, "O I"]) -> Float[Tensor, "panels pairs columns 2"]:
    """The panels of ``matrix``, which has an even number of inputs; missing outputs are 0."""
    pairs = torch.nn.functional.pad(matrix, (0, 0, 0, -len(matrix) % COLUMNS)).view(torch.int32)
    panels = pairs.view(-1, COLUMNS, pairs.shape[1]).transpose(1, 2).contiguous()
    return panels.view(matrix.dtype).view(*panels.shape, 2)
