"""Keys and values of the sequences being decoded: one slot each, allocated once and reused when its sequence ends.

It knows positions and layers, nothing of tokens, prompts or sampling.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from credo.rollout.attention import attend_causally, attend_past_hidden

BLOCK = 64
"""Positions are read and allocated in blocks, so that shapes change seldom: matrix kernels are made for a shape."""


class PackedPrompts:
    """Keys and values of a few prompts laid end to end, made by one pass of a model over ``tokens``."""

    def __init__(self, prompts: Sequence[tuple[int, ...]], dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.spans: list[tuple[int, int]] = []
        for prompt in prompts:
            start = self.spans[-1][1] if self.spans else 0
            self.spans.append((start, start + len(prompt)))
        self.keys: dict[int, Float[Tensor, "K S D"]] = {}
        self.values: dict[int, Float[Tensor, "K S D"]] = {}

    def attend(
        self,
        layer: int,
        query: Float[Tensor, "1 H S D"],
        key: Float[Tensor, "1 K S D"],
        value: Float[Tensor, "1 K S D"],
        *,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Float[Tensor, "1 H S D"]:
        """Every prompt to itself; keeps its keys and values."""
        queries, keys, values = (part[0].to(self.dtype) for part in (query, key, value))
        self.keys[layer], self.values[layer] = keys, values
        parts = [
            attend_causally(
                queries[:, start:end],
                keys[:, start:end],
                values[:, start:end],
                scaling=scaling,
                window=window,
                softcap=softcap,
            )
            for start, end in self.spans
        ]
        return torch.cat(parts, dim=1).unsqueeze(0)


class SlotCache:
    """Up to ``slots`` sequences, each from position 0 of its slot on, so that nothing is padded or shifted."""

    def __init__(self, slots: int) -> None:
        self.slots, self.capacity = slots, 0
        self.keys: dict[int, Float[Tensor, "N K D T"]] = {}
        self.values: dict[int, Float[Tensor, "N K T D"]] = {}
        self._lengths = self._rows = torch.zeros(0, dtype=torch.long)
        self._reach = 0
        self._hidden: dict[int | None, Bool[Tensor, "N 1 T"]] = {}

    def fill(self, slots: Sequence[int], prompts: PackedPrompts, index: int) -> None:
        """Prompt ``index`` of ``prompts`` into each of ``slots``."""
        start, end = prompts.spans[index]
        length = end - start
        for layer in prompts.keys:
            keys, values = prompts.keys[layer][:, start:end], prompts.values[layer][:, start:end]
            if layer not in self.keys:
                heads, _, width = keys.shape
                self.keys[layer] = keys.new_zeros(self.slots, heads, width, self.capacity)
                self.values[layer] = values.new_zeros(self.slots, heads, self.capacity, values.shape[-1])
        self._reserve(length + 1)
        for layer in prompts.keys:
            keys, values = prompts.keys[layer][:, start:end], prompts.values[layer][:, start:end]
            for slot in slots:
                self.keys[layer][slot, :, :, :length] = keys.transpose(1, 2)
                self.values[layer][slot, :, :length] = values
                # What a former sequence left behind has weight 0, and 0 times its inf or nan would not be 0.
                self.values[layer][slot, :, length:] = 0

    def begin(self, lengths: Int[Tensor, " N"], longest: int) -> None:
        """Next comes one token for each of the first ``N`` slots, at these positions, the largest being ``longest``."""
        self._reserve(longest + 1)
        self._lengths, self._rows = lengths, torch.arange(len(lengths), device=lengths.device)
        self._reach = min(_rounded(longest + 1), self.capacity)
        self._hidden = {}

    def attend(
        self,
        layer: int,
        query: Float[Tensor, "N H 1 D"],
        key: Float[Tensor, "N K 1 D"],
        value: Float[Tensor, "N K 1 D"],
        *,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Float[Tensor, "N H 1 D"]:
        """The new token of each slot to itself and all before it."""
        keys, values, reach = self.keys[layer], self.values[layer], self._reach
        keys[self._rows, :, :, self._lengths] = key[:, :, 0].to(keys.dtype)
        values[self._rows, :, self._lengths] = value[:, :, 0].to(values.dtype)
        count, heads, _, width = query.shape
        sets = keys.shape[1]
        attended = attend_past_hidden(
            query.reshape(count * sets, heads // sets, width).to(keys.dtype),
            keys[:count, :, :, :reach].flatten(0, 1),
            values[:count, :, :reach].flatten(0, 1),
            self._hidden_from(window, sets),
            scaling=scaling,
            softcap=softcap,
        )
        return attended.reshape(count, heads, 1, -1)

    def move(self, source: int, target: int, length: int) -> None:
        """The sequence of slot ``source``, of ``length`` positions, to slot ``target``."""
        for keys, values in zip(self.keys.values(), self.values.values(), strict=True):
            keys[target, :, :, :length] = keys[source, :, :, :length]
            values[target, :, :length] = values[source, :, :length]
            values[target, :, length:] = 0

    def _hidden_from(self, window: int | None, sets: int) -> Bool[Tensor, "N 1 T"]:
        """Which positions each new token does not see, repeated for its ``sets`` of keys."""
        if window not in self._hidden:
            positions, own = torch.arange(self._reach, device=self._lengths.device), self._lengths.unsqueeze(1)
            hidden = positions > own
            if window is not None:
                hidden |= positions <= own - window
            self._hidden[window] = hidden.repeat_interleave(sets, dim=0).unsqueeze(1)
        return self._hidden[window]

    def _reserve(self, length: int) -> None:
        """Room for ``length`` positions; grows by half or more, so that copies stay few."""
        if length <= self.capacity:
            return
        before, self.capacity = self.capacity, _rounded(max(length, self.capacity * 3 // 2))
        for layer, keys in self.keys.items():
            values = self.values[layer]
            self.keys[layer] = keys.new_zeros(*keys.shape[:3], self.capacity)
            self.keys[layer][..., :before] = keys
            self.values[layer] = values.new_zeros(*values.shape[:2], self.capacity, values.shape[3])
            self.values[layer][:, :, :before] = values


def _rounded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK
