"""The engine that asks servers, against servers that fail in every way, with real sockets on this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from credo.rollout.engine import RolloutEngine, SamplingParams
from credo.rollout.server import Limits
from credo.rollout.vllm_server import FOLDER, ServerEngine
from credo.rollout.vllm_shared import Probe
from credo.seeds import mixed_seed
from credo.types import Rollout
from tests.rollout.fake_vllm import END, GENERATE, VOCABULARY, FakeVllm, Fault

PROMPTS, SEEDS = ((3, 4), (5,), (6, 7, 8)), (11, 22, 33)
PARAMS = SamplingParams(max_tokens=4)
LIMITS = Limits(connect=2.0, control=2.0, rollout=2.0, weights=2.0, gone=2.0, check=0.02, attempts=5, backoff=0.01)
Start = Callable[..., ServerEngine]


class Trainer:
    """One weight, what the engine warned of, and how often the weight was asked for."""

    def __init__(self) -> None:
        self.bias = 1.0
        self.warnings: list[str] = []
        self.asked = 0

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        yield "bias", torch.tensor([self.bias])
        self.asked += 1

    def probe(self) -> Probe:
        return Probe(
            trained=lambda tokens, attention, mask: torch.full(tokens.shape, -self.bias),
            threshold=0.01,
            warn=self.warnings.append,
        )


@pytest.fixture
def trainer() -> Trainer:
    return Trainer()


@pytest.fixture
def servers() -> Iterator[list[FakeVllm]]:
    made = [FakeVllm(), FakeVllm()]
    yield made
    for server in made:
        server.kill()


@pytest.fixture
def start(trainer: Trainer, tmp_path: Path) -> Iterator[Start]:
    """Starts an engine on the servers given."""
    engines: list[ServerEngine] = []

    def started(servers: Sequence[FakeVllm], *, load: bool = True, **options: Any) -> ServerEngine:
        given = {"eos_ids": frozenset((END,)), "concurrent": 8, "context": 32, "vocabulary": VOCABULARY}
        given |= {"folder": tmp_path, "probe": trainer.probe(), "limits": LIMITS, **options}
        engines.append(ServerEngine([server.url for server in servers], **given))
        if load:
            engines[-1].load_weights(trainer.weights())
        return engines[-1]

    yield started
    for engine in engines:
        engine.close()


def sampled(engine: ServerEngine, n: int = 4) -> list[Rollout]:
    return list(chain.from_iterable(engine.sample(PROMPTS, n, PARAMS, SEEDS)))


def biases(rollouts: Sequence[Rollout]) -> set[float]:
    """The weights that responses came from."""
    return {-logprob for rollout in rollouts for logprob in rollout.logprobs}


def wait_until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.005)


def test_responses_come_in_order_with_what_was_asked_for(servers: list[FakeVllm], start: Start):
    engine = start(servers)
    assert isinstance(engine, RolloutEngine)
    counts: list[int] = []
    params = SamplingParams(max_tokens=4, temperature=0.7, top_k=3, stop=("x",))
    groups = engine.sample(PROMPTS, 3, params, SEEDS, counts.append)
    asked = [body for server in servers for path, body in server.asked if path == GENERATE]
    for prompt, seed, group in zip(PROMPTS, SEEDS, groups, strict=True):
        for k, rollout in enumerate(group):
            own = mixed_seed(seed, k)
            (request,) = [body for body in asked if body["sampling_params"].get("seed") == own]
            assert request["token_ids"] == list(prompt) == list(rollout.prompt_ids)
            options = request["sampling_params"]
            assert (options["temperature"], options["top_k"], options["stop"]) == (0.7, 3, ["x"])
            assert (options["stop_token_ids"], options["ignore_eos"], options["detokenize"]) == ([END], True, True)
            assert rollout.finish == ("stop" if own % 2 else "length")
            assert rollout.logprobs == (-1.0,) * 4
    assert counts == [4] * 9
    explained = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    assert all(f"| `{name}` |" in explained for name in engine.metrics)
    assert engine.sample([], 4, PARAMS, []) == []


def test_seeds_decide_and_not_the_server(servers: list[FakeVllm], start: Start):
    one = start(servers[:1])
    expected = sampled(one)
    one.close()
    both = start(servers)
    assert sampled(both) == sampled(both) == expected


def test_the_work_is_spread_over_servers_and_bounded(servers: list[FakeVllm], start: Start):
    for server in servers:
        server.faults[GENERATE] = "slow"
    engine = start(servers, concurrent=4)
    sampled(engine)
    assert [server.most_at_once for server in servers] == [2, 2]


def test_a_server_that_dies_in_mid_request_is_made_up_for_and_comes_back(servers: list[FakeVllm], start: Start):
    engine = start(servers)
    expected = sampled(engine)
    servers[0].faults[GENERATE] = "die"
    assert sampled(engine) == expected
    assert engine.metrics["rollout/servers"] == 1
    assert engine.metrics["rollout/retries"] >= 1
    servers[0].restart()
    wait_until(lambda: engine.metrics["rollout/servers"] == 2)
    assert servers[0].version == servers[1].version != "default"
    before = servers[0].count(GENERATE)
    assert sampled(engine) == expected
    assert servers[0].count(GENERATE) > before


@pytest.mark.parametrize("fault", ["hang", "error", "garbage", "half", "other tokens", "no versions", "two versions"])
def test_what_a_server_gets_wrong_is_asked_of_another(fault: Fault, servers: list[FakeVllm], start: Start):
    engine = start(servers, limits=replace(LIMITS, rollout=0.3, check=5.0))
    expected = sampled(engine)
    servers[0].faults[GENERATE] = fault
    asked = servers[0].count(GENERATE)
    assert sampled(engine) == expected
    assert servers[0].count(GENERATE) > asked
    assert engine.metrics["rollout/servers"] == 1


def test_a_server_that_falls_silent_holds_up_nothing_for_as_long_as_a_response_may_take(
    servers: list[FakeVllm], start: Start
):
    engine = start(servers, limits=replace(LIMITS, control=0.2, rollout=600.0))
    expected = sampled(engine)
    for path in (GENERATE, "/health"):
        servers[0].faults[path] = "hang"
    begun = time.monotonic()
    assert sampled(engine) == expected
    assert time.monotonic() - begun < 5


def test_a_server_that_lost_its_weights_gives_none_of_the_old_ones(
    servers: list[FakeVllm], start: Start, trainer: Trainer
):
    engine = start(servers, limits=replace(LIMITS, check=5.0, gone=0.3))
    for server in servers:
        server.version, server.bias = "default", 0.5
    with pytest.raises(RuntimeError, match="default"):
        sampled(engine)
    engine.close()
    assert biases(sampled(start(servers))) == {trainer.bias}


def test_a_server_that_another_run_has_taken_is_taken_back(servers: list[FakeVllm], start: Start, trainer: Trainer):
    engine = start(servers)
    for server in servers:
        server.version, server.bias = "0a0b0c0d-1", 0.5
    assert biases(sampled(engine)) == {trainer.bias}


def test_new_weights_are_sampled_from(servers: list[FakeVllm], start: Start, trainer: Trainer, tmp_path: Path):
    engine = start(servers)
    for server in servers:
        server.asked.clear()
    trainer.bias = 2.0
    engine.load_weights(trainer.weights())
    assert biases(sampled(engine)) == {2.0}
    update = [path for path, _ in servers[0].asked if path not in ("/health", "/is_paused", "/weight_info", GENERATE)]
    assert update == [
        *("/server_info", "/pause", "/update_weight_version", "/init_weight_transfer_engine", "/start_weight_update"),
        *("/update_weights", "/finish_weight_update", "/reset_prefix_cache", "/resume"),
    ]
    assert [folder.name for folder in (tmp_path / FOLDER).iterdir()] == [servers[0].version]
    engine.close()
    assert not (tmp_path / FOLDER).exists()


def test_responses_under_way_end_before_an_update(servers: list[FakeVllm], start: Start, trainer: Trainer):
    servers[0].faults[GENERATE] = "slow"
    engine = start(servers[:1], max_lag=1)
    rollouts: list[Rollout] = []
    sampling = threading.Thread(target=lambda: rollouts.extend(sampled(engine)))
    sampling.start()
    wait_until(lambda: servers[0].under_way > 0)
    trainer.bias = 2.0
    engine.load_weights(trainer.weights())
    sampling.join()
    assert biases(rollouts) == {1.0, 2.0}
    assert all(len(set(rollout.logprobs)) == 1 for rollout in rollouts)
    assert engine.metrics["rollout/retries"] == 0


@pytest.mark.parametrize("path", ["/pause", "/update_weights", "/finish_weight_update", "/resume"])
@pytest.mark.parametrize("fault", ["error", "hang"])
def test_an_update_that_fails_on_one_server_keeps_it_out_until_it_succeeds(
    fault: Fault, path: str, servers: list[FakeVllm], start: Start, trainer: Trainer
):
    engine = start(servers, limits=replace(LIMITS, control=0.2, weights=0.2, rollout=0.2))
    servers[0].faults[path], trainer.bias = fault, 2.0
    engine.load_weights(trainer.weights())
    assert engine.metrics["rollout/servers"] == 1
    assert biases(sampled(engine)) == {2.0}
    asked = servers[0].count(GENERATE)
    sampled(engine)
    assert servers[0].count(GENERATE) == asked
    servers[0].faults.clear()
    wait_until(lambda: engine.metrics["rollout/servers"] == 2)
    assert (servers[0].bias, servers[0].paused) == (2.0, False)


@pytest.mark.parametrize(("max_lag", "seen"), [(0, {3.0}), (1, {2.0, 3.0})])
def test_old_weights_are_sampled_from_as_far_as_max_lag_allows(
    max_lag: int, seen: set[float], servers: list[FakeVllm], start: Start, trainer: Trainer
):
    engine = start(servers, max_lag=max_lag)
    for trainer.bias in (2.0, 3.0):
        engine.load_weights(trainer.weights())
    version, run = servers[0].version, servers[0].version.rpartition("-")[0]
    assert version == f"{run}-3"
    servers[0].version, servers[0].bias = f"{run}-2", 2.0
    answered = [rollout for _ in range(3) for rollout in sampled(engine)]
    assert biases(answered) <= seen
    servers[0].version, servers[0].bias = f"{run}-1", 1.0
    assert 1.0 not in biases(sampled(engine))


@pytest.mark.parametrize("max_lag", [0, 1])
def test_a_server_slow_to_take_new_weights_holds_up_those_who_may_not_lag(
    max_lag: int, servers: list[FakeVllm], start: Start, trainer: Trainer, tmp_path: Path
):
    engine = start(servers, max_lag=max_lag, limits=replace(LIMITS, weights=3.0))
    servers[0].faults["/update_weights"] = "hang"
    trainer.bias, begun = 2.0, time.monotonic()
    engine.load_weights(trainer.weights())
    assert (time.monotonic() - begun >= 3.0) == (max_lag == 0)
    assert servers[1].bias == 2.0
    assert len(list((tmp_path / FOLDER).iterdir())) == 1 + max_lag, "a slow one reads what it was told to"


def test_without_any_server_the_run_stops_and_says_why(servers: list[FakeVllm], start: Start):
    engine = start(servers, limits=replace(LIMITS, gone=0.3))
    for server in servers:
        server.kill()
    with pytest.raises(RuntimeError, match=r"no server could be sampled from") as raised:
        sampled(engine)
    assert all(server.url in str(raised.value) for server in servers)
    assert "refused" in str(raised.value)
    for server in servers:
        server.restart()


def test_the_last_server_is_waited_for(servers: list[FakeVllm], start: Start):
    engine = start(servers[:1])
    expected = sampled(engine)
    servers[0].kill()
    again = threading.Timer(0.2, servers[0].restart)
    again.start()
    assert sampled(engine) == expected
    again.join()


def test_a_rollout_that_fails_everywhere_is_given_up(servers: list[FakeVllm], start: Start):
    engine = start(servers)
    for server in servers:
        server.faults[GENERATE] = "error"
    with pytest.raises(RuntimeError, match=r"failed 5 times, .* HTTP status 500: engine died"):
        sampled(engine)


def test_a_request_that_a_server_refuses_is_not_repeated(servers: list[FakeVllm], start: Start):
    engine = start(servers)
    for server in servers:
        server.faults[GENERATE] = "bad"
    with pytest.raises(RuntimeError, match="the prompt is too long"):
        engine.sample(PROMPTS[:1], 1, PARAMS, SEEDS[:1])
    assert engine.metrics["rollout/retries"] == 0
    assert engine.metrics["rollout/servers"] == 2


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"model_config": {"logprobs_mode": "raw_logprobs", "max_model_len": 64}}, "--logprobs-mode"),
        ({"model_config": {"logprobs_mode": "processed_logprobs", "max_model_len": 16}}, "--max-model-len"),
        ({"weight_transfer_config": None}, "--weight-transfer-config"),
        ({"weight_transfer_config": {"backend": "nccl"}}, "--weight-transfer-config"),
        ({"weight_transfer_config": "folder"}, "--weight-transfer-config"),
    ],
)
def test_a_server_started_in_another_way_is_refused(
    wrong: dict[str, Any], named: str, servers: list[FakeVllm], start: Start
):
    servers[1].settings |= wrong
    with pytest.raises(ValueError, match=named) as raised:
        start(servers)
    assert servers[1].url in str(raised.value)


def test_a_server_without_the_verbs_of_development_is_refused(servers: list[FakeVllm], start: Start):
    servers[0].answer = lambda path, body: {}[path]  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="VLLM_SERVER_DEV_MODE=1 vllm serve"):
        start(servers)


def test_a_server_that_is_not_there_yet_is_waited_for_within_limits(
    servers: list[FakeVllm], start: Start, trainer: Trainer
):
    servers[0].kill()
    again = threading.Timer(0.2, servers[0].restart)
    again.start()
    assert biases(sampled(start(servers[:1]))) == {1.0}
    again.join()
    assert servers[0].url in trainer.warnings[0]
    servers[0].kill()
    with pytest.raises(RuntimeError, match=servers[0].url):
        start(servers[:1], limits=replace(LIMITS, gone=0.2))
    servers[0].restart()


def test_an_interrupted_call_ends_what_it_began(servers: list[FakeVllm], start: Start):
    engine = start(servers, limits=replace(LIMITS, rollout=30.0), concurrent=3)
    servers[1].faults[GENERATE] = "hang"

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        engine.sample(PROMPTS, 4, PARAMS, SEEDS, interrupt)
    assert time.monotonic() - began < 2
    servers[1].faults.clear()
    assert len(sampled(engine)) == 12


def test_log_probs_that_are_not_the_trainers_raise_the_alarm(servers: list[FakeVllm], start: Start, trainer: Trainer):
    engine = start(servers)
    assert engine.metrics["rollout/probe_gap"] == 0
    assert trainer.warnings == []
    engine.load_weights([("bias", torch.tensor([1.25]))])
    assert engine.metrics["rollout/probe_gap"] == 0.25
    (warning,) = trainer.warnings
    assert "rollout.probe_threshold = 0.01" in warning


def test_a_temperature_that_vllm_would_change_is_refused(servers: list[FakeVllm], start: Start):
    with pytest.raises(ValueError, match=r"0\.001"):
        start(servers).sample(PROMPTS, 1, SamplingParams(temperature=0.001), SEEDS)


class Ranks:
    """Two ranks as threads, with a broadcast that both have to call."""

    def __init__(self) -> None:
        self._barrier, self._value = threading.Barrier(2, timeout=10), None

    def broadcast(self, first: bool) -> Callable[[Any], Any]:
        def together(value: Any) -> Any:
            if first:
                self._value = value
            self._barrier.wait()
            received = self._value
            self._barrier.wait()
            return received

        return together

    def run(self, work: Callable[[bool], Any]) -> list[Any]:
        """What each rank's ``work`` returns or raises."""
        results: list[Any] = [None, None]

        def of(rank: int) -> None:
            try:
                results[rank] = work(rank == 0)
            except Exception as error:
                results[rank] = error

        threads = [threading.Thread(target=of, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


def test_every_rank_samples_and_the_first_alone_brings_weights(servers: list[FakeVllm], start: Start, trainer: Trainer):
    ranks = Ranks()
    engines = ranks.run(lambda first: start(servers, load=False, first=first, together=ranks.broadcast(first)))

    def step(first: bool) -> list[Rollout]:
        engine = engines[0 if first else 1]
        engine.load_weights(trainer.weights())
        return sampled(engine)

    for update in range(1, 4):
        trainer.bias = float(update)
        one, other = ranks.run(step)
        assert one == other
        assert biases(one) == {float(update)}
        assert trainer.asked == 2 * update
        assert [server.count("/update_weights") for server in servers] == [update, update]
    servers[0].faults[GENERATE] = "die"
    assert sampled(engines[1]) == one
    servers[0].restart()
    wait_until(lambda: engines[1].metrics["rollout/servers"] == 2)
    assert servers[0].version == servers[1].version


def test_an_error_of_the_first_rank_is_everyones(
    servers: list[FakeVllm], start: Start, trainer: Trainer, tmp_path: Path
):
    ranks = Ranks()
    engines = ranks.run(lambda first: start(servers, load=False, first=first, together=ranks.broadcast(first)))
    (tmp_path / FOLDER).write_text("a file where a folder should be")
    errors = ranks.run(lambda first: engines[0 if first else 1].load_weights(trainer.weights()))
    assert trainer.asked == 2
    assert all(isinstance(error, RuntimeError) and "could not be written" in str(error) for error in errors)
    (tmp_path / FOLDER).unlink()
