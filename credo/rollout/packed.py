"""A second body for a model, to sample with: the same modules and parameters, its linear layers in another form.

On a CPU the form is that of oneDNN's kernels, made once per change of the weights and not once per product; in bf16 it
halves what is read. Everything that is no linear layer stays fp32 and shared, as under autocast.
"""

from __future__ import annotations

import copy
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

ROWS = 64
"""Rows of a product that oneDNN chooses the layout for; others are right too."""

Model = TypeVar("Model", bound=nn.Module)


class PackedLinear(nn.Module):
    """The product of ``source`` from a copy of its weights, in ``dtype``; makes no gradient."""

    def __init__(self, source: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight, self.bias, self.dtype = source.weight, source.bias, dtype
        self.packed = self.packed_bias = None

    def refresh(self) -> None:
        """Copies the weights again. (Whether they changed cannot be seen: fused optimisers count no version up.)"""
        weight = self.weight.detach().to(self.dtype)
        self.packed = _reordered(weight) if _onednn(weight) else weight
        self.packed_bias = None if self.bias is None else self.bias.detach().to(self.dtype)

    def forward(self, inputs: Float[Tensor, "*rows I"]) -> Float[Tensor, "*rows O"]:
        inputs, weight = inputs.to(self.dtype), self.packed
        assert weight is not None, "refresh comes before the first product"
        if weight.is_mkldnn:
            return torch.ops.mkldnn._linear_pointwise(inputs, weight, self.packed_bias, "none", [], "")
        return linear(inputs, weight, self.packed_bias)


def packed_body(model: Model, compute: Literal["fp32", "bf16"]) -> Model:
    """``model`` with a :class:`PackedLinear` for every linear layer; shares all its parameters, copies no other."""
    dtype = torch.bfloat16 if compute == "bf16" else torch.float32
    body = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    for module in list(body.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, PackedLinear(child, dtype))
    return body


@torch.no_grad()
def refresh(body: nn.Module) -> None:
    """Makes the packed weights of ``body`` those of its parameters."""
    for module in body.modules():
        if isinstance(module, PackedLinear):
            module.refresh()


def _reordered(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)


def _onednn(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return weight.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
