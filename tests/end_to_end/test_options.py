"""No inert knobs: every option of a training recipe changes what it should, on a real model, engine and optimiser.

An option changes what is *learnt* from given rollouts, or what is *collected*; the rest says where it is tested.
"""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from credo.config import TrainConfig
from credo.data.batching import collate
from credo.dist.world import World
from credo.journal import Journal
from credo.recipe import leaves
from credo.run_folder import RunFolder
from credo.train import prime_step
from credo.types import Greedy, Group, Problem, Rollout, Verdict
from tests.tiny import LETTERS, tiny_groups, tiny_model, tiny_parts, tiny_problems, untimed

TESTS = Path(__file__).parents[1]
Changes = dict[str, Any]

GAE: Changes = {"advantage__estimator": "gae"}
STEPS: Changes = {"prm__granularity": "step", "prm__step_boundary": "regex", "prm__step_pattern": "b"}
FROZEN_OTHER: Changes = {"prm__path": "other"}

LEARNT: list[tuple[Changes, str, Any]] = [
    ({"filter__drop_unanimous": True}, "prm.enabled", False),
    ({}, "prm.path", "other"),
    ({}, "prm.update", "before"),
    ({**FROZEN_OTHER, "prm__lr": None}, "prm.update", "none"),
    ({}, "prm.reference", "policy"),
    (FROZEN_OTHER, "prm.reference", "own"),
    ({}, "prm.reference_path", "other"),
    ({}, "prm.beta", 0.5),
    ({}, "prm.granularity", "whole"),
    ({}, "prm.granularity", "step"),
    (STEPS, "prm.step_pattern", "a"),
    ({}, "prm.loss", "dpo"),
    ({"prm__loss": "dpo"}, "prm.loss", "bon_acc"),
    ({"prm__loss": "bon_acc"}, "prm.loss", "bon_rm"),
    ({}, "prm.label_smoothing", 0.2),
    ({}, "prm.ema", 0.9),
    ({}, "prm.top_layers", 1),
    ({}, "prm.lr", 1e-3),
    ({}, "prm.lr_warmup", 3),
    ({}, "prm.warmup_steps", 1),
    ({}, "prm.minibatch", 4),
    ({}, "prm.weight_decay", 0.5),
    ({"prm__minibatch": 8}, "prm.max_grad_norm", 1e-3),
    ({}, "advantage.semantics", "paper"),
    ({}, "advantage.semantics", "verl"),
    *(({}, "advantage.estimator", name) for name in ("grpo", "reinforce", "reinforce_pp", "gae", "remax")),
    *(({}, "advantage.estimator", name) for name in ("implicit_value", "calibrated_value")),
    ({}, "advantage.process_coef", 0.1),
    ({}, "advantage.outcome_coef", 0.1),
    ({}, "advantage.gamma_process", 0.5),
    ({}, "advantage.gamma_outcome", 0.5),
    (GAE, "advantage.gae_lambda", 0.5),
    ({}, "advantage.credit", "min"),
    *(({}, "advantage.baseline", name) for name in ("sequence", "position", "expected", "none")),
    ({"advantage__estimator": "reinforce"}, "advantage.baseline", "token_mean"),
    *(({}, "advantage.normalizer", name) for name in ("rms", "none")),
    ({"advantage__normalizer": "rms"}, "advantage.normalizer", "quantile"),
    ({}, "advantage.normalizer_floor", 10.0),
    *(({}, "advantage.whitening", name) for name in ("group", "none")),
    ({}, "advantage.negative_only", True),
    ({}, "advantage.gate_accuracy", 1.0),
    *(({}, "advantage.control", name) for name in ("shuffled", "random")),
    (GAE, "critic.lr", 1e-3),
    (GAE, "critic.warmup_steps", 1),
    ({**GAE, "policy__minibatch": 4, "critic__lr": 0.1}, "critic.clip", 1e-3),
    ({}, "policy.lr", 1e-3),
    ({}, "policy.lr_warmup", 3),
    ({}, "policy.minibatch", 4),
    ({}, "policy.weight_decay", 0.5),
    ({"policy__minibatch": 8}, "policy.max_grad_norm", 1e-3),
    ({"policy__minibatch": 4}, "policy.loss", "pg"),
    ({"policy__minibatch": 4}, "policy.loss", "gspo"),
    ({"policy__minibatch": 4}, "policy.loss", "cispo"),
    ({"policy__minibatch": 4}, "policy.clip_low", 0.001),
    ({"policy__minibatch": 4}, "policy.clip_high", 0.001),
    ({"policy__minibatch": 4, "policy__lr": 0.1}, "policy.dual_clip", 1.01),
    ({"rollout__top_p": 0.7}, "policy.importance_cap", 2.0),
    ({}, "policy.kl_coef", 1.0),
    ({"policy__kl_coef": 1.0}, "policy.kl", "k1"),
    ({"policy__kl_coef": 1.0}, "policy.kl", "k2"),
    ({}, "policy.entropy_coef", 0.1),
    ({}, "policy.aggregation", "token_mean"),
    ({}, "rollout.temperature", 0.5),
    ({}, "instruments.every", 1),
    ({"instruments__every": 1}, "instruments.prefixes", 4),
    ({"instruments__every": 1}, "instruments.completions", 3),
    ({}, "lora.rank", 2),
    ({"lora__rank": 2}, "lora.alpha", 2.0),
    ({"lora__rank": 2}, "lora.targets", ["q_proj", "down_proj"]),
    ({}, "model.path", "other"),
    ({}, "model.compute", "bf16"),
    ({}, "run.seed", 7),
]
COLLECTED: list[tuple[Changes, str, Any]] = [
    ({}, "filter.accuracy_low", 0.2),
    ({}, "filter.accuracy_high", 0.2),
    ({}, "filter.drop_unanimous", True),
    ({}, "filter.truncated", "drop_response"),
    ({}, "filter.truncated", "drop_group"),
    ({}, "filter.length_matched", True),
    ({"filter__accuracy_low": 0.2}, "filter.memory_floor", 0.1),
    ({"filter__accuracy_low": 0.5}, "filter.max_rounds", 1),
    ({}, "rollout.prompts", 5),
    ({}, "rollout.per_prompt", 6),
    ({}, "rollout.temperature", 0.3),
    ({}, "rollout.top_k", 2),
    ({}, "rollout.top_p", 0.5),
    ({}, "rollout.min_p", 0.9),
    ({}, "rollout.stop", ["a"]),
    ({}, "rollout.max_tokens", 1),
    ({}, "verify.pattern", ".$"),
    ({"verify__extract": None, "verify__pattern": None}, "verify.kind", "judge"),
    ({}, "verify.extract", "boxed"),
    ({}, "data.train", ["other.jsonl"]),
    ({}, "data.suffix", "a"),
    ({}, "run.seed", 7),
]
ELSEWHERE = {
    "run.name": "test_train.py",
    "run.folder": "test_train.py",
    "run.steps": "test_train.py",
    "run.threads": "dist/test_device.py",
    "run.device": "dist/test_device.py",
    "run.trackers": "test_loggers.py",
    "data.kind": "data/test_sources.py",
    "data.max_bad_share": "data/test_problems.py",
    "data.max_prompt_tokens": "test_assemble.py",
    "data.drop_long_prompts": "test_assemble.py",
    "data.template": "data/test_prompts.py",
    "prm.step_boundary": "end_to_end/test_options.py",
    "data.system": "data/test_prompts.py",
    "rollout.concurrent": "rollout/test_torch_engine.py",
    "rollout.engine": "rollout/test_vllm_engine.py",
    "rollout.probe_threshold": "rollout/test_vllm_engine.py",
    "rollout.servers": "rollout/test_vllm_server.py",
    "rollout.max_lag": "rollout/test_vllm_server.py",
    "rollout.ahead": "test_ahead.py",
    "rollout.cache_gb": "test_assemble.py",
    "rollout.packed": "rollout/test_packed.py",
    "verify.need_units": "verify/test_answers.py",
    "verify.decimal_digits": "verify/test_answers.py",
    "sandbox.min_level": "verify/test_programs.py",
    "sandbox.url": "verify/test_router.py",
    "sandbox.partial": "verify/test_programs.py",
    "sandbox.float_tolerance": "verify/test_programs.py",
    "verify.workers": "verify/test_pool.py",
    "verify.deadline": "verify/test_pool.py",
    "verify.memory_mb": "verify/test_pool.py",
    "verify.max_unknown_share": "test_collect.py",
    "filter.max_empty_steps": "test_watch.py",
    "training.tokens_per_microbatch": "test_train.py",
    "training.gradient_checkpointing": "models/test_causal.py",
    "training.max_nonfinite_steps": "test_watch.py",
    "evaluation.sources": "test_assemble.py",
    "evaluation.samples": "test_journal.py",
    "evaluation.temperature": "end_to_end/test_options.py",
    "evaluation.every": "test_journal.py",
    "evaluation.limit": "test_assemble.py",
    "checkpoint.every": "test_train.py",
    "checkpoint.keep": "test_checkpoint.py",
    "checkpoint.best": "checkpoint/test_saver.py",
    "checkpoint.metric": "test_journal.py",
    "checkpoint.asynchronous": "checkpoint/test_saver.py",
    "checkpoint.remote": "checkpoint/test_remote.py",
    "checkpoint.rollouts_every": "test_journal.py",
}
"""Options that have no number of a step to change, with the test of what they do."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("options")
    tiny_model(folder / "other", seed=5)
    lines = [f'{{"prompt": "{first}{first}=", "answer": "{first}"}}\n' for first in LETTERS]
    (folder / "other.jsonl").write_text("".join(lines))
    judge = "def last(response, answer, problem):\n    return response[-1:] == answer\n"
    (folder / "judge.py").write_text(judge)
    return folder


@pytest.fixture(scope="module")
def learnt() -> dict[str, list[float | None]]:
    """What each set of options has led to so far."""
    return {}


def changes(folder: Path, circumstances: Changes, key: str | None = None, value: Any = None) -> Changes:
    """The circumstances and the change itself, with files in ``folder``."""
    made = circumstances | ({key.replace(".", "__"): value} if key else {})
    if key == "verify.extract":
        made["verify__pattern"] = None
    here = {
        "judge": f"python:{folder / 'judge.py'}:last",
        "other": str(folder / "other"),
        "other.jsonl": str(folder / "other.jsonl"),
    }
    return {name: _located(value, here) for name, value in made.items()}


def _located(value: Any, here: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [_located(item, here) for item in value]
    return here.get(value, value) if isinstance(value, str) else value


def with_greedy(groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """The groups, each with a greedy response that happens to be its first."""
    return tuple(
        Group(
            problem=group.problem,
            rollouts=group.rollouts,
            responses=group.responses,
            verdicts=group.verdicts,
            greedy=Greedy(rollout=group.rollouts[0], verdict=Verdict(score=float(index % 2))),
        )
        for index, group in enumerate(groups)
    )


def learn(folder: Path, options: Changes, steps: int = 2) -> list[float | None]:
    """All numbers of two steps on the same rollouts, and a digest of every weight after them."""
    config, parts = tiny_parts(folder, **{"rollout__max_tokens": 6, **options})
    prompts = [(3, 4, 7), (5, 5, 7), (6, 3, 7)]
    groups = tiny_groups(parts.start, prompts=prompts, per_prompt=4, max_tokens=6)
    if config.advantage.estimator == "remax":
        groups = with_greedy(groups)
    numbers: list[float | None] = []
    try:
        for done in range(steps):
            metrics = prime_step(parts, groups, config, done).metrics
            numbers += [value if math.isfinite(value) else None for _, value in sorted(metrics.items())]
    finally:
        parts.verifier.close()
    models = [parts.policy.model, *([parts.prm.model] if parts.prm is not None else [])]
    for model in models:
        assert all(weight.isfinite().all() for weight in model.parameters())
        numbers += [weight.double().square().sum().item() for weight in model.parameters()]
    return numbers


@pytest.mark.parametrize(("circumstances", "key", "value"), LEARNT, ids=str)
def test_it_changes_what_is_learnt(folder, learnt, circumstances, key, value):
    name = repr(circumstances)
    if name not in learnt:
        learnt[name] = learn(folder, changes(folder, circumstances))
    changed = learn(folder, changes(folder, circumstances, key, value))
    assert changed != learnt[name]


def test_the_same_options_lead_to_the_same_numbers(folder, learnt):
    assert learn(folder, {}) == learn(folder, {})


def collect(folder: Path, options: Changes) -> list[Any]:
    """The groups and counts of three collections."""
    config, parts = tiny_parts(folder, **{"rollout__max_tokens": 4, **options})
    seen: list[Any] = []
    try:
        for version in range(3):
            collection = parts.collector.collect(config.rollout.prompts, version)
            seen.append([(group.problem.id, group.responses, group.verdicts) for group in collection.groups])
            seen += untimed([collection.metrics])
    finally:
        parts.verifier.close()
    return seen


@pytest.mark.parametrize(
    ("circumstances", "key", "value"), COLLECTED, ids=lambda value: value if isinstance(value, str) else None
)
def test_it_changes_what_is_collected(folder, circumstances, key, value):
    assert collect(folder, changes(folder, circumstances, key, value)) != collect(
        folder, changes(folder, circumstances)
    )


def test_the_boundary_of_steps_reaches_the_batch(tmp_path):
    tiny_model(tmp_path / "model", alphabet=f"{LETTERS}=.\n ")
    ends = {}
    for boundary in ("newline", "sentence"):
        _, parts = tiny_parts(tmp_path, prm__granularity="step", prm__step_boundary=boundary)
        text = "a. b\nc"
        ids = tuple(parts.start.tokenizer.encode(text))
        rollout = Rollout(prompt_ids=ids[:1], response_ids=ids, logprobs=(0.0,) * len(ids), finish="stop")
        group = Group(
            problem=Problem(id="0", kind="exact", prompt="a", answer="a", source="tiny"),
            rollouts=(rollout,),
            responses=(text,),
            verdicts=(Verdict(score=1.0),),
        )
        assert parts.step_ends is not None
        ends[boundary] = parts.step_ends(collate([group], parts.start.pad_id))[0, 1:].tolist()
        parts.verifier.close()
    assert [index for index, end in enumerate(ends["newline"]) if end] == [4, 5]
    assert [index for index, end in enumerate(ends["sentence"]) if end] == [1, 5]


def test_evaluation_samples_at_its_own_temperature(tmp_path):
    scores = []
    for temperature in (0.0, 5.0):
        config, parts = tiny_parts(
            tmp_path,
            run__name=f"at-{temperature:.0f}",
            data__suffix="a",
            evaluation__sources=[str(tmp_path / "train.jsonl")],
            data__train=[str(tiny_problems(tmp_path / "others.jsonl", [("bb", "b")]))],
            evaluation__temperature=temperature,
            evaluation__samples=1,
        )
        with (
            RunFolder(tmp_path / "runs" / config.run.name) as folder,
            closing(Journal(config, folder, "auto", World())) as journal,
        ):
            journal.evaluate(0, parts)
            scores.append(folder.read_lines("evaluation.jsonl")[0]["scores"])
        parts.verifier.close()
    assert scores[0] != scores[1]


def test_no_option_is_forgotten():
    tried = {key for _, key, _ in LEARNT + COLLECTED}
    assert {key for key, _ in leaves(TrainConfig)} == tried | set(ELSEWHERE)
    assert not tried & set(ELSEWHERE)


@pytest.mark.parametrize(("key", "test"), ELSEWHERE.items())
def test_elsewhere_means_somewhere(key: str, test: str):
    text = (TESTS / test).read_text()
    assert key.split(".")[1] in text
