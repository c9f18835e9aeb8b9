"""A second body for a model, to sample with: the same modules and parameters, its linear layers in another form.

On a CPU the form is that of ``products.c`` or of oneDNN's kernels, made once per change of the weights and not once per
product; in bf16 it halves what is read. Everything that is no linear layer stays fp32 and shared, as under autocast.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from credo.rollout import products
from credo.rollout.attention import NAME, Slots, register

ROWS = 64
"""Rows of a product that oneDNN chooses the layout for; others are right too."""


class PackedLinear(nn.Module):
    """The products of ``sources``, end to end in the last dimension, from a copy of their weights in ``dtype``.

    PEFT's LoRA layers are computed as in training, factor by factor: merged weights in bf16 would round a small change
    away. It makes no gradient.
    """

    def __init__(self, dtype: torch.dtype, *sources: Any) -> None:
        super().__init__()
        self.sources, self.dtype = sources, dtype
        self.packed = self.packed_bias = self.factors = self.products = None

    def refresh(self) -> None:
        """Copies the weights again. (Whether they changed cannot be seen: fused optimisers count no version up.)"""
        weight = torch.cat([source.weight.detach().to(self.dtype) for source in self.sources])
        self.outputs, self.products = len(weight), _products(weight)
        if self.products is not None:
            self.packed = products.packed(weight)
        else:
            self.packed = _reordered(weight) if _onednn(weight) else weight
        if self.sources[0].bias is not None:
            self.packed_bias = torch.cat([source.bias.detach().to(self.dtype) for source in self.sources])
        self.factors = _factors(self.sources, self.dtype)

    def forward(self, inputs: Float[Tensor, "*rows I"]) -> Float[Tensor, "*rows O"]:
        product = self._product(inputs)
        if self.factors is None:
            return product
        first, second = self.factors
        return product.add_(linear(linear(inputs.to(self.dtype), first), second))

    def swish(self, inputs: Float[Tensor, "*rows I"]) -> Float[Tensor, "*rows O"]:
        """``silu`` of the product."""
        return self._product(inputs, swish=True) if self._fuses else silu(self(inputs))

    def times(self, inputs: Float[Tensor, "*rows I"], factors: Float[Tensor, "*rows O"]) -> Float[Tensor, "*rows O"]:
        """The product, times ``factors``."""
        return self._product(inputs, factors=factors) if self._fuses else self(inputs) * factors

    @property
    def _fuses(self) -> bool:
        """Whether one operation makes the product and what follows it."""
        one = self.products is not None or (self.packed is not None and self.packed.is_mkldnn)
        return one and self.factors is None

    def _product(self, inputs: Tensor, *, swish: bool = False, factors: Tensor | None = None) -> Tensor:
        """With the weights alone; what follows is for those that fuse it."""
        inputs, weight, bias = inputs.to(self.dtype), self.packed, self.packed_bias
        assert weight is not None, "refresh comes before the first product"
        if self.products is not None:
            return self.products(inputs.contiguous(), weight, bias, self.outputs, swish=swish, factors=factors)
        if not weight.is_mkldnn:
            return linear(inputs, weight, bias)
        if factors is not None:
            return torch.ops.mkldnn._linear_pointwise.binary(inputs, factors, weight, bias, "mul")
        return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "swish" if swish else "none", [], "")


class OwnBody(nn.Module):
    """A model's own modules, with :class:`PackedLinear` for every linear layer; shares all parameters, copies no other.

    Not ``packed``, it has the linear layers too, under autocast. Called as :class:`credo.rollout.continuous.Body`.
    """

    kernels = None
    """Its decode steps are the model's own."""

    def __init__(self, model: Any, dtype: torch.dtype, *, packed: bool = True) -> None:
        super().__init__()
        self.model = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
        self.casts = dtype != torch.float32 and not packed
        if packed:
            _pack(self.model, dtype)
        register()
        self.model.set_attn_implementation(NAME)

    def forward(
        self, tokens: Int[Tensor, "N S"], positions: Int[Tensor, "N S"], kept: Int[Tensor, " P"] | None, slots: Slots
    ) -> Float[Tensor, "M V"]:
        """Logits after the positions ``kept`` of the only sequence, or after the only position of each."""
        some = {} if kept is None else {"logits_to_keep": kept}
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.casts):
            logits = self.model(input_ids=tokens, position_ids=positions, use_cache=False, slots=slots, **some).logits
        return logits[:, -1] if kept is None else logits[0]


@torch.no_grad()
def refresh(body: nn.Module) -> None:
    """Makes the packed weights of ``body`` those of its parameters."""
    for module in body.modules():
        if isinstance(module, PackedLinear):
            module.refresh()


def _pack(module: nn.Module, dtype: torch.dtype) -> None:
    """Puts a :class:`PackedLinear` in the place of each linear layer below ``module``, and of each with an adapter."""
    for name, child in list(module.named_children()):
        if type(child) is nn.Linear or hasattr(child, "base_layer"):
            setattr(module, name, PackedLinear(dtype, child))
        else:
            _pack(child, dtype)


def _factors(sources: Iterable[Any], dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    """The two factors of what the adapters of ``sources`` add, as those of one product; None without adapters."""
    firsts, seconds = [], []
    for source in sources:
        names = source.active_adapters if hasattr(source, "base_layer") else ()
        firsts += [source.lora_A[name].weight.detach() for name in names]
        parts = [source.scaling[name] * source.lora_B[name].weight.detach() for name in names]
        seconds.append(torch.cat([source.weight.new_empty((len(source.weight), 0), dtype=torch.float32), *parts], 1))
    return (torch.cat(firsts).to(dtype), torch.block_diag(*seconds).to(dtype)) if firsts else None


def _products(weight: Tensor) -> products.Products | None:
    """Those of ``products.c``, if they can take ``weight``."""
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16 or weight.shape[1] % 2:
        return None
    return products.compiled()


def _reordered(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)


def _onednn(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return weight.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
