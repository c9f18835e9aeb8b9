"""Sampling and judging shared by ranks: each its part, all get everything in order, and errors come through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from ranks import run_ranks

from credo.dist.world import World
from credo.rollout.engine import SamplingParams, ScriptedEngine
from credo.sharing import SharedEngine, SharedVerifier
from credo.types import Problem, Rollout, Unknown, Verdict
from credo.verify.verifier import ScriptedVerifier

RANKS = 3
EOS = 0
PARAMS = SamplingParams(temperature=1.0, max_tokens=4)


def engine() -> ScriptedEngine:
    return ScriptedEngine(lambda prompt, k, seed: (*prompt, k + 1, seed, EOS), eos_id=EOS)


def judge(problem: Problem, response: str) -> Verdict | Unknown:
    return Unknown(reason=response) if problem.id == "2" else Verdict(score=float(len(response) % 2))


def tasks(count: int) -> list[tuple[Problem, str]]:
    return [
        (Problem(id=str(index), kind="exact", prompt="", answer="", source="made"), "x" * index)
        for index in range(count)
    ]


class Counting:
    """What has been asked of an engine or a verifier on this rank."""

    def __init__(self) -> None:
        self.sampled: list[tuple[int, ...]] = []
        self.judged: list[str] = []
        self.loaded: list[str] = []
        self.closed = 0

    def sample(self, prompts: Any, n: int, params: Any, seeds: Any, progress: Any = None) -> list[list[Rollout]]:
        self.sampled += prompts
        return engine().sample(prompts, n, params, seeds, progress)

    def verify(self, tasks: Sequence[tuple[Problem, str]]) -> list[Verdict | Unknown]:
        self.judged += [problem.id for problem, _ in tasks]
        return ScriptedVerifier(judge).verify(tasks)

    def load_weights(self, weights: Any) -> None:
        self.loaded += [name for name, _ in weights]

    def close(self) -> None:
        self.closed += 1


def shared(world: World) -> dict[str, Any]:
    """What this rank is given of batches of 0 to 7, and what it did itself."""
    counting: Any = Counting()
    sampler, verifier = SharedEngine(counting, world), SharedVerifier(counting, world)
    told: list[int] = []
    sampled, judged = [], []
    for count in range(8):
        prompts = [(5, 1 + index) for index in range(count)]
        sampled.append(sampler.sample(prompts, 2, PARAMS, list(range(1, count + 1)), told.append))
        judged.append(verifier.verify(tasks(count)))
    sampler.sample([(5, 1)], 1, PARAMS, [1])
    sampler.load_weights([("a", None), ("b", None)])  # pyright: ignore[reportArgumentType]
    sampler.close()
    verifier.close()
    return {"sampled": sampled, "judged": judged, "told": sum(told), "own": counting}


def test_all_get_everything_in_order_and_nobody_works_twice():
    found = run_ranks(RANKS, shared)
    for one in found:
        for count in range(8):
            prompts = [(5, 1 + index) for index in range(count)]
            assert one["sampled"][count] == engine().sample(prompts, 2, PARAMS, list(range(1, count + 1)))
            assert one["judged"][count] == ScriptedVerifier(judge).verify(tasks(count))
        assert one["own"].loaded == ["a", "b"]
        assert one["own"].closed == 2
    counts = [len(one["own"].sampled) for one in found]
    assert sum(counts) == sum(range(8)) + 1
    assert max(counts) <= sum(-(-count // RANKS) for count in range(8)) + 1
    assert sorted(id for one in found for id in one["own"].judged) == sorted(
        problem.id for count in range(8) for problem, _ in tasks(count)
    )
    tokens = [len(rollout.response_ids) for groups in found[0]["sampled"] for group in groups for rollout in group]
    assert sum(one["told"] for one in found) == RANKS * sum(tokens), "a rank's progress stands for that of all"


class Broken:
    """Fails on one rank."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def sample(self, *arguments: Any) -> Any:
        if self.rank == 1:
            raise RuntimeError("out of memory")
        return engine().sample(*arguments)

    def verify(self, tasks: Any) -> Any:
        if self.rank == 2:
            raise OSError("no more processes")
        return ScriptedVerifier(judge).verify(tasks)


def broken(world: World) -> list[str]:
    faulty: Any = Broken(world.rank)
    prompts = [(5, 1 + index) for index in range(4)]
    heard = []
    with pytest.raises(RuntimeError) as error:
        SharedEngine(faulty, world).sample(prompts, 2, PARAMS, range(4))
    heard.append(str(error.value))
    with pytest.raises((RuntimeError, OSError)) as error:
        SharedVerifier(faulty, world).verify(tasks(4))
    return [*heard, str(error.value)]


def test_what_goes_wrong_on_one_rank_is_heard_on_all():
    zero, one, two = run_ranks(RANKS, broken)
    assert one[0] == "out of memory"
    assert two[1] == "no more processes"
    assert zero[0] == two[0]
    assert "Rank 1 of 3 failed in 'sampling'" in zero[0]
    assert "out of memory" in zero[0]
    assert zero[1] == one[1]
    assert "Rank 2 of 3 failed in 'verifying'" in zero[1]
