"""One batch after another through transformers' own cache: for models whose attention or past is of another kind.

Prompts are padded on the left and computed once for their samples; rows that have ended leave the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from credo.rollout.rows import Row, Writer


class StaticDecoder:
    """Writes ``rows``, ``slots`` of them at a time."""

    def __init__(
        self,
        model: Any,
        rows: Sequence[Row],
        prompts: Sequence[tuple[int, ...]],
        writer: Writer,
        *,
        slots: int,
        pad_id: int,
        compute: Literal["fp32", "bf16"],
    ) -> None:
        self.model, self.rows, self.prompts, self.writer = model, rows, prompts, writer
        self.slots, self.pad_id, self.compute = slots, pad_id, compute

    def run(self) -> None:
        """Until every row is finished."""
        for start in range(0, len(self.rows), self.slots):
            self._decode(list(self.rows[start : start + self.slots]))

    def _decode(self, rows: list[Row]) -> None:
        """Writes the responses of ``rows``, all at once."""
        from transformers import DynamicCache

        prompts, device = self.prompts, next(self.model.parameters()).device
        distinct = sorted({row.prompt for row in rows})
        width = max(len(prompts[i]) for i in distinct)
        padded = [[self.pad_id] * (width - len(prompts[i])) + list(prompts[i]) for i in distinct]
        tokens = torch.tensor(padded, device=device)
        lengths = torch.tensor([len(prompts[i]) for i in distinct], device=device)
        attention = torch.arange(width, device=device) >= width - lengths.unsqueeze(1)
        cache = DynamicCache(config=self.model.config)
        logits = self._forward(tokens, attention, (attention.cumsum(dim=1) - 1).clamp(min=0), cache)

        prompt_of = torch.tensor([distinct.index(row.prompt) for row in rows], device=device)
        cache.reorder_cache(prompt_of)  # pyright: ignore[reportArgumentType]
        logits, attention, positions = logits[prompt_of], attention[prompt_of], lengths[prompt_of]
        while True:
            drawn = self.writer.write(rows, logits)
            alive = [index for index, row in enumerate(rows) if not row.finished]
            if not alive:
                return
            if len(alive) < len(rows):
                kept = torch.tensor(alive, device=device)
                rows = [rows[index] for index in alive]
                cache.reorder_cache(kept)  # pyright: ignore[reportArgumentType]
                drawn, attention, positions = drawn[kept], attention[kept], positions[kept]
            attention = torch.cat([attention, attention.new_ones(len(rows), 1)], dim=1)
            logits = self._forward(drawn.unsqueeze(1), attention, positions.unsqueeze(1), cache)
            positions = positions + 1

    def _forward(self, tokens: Tensor, attention: Tensor, positions: Tensor, cache: object) -> Tensor:
        """Logits (N, V) after the last token of each row."""
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.compute == "bf16"):
            output = self.model(
                input_ids=tokens,
                attention_mask=attention,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return output.logits[:, -1]
