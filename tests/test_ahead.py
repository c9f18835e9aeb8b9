"""Sampling a batch ahead: one update old and no more, never with half-changed weights, and exact across checkpoints."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from safetensors.torch import load_file
from tiny import lines, tiny_config, tiny_model, untimed
from torch import Tensor

from credo.ahead import AheadCollector, SettledEngine
from credo.collect import Collection, Collector
from credo.config import FilterConfig, TrainConfig
from credo.data.stream import ProblemStream
from credo.dist.world import World
from credo.interruption import Interrupted, ask_to_end
from credo.rollout.engine import SamplingParams, ScriptedEngine
from credo.train import train
from credo.types import Problem, Verdict
from credo.verify.verifier import ScriptedVerifier

EOS = 0
COUNT = 3
LONGEST_WAIT = 30.0


class Gate(ScriptedEngine):
    """An engine whose responses name its weights; waits at ``open`` before each, fails while ``fault`` is set."""

    def __init__(self) -> None:
        super().__init__(self._respond, eos_id=EOS)
        self.weights = 100
        self.open, self.entered = threading.Event(), threading.Event()
        self.open.set()
        self.fault: BaseException | None = None
        self.closed = False

    def _respond(self, prompt: tuple[int, ...], k: int, seed: int) -> tuple[int, ...]:
        self.entered.set()
        assert self.open.wait(LONGEST_WAIT)
        if self.fault is not None:
            raise self.fault
        return (self.weights, 1 + seed % 97 % (k + 5), EOS)

    def load_weights(self, weights: Any) -> None:
        for _, value in weights:
            self.weights = int(value)

    def close(self) -> None:
        self.closed = True


def plain(engine: Gate, **options: Any) -> Collector:
    """A collector whose filter keeps about half of the groups, so that there is a surplus."""
    problems = [Problem(id=f"p{n}", kind="exact", prompt=str(n), answer="", source="made") for n in range(7)]
    filtering = {"accuracy_low": 0.2, "accuracy_high": 0.8, "max_rounds": 9} | options
    return Collector(
        stream=ProblemStream(problems, seed=1),
        engine=engine,
        verifier=ScriptedVerifier(lambda problem, response: Verdict(score=float(len(response) % 2))),
        encode=lambda problem: (1 + int(str(problem.prompt)),),
        decode=lambda ids: "x" * ids[1],
        config=FilterConfig(**filtering),
        params=SamplingParams(max_tokens=5),
        per_prompt=4,
        seed=11,
        max_unknown_share=1.0,
    )


def made(**options: Any) -> tuple[Gate, AheadCollector, SettledEngine]:
    gate = Gate()
    collector = AheadCollector(plain(gate, **options))
    return gate, collector, SettledEngine(gate, collector)


def weights(version: int) -> list[tuple[str, Tensor]]:
    return [("only", torch.tensor(100 + version))]


def counted(collection: Collection) -> Collection:
    """What of a collection is the same each time."""
    return replace(collection, metrics=untimed([collection.metrics])[0])


def weights_of(collection: Collection) -> set[int]:
    """The weights that its responses were sampled with."""
    return {rollout.response_ids[0] for group in collection.groups for rollout in group.rollouts}


def learning(collector: AheadCollector, engine: SettledEngine, versions: Sequence[int]) -> list[Collection]:
    """Collections of a run whose policy has these versions, and the weights 100 more."""
    collected = []
    for version in versions:
        engine.load_weights(weights(version))
        collected.append(counted(collector.collect(COUNT, version)))
    return collected


def test_a_batch_is_one_update_old_and_no_more():
    _, collector, engine = made()
    collected = learning(collector, engine, range(5))
    assert [collection.metrics["rollout/lag"] for collection in collected] == [0, 1, 1, 1, 1]
    assert [weights_of(collection) for collection in collected] == [{100}, {100}, {101}, {102}, {103}]


def test_batches_are_those_of_a_collector_that_has_the_older_weights():
    gate = Gate()
    expected, collector = [], plain(gate)
    for version in (0, 0, 0, 0, 1, 2):
        gate.weights = 100 + version
        expected.append(counted(collector.collect(COUNT, version)))
    _, ahead, engine = made()
    found = learning(ahead, engine, (0, 0, 0, 1, 2, 2))
    assert [collection.metrics["rollout/lag"] for collection in found] == [0, 0, 0, 1, 1, 0]
    assert [collection.groups for collection in found] == [collection.groups for collection in expected]
    for one, other in zip(found, expected, strict=True):
        assert {key: value for key, value in one.metrics.items() if key != "rollout/lag"} == other.metrics
    assert any(collection.metrics["filter/reused"] for collection in found), "a surplus is carried along"


def test_while_the_policy_waits_there_is_no_lag():
    _, collector, _ = made()
    assert [collector.collect(COUNT, 3).metrics["rollout/lag"] for _ in range(3)] == [0, 0, 0]


def test_the_next_batch_is_sampled_while_the_last_is_learnt_from_and_with_whole_weights():
    gate, collector, engine = made()
    loaded = threading.Event()
    collector.collect(COUNT, 0)
    collector.settle()
    gate.entered.clear()
    gate.open.clear()
    collector.collect(COUNT, 0)
    assert gate.entered.wait(LONGEST_WAIT), "sampling has begun"

    def load() -> None:
        engine.load_weights(weights(1))
        loaded.set()

    loading = threading.Thread(target=load)
    loading.start()
    assert not loaded.wait(0.2), "weights are not changed in the middle of a batch"
    assert gate.weights == 100
    gate.open.set()
    loading.join(LONGEST_WAIT)
    assert gate.weights == 101
    assert weights_of(collector.collect(COUNT, 1)) == {100}
    assert weights_of(collector.collect(COUNT, 1)) == {101}


@pytest.mark.parametrize("how", ["sample", "state", "close", "settle", "restore"])
def test_whoever_would_disturb_a_batch_waits_for_it(how: str):
    gate, collector, engine = made()
    before = collector.state()
    collector.collect(COUNT, 0)
    collector.settle()
    gate.open.clear()
    collector.collect(COUNT, 0)
    acts = {
        "sample": lambda: engine.sample([(1,)], 1, SamplingParams(max_tokens=5), [0]),
        "restore": lambda: collector.restore(before),
        "close": engine.close,
        "state": collector.state,
        "settle": collector.settle,
    }
    done = threading.Event()
    acting = threading.Thread(target=lambda: (acts[how](), done.set()))
    acting.start()
    assert not done.wait(0.1)
    assert not gate.closed
    gate.open.set()
    acting.join(LONGEST_WAIT)
    assert done.is_set()


@pytest.mark.parametrize("at", range(4))
def test_a_collector_that_was_saved_goes_on_exactly(at: int):
    _, collector, engine = made()
    expected = learning(collector, engine, range(6))
    _, collector, engine = made()
    learning(collector, engine, range(at))
    saved = json.loads(json.dumps(collector.state()))
    assert ("ahead" in saved) == (at > 0)
    _, again, engine = made()
    again.collect(COUNT, 7)  # whatever it had in hand is forgotten
    again.restore(saved)
    assert learning(again, engine, range(at, 6)) == expected[at:]


def test_what_goes_wrong_is_raised_where_the_batch_is_asked_for_and_a_checkpoint_before_lacks_nothing():
    _, collector, engine = made()
    expected = learning(collector, engine, range(3))
    gate, collector, engine = made()
    found = learning(collector, engine, range(1))
    gate.fault = RuntimeError("the sampler is out of memory")
    found += learning(collector, engine, range(1, 2))
    saved = json.loads(json.dumps(collector.state()))
    assert "ahead" not in saved
    with pytest.raises(RuntimeError, match="out of memory"):
        collector.collect(COUNT, 2)
    assert found == expected[:2]
    _, again, engine = made()
    again.restore(saved)
    engine.load_weights(weights(1))
    assert again.collect(COUNT, 1).groups == expected[2].groups


def test_an_error_of_a_batch_that_nobody_asks_for_is_not_heard():
    gate, collector, engine = made()
    gate.fault = RuntimeError("never mind")
    with pytest.raises(RuntimeError, match="never mind"):
        collector.collect(COUNT, 0)
    gate.fault = None
    collector.collect(COUNT, 0)
    collector.settle()
    gate.fault = RuntimeError("never mind")
    collector.collect(COUNT, 0)
    engine.close()
    assert gate.closed


@pytest.mark.parametrize("when", ["first", "begun", "in hand"])
def test_an_interrupted_collection_leaves_everything_as_it_was(when: str):
    _, collector, engine = made()
    expected = learning(collector, engine, range(3))
    gate, collector, engine = made()
    steps = {"first": 0, "begun": 1, "in hand": 1}[when]
    before = learning(collector, engine, range(steps))
    saved = json.dumps(collector.state())
    with contextlib.suppress(Interrupted), collector.undone_by(Interrupted):
        if when == "first":
            gate.fault = Interrupted()
        if when != "in hand":
            collector.collect(COUNT, steps)
        raise Interrupted
    gate.fault = None
    assert json.dumps(collector.state()) == saved
    assert before + learning(collector, engine, range(steps, 3)) == expected


STEPS = 6
OPTIONS = {
    "run__steps": STEPS,
    "rollout__prompts": 3,
    "filter__accuracy_low": 0.1,
    "filter__accuracy_high": 0.9,
    "rollout__ahead": True,
    "policy__importance_cap": 2.0,
}


def config_in(folder: Path, **changes: Any) -> TrainConfig:
    """A run with a PRM that is not its reference, so that no reward is all rounding."""
    return tiny_config(folder, **{"prm__path": str(tiny_model(folder / "prm", seed=5)), **OPTIONS, **changes})


def written(run: Path) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]], dict[str, Tensor]]:
    """Metrics, rollouts and the last weights of a run."""
    return (
        untimed(lines(run / "metrics.jsonl")),
        [lines(path) for path in sorted((run / "rollouts").iterdir())],
        load_file(run / "checkpoints" / f"step-{STEPS:06d}" / "policy" / "model.safetensors"),
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return written(train(config_in(tmp_path_factory.mktemp("undisturbed"))))


def test_a_run_lags_by_one_update_and_corrects_for_it(undisturbed: Any):
    rows, _, _ = undisturbed
    assert [row["rollout/lag"] for row in rows] == [0, 1, 1, 1, 1, 1]
    assert abs(rows[0]["policy/importance_weight"] - 1) < 1e-5
    assert all(row["rollout/sampler_gap_max"] > 1e-3 for row in rows[1:])


def test_a_run_that_was_stopped_and_killed_is_the_run_that_was_not(tmp_path: Path, undisturbed: Any):
    class Killed(Exception):
        pass

    def stop(step: int, metrics: Mapping[str, float]) -> None:
        if step == 1:
            ask_to_end()

    def kill(step: int, metrics: Mapping[str, float]) -> None:
        if step == 5:
            raise Killed

    config = config_in(tmp_path)
    folder = train(config, report=stop)
    assert len(lines(folder / "metrics.jsonl")) == 1
    with pytest.raises(Killed):
        train(config, report=kill)
    metrics, rollouts, weights = written(train(config))
    assert (metrics, rollouts) == undisturbed[:2]
    assert all(torch.equal(weights[name], value) for name, value in undisturbed[2].items())


def test_a_policy_that_does_not_learn_is_sampled_the_same_ahead_or_not(tmp_path: Path, undisturbed: Any):
    """And a second batch is sampled with the first weights, whatever becomes of them meanwhile."""
    waits = {"prm__warmup_steps": STEPS - 1}
    metrics, rollouts, _ = written(train(config_in(tmp_path / "ahead", **waits)))
    expected, expected_rollouts, _ = written(train(config_in(tmp_path / "now", **waits, rollout__ahead=None)))
    assert [row.pop("rollout/lag") for row in metrics] == [0.0] * STEPS
    assert metrics == expected
    assert rollouts == expected_rollouts
    for one, other in zip(undisturbed[1][1], expected_rollouts[1], strict=True):
        assert (one["response"], one["logprobs"]) == (other["response"], other["logprobs"])
    assert undisturbed[1][2] != expected_rollouts[2]


def trained(world: World, folder: Path) -> Any:
    """What a run in ``folder`` has written; every rank makes a recipe of its own there."""
    config = config_in(folder / f"rank-{world.rank}", run__folder=str(folder / "runs"))
    metrics, rollouts, weights = written(train(config, world=world))
    return metrics, rollouts, {name: value.tolist() for name, value in weights.items()}


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_ranks_sample_ahead_what_one_does(tmp_path: Path, undisturbed: Any, sharding: Any):
    (metrics, rollouts, weights), _ = run_ranks(2, trained, tmp_path, sharding=sharding)
    for row, expected in zip(metrics, undisturbed[0], strict=True):
        assert row == pytest.approx(expected, rel=1e-5, abs=1e-5, nan_ok=True)
    for step, expected_step in zip(rollouts, undisturbed[1], strict=True):
        for one, other in zip(step, expected_step, strict=True):
            assert (one["id"], one["response"]) == (other["id"], other["response"])
            assert one["advantages"] == pytest.approx(other["advantages"], abs=1e-5)
    for name, value in undisturbed[2].items():
        torch.testing.assert_close(torch.tensor(weights[name]), value, rtol=0.0, atol=1e-5)
