"""Rows of a batch laid end to end without padding, a prompt once for all its responses, and attention over them.

Layers that treat every token alone see the packed tokens; attention sees each row whole. It knows no rewards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

NAME = "credo_packed"
SHORT = 256
"""In bf16 on a CPU, plain products are faster than the fused kernel up to so many positions (twice at 128)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Where each token of a batch of ``B`` rows and ``S`` columns lies among ``T`` packed ones."""

    tokens: Int[Tensor, " T"]
    positions: Int[Tensor, " T"]
    grid: Int[Tensor, "B S"]
    """The packed token of each cell; rows with the same prompt name the same ones. Padding names the first."""
    home: Int[Tensor, " T"]
    """A cell of each packed token, as an index into the flattened grid."""
    predicting: Int[Tensor, " P"]
    """The packed tokens that predict the masked ones, in the order of ``tokens[mask]``."""
    future: Bool[Tensor, "S S"]
    """Which keys (columns) come after which queries (rows)."""

    def to(self, device: torch.device) -> Packing:
        """The same on ``device``."""
        return Packing(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def pack(tokens: Int[Tensor, "B S"], attention: Bool[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Packing:
    """The packing of a batch padded on the right; what stands before a row's first masked token is its prompt."""
    lengths = attention.sum(dim=1).tolist()
    starts = mask.int().argmax(dim=1).tolist()
    width = tokens.shape[1]
    grid = torch.zeros(tokens.shape, dtype=torch.long)
    prompts: dict[tuple[int, ...], int] = {}
    home: list[Tensor] = []
    count = 0
    for row, (length, start) in enumerate(zip(lengths, starts, strict=True)):
        prompt = tuple(tokens[row, :start].tolist())
        first = start if prompt in prompts else 0
        if first == 0:
            prompts[prompt] = count
        shared = prompts[prompt]
        grid[row, :first] = torch.arange(shared, shared + first)
        grid[row, first:length] = torch.arange(count, count + length - first)
        home.append(torch.arange(row * width + first, row * width + length))
        count += length - first
    cells = torch.cat(home)
    return Packing(
        tokens=tokens.flatten()[cells],
        positions=cells % width,
        grid=grid,
        home=cells,
        predicting=grid[:, :-1][mask[:, 1:]],
        future=torch.ones(width, width, dtype=torch.bool).triu(1),
    )


@contextmanager
def packed_attention(model: Any) -> Iterator[None]:
    """Within it the layers of ``model`` take a ``packing`` argument, and attend by it."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention)
    config = model.config
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def attend(
    query: Float[Tensor, "T H D"],
    key: Float[Tensor, "T K D"],
    value: Float[Tensor, "T K D"],
    packing: Packing,
    *,
    scaling: float,
    window: int | None = None,
) -> Float[Tensor, "T H D"]:
    """Every token to itself and those before it in its row, of which the newest ``window`` if that is given.

    Padding stands after all it could disturb, so the causal mask is the only one.
    """
    rows, width = packing.grid.shape
    cells = packing.grid.flatten()
    query, key, value = (
        part.index_select(0, cells).view(rows, width, *part.shape[1:]).transpose(1, 2) for part in (query, key, value)
    )
    hidden = packing.future
    if window is not None and window < width:
        index = torch.arange(width, device=hidden.device)
        hidden = hidden | (index <= index.unsqueeze(1) - window)
    if query.dtype == torch.bfloat16 and query.device.type == "cpu" and width <= SHORT:
        attended = _by_products(query, key, value, hidden, scaling)
    elif hidden is packing.future:
        attended = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    else:
        attended = scaled_dot_product_attention(query, key, value, ~hidden, scale=scaling, enable_gqa=True)
    return attended.transpose(1, 2).flatten(0, 1).index_select(0, packing.home)


def _by_products(
    query: Float[Tensor, "B H S D"],
    key: Float[Tensor, "B K S D"],
    value: Float[Tensor, "B K S D"],
    hidden: Bool[Tensor, "S S"],
    scaling: float,
) -> Float[Tensor, "B H S D"]:
    """Attention in three operations; heads that share keys are rows of one product."""
    batch, heads, width, size = query.shape
    sets = key.shape[1]
    grouped = (query * scaling).reshape(batch * sets, heads // sets * width, size)
    scores = torch.bmm(grouped, key.reshape(batch * sets, width, size).transpose(1, 2))
    weights = scores.masked_fill_(hidden.repeat(heads // sets, 1), -torch.inf).softmax(dim=-1)
    return torch.bmm(weights, value.reshape(batch * sets, width, -1)).view(batch, heads, width, -1)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing,
    scaling: float,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The signature that transformers calls; the result is (1, T, H, D)."""
    if torch.is_autocast_enabled(query.device.type):
        query, key, value = (part.to(torch.get_autocast_dtype(query.device.type)) for part in (query, key, value))
    query, key, value = (part[0].transpose(0, 1) for part in (query, key, value))
    return attend(query, key, value, packing, scaling=scaling, window=sliding_window).unsqueeze(0), None
