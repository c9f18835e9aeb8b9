"""Attention over a cache of slots, called by transformers' models in place of their own.

A model whose attention is set to :data:`NAME` hands its queries, keys and values to the ``slots`` argument of its call,
which stores and attends. transformers builds no mask and no cache for it.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

NAME = "credo_slots"


@runtime_checkable
class Slots(Protocol):
    """What takes a layer's queries, keys and values during one pass of a model."""

    def attend(
        self,
        layer: int,
        query: Float[Tensor, "N H S D"],
        key: Float[Tensor, "N K S D"],
        value: Float[Tensor, "N K S D"],
        *,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Float[Tensor, "N H S D"]:
        """The attended values of each query; ``window`` is the number of newest keys it sees, if limited."""
        ...


def register() -> None:
    """Makes :data:`NAME` known to transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _slot_attention)


def attend_past_hidden(
    query: Float[Tensor, "N R D"],
    keys: Float[Tensor, "N T D"],
    values: Float[Tensor, "N T D"],
    hidden: Bool[Tensor, "#N #R T"],
    *,
    scaling: float,
    softcap: float | None,
) -> Float[Tensor, "N R D"]:
    """Softmax attention of every query row to the keys that are not ``hidden`` from it.

    Heads that share keys are rows of one product: on a CPU several times faster than one attention call per query.
    So is reading the keys as they lie, as the left factor.
    """
    scores = torch.bmm(keys, (query * scaling).transpose(1, 2)).transpose(1, 2)
    if softcap is not None:
        scores = torch.tanh(scores.float() / softcap) * softcap
    weights = scores.masked_fill_(hidden, -torch.inf).softmax(dim=-1)
    return torch.bmm(weights.to(values.dtype), values)


def attend_causally(
    query: Float[Tensor, "H S D"],
    key: Float[Tensor, "K S D"],
    value: Float[Tensor, "K S D"],
    *,
    scaling: float,
    window: int | None,
    softcap: float | None,
) -> Float[Tensor, "H S D"]:
    """Attention of one whole sequence to itself."""
    (heads, length, width), shared = query.shape, query.shape[0] // key.shape[0]
    if softcap is None and (window is None or length <= window):
        batched = (query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0))
        return scaled_dot_product_attention(*batched, is_causal=True, scale=scaling, enable_gqa=shared > 1).squeeze(0)
    grouped = query.reshape(key.shape[0], shared * length, width)
    index = torch.arange(length, device=query.device)
    hidden = index > index.unsqueeze(1)
    if window is not None:
        hidden |= index <= index.unsqueeze(1) - window
    attended = attend_past_hidden(
        grouped, key, value, hidden.repeat(shared, 1).unsqueeze(0), scaling=scaling, softcap=softcap
    )
    return attended.reshape(heads, length, value.shape[-1])


def _slot_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    slots: Slots,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The signature that transformers calls; the result is (N, S, H, D)."""
    attended = slots.attend(
        module.layer_idx, query, key, value, scaling=scaling, window=sliding_window, softcap=softcap
    )
    return attended.transpose(1, 2), None
