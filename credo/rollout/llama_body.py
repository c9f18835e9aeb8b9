"""The decoder of Llama and its kin written out for sampling: few operations, products packed, no gradient.

A decode step is hundreds of small operations around a few large products; on a CPU the small ones cost as much. Models
of other kinds run through their own modules (:class:`credo.rollout.packed.OwnBody`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.linalg import vector_norm

from credo.rollout.attention import Slots
from credo.rollout.cache import SlotCache
from credo.rollout.kernels import Kernels, compiled
from credo.rollout.packed import PackedLinear

KINDS = frozenset(("llama", "mistral", "qwen2", "qwen3"))
"""Model types of transformers that :class:`LlamaBody` computes."""


class LlamaBody(nn.Module):
    """A model of one of :data:`KINDS`, with its parameters; called as :class:`credo.rollout.continuous.Body`.

    Residuals, norms and rotations are fp32, products in ``dtype``, as under autocast.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        super().__init__()
        decoder = model.get_decoder()
        self.embed, self.rotary = decoder.embed_tokens, decoder.rotary_emb
        self.norm = Norm(decoder.norm, dtype)
        self.layers = nn.ModuleList(LlamaLayer(layer, dtype) for layer in decoder.layers)
        self.head = PackedLinear(dtype, model.lm_head)
        self.kernels = _kernels(self, dtype)
        """What decode steps are computed with between their products; without them, it is torch."""

    def forward(
        self,
        tokens: Int[Tensor, "N S"],
        positions: Int[Tensor, "N S"],
        kept: Int[Tensor, " P"] | None,
        slots: Slots,
    ) -> Float[Tensor, "M V"]:
        """Logits after the positions ``kept`` of the only sequence, or after the only position of each."""
        hidden = self.embed(tokens)
        cos, sin = self.rotary(hidden, positions)
        if isinstance(slots, SlotCache) and slots.kernels is not None:
            return self._decoded(hidden[:, 0], cos[:, 0].contiguous(), sin[:, 0].contiguous(), slots, slots.kernels)
        cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
        for layer in self.layers:
            hidden = layer(hidden, cos, sin, slots)
        last = hidden[:, 0] if kept is None else hidden[0, kept]
        return self.head(self.norm(last))

    def _decoded(
        self,
        hidden: Float[Tensor, "N E"],
        cos: Float[Tensor, "N D"],
        sin: Float[Tensor, "N D"],
        slots: SlotCache,
        kernels: Kernels,
    ) -> Float[Tensor, "N V"]:
        """Logits after one token of each slot: the same as layer by layer in torch, but for rounding."""
        added: Tensor | None = None
        for layer in cast("Iterable[LlamaLayer]", self.layers):
            added = layer.decoded(hidden, added, cos, sin, slots, kernels)
        return self.head(kernels.add_and_norm(hidden, added, self.norm.weight, self.norm.epsilon))


