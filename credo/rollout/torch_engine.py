"""Samples inside the training process with the policy's own module: no copy of the weights, no server.

Prompts are padded on the left and computed once for their ``n`` samples; rows that have ended leave the batch. It uses
transformers' models through their public cache only, so every causal LM with attention layers works.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from credo.rollout.engine import Progress, SamplingParams
from credo.rollout.sampling import draw, sampling_logprobs
from credo.seeds import mixed_seed, uniform
from credo.types import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(slots=True, kw_only=True)
class _Row:
    """A response being written."""

    prompt: int
    """Index into the prompts of the call."""
    seed: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: bool = False


class TorchEngine:
    """Decodes up to ``concurrent`` sequences at once."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        eos_ids: frozenset[int],
        pad_id: int,
        concurrent: int,
        compute: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        """Raises ValueError for a model that takes no ``past_key_values``: it would sample without its past."""
        if "past_key_values" not in inspect.signature(model.forward).parameters:
            raise ValueError(
                f"{type(model).__name__} keeps its past in a cache of its own kind, which cannot be sampled from here; "
                "choose a model with attention layers."
            )
        self.model, self.eos_ids, self.pad_id = model, eos_ids, pad_id
        self.concurrent, self.compute = concurrent, compute

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        n: int,
        params: SamplingParams,
        seeds: Sequence[int],
        progress: Progress | None = None,
    ) -> list[list[Rollout]]:
        """See :class:`credo.rollout.engine.RolloutEngine`; what is decoded beside it changes its rounding only."""
        assert len(prompts) == len(seeds)
        rows = [[_Row(prompt=i, seed=mixed_seed(seeds[i], k)) for k in range(n)] for i in range(len(prompts))]
        by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        queue = [row for i in by_length for row in rows[i]]
        for start in range(0, len(queue), self.concurrent):
            self._decode(queue[start : start + self.concurrent], prompts, params, progress)
        return [[self._rollout(row, prompts[i]) for row in rows[i]] for i in range(len(prompts))]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copies ``weights`` into the module, except those that it shares with the trainer already."""
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, tensor in weights:
                if own[name] is not tensor:
                    own[name].copy_(tensor)

    def _decode(
        self, rows: list[_Row], prompts: Sequence[tuple[int, ...]], params: SamplingParams, progress: Progress | None
    ) -> None:
        """Writes the responses of ``rows``, all at once."""
        from transformers import DynamicCache

        device = next(self.model.parameters()).device
        distinct = sorted({row.prompt for row in rows})
        width = max(len(prompts[i]) for i in distinct)
        padded = [[self.pad_id] * (width - len(prompts[i])) + list(prompts[i]) for i in distinct]
        tokens = torch.tensor(padded, device=device)
        lengths = torch.tensor([len(prompts[i]) for i in distinct], device=device)
        attention = torch.arange(width, device=device) >= width - lengths.unsqueeze(1)
        cache = DynamicCache(config=self.model.config)
        logits = self._forward(tokens, attention, (attention.cumsum(dim=1) - 1).clamp(min=0), cache)

        row_of = torch.tensor([distinct.index(row.prompt) for row in rows], device=device)
        cache.reorder_cache(row_of)  # pyright: ignore[reportArgumentType]
        logits, attention, lengths = logits[row_of], attention[row_of], lengths[row_of]
        for position in range(params.max_tokens):
            drawn = self._draw(rows, logits, position, params)
            if progress is not None:
                progress(len(rows))
            alive = [index for index, row in enumerate(rows) if not row.ended]
            if not alive or position + 1 == params.max_tokens:
                return
            if len(alive) < len(rows):
                kept = torch.tensor(alive, device=device)
                rows = [rows[index] for index in alive]
                cache.reorder_cache(kept)  # pyright: ignore[reportArgumentType]
                drawn, attention, lengths = drawn[kept], attention[kept], lengths[kept]
            attention = torch.cat([attention, attention.new_ones(len(rows), 1)], dim=1)
            logits = self._forward(drawn.unsqueeze(1), attention, (lengths + position).unsqueeze(1), cache)

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

    def _draw(self, rows: list[_Row], logits: Tensor, position: int, params: SamplingParams) -> Tensor:
        """Draws the next token of every row and writes it down."""
        logprobs = sampling_logprobs(logits, temperature=params.temperature, top_p=params.top_p)
        if params.temperature == 0:
            drawn = logprobs.argmax(dim=-1)
        else:
            numbers = [uniform(row.seed, position) for row in rows]
            drawn = draw(logprobs, torch.tensor(numbers, dtype=torch.float64, device=logits.device))
        chosen = logprobs.gather(1, drawn.unsqueeze(1)).squeeze(1)
        for row, token, logprob in zip(rows, drawn.tolist(), chosen.tolist(), strict=True):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            row.ended = token in self.eos_ids
        return drawn

    def _rollout(self, row: _Row, prompt: tuple[int, ...]) -> Rollout:
        return Rollout(
            prompt_ids=prompt,
            response_ids=tuple(row.tokens),
            logprobs=tuple(row.logprobs),
            finish="stop" if row.ended else "length",
        )
