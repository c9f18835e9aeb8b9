"""vLLM's engine against the trainer's log-probs, the torch engine and itself. Runs by `make test-vllm`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from credo.config import ArchitectureConfig
from credo.evaluation.evaluate import evaluate
from credo.models.causal import build_model, response_logprobs, save_model
from credo.options.evaluation import EvaluateOptions
from credo.rollout.engine import RolloutEngine, SamplingParams
from credo.rollout.torch_engine import TorchEngine
from credo.rollout.vllm_engine import VllmEngine
from credo.rollout.vllm_shared import Probe
from credo.seeds import mixed_seed
from credo.types import Rollout
from tests.rollout.oracle import sampling_logprobs
from tests.tiny import lines, tiny_parts, tiny_problems

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed: make test-vllm"),
    pytest.mark.filterwarnings("ignore"),  # vLLM and what it imports warn of each other
]
ENDS = frozenset((1, 9))
PROMPTS = ((3, 4, 5), (6,), (3, 7, 8, 9, 10, 11, 12, 13, 4), tuple(range(3, 13)) * 14)
"""The last one fills more than a block of vLLM's cache, so that it is kept for later requests."""
SEEDS = (11, 22, 33, 44)
FREE = SamplingParams(max_tokens=12)
ATOL = 1e-4
"""For log-probs in fp32, of weights so large that logits reach 50."""


class Trainer:
    """A model, its weights, and what the engine warned of."""

    def __init__(self) -> None:
        shape = ArchitectureConfig(layers=2, width=64, heads=2, positions=256, alphabet="0123456789+=-")
        self.start = build_model(shape, seed=0)
        self.model = self.start.model
        self.warnings: list[str] = []
        self.shift(0.3, seed=5)

    @torch.no_grad()
    def shift(self, size: float, *, seed: int) -> None:
        """Adds noise to every matrix."""
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.model.parameters():
            if parameter.dim() > 1:
                parameter += size * torch.randn(parameter.shape, generator=generator)

    def probe(self, threshold: float) -> Probe:
        trained = partial(response_logprobs, self.model)
        return Probe(trained=trained, threshold=threshold, warn=self.warnings.append)

    @torch.no_grad()
    def of(self, rollout: Rollout, **cuts: Any) -> Tensor:
        """The log-prob of each response token under the distribution that it was drawn from."""
        tokens = torch.tensor([rollout.prompt_ids + rollout.response_ids])
        logits = self.model(input_ids=tokens).logits[0, len(rollout.prompt_ids) - 1 : -1]
        return sampling_logprobs(logits, **cuts).gather(1, tokens[0, len(rollout.prompt_ids) :, None]).squeeze(1)

    def torch_engine(self) -> TorchEngine:
        return TorchEngine(self.model, eos_ids=ENDS, pad_id=0, concurrent=64)


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer()


@pytest.fixture(scope="module")
def engine(trainer: Trainer) -> Iterator[VllmEngine]:
    made = VllmEngine(
        trainer.model,
        trainer.start.tokenizer,
        eos_ids=ENDS,
        concurrent=16,
        context=256,
        cache_bytes=2**26,
        probe=trainer.probe(0.01),
        eager=True,
    )
    yield made
    made.close()


@pytest.fixture
def trained(trainer: Trainer, engine: VllmEngine) -> Iterator[Trainer]:
    """The trainer after an update that the engine does not know of; both are as before when the test is over."""
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    trainer.warnings.clear()
    engine.sample(PROMPTS, 1, FREE, SEEDS)
    trainer.shift(0.05, seed=6)
    yield trainer
    trainer.model.load_state_dict(before)
    engine.load_weights(trainer.model.named_parameters())


def flat(groups: list[list[Rollout]]) -> list[Rollout]:
    return list(chain.from_iterable(groups))


def tokens_of(groups: list[list[Rollout]]) -> list[tuple[int, ...]]:
    return [rollout.response_ids for rollout in flat(groups)]


def assert_logprobs(trainer: Trainer, rollouts: Sequence[Rollout], **cuts: Any) -> None:
    for rollout in rollouts:
        assert rollout.logprobs == pytest.approx(trainer.of(rollout, **cuts).tolist(), abs=ATOL)