class LlamaLayer(nn.Module):
    """Attention and feed-forward block, each after its norm and added to what came in."""

    def __init__(self, source: Any, dtype: torch.dtype) -> None:
        super().__init__()
        attention, block = source.self_attn, source.mlp
        self.index, self.width, self.scaling = attention.layer_idx, attention.head_dim, attention.scaling
        everywhere = attention.config.sliding_window if attention.config.model_type == "mistral" else None
        self.window = getattr(attention, "sliding_window", everywhere)
        self.heads = attention.q_proj.out_features // self.width
        self.sets = attention.k_proj.out_features // self.width
        self.qkv = PackedLinear(dtype, attention.q_proj, attention.k_proj, attention.v_proj)
        self.out, self.down = PackedLinear(dtype, attention.o_proj), PackedLinear(dtype, block.down_proj)
        self.gate, self.up = PackedLinear(dtype, block.gate_proj), PackedLinear(dtype, block.up_proj)
        self.before, self.between = Norm(source.input_layernorm, dtype), Norm(source.post_attention_layernorm, dtype)
        self.normed = hasattr(attention, "q_norm")
        if self.normed:
            self.q_norm, self.k_norm = Norm(attention.q_norm, torch.float32), Norm(attention.k_norm, torch.float32)

    def forward(
        self,
        hidden: Float[Tensor, "N S E"],
        cos: Float[Tensor, "N S 1 D"],
        sin: Float[Tensor, "N S 1 D"],
        slots: Slots,
    ) -> Float[Tensor, "N S E"]:
        """The hidden states after this layer."""
        heads = self.qkv(self.before(hidden)).unflatten(-1, (-1, self.width))
        rotating = heads[:, :, : -self.sets]
        if self.normed:
            query, key = rotating.split((self.heads, self.sets), dim=2)
            rotating.copy_(torch.cat((self.q_norm(query), self.k_norm(key)), dim=2))
        rotating.copy_(_rotated(rotating.float(), cos, sin))
        query, key, value = heads.split((self.heads, self.sets, self.sets), dim=2)
        attended = slots.attend(
            self.index,
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            scaling=self.scaling,
            window=self.window,
            softcap=None,
        )
        hidden = hidden + self.out(attended.transpose(1, 2).flatten(2))
        return hidden + self._fed_forward(self.between(hidden))

    def decoded(
        self,
        hidden: Float[Tensor, "N E"],
        added: Float[Tensor, "N E"] | None,
        cos: Float[Tensor, "N D"],
        sin: Float[Tensor, "N D"],
        slots: SlotCache,
        kernels: Kernels,
    ) -> Float[Tensor, "N E"]:
        """What comes in is ``hidden + added``, what goes out ``hidden`` (changed in place) plus the result."""
        heads = self.qkv(kernels.add_and_norm(hidden, added, self.before.weight, self.before.epsilon))
        attended = slots.attend_heads(
            self.index,
            heads.unflatten(-1, (-1, self.width)),
            cos,
            sin,
            norms=(self.q_norm.weight, self.k_norm.weight, self.q_norm.epsilon) if self.normed else None,
            scaling=self.scaling,
            window=self.window,
        )
        inputs = kernels.add_and_norm(hidden, self.out(attended), self.between.weight, self.between.epsilon)
        return self._fed_forward(inputs)

    def _fed_forward(self, inputs: Float[Tensor, "*rows E"]) -> Float[Tensor, "*rows E"]:
        return self.down(self.up.times(inputs, self.gate.swish(inputs)))


class Norm(nn.Module):
    """The root-mean-square norm of ``source``, computed in fp32 and given in ``dtype`` to the product that follows."""

    def __init__(self, source: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight, self.dtype, self.epsilon = source.weight, dtype, source.variance_epsilon
        self.floor = torch.tensor(source.variance_epsilon, device=source.weight.device)

    def forward(self, inputs: Float[Tensor, "*rows E"]) -> Float[Tensor, "*rows E"]:
        """Rows of mean square 1, times the weight."""
        inputs = inputs.float()
        norm = vector_norm(inputs, dim=-1, keepdim=True)
        scale = torch.addcmul(self.floor, norm, norm, value=1 / inputs.shape[-1]).rsqrt_()
        return (inputs * scale).mul_(self.weight).to(self.dtype)


def _kernels(body: LlamaBody, dtype: torch.dtype) -> Kernels | None:
    weight, layer = body.embed.weight, body.layers[0]
    assert isinstance(layer, LlamaLayer)
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return None
    return compiled(dtype, width=layer.width, group=layer.heads // layer.sets, hidden=weight.shape[1])


def _rotated(
    heads: Float[Tensor, "N S H D"], cos: Float[Tensor, "N S 1 D"], sin: Float[Tensor, "N S 1 D"]
) -> Float[Tensor, "N S H D"]:
    """Each pair of dimensions (d, d + D/2) turned by the angle of its position (RoPE, arXiv 2104.09864)."""
    half = heads.shape[-1] // 2
    turned = heads * cos
    turned[..., :half].addcmul_(heads[..., half:], sin[..., :half], value=-1)
    turned[..., half:].addcmul_(heads[..., :half], sin[..., half:])
    return turned
