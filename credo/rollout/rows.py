"""Responses while they are written: what is drawn for each, and when it ends. Knows no model and no cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from credo.rollout.engine import Progress, SamplingParams
from credo.rollout.sampling import draw
from credo.seeds import uniform
from credo.types import Rollout

Decode = Callable[[Sequence[int]], str]


@dataclass(slots=True, kw_only=True)
class Row:
    """A response being written."""

    prompt: int
    """Index into the prompts of the call."""
    seed: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: bool = False
    """By an end-of-sequence token or a stop string."""
    finished: bool = False
    """Ended, or as long as allowed."""

    def rollout(self, prompt_ids: tuple[int, ...]) -> Rollout:
        """The finished response."""
        return Rollout(
            prompt_ids=prompt_ids,
            response_ids=tuple(self.tokens),
            logprobs=tuple(self.logprobs),
            finish="stop" if self.ended else "length",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Draws the next token of rows and writes it down."""

    params: SamplingParams
    eos_ids: frozenset[int]
    decode: Decode | None
    progress: Progress | None

    def write(self, rows: Sequence[Row], logits: Float[Tensor, "N V"]) -> Int[Tensor, " N"]:
        """One more token for each of ``rows``, from the logits after its last one."""
        params = self.params
        numbers = [uniform(row.seed, len(row.tokens)) for row in rows] if params.temperature > 0 else [0.0] * len(rows)
        drawn, logprobs = draw(
            logits,
            torch.tensor(numbers, dtype=torch.float64, device=logits.device),
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
        )
        for row, token, logprob in zip(rows, drawn.tolist(), logprobs.tolist(), strict=True):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            row.ended = token in self.eos_ids or self._stopped(row.tokens)
            row.finished = row.ended or len(row.tokens) == params.max_tokens
        if self.progress is not None:
            self.progress(len(rows))
        return drawn

    def _stopped(self, tokens: Sequence[int]) -> bool:
        """Whether the last token completed a stop string. Earlier ones did not, so the end of the text will do."""
        if not self.params.stop or self.decode is None:
            return False
        # Up to four tokens make one character, of which each may also hold none by itself.
        enough = 4 * max(map(len, self.params.stop)) + 4
        text = self.decode(tokens[-enough:])
        return any(stop in text for stop in self.params.stop)