def test_responses_end_at_an_end_token_or_at_the_limit(engine: VllmEngine):
    assert isinstance(engine, RolloutEngine)
    groups = engine.sample(PROMPTS, 8, FREE, SEEDS)
    assert [len(group) for group in groups] == [8] * len(PROMPTS)
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for rollout in group:
            *before, last = rollout.response_ids
            assert rollout.prompt_ids == prompt
            assert not set(before) & ENDS
            assert rollout.finish == ("stop" if last in ENDS else "length")
            assert rollout.finish == "stop" or len(rollout.response_ids) == FREE.max_tokens
            assert len(rollout.logprobs) == len(rollout.response_ids)
    assert {rollout.response_ids[-1] for rollout in flat(groups) if rollout.finish == "stop"} == ENDS
    assert {rollout.finish for rollout in flat(groups)} == {"stop", "length"}


def test_greedy_responses_are_the_torch_engine_s(trainer: Trainer, engine: VllmEngine):
    params = SamplingParams(temperature=0.0, max_tokens=20)
    theirs, ours = (sampler.sample(PROMPTS, 1, params, SEEDS) for sampler in (engine, trainer.torch_engine()))
    assert tokens_of(theirs) == tokens_of(ours)
    for one, other in zip(flat(theirs), flat(ours), strict=True):
        assert one.finish == other.finish
        assert one.logprobs == pytest.approx(other.logprobs, abs=ATOL)


@pytest.mark.parametrize(
    "cuts",
    [{}, {"temperature": 0.7}, {"top_k": 3}, {"top_p": 0.8}, {"min_p": 0.1}, {"temperature": 2.0, "top_k": 5}],
    ids=str,
)
def test_log_probs_are_those_of_what_was_drawn_from(trainer: Trainer, engine: VllmEngine, cuts: dict[str, Any]):
    groups = engine.sample(PROMPTS, 4, SamplingParams(max_tokens=12, **cuts), SEEDS)
    assert_logprobs(trainer, flat(groups), **cuts)


def test_draws_depend_on_seed_and_k_alone(engine: VllmEngine):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    together = engine.sample(PROMPTS, 4, FREE, SEEDS)
    assert torch.equal(torch.get_rng_state(), before), "the generator of torch belongs to others"
    torch.manual_seed(1)
    for prompt, seed, group in zip(PROMPTS, SEEDS, together, strict=True):
        assert tokens_of(engine.sample([prompt], 2, FREE, [seed])) == tokens_of([group[:2]])
    assert len(set(tokens_of([together[0]]))) > 1
    assert tokens_of(engine.sample(PROMPTS, 4, FREE, [seed + 1 for seed in SEEDS])) != tokens_of(together)
    assert mixed_seed(SEEDS[0], 0) != mixed_seed(SEEDS[0], 1)


def test_new_weights_are_sampled_from(trained: Trainer, engine: VllmEngine):
    old = engine.sample(PROMPTS, 2, FREE, SEEDS)
    engine.load_weights(trained.model.named_parameters())
    new = engine.sample(PROMPTS, 2, FREE, SEEDS)
    assert_logprobs(trained, flat(new))
    assert max(abs(trained.of(rollout) - torch.tensor(rollout.logprobs)).max() for rollout in flat(old)) > 0.1
    assert engine.probe_gap < ATOL
    assert trained.warnings == []


def test_weights_that_were_not_synced_raise_the_alarm(trained: Trainer, engine: VllmEngine):
    kept = {name: weight.clone() for name, weight in trained.model.named_parameters()}
    trained.shift(0.05, seed=7)
    engine.load_weights(kept.items())
    assert engine.probe_gap > 0.01
    (warning,) = trained.warnings
    assert "rollout.probe_threshold = 0.01" in warning


def test_a_weight_that_is_not_a_number_raises_the_alarm(trained: Trainer, engine: VllmEngine):
    with torch.no_grad():
        next(trained.model.parameters())[4] = torch.nan
    engine.load_weights(trained.model.named_parameters())
    assert len(trained.warnings) == 1


