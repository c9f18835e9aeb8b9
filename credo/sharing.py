"""Sampling and judging divided over the ranks of a run: each does its share, and all get everything.

Whoever samples or asks for verdicts need not know that there are several ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from torch import Tensor

from credo.dist.world import World
from credo.rollout.engine import Progress, RolloutEngine, SamplingParams
from credo.types import Problem, Rollout, Unknown, Verdict
from credo.verify.verifier import Verifier

Task = TypeVar("Task")
Result = TypeVar("Result")


class SharedEngine:
    """Collective. Every rank has an engine of its own with the same weights, and samples every so-manieth prompt."""

    def __init__(self, engine: RolloutEngine, world: World) -> None:
        self.engine, self.world = engine, world

    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        n: int,
        params: SamplingParams,
        seeds: Sequence[int],
        progress: Progress | None = None,
    ) -> list[list[Rollout]]:
        """See :class:`credo.rollout.engine.RolloutEngine`; progress is this rank's, times the number of ranks."""

        def sampled(mine: Sequence[tuple[tuple[int, ...], int]]) -> list[list[Rollout]]:
            own_prompts, own_seeds = [prompt for prompt, _ in mine], [seed for _, seed in mine]
            return self.engine.sample(own_prompts, n, params, own_seeds, progress and _of_all(progress, self.world))

        return _divided(list(zip(prompts, seeds, strict=True)), sampled, self.world, "sampling")

    @property
    def metrics(self) -> Mapping[str, float]:
        """What this rank's engine says of itself."""
        return self.engine.metrics

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Sample from these weights from now on."""
        with self.world.stage("loading weights into the sampler"):
            self.engine.load_weights(weights)

    def close(self) -> None:
        """Frees what sampling took."""
        self.engine.close()


class SharedVerifier:
    """Collective. Every rank has a verifier of its own, and judges every so-manieth response."""

    def __init__(self, verifier: Verifier, world: World) -> None:
        self.verifier, self.world = verifier, world

    def verify(self, tasks: Sequence[tuple[Problem, str]]) -> list[Verdict | Unknown]:
        """One judgement for each problem and response, in the order of ``tasks``."""
        return _divided(tasks, self.verifier.verify, self.world, "verifying")

    def close(self) -> None:
        """Give back what the verifier holds."""
        self.verifier.close()


def _divided(
    tasks: Sequence[Task], work: Callable[[Sequence[Task]], list[Result]], world: World, stage: str
) -> list[Result]:
    """The results of ``work`` on all tasks, in their order, each rank having done every so-manieth."""
    mine = tasks[world.rank :: world.size]
    with world.stage(stage):
        shares = world.together(lambda: work(mine) if mine else [])
    return [shares[index % world.size][index // world.size] for index in range(len(tasks))]


def _of_all(progress: Progress, world: World) -> Progress:
    return lambda count: progress(count * world.size)
