"""The real server of vLLM on the CPU: weights sent to it are sampled from, with the trainer's log-probs.

Runs by `make test-vllm`.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from credo.config import ArchitectureConfig
from credo.models.causal import CausalModel, build_model, response_logprobs, save_model
from credo.rollout.engine import SamplingParams
from credo.rollout.server import COMMAND, Limits
from credo.rollout.vllm_server import ServerEngine
from credo.rollout.vllm_shared import Probe
from credo.types import Rollout
from tests.rollout.oracle import sampling_logprobs

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed: make test-vllm"),
    pytest.mark.filterwarnings("ignore"),
]
PROMPTS, SEEDS = ((3, 4, 5), (6,), tuple(range(3, 13)) * 14), (11, 22, 33)
FREE = SamplingParams(max_tokens=12)
ENDS = frozenset((1, 9))
ATOL = 1e-4
CHEAP = "--enforce-eager --dtype float32 --max-model-len 256 --max-num-seqs 16 --kv-cache-memory-bytes 67108864"


@pytest.fixture(scope="module")
def trainer() -> CausalModel:
    shape = ArchitectureConfig(layers=2, width=64, heads=2, positions=256, alphabet="0123456789+=-")
    return build_model(shape, seed=0)


@pytest.fixture(scope="module")
def server(trainer: CausalModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server, started by the command that users are told, in a process group of its own."""
    folder = tmp_path_factory.mktemp("server")
    save_model(trainer.model, trainer.tokenizer, folder / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = COMMAND.split("MODEL", 1)[1].replace("'", "").split()
    start, end = options.index("--weight-transfer-config"), options.index("--worker-extension-cls")
    options[start + 1 : end] = [" ".join(options[start + 1 : end])]
    program = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "model")]
    environment = {**os.environ, "VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*program, "--host", "127.0.0.1", "--port", str(port), *CHEAP.split(), *options],
            env=environment,
            cwd=Path(__file__).parents[2],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


@pytest.fixture(scope="module")
def engine(trainer: CausalModel, server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerEngine]:
    def warn(said: str) -> None:
        if "Waiting" not in said:
            raise AssertionError(said)

    made = ServerEngine(
        [server],
        folder=tmp_path_factory.mktemp("run"),
        eos_ids=ENDS,
        concurrent=16,
        context=256,
        vocabulary=trainer.model.config.vocab_size,
        probe=Probe(trained=partial(response_logprobs, trainer.model), threshold=ATOL, warn=warn),
        limits=Limits(gone=240.0, check=0.5),
    )
    made.load_weights(trainer.model.named_parameters())
    yield made
    made.close()


@torch.no_grad()
def gap(trainer: CausalModel, rollouts: list[Rollout], **cuts: Any) -> float:
    """The largest difference of a log-prob to the trainer's."""
    gaps = []
    for rollout in rollouts:
        tokens = torch.tensor([rollout.prompt_ids + rollout.response_ids])
        logits = trainer.model(input_ids=tokens).logits[0, len(rollout.prompt_ids) - 1 : -1]
        logprobs = sampling_logprobs(logits, **cuts).gather(1, tokens[0, len(rollout.prompt_ids) :, None]).squeeze(1)
        gaps.append((logprobs - torch.tensor(rollout.logprobs)).abs().max().item())
    return max(gaps)


@torch.no_grad()
def learn(trainer: CausalModel, seed: int) -> None:
    """Changes every matrix; the output layer is the embedding."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in trainer.model.parameters():
        if parameter.dim() > 1:
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)


def sampled(engine: ServerEngine, params: SamplingParams = FREE) -> list[Rollout]:
    return list(chain.from_iterable(engine.sample(PROMPTS, 4, params, SEEDS)))


def test_new_weights_are_sampled_from(trainer: CausalModel, engine: ServerEngine):
    old = sampled(engine)
    assert gap(trainer, old) < ATOL
    for seed in (5, 6):
        learn(trainer, seed)
        assert gap(trainer, old) > 0.1
        engine.load_weights(trainer.model.named_parameters())
        assert engine.metrics["rollout/probe_gap"] < ATOL
        assert gap(trainer, sampled(engine)) < ATOL
    assert engine.metrics["rollout/retries"] == 0


def test_draws_depend_on_seed_and_k_alone(engine: ServerEngine):
    together = engine.sample(PROMPTS, 4, FREE, SEEDS)
    for prompt, seed, group in zip(PROMPTS, SEEDS, together, strict=True):
        (alone,) = engine.sample([prompt], 2, FREE, [seed])
        assert [rollout.response_ids for rollout in alone] == [rollout.response_ids for rollout in group[:2]]
    assert len({rollout.response_ids for rollout in together[0]}) > 1


@pytest.mark.parametrize("cuts", [{"temperature": 0.7}, {"top_k": 3}, {"top_p": 0.8}, {"min_p": 0.1}], ids=str)
def test_log_probs_are_those_of_what_was_drawn_from(trainer: CausalModel, engine: ServerEngine, cuts: dict[str, Any]):
    assert gap(trainer, sampled(engine, SamplingParams(max_tokens=12, **cuts)), **cuts) < ATOL


def test_responses_end_at_an_end_token_a_stop_string_or_the_limit(trainer: CausalModel, engine: ServerEngine):
    def text(rollout: Rollout) -> str:
        return trainer.tokenizer.decode(list(rollout.response_ids), skip_special_tokens=True)  # pyright: ignore

    free = sampled(engine)
    for rollout in free:
        assert not set(rollout.response_ids[:-1]) & ENDS
        assert rollout.finish == ("stop" if rollout.response_ids[-1] in ENDS else "length")
    stop = next(text(rollout)[1:3] for rollout in free if len(text(rollout)) > 4)
    for before, after in zip(free, sampled(engine, SamplingParams(max_tokens=12, stop=(stop,))), strict=True):
        end = text(before).index(stop) + len(stop) if stop in text(before) else len(text(before))
        assert text(after) == text(before)[:end]
        assert after.response_ids == before.response_ids[: len(after.response_ids)]
