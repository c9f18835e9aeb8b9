"""The seam between training and sampling, and its test double."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from credo.types import Rollout

Progress = Callable[[int], None]
"""Called with the number of tokens sampled since the last call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How responses are drawn."""

    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """Only so many of the most likely tokens; 0 is all."""
    top_p: float = 1.0
    """Nucleus sampling; 1 is off."""
    min_p: float = 0.0
    """Only tokens at least so many times as likely as the most likely one; 0 is off."""
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    """Texts that end a response with the token that completes them; that token is kept."""


@runtime_checkable
class RolloutEngine(Protocol):
    """Samples responses. Knows tokens and weights; knows nothing of rewards, PRMs or configs."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """What it has to say of itself since the last update, for the log of a step; often nothing."""
        ...

    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        n: int,
        params: SamplingParams,
        seeds: Sequence[int],
        progress: Progress | None = None,
    ) -> list[list[Rollout]]:
        """``n`` responses to each prompt, in the order of ``prompts``; ``seeds`` has one seed a prompt.

        Rollout ``k`` of a prompt depends on the weights, the prompt, its seed, ``k`` and ``params``, and on no other
        rollout.
        """
        ...

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Sample from these weights from now on."""
        ...

    def close(self) -> None:
        """Frees what sampling took; nothing is sampled any more."""
        ...


class ScriptedEngine:
    """A test double: ``respond(prompt, k, seed)`` gives the response, with its end-of-sequence token if it ends."""

    def __init__(self, respond: Callable[[tuple[int, ...], int, int], tuple[int, ...]], eos_id: int) -> None:
        self.respond, self.eos_id = respond, eos_id

    @property
    def metrics(self) -> Mapping[str, float]:
        """A script has none."""
        return {}

    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        n: int,
        params: SamplingParams,
        seeds: Sequence[int],
        progress: Progress | None = None,
    ) -> list[list[Rollout]]:
        """The scripted responses, cut at ``params.max_tokens``, each token with log-prob 0."""
        groups = [
            [self._rollout(prompt, self.respond(prompt, k, seed)[: params.max_tokens]) for k in range(n)]
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        if progress is not None:
            progress(sum(len(rollout.response_ids) for group in groups for rollout in group))
        return groups

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """A script has no weights."""

    def close(self) -> None:
        """A script holds nothing."""

    def _rollout(self, prompt: tuple[int, ...], response: tuple[int, ...]) -> Rollout:
        return Rollout(
            prompt_ids=prompt,
            response_ids=response,
            logprobs=(0.0,) * len(response),
            finish="stop" if response and response[-1] == self.eos_id else "length",
        )
