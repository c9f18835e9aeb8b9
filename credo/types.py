"""The values that flow through one training step. They hold facts; they load, sample and train nothing.

Axes, for the whole package: **B** rollouts in a batch, **S** tokens of prompt and response together, **G** groups,
**K** rollouts of one prompt, **V** vocabulary. Every per-token tensor is ``(B, S)`` and index ``s`` means *token s*:
its log-prob, its reward, its advantage. ``mask`` is True on response tokens, the end-of-sequence token included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

Kind = Literal["math", "code", "gym", "exact", "regex"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A prompt with the answer it is graded against."""

    id: str
    """Stable over runs: the same row of the same source has the same id."""
    kind: Kind
    """Which verifier judges the responses."""
    prompt: str | tuple[Message, ...]
    """Messages go through the chat template of the tokenizer; a string is continued as it stands."""
    answer: str
    source: str
    """Where it came from, for metrics and error messages, e.g. ``train.jsonl`` or ``gym:chain_sum``."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What the verifier needs besides the answer (JSON values only)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One sampled response, as tokens."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    """When ``finish`` is ``"stop"`` the last one is an end-of-sequence token, or the one that completed a stop string:
    that text stays, to be judged and learnt from."""
    logprobs: tuple[float, ...]
    """Log-prob of each response token under the distribution it was drawn from."""
    finish: Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A judged response."""

    score: float
    """0 wrong, 1 correct, between them where the verifier gives partial credit."""
    reason: str = ""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.score <= 1.0:
            raise ValueError(f"A verdict's score lies in [0, 1], got {self.score}.")

    @property
    def correct(self) -> bool:
        """Full marks."""
        return self.score >= 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """A response that our machinery failed to judge. It is not a reward: it is left out and counted."""

    reason: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Greedy:
    """The policy's greedy response to a problem, judged: the baseline of ReMax."""

    rollout: Rollout
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The judged rollouts of one problem. One object, so it cannot be split or shuffled by accident."""

    problem: Problem
    rollouts: tuple[Rollout, ...]
    responses: tuple[str, ...]
    """The text of each rollout, special tokens removed."""
    verdicts: tuple[Verdict, ...]
    greedy: Greedy | None = None

    def __post_init__(self) -> None:
        assert len(self.rollouts) == len(self.responses) == len(self.verdicts)

    @property
    def accuracy(self) -> float:
        """Mean score over the group."""
        return sum(verdict.score for verdict in self.verdicts) / len(self.verdicts)

    @property
    def truncated(self) -> int:
        """How many rollouts ran into the length limit."""
        return sum(rollout.finish == "length" for rollout in self.rollouts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The rollouts of one step as tensors, padded on the right."""

    tokens: Int[Tensor, "B S"]
    attention: Bool[Tensor, "B S"]
    """True on prompt and response, False on padding."""
    mask: Bool[Tensor, "B S"]
    """True on response tokens, the end-of-sequence token included."""
    outcomes: Float[Tensor, " B"]
    """The verifier's score of each rollout, in [0, 1]."""
    group_ids: Int[Tensor, " B"]
    """Rollouts of one prompt share an id; rows may come in any order."""
    sampling_logprobs: Float[Tensor, "B S"]
    """What the engine reported for each token; 0 off the mask."""

    def __len__(self) -> int:
        return self.tokens.shape[0]
