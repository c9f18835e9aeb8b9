"""Continuous batching: a fixed number of slots, each taken by the next response as soon as its last one has ended.

A prompt is computed once, in a pass it shares with the next few prompts, and copied to the slots of its samples.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from credo.rollout.attention import Slots
from credo.rollout.cache import PackedPrompts, SlotCache
from credo.rollout.kernels import Kernels
from credo.rollout.rows import Row, Writer

PROMPT_TOKENS = 1024
"""Prompts computed in one pass have this many tokens together, or are one prompt."""
STEP = 8
"""The batch shrinks by so many rows at once: matrix kernels are made for a shape."""


@runtime_checkable
class Body(Protocol):
    """A model that leaves attention to ``slots``."""

    def __call__(
        self, tokens: Int[Tensor, "N S"], positions: Int[Tensor, "N S"], kept: Int[Tensor, " P"] | None, slots: Slots
    ) -> Float[Tensor, "M V"]:
        """Logits after the positions ``kept`` of the only sequence, or after the only position of each."""
        ...


class ContinuousDecoder:
    """Writes ``rows``, whose samples of one prompt stand together, over ``slots`` slots.

    ``dtype`` is that of keys and values; ``kernels`` are those that ``body`` attends by, if it has any.
    """

    def __init__(
        self,
        body: Body,
        device: torch.device,
        rows: Sequence[Row],
        prompts: Sequence[tuple[int, ...]],
        writer: Writer,
        *,
        slots: int,
        dtype: torch.dtype,
        kernels: Kernels | None = None,
    ) -> None:
        self.body, self.device, self.prompts, self.writer, self.dtype = body, device, prompts, writer, dtype
        self.queue = deque(rows)
        longest = max(len(prompts[row.prompt]) for row in rows) + writer.params.max_tokens
        self.cache = SlotCache(slots, longest, kernels)
        self.rows: list[Row | None] = [None] * slots
        self.tokens = torch.zeros(slots, dtype=torch.long, device=self.device)
        self.lengths = [0] * slots
        self.ready: dict[int, int] = {}
        """Prompts computed but not yet used up, by index, with their place in ``self.computed``."""
        self.computed = PackedPrompts([], dtype)
        self.first_logits: Float[Tensor, "P V"] = torch.zeros(0, 0)

    def run(self) -> None:
        """Until every row is finished."""
        while True:
            self._admit()
            if not any(row is not None for row in self.rows):
                return
            self._shrink()
            self._step()

    def _admit(self) -> None:
        """Rows of the queue into free slots; a row that ends with its first token leaves its slot free."""
        free = [slot for slot, row in enumerate(self.rows) if row is None]
        while free and self.queue:
            prompt = self.queue[0].prompt
            if prompt not in self.ready:
                self._compute_prompts()
            place = self.ready[prompt]
            rows: list[Row] = []
            while self.queue and self.queue[0].prompt == prompt and len(rows) < len(free):
                rows.append(self.queue.popleft())
            drawn = self.writer.write(rows, self.first_logits[place].expand(len(rows), -1))
            going = [index for index, row in enumerate(rows) if not row.finished]
            slots, free = free[: len(going)], free[len(going) :]
            self.cache.fill(slots, self.computed, place)
            for slot, index in zip(slots, going, strict=True):
                self.rows[slot], self.lengths[slot] = rows[index], len(self.prompts[prompt])
                self.tokens[slot] = drawn[index]

    def _compute_prompts(self) -> None:
        """The next prompts of the queue, end to end in one sequence, each attending to itself."""
        chosen: list[int] = []
        total = 0
        for prompt in dict.fromkeys(row.prompt for row in self.queue):
            total += len(self.prompts[prompt])
            if chosen and total > PROMPT_TOKENS:
                break
            chosen.append(prompt)
        self.ready = {prompt: place for place, prompt in enumerate(chosen)}
        self.computed = PackedPrompts([self.prompts[prompt] for prompt in chosen], self.dtype)
        tokens = [token for prompt in chosen for token in self.prompts[prompt]]
        positions = [position for prompt in chosen for position in range(len(self.prompts[prompt]))]
        self.first_logits = self.body(
            torch.tensor([tokens], device=self.device),
            torch.tensor([positions], device=self.device),
            torch.tensor([end - 1 for _, end in self.computed.spans], device=self.device),
            self.computed,
        )

    def _shrink(self) -> None:
        """Closes gaps that nobody waits to fill, so that fewer slots are computed."""
        if self.queue:
            return
        taken = [slot for slot, row in enumerate(self.rows) if row is not None]
        width = -(-len(taken) // STEP) * STEP
        if width >= len(self.rows):
            return
        free = [slot for slot in range(width) if self.rows[slot] is None]
        for source, target in zip([slot for slot in taken if slot >= width], free, strict=False):
            self.cache.move(source, target, self.lengths[source])
            self.rows[target], self.lengths[target] = self.rows[source], self.lengths[source]
            self.tokens[target] = self.tokens[source]
        del self.rows[width:], self.lengths[width:]
        self.tokens = self.tokens[:width]

    def _step(self) -> None:
        """One more token for every row that has a slot."""
        positions = torch.tensor(self.lengths, device=self.device)
        self.cache.begin(positions, max(self.lengths))
        logits = self.body(self.tokens.unsqueeze(1), positions.unsqueeze(1), None, self.cache)
        taken = [(slot, row) for slot, row in enumerate(self.rows) if row is not None]
        slots = torch.tensor([slot for slot, _ in taken], device=self.device)
        rows = [row for _, row in taken]
        self.tokens[slots] = self.writer.write(rows, logits if len(rows) == len(logits) else logits[slots])
        for slot, row in taken:
            self.lengths[slot] = 0 if row.finished else self.lengths[slot] + 1
            if row.finished:
                self.rows[slot] = None