def test_a_stop_string_ends_a_response_with_the_token_that_completes_it(trainer: Trainer, engine: VllmEngine):
    def text(rollout: Rollout) -> str:
        return trainer.start.tokenizer.decode(list(rollout.response_ids), skip_special_tokens=True)  # pyright: ignore

    free = flat(engine.sample(PROMPTS, 8, FREE, SEEDS))
    stop = next(text(rollout)[1:3] for rollout in free if len(text(rollout)) > 4)
    stopped = flat(engine.sample(PROMPTS, 8, SamplingParams(max_tokens=12, stop=("none", stop)), SEEDS))
    for before, after in zip(free, stopped, strict=True):
        end = text(before).index(stop) + len(stop) if stop in text(before) else len(text(before))
        assert text(after) == text(before)[:end]
        assert after.response_ids == before.response_ids[: len(after.response_ids)]
        assert after.finish == ("stop" if stop in text(before) else before.finish)
        assert after.logprobs == pytest.approx(before.logprobs[: len(after.logprobs)], abs=ATOL)
    assert any(len(after.response_ids) < len(before.response_ids) for before, after in zip(free, stopped, strict=True))


def test_progress_counts_every_token(engine: VllmEngine):
    counts: list[int] = []
    groups = engine.sample(PROMPTS, 3, FREE, SEEDS, counts.append)
    assert sum(counts) == sum(map(len, tokens_of(groups)))
    assert len(counts) == 12


def test_an_interrupted_call_leaves_nothing_behind(engine: VllmEngine):
    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    expected = engine.sample(PROMPTS, 2, FREE, SEEDS)
    with pytest.raises(KeyboardInterrupt):
        engine.sample(PROMPTS, 4, FREE, SEEDS, interrupt)
    assert tokens_of(engine.sample(PROMPTS, 2, FREE, SEEDS)) == tokens_of(expected)


def test_no_prompts_give_no_rollouts(engine: VllmEngine):
    assert engine.sample([], 4, FREE, []) == []


def test_a_temperature_that_vllm_would_change_is_refused(engine: VllmEngine):
    with pytest.raises(ValueError, match=r"0\.001"):
        engine.sample(PROMPTS, 1, SamplingParams(temperature=0.001), SEEDS)


def test_the_trainer_keeps_its_threads(engine: VllmEngine):
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)


def test_a_recipe_chooses_it_compiled_and_in_bf16(tmp_path: Path):
    shape = ArchitectureConfig(layers=1, width=64, heads=2, positions=64, alphabet="abcd=")
    built = build_model(shape, seed=0)
    save_model(built.model, built.tokenizer, tmp_path / "model")
    changes = {"rollout__engine": "vllm", "rollout__probe_threshold": 0.04, "model__compute": "bf16"}
    _, parts = tiny_parts(tmp_path, **changes)
    parts.verifier.close()
    assert isinstance(parts.engine, VllmEngine)
    assert parts.engine.probe.threshold == 0.04
    with torch.no_grad():
        for parameter in parts.start.model.parameters():
            parameter.mul_(1.5)
    parts.engine.load_weights(parts.policy.weights())
    assert parts.engine.probe_gap < 0.04
    assert all(rollout.response_ids for rollout in flat(parts.engine.sample(PROMPTS[:2], 4, FREE, SEEDS[:2])))
    parts.engine.close()


def test_a_model_that_vllm_cannot_run_is_refused(trainer: Trainer):
    small = build_model(ArchitectureConfig(layers=1, width=16, heads=2, positions=64, alphabet="01"), seed=0)
    options: dict[str, Any] = {"eos_ids": ENDS, "concurrent": 2, "context": 64, "cache_bytes": 2**24, "eager": True}
    with pytest.raises(ValueError, match="cannot run this model"):
        VllmEngine(small.model, small.tokenizer, probe=trainer.probe(0.1), **options)


def test_evaluation_by_vllm_is_that_by_torch(tmp_path: Path):
    shape = ArchitectureConfig(layers=1, width=64, heads=2, positions=64, alphabet="abcd=")
    built = build_model(shape, seed=0)
    save_model(built.model, built.tokenizer, tmp_path / "model")
    common: dict[str, Any] = {"model": str(tmp_path / "model"), "benchmarks": str(tiny_problems(tmp_path / "a.jsonl"))}
    common |= {"temperature": 0.0, "samples": 1, "max_tokens": 8, "threads": 1, "device": "cpu"}
    common |= {"kind": "exact", "extract": "regex", "pattern": "^."}
    for engine in ("torch", "vllm"):
        evaluate(EvaluateOptions(**common, engine=engine, output=tmp_path / engine))
    by_torch, by_vllm = (lines(tmp_path / engine / "a.jsonl") for engine in ("torch", "vllm"))
    assert [row["responses"] for row in by_vllm] == [row["responses"] for row in by_torch]
