"""The decoder of Llama and its kin written out for sampling: few operations, products packed, no gradient.

A decode step is hundreds of small operations around a few large products; on a CPU the small ones cost as much. Models
of other kinds run through their own modules (:func:`credo.rollout.packed.packed_body`).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.linalg import vector_norm

from credo.rollout.attention import Slots
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

    def forward(
        self,
        tokens: Int[Tensor, "N S"],
        positions: Int[Tensor, "N S"],
        kept: Int[Tensor, " P"] | None,
        slots: Slots,
    ) -> Float[Tensor, "M V"]:
        """Logits after the positions ``kept`` of the only sequence, or after the only position of each."""
        hidden = self.embed(tokens)
        cos, sin = (part.unsqueeze(2) for part in self.rotary(hidden, positions))
        for layer in self.layers:
            hidden = layer(hidden, cos, sin, slots)
        last = hidden[:, 0] if kept is None else hidden[0, kept]
        return self.head(self.norm(last))


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
        inputs = self.between(hidden)
        return hidden + self.down(self.up.times(inputs, self.gate.swish(inputs)))


class Norm(nn.Module):
    """The root-mean-square norm of ``source``, computed in fp32 and given in ``dtype`` to the product that follows."""

    def __init__(self, source: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight, self.dtype = source.weight, dtype
        self.floor = torch.tensor(source.variance_epsilon, device=source.weight.device)

    def forward(self, inputs: Float[Tensor, "*rows E"]) -> Float[Tensor, "*rows E"]:
        """Rows of mean square 1, times the weight."""
        inputs = inputs.float()
        norm = vector_norm(inputs, dim=-1, keepdim=True)
        scale = torch.addcmul(self.floor, norm, norm, value=1 / inputs.shape[-1]).rsqrt_()
        return (inputs * scale).mul_(self.weight).to(self.dtype)


def _rotated(
    heads: Float[Tensor, "N S H D"], cos: Float[Tensor, "N S 1 D"], sin: Float[Tensor, "N S 1 D"]
) -> Float[Tensor, "N S H D"]:
    """Each pair of dimensions (d, d + D/2) turned by the angle of its position (RoPE, arXiv 2104.09864)."""
    half = heads.shape[-1] // 2
    turned = heads * cos
    turned[..., :half].addcmul_(heads[..., half:], sin[..., :half], value=-1)
    turned[..., half:].addcmul_(heads[..., :half], sin[..., half:])
    return turned
