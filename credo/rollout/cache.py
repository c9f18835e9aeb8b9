"""Keys and values of the sequences being decoded: one slot each, allocated once and reused when its sequence ends.

It knows positions and layers, nothing of tokens, prompts or sampling.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from credo.rollout.attention import attend_causally, attend_past_hidden
from credo.rollout.kernels import Kernels

BLOCK = 32
"""Positions are read and allocated in blocks, so that shapes change seldom: matrix kernels are made for a shape."""

FIRST = 512
"""Positions allocated at first, if a sequence may grow so long."""


class PackedPrompts:
    """Keys and values of a few prompts laid end to end, made by one pass of a model over ``tokens``."""

    def __init__(self, prompts: Sequence[tuple[int, ...]], dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.spans: list[tuple[int, int]] = []
        for prompt in prompts:
            start = self.spans[-1][1] if self.spans else 0
            self.spans.append((start, start + len(prompt)))
        self.stored: dict[int, Float[Tensor, "2 K S D"]] = {}
        """Keys and values of each layer."""

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
        self.stored[layer] = torch.stack((keys, values))
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
    """Up to ``slots`` sequences of up to ``longest`` positions, each from position 0 of its slot on.

    So nothing is padded or shifted. With ``kernels`` the keys of each set lie in their blocks, (T / lanes, D, lanes),
    and are for :meth:`attend_heads`; without, for :meth:`attend`.
    """

    def __init__(self, slots: int, longest: int, kernels: Kernels | None = None) -> None:
        self.slots, self.capacity, self.longest, self.kernels = slots, 0, longest, kernels
        self.stored: dict[int, Float[Tensor, "2 N K T D"]] = {}
        """Keys and values of each layer."""
        self._lengths = self._rows = torch.zeros(0, dtype=torch.long)
        self._reach = 0
        self._hidden: dict[int | None, Bool[Tensor, "N 1 T"]] = {}

    def fill(self, slots: Sequence[int], prompts: PackedPrompts, index: int) -> None:
        """Prompt ``index`` of ``prompts`` into each of ``slots``."""
        start, end = prompts.spans[index]
        length = end - start
        self._reserve(length + 1)
        at = torch.tensor(slots, dtype=torch.long)
        for layer, made in prompts.stored.items():
            if layer not in self.stored:
                self.stored[layer] = made.new_zeros(2, self.slots, made.shape[1], self.capacity, made.shape[3])
            stored = self.stored[layer]
            keys, values = made[:, :, start:end]
            if self.kernels is not None:
                keys = _blocked(keys, self.kernels.lanes)
            stored[0, at, :, : keys.shape[1]] = keys.unsqueeze(0)
            stored[1, at, :, :length] = values.unsqueeze(0)
            # What a former sequence left behind has weight 0, and 0 times its inf or nan would not be 0.
            stored[1, at, :, length:] = 0

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
        stored, reach = self.stored[layer], self._reach
        stored[:, self._rows, :, self._lengths] = torch.stack((key[:, :, 0], value[:, :, 0]), dim=1).to(stored.dtype)
        keys, values = stored
        count, heads, _, width = query.shape
        sets = keys.shape[1]
        attended = attend_past_hidden(
            query.reshape(count * sets, heads // sets, width).to(keys.dtype),
            keys[:count, :, :reach].flatten(0, 1),
            values[:count, :, :reach].flatten(0, 1),
            self._hidden_from(window, sets),
            scaling=scaling,
            softcap=softcap,
        )
        return attended.reshape(count, heads, 1, -1)

    def attend_heads(
        self,
        layer: int,
        heads: Float[Tensor, "N P D"],
        cos: Float[Tensor, "N D"],
        sin: Float[Tensor, "N D"],
        *,
        norms: tuple[Float[Tensor, " D"], Float[Tensor, " D"], float] | None,
        scaling: float,
        window: int | None,
    ) -> Float[Tensor, "N A"]:
        """The same from queries, keys and values before their norms and rotation, by the kernels."""
        assert self.kernels is not None
        if layer == 0 and int(self._lengths.max()) >= self.capacity:
            raise ValueError(f"A position lies beyond the {self.capacity} of a slot.")
        return self.kernels.attend_slots(
            heads, cos, sin, self.stored[layer], self._lengths, norms=norms, scaling=scaling, window=window
        )

    def move(self, source: int, target: int, length: int) -> None:
        """The sequence of slot ``source``, of ``length`` positions, to slot ``target``."""
        reach = _rounded(length)
        for stored in self.stored.values():
            stored[:, target, :, :reach] = stored[:, source, :, :reach]
            stored[1, target, :, length:] = 0

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
        before, roomy = self.capacity, max(FIRST, self.capacity * 3 // 2)
        self.capacity = _rounded(max(length, min(roomy, self.longest)))
        for layer, old in self.stored.items():
            self.stored[layer] = old.new_zeros(*old.shape[:3], self.capacity, old.shape[4])
            self.stored[layer][..., :before, :] = old


def _blocked(keys: Float[Tensor, "K S D"], lanes: int) -> Float[Tensor, "K T D"]:
    """Keys in blocks of ``lanes`` positions, each laid out as (D, lanes); T is S rounded up to whole blocks."""
    sets, length, width = keys.shape
    padded = pad(keys, (0, 0, 0, -length % lanes))
    return padded.unflatten(1, (-1, lanes)).transpose(2, 3).reshape(sets, -1, width)


def _rounded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK
