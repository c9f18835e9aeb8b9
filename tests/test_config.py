"""The rules of the configuration: what each option may be, which exclude each other, and that all are explained."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from credo.config import PrmConfig, PrmTrainingConfig, PrmTrainingRecipe, SftConfig, SftRecipe, TrainConfig, TrainRecipe
from credo.recipe import build, flat, leaves

ROOT = Path(__file__).parents[1]
MOST_OPTIONS = 130

TRAIN = {"run": {"name": "x", "steps": 10}, "model": {"path": "m"}, "data": {"train": ["a.jsonl"]}}
OFFLINE = {"run": {"name": "x", "steps": 10}, "offline": {"sources": ["a.jsonl"]}, "model": {"path": "m"}}
SFT = {"run": {"name": "x", "steps": 10}, "sft": {"sources": ["a.jsonl"]}, "model": {"path": "m"}}


def changed(base: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """``base`` with dotted ``options``; None takes a section or an option away."""
    values = {section: dict(entries) for section, entries in base.items()}
    for key, value in options.items():
        section, _, name = key.partition(".")
        if not name:
            values.pop(section)
        elif value is None:
            values[section].pop(name)
        else:
            values.setdefault(section, {})[name] = value
    return values


def train(**options: Any) -> TrainConfig:
    return build(TrainConfig, changed(TRAIN, {key.replace("__", "."): value for key, value in options.items()}))


def sft(**options: Any) -> SftConfig:
    return build(SftConfig, changed(SFT, {key.replace("__", "."): value for key, value in options.items()}))


def refused(tree: type, options: dict[str, Any]) -> str:
    """The sentence with which ``options`` are refused, on top of a recipe that is fine."""
    base = SFT if issubclass(tree, SftConfig) else OFFLINE if issubclass(tree, PrmTrainingConfig) else TRAIN
    with pytest.raises(ValueError) as error:  # noqa: PT011
        build(tree, changed(base, options))
    return str(error.value)


OUT_OF_RANGE = [
    ("run.name", ""),
    ("run.name", ".."),
    ("run.name", "a/b"),
    ("run.steps", 0),
    ("run.seed", -1),
    ("run.threads", -1),
    ("data.train", []),
    ("data.max_bad_share", -0.1),
    ("data.max_bad_share", 1.0),
    ("data.max_prompt_tokens", 0),
    ("rollout.prompts", 0),
    ("rollout.per_prompt", 0),
    ("rollout.temperature", 0.0),
    ("rollout.top_p", 0.0),
    ("rollout.top_p", 1.1),
    ("rollout.top_k", -1),
    ("rollout.min_p", -0.1),
    ("rollout.min_p", 1.1),
    ("rollout.stop", ["\n", ""]),
    ("rollout.cache_gb", -0.1),
    ("rollout.max_tokens", 0),
    ("rollout.concurrent", 0),
    ("rollout.max_lag", -1),
    ("rollout.probe_threshold", 0.0),
    ("lora.rank", -1),
    ("verify.workers", 0),
    ("verify.deadline", 0.0),
    ("verify.memory_mb", 511),
    ("verify.max_unknown_share", -0.1),
    ("verify.max_unknown_share", 1.1),
    ("verify.decimal_digits", 0),
    ("sandbox.min_level", 0),
    ("sandbox.min_level", 4),
    ("sandbox.float_tolerance", -0.1),
    ("filter.accuracy_low", -0.1),
    ("filter.accuracy_low", 0.9),
    ("filter.accuracy_high", 1.1),
    ("filter.memory_floor", 0.0),
    ("filter.memory_floor", 1.1),
    ("filter.max_rounds", 0),
    ("filter.max_empty_steps", 0),
    ("prm.beta", 0.0),
    ("prm.label_smoothing", -0.1),
    ("prm.label_smoothing", 1.1),
    ("prm.ema", -0.1),
    ("prm.ema", 1.0),
    ("prm.lr", 0.0),
    ("prm.lr_warmup", -1),
    ("prm.warmup_steps", -1),
    ("prm.minibatch", 0),
    ("prm.top_layers", -1),
    ("prm.weight_decay", -0.1),
    ("prm.max_grad_norm", 0.0),
    ("advantage.process_coef", -1.0),
    ("advantage.outcome_coef", -1.0),
    ("advantage.gamma_process", 1.1),
    ("advantage.gamma_outcome", -0.1),
    ("advantage.normalizer_floor", 0.0),
    ("advantage.gate_accuracy", 0.5),
    ("advantage.gate_accuracy", 1.1),
    ("policy.lr", 0.0),
    ("policy.dual_clip", 1.0),
    ("policy.importance_cap", -1.0),
    ("policy.kl_coef", -1.0),
    ("policy.entropy_coef", -1.0),
    ("policy.lr_warmup", -1),
    ("policy.minibatch", 0),
    ("policy.weight_decay", -0.1),
    ("policy.max_grad_norm", 0.0),
    ("policy.clip_low", 0.0),
    ("policy.clip_low", 1.0),
    ("policy.clip_high", 0.0),
    ("training.tokens_per_microbatch", 0),
    ("training.max_nonfinite_steps", -1),
    ("checkpoint.every", 0),
    ("checkpoint.keep", -1),
    ("checkpoint.rollouts_every", -1),
    ("checkpoint.best", -1),
    ("checkpoint.remote", "bucket/runs"),
]
OUT_OF_RANGE_WITH_A_CRITIC = [
    ("advantage.gae_lambda", -0.1),
    ("advantage.gae_lambda", 1.1),
    ("critic.lr", 0.0),
    ("critic.clip", 0.0),
    ("critic.warmup_steps", -1),
    ("critic.warmup_steps", 10),
]
OUT_OF_RANGE_WITH_ADAPTERS = [("lora.alpha", 0.0), ("lora.targets", [])]
OUT_OF_RANGE_WITH_INSTRUMENTS = [
    ("instruments.every", -1),
    ("instruments.prefixes", 2),
    ("instruments.completions", 0),
]
OUT_OF_RANGE_WITH_SOURCES = [
    ("evaluation.samples", 0),
    ("evaluation.temperature", -0.1),
    ("evaluation.every", -1),
    ("evaluation.limit", -1),
]
OUT_OF_RANGE_IN_SFT = [
    ("sft.sources", []),
    ("sft.batch", 0),
    ("sft.lr", 0.0),
    ("sft.lr_warmup", -0.1),
    ("sft.lr_warmup", 1.0),
    ("sft.weight_decay", -0.1),
    ("sft.max_grad_norm", 0.0),
    ("sft.max_tokens", 1),
    ("sft.max_bad_share", -0.1),
    ("sft.max_bad_share", 1.0),
    ("sft.held_out_share", -0.1),
    ("sft.held_out_share", 1.0),
    ("sft.evaluate_every", -1),
    ("sft.epochs", -1.0),
    ("run.steps", -1),
]
OUT_OF_RANGE_OFFLINE = [
    ("offline.sources", []),
    ("offline.held_out_share", 0.0),
    ("offline.held_out_share", 1.0),
    ("offline.beta", 0.0),
    ("offline.correct_weight", 0.0),
    ("offline.wrong_weight", 0.0),
    ("offline.batch", 0),
    ("offline.lr", 0.0),
    ("offline.lr_warmup", -0.1),
    ("offline.lr_warmup", 1.0),
    ("offline.lr_floor", -0.1),
    ("offline.lr_floor", 1.1),
    ("offline.weight_decay", -0.1),
    ("offline.max_grad_norm", 0.0),
    ("offline.evaluate_every", -1),
    ("offline.max_tokens", 1),
    ("offline.max_bad_share", -0.1),
    ("offline.max_bad_share", 1.0),
]
OUT_OF_RANGE_ON_RAY = [("launch.workers", -1), ("launch.timeout", 0.0), ("launch.retries", -1)]
OUT_OF_RANGE_IN_ARCHITECTURE = [("layers", 0), ("width", 0), ("heads", 0), ("positions", 0), ("width", 20)]


@pytest.mark.parametrize(("key", "value"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_by_name(key: str, value: Any):
    assert key in refused(TrainConfig, {key: value})


@pytest.mark.parametrize(("key", "value"), OUT_OF_RANGE_WITH_A_CRITIC)
def test_a_critic_out_of_range(key: str, value: Any):
    assert key in refused(TrainConfig, {"advantage.estimator": "gae", key: value})


@pytest.mark.parametrize(("key", "value"), OUT_OF_RANGE_WITH_ADAPTERS)
def test_adapters_out_of_range(key: str, value: Any):
    assert key in refused(TrainConfig, {"lora.rank": 8, key: value})


@pytest.mark.parametrize(("key", "value"), OUT_OF_RANGE_WITH_INSTRUMENTS)
def test_instruments_out_of_range(key: str, value: Any):
    assert key in refused(TrainConfig, {"instruments.every": 1, key: value})


@pytest.mark.parametrize(("key", "value"), OUT_OF_RANGE_WITH_SOURCES)
def test_evaluation_out_of_range(key: str, value: Any):
    assert key in refused(TrainConfig, {"evaluation.sources": ["b.jsonl"], key: value})


@pytest.mark.parametrize(("key", "value"), OUT_OF_RANGE_IN_SFT)
def test_sft_out_of_range(key: str, value: Any):
    assert key in refused(SftConfig, {key: value})


@pytest.mark.parametrize(("key", "value"), OUT_OF_RANGE_OFFLINE)
def test_offline_out_of_range(key: str, value: Any):
    assert key in refused(PrmTrainingConfig, {"offline.loss": "kto", key: value})


@pytest.mark.parametrize(("key", "value"), OUT_OF_RANGE_ON_RAY)
def test_a_launch_out_of_range(key: str, value: Any):
    assert key in refused(TrainRecipe, {"launch.kind": "ray", key: value})


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE_IN_ARCHITECTURE)
def test_architecture_out_of_range(name: str, value: int):
    assert f"architecture.{name}" in refused(SftConfig, {"model": None, f"architecture.{name}": value})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"verify.kind": "mine"}, "verify.kind"),
        ({"sandbox.url": "localhost:8080"}, "sandbox.url"),
        ({"prm.enabled": False, "advantage.outcome_coef": 0.0}, "advantage.outcome_coef"),
        ({"prm.warmup_steps": 10}, "prm.warmup_steps"),
        ({"advantage.process_coef": 0.0}, "advantage.process_coef"),
        ({"prm.enabled": False, "filter.accuracy_low": 0.0}, "filter"),
        ({"prm.enabled": False, "filter.accuracy_high": 1.0}, "filter"),
        ({"prm.update": "none"}, "prm.update"),
        ({"prm.update": "none", "prm.path": "m"}, "prm.update"),
        ({"prm.update": "none", "prm.path": "other", "prm.reference": "own"}, "prm.update"),
        ({"prm.update": "none", "prm.path": "other", "prm.reference_path": "other"}, "prm.update"),
        ({"prm.reference": "own"}, "prm.reference"),
        ({"prm.top_layers": 1, "prm.reference": "policy"}, "prm.top_layers"),
        ({"prm.top_layers": 1, "prm.path": "other"}, "prm.top_layers"),
        ({"prm.top_layers": 1, "prm.reference_path": "other"}, "prm.top_layers"),
        ({"prm.granularity": "step", "prm.step_boundary": "regex"}, "prm.step_pattern"),
        ({"prm.granularity": "step", "prm.step_pattern": "x"}, "prm.step_pattern"),
        ({"prm.granularity": "step", "prm.step_boundary": "regex", "prm.step_pattern": "("}, "prm.step_pattern"),
        *(({"lora.rank": 8, f"prm.{name}": "other"}, f"prm.{name}") for name in ("path", "reference_path")),
        ({"lora.rank": 8, "prm.ema": 0.9}, "prm.ema"),
        ({"lora.rank": 8, "prm.top_layers": 1}, "prm.top_layers"),
        ({"lora.rank": 8, "advantage.estimator": "gae"}, "advantage.estimator"),
        ({"lora.rank": 8, "rollout.engine": "vllm"}, "rollout.engine"),
        *(
            ({"rollout.engine": "vllm-server", "rollout.servers": servers}, "rollout.servers")
            for servers in ([], ["http://a:1", "http://a:1"], ["a:1"], ["http://"], ["http://a:1/v1"])
        ),
        ({"prm.granularity": "whole", "advantage.credit": "min"}, "advantage.credit"),
        ({"advantage.baseline": "position", "advantage.negative_only": True}, "advantage.negative_only"),
        ({"advantage.baseline": "expected", "advantage.control": "shuffled"}, "advantage.control"),
        *(
            ({"advantage.baseline": "expected", f"rollout.{name}": value}, f"rollout.{name} = {value}")
            for name, value in (("top_k", 5), ("top_p", 0.9), ("min_p", 0.1))
        ),
        ({"advantage.estimator": "implicit_value", "prm.enabled": False}, "advantage.estimator"),
        ({"advantage.estimator": "gae", "advantage.outcome_coef": 0.0}, "advantage.outcome_coef"),
        ({"rollout.per_prompt": 1}, "rollout.per_prompt"),
        ({"rollout.per_prompt": 1, "advantage.estimator": "grpo"}, "rollout.per_prompt"),
        (
            {"rollout.per_prompt": 1, "advantage.estimator": "reinforce", "advantage.baseline": "sequence"},
            "rollout.per_prompt",
        ),
        (
            {"rollout.per_prompt": 1, "advantage.estimator": "reinforce", "filter.drop_unanimous": True},
            "filter.drop_unanimous",
        ),
        ({"prm.enabled": False, "instruments.every": 5}, "instruments.every"),
        ({"advantage.estimator": "remax", "advantage.control": "random"}, "advantage.control"),
        ({"rollout.ahead": True}, "policy.importance_cap"),
        (
            {"rollout.engine": "vllm-server", "rollout.servers": ("http://here:1",), "rollout.max_lag": 1},
            "policy.importance_cap",
        ),
        (
            {"rollout.per_prompt": 1, "advantage.estimator": "reinforce", "advantage.gate_accuracy": 0.8},
            "advantage.gate_accuracy",
        ),
        ({"evaluation.sources": ["b.jsonl"], "evaluation.temperature": 0.0}, "evaluation.samples"),
        ({"checkpoint.best": 1, "checkpoint.metric": "accuracy"}, "checkpoint.metric"),
        ({"checkpoint.best": 1}, "checkpoint.best"),
        ({"checkpoint.best": 1, "evaluation.sources": ["b.jsonl"]}, "checkpoint.best"),
        *(
            (
                {"checkpoint.best": 1, "checkpoint.every": 2, "evaluation.sources": ["b.jsonl"], "evaluation.every": n},
                "checkpoint.best",
            )
            for n in (5, 7, 10)
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], named: str):
    assert named in refused(TrainConfig, options)


def test_the_best_checkpoints_can_be_known():
    judged = {"checkpoint__best": 1, "checkpoint__every": 2}
    assert train(**judged, evaluation__sources=["b.jsonl"], evaluation__every=4).checkpoint.best == 1
    assert train(**judged, checkpoint__metric="-prm/loss").checkpoint.metric == "-prm/loss"


PROCESS_REWARD: list[tuple[str, Any]] = [
    ("gamma_process", 0.9),
    ("credit", "min"),
    ("baseline", "none"),
    ("normalizer", "rms"),
    ("normalizer_floor", 0.1),
    ("negative_only", True),
]
FROZEN = {"prm.update": "none", "prm.path": "trained"}
INERT = [
    ({"data.template": "plain"}, "data.system", "be brief"),
    ({"data.train": ["gym:chain_sum"]}, "data.kind", "exact"),
    ({}, "verify.pattern", "x+"),
    ({}, "verify.extract", "regex"),
    ({}, "rollout.probe_threshold", 0.1),
    ({"rollout.engine": "vllm"}, "rollout.packed", False),
    ({"rollout.engine": "vllm"}, "rollout.servers", ["http://a:1"]),
    ({"rollout.engine": "vllm"}, "rollout.max_lag", 1),
    ({}, "rollout.servers", ["http://a:1"]),
    ({"rollout.engine": "vllm-server", "rollout.servers": ["http://a:1"]}, "rollout.packed", False),
    ({"rollout.engine": "vllm-server", "rollout.servers": ["http://a:1"]}, "rollout.cache_gb", 1.0),
    ({}, "lora.alpha", 16.0),
    ({}, "lora.targets", ["q_proj"]),
    ({"verify.kind": "python:a:b"}, "verify.extract", "boxed"),
    ({"verify.kind": "python:a:b"}, "verify.need_units", True),
    ({"verify.kind": "python:a:b"}, "verify.decimal_digits", 3),
    ({"sandbox.url": "http://localhost:8080"}, "sandbox.min_level", 3),
    (FROZEN, "prm.lr", 1e-5),
    (FROZEN, "prm.lr_warmup", 1),
    (FROZEN, "prm.warmup_steps", 1),
    (FROZEN, "prm.minibatch", 8),
    (FROZEN, "prm.weight_decay", 0.1),
    (FROZEN, "prm.max_grad_norm", 1.0),
    (FROZEN, "prm.loss", "dpo"),
    (FROZEN, "prm.label_smoothing", 0.1),
    (FROZEN, "prm.ema", 0.9),
    (FROZEN, "prm.top_layers", 1),
    ({}, "prm.step_boundary", "sentence"),
    ({}, "prm.step_pattern", "x"),
    ({"prm.reference": "policy"}, "prm.reference_path", "other"),
    ({}, "advantage.gae_lambda", 0.9),
    *(({"advantage.estimator": "implicit_value"}, f"advantage.{name}", value) for name, value in PROCESS_REWARD),
    ({"advantage.estimator": "implicit_value"}, "prm.granularity", "whole"),
    ({"advantage.estimator": "grpo"}, "advantage.baseline", "none"),
    ({"advantage.estimator": "grpo"}, "advantage.normalizer", "rms"),
    ({"advantage.estimator": "reinforce_pp"}, "advantage.whitening", "none"),
    ({"advantage.normalizer": "none"}, "advantage.normalizer_floor", 0.1),
    ({}, "critic.lr", 1e-3),
    ({}, "critic.warmup_steps", 1),
    ({}, "critic.clip", 0.1),
    ({"policy.loss": "gspo"}, "policy.dual_clip", 3.0),
    ({"policy.loss": "pg"}, "policy.clip_low", 0.1),
    ({"policy.loss": "pg"}, "policy.clip_high", 0.1),
    ({}, "policy.kl", "k1"),
    ({}, "instruments.prefixes", 5),
    ({}, "instruments.completions", 5),
    ({"advantage.semantics": "verl"}, "advantage.gamma_process", 0.9),
    ({"advantage.semantics": "verl"}, "advantage.gamma_outcome", 0.9),
    ({"advantage.semantics": "paper"}, "advantage.gamma_outcome", 0.9),
    ({"advantage.semantics": "paper"}, "advantage.normalizer_floor", 0.1),
    ({"advantage.outcome_coef": 0.0}, "advantage.gamma_outcome", 0.9),
    ({"checkpoint.keep": 0}, "checkpoint.best", 1),
    ({}, "checkpoint.metric", "prm/loss"),
    ({}, "evaluation.samples", 8),
    ({}, "evaluation.temperature", 0.5),
    ({}, "evaluation.every", 5),
    ({}, "evaluation.limit", 5),
]
ON_RAY = {"launch.kind": "ray"}
INERT_LAUNCH: list[tuple[dict[str, Any], str, Any]] = [
    ({}, "launch.workers", 2),
    ({}, "launch.retries", 1),
    ({"launch.kind": "torchrun"}, "launch.retries", 1),
    ({"launch.kind": "local"}, "launch.sharding", "full"),
    ({"launch.kind": "local"}, "launch.offload", True),
    ({}, "launch.offload", True),
    (ON_RAY, "launch.sharding", "full"),
    *((ON_RAY | {"launch.workers": 0}, f"launch.{name}", value) for name, value in (("timeout", 60.0), ("retries", 1))),
]
INERT_IN_SFT: list[tuple[dict[str, Any], str, Any]] = [
    ({"sft.template": "plain"}, "sft.system", "be brief"),
    ({"model": None, "architecture.tokenizer": "bytes"}, "architecture.alphabet", "01"),
    ({"sft.held_out": ["b.jsonl"]}, "sft.held_out_share", 0.1),
    ({}, "sft.evaluate_every", 5),
    ({}, "checkpoint.rollouts_every", 5),
    ({}, "training.max_nonfinite_steps", 5),
]


@pytest.mark.parametrize(("circumstances", "key", "value"), INERT)
def test_an_option_that_nothing_reads_is_refused(circumstances: dict[str, Any], key: str, value: Any):
    build(TrainConfig, changed(TRAIN, circumstances))
    assert key in refused(TrainConfig, {**circumstances, key: value})


@pytest.mark.parametrize(("circumstances", "key", "value"), INERT_LAUNCH)
def test_a_launch_option_that_nothing_reads_is_refused(circumstances: dict[str, Any], key: str, value: Any):
    build(TrainRecipe, changed(TRAIN, circumstances))
    assert key in refused(TrainRecipe, {**circumstances, key: value})


@pytest.mark.parametrize(
    ("circumstances", "key", "value"),
    [
        ({}, "offline.pairs", "all"),
        ({"offline.loss": "dpo"}, "offline.balance", "class"),
        ({"offline.loss": "nca"}, "offline.balance", "instruction"),
        ({}, "offline.correct_weight", 2.0),
        ({"offline.loss": "dpo"}, "offline.wrong_weight", 2.0),
        ({"offline.held_out": ["b.jsonl"]}, "offline.held_out_share", 0.3),
        ({"offline.template": "plain"}, "offline.system", "x"),
        ({}, "checkpoint.rollouts_every", 2),
        ({}, "training.max_nonfinite_steps", 9),
    ],
)
def test_an_option_without_effect_is_refused_offline(circumstances: dict[str, Any], key: str, value: Any):
    build(PrmTrainingConfig, changed(OFFLINE, circumstances))
    assert key in refused(PrmTrainingConfig, {**circumstances, key: value})


@pytest.mark.parametrize(("circumstances", "key", "value"), INERT_IN_SFT)
def test_an_option_that_nothing_reads_in_sft_is_refused(circumstances: dict[str, Any], key: str, value: Any):
    build(SftConfig, changed(SFT, circumstances))
    assert key in refused(SftConfig, {**circumstances, key: value})


def test_what_makes_an_option_inert_has_to_be_there():
    assert train(data__train=["gym:chain_sum", "b.jsonl"], data__kind="exact").data.kind == "exact"
    assert train(data__train=["gym:x"], evaluation__sources=["b.jsonl"], data__kind="exact").data.kind == "exact"
    assert train(verify__extract="regex", verify__pattern="x+").verify.pattern == "x+"
    assert train(prm__update="none", prm__reference="policy").prm.update == "none"
    assert train(lora__rank=8, prm__path="m", prm__reference_path="m", lora__targets=["q_proj"]).lora.rank == 8
    assert train(lora__rank=8, prm__enabled=False, prm__path="other", prm__ema=0.9).lora.alpha == 32
    for start in ({}, {"path": "m"}, {"path": "n", "reference": "own"}, {"path": "n", "reference_path": "n"}):
        assert build(TrainConfig, TRAIN | {"prm": start | {"top_layers": 1}}).prm.top_layers == 1
    assert train(advantage__semantics="paper", advantage__normalizer="rms", advantage__normalizer_floor=0.1)
    assert train(advantage__semantics="paper", advantage__estimator="grpo", advantage__normalizer_floor=0.1)
    assert train(rollout__per_prompt=1, advantage__estimator="gae", filter__accuracy_low=0.0).least_judged == 1
    assert train(prm__enabled=False, advantage__estimator="gae", filter__accuracy_high=1.0)
    assert train(advantage__semantics="paper", advantage__gamma_process=0.9).advantage.gamma_process == 0.9
    assert train(evaluation__sources=["b.jsonl"], evaluation__temperature=0.0, evaluation__samples=1).evaluation.samples


def test_only_what_is_cut_is_named():
    assert train().rollout.cuts == {}
    assert train(rollout__top_k=5, rollout__min_p=0.1).rollout.cuts == {"rollout.top_k": 5, "rollout.min_p": 0.1}
    assert train(advantage__baseline="expected", rollout__stop=["x"], rollout__temperature=0.5).rollout.stop == ("x",)


def test_a_precision_is_there_once_it_is_chosen():
    assert train(model__compute="bf16").model.precision == "bf16"
    with pytest.raises(AssertionError):
        _ = train(model__compute="auto").model.precision


def test_one_switch_turns_a_prime_recipe_into_its_baseline():
    config = train(
        prm__enabled=False, prm__lr=1e-4, prm__warmup_steps=99, prm__update="none", advantage__process_coef=0.5
    )
    assert not config.prm.enabled


def test_sft_takes_a_model_or_builds_one():
    assert sft(model=None, architecture__layers=2).model is None
    assert "architecture" in refused(SftConfig, {"architecture.layers": 2})
    assert "architecture" in refused(SftConfig, {"model": None})


@pytest.mark.parametrize("options", [{"run.steps": None}, {"run.steps": 0}, {"sft.epochs": 1.0}])
def test_sft_takes_steps_or_epochs(options: dict[str, Any]):
    assert sft(run__steps=None, sft__epochs=0.5).run.steps == 0
    assert "sft.epochs" in refused(SftConfig, options)


def test_the_best_checkpoint_of_sft_can_be_known():
    best = {"checkpoint.best": 1, "checkpoint.metric": "-sft/held_out_loss", "checkpoint.every": 6}
    known = best | {"sft.held_out_share": 0.1, "sft.evaluate_every": 3}
    assert build(SftConfig, changed(SFT, known)).checkpoint.best == 1
    assert build(SftConfig, changed(SFT, best | {"checkpoint.metric": "-sft/loss"})).checkpoint.best == 1
    assert "checkpoint.best" in refused(SftConfig, best)
    assert "checkpoint.best" in refused(SftConfig, known | {"sft.evaluate_every": 4})
    assert "checkpoint.metric" in refused(SftConfig, {"checkpoint.best": 1})


def test_the_best_checkpoint_of_an_offline_prm_can_be_known():
    best = {"checkpoint.best": 1, "checkpoint.metric": "offline/auc", "checkpoint.every": 6}
    known = best | {"offline.evaluate_every": 3}
    assert build(PrmTrainingConfig, changed(OFFLINE, known)).checkpoint.best == 1
    assert (
        build(PrmTrainingConfig, changed(OFFLINE, best | {"checkpoint.metric": "-offline/loss"})).checkpoint.best == 1
    )
    assert "checkpoint.best" in refused(PrmTrainingConfig, best)
    assert "checkpoint.metric" in refused(PrmTrainingConfig, {"checkpoint.best": 1})


@pytest.mark.parametrize(
    ("tree", "inner", "base"), [(SftRecipe, SftConfig, SFT), (PrmTrainingRecipe, PrmTrainingConfig, OFFLINE)]
)
def test_tuning_runs_on_ranks_but_not_on_ray(tree: Any, inner: Any, base: dict[str, Any]):
    recipe = build(tree, changed(base, {"launch.sharding": "full"}))
    assert recipe.config == build(inner, base)
    assert "launch.kind" in refused(tree, {"launch.kind": "ray"})
    assert "launch.offload" in refused(tree, {"launch.offload": True})


def test_nothing_is_written_back():
    with pytest.raises(dataclasses.FrozenInstanceError):
        train().rollout.prompts = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_sections_check_themselves():
    with pytest.raises(ValueError, match=r"prm\.minibatch"):
        PrmConfig(minibatch=0)


def test_responses_per_step():
    assert train(rollout__prompts=3, rollout__per_prompt=5).responses_per_step == 15


def test_there_are_few_enough_options_to_know_them():
    for tree, some in ((TrainConfig, {"run.steps", "prm.beta"}), (SftConfig, {"sft.lr", "architecture.width"})):
        keys = {key for key, _ in leaves(tree)}
        assert some <= keys
        assert len(keys) <= MOST_OPTIONS


def test_every_number_of_a_recipe_has_a_tested_range():
    tested = {key for key, _ in OUT_OF_RANGE + OUT_OF_RANGE_WITH_SOURCES + OUT_OF_RANGE_IN_SFT}
    tested |= {key for key, _ in OUT_OF_RANGE_WITH_A_CRITIC + OUT_OF_RANGE_WITH_INSTRUMENTS}
    tested |= {key for key, _ in OUT_OF_RANGE_WITH_ADAPTERS}
    tested |= {f"architecture.{name}" for name, _ in OUT_OF_RANGE_IN_ARCHITECTURE}
    tested |= {key for key, _ in OUT_OF_RANGE_ON_RAY + OUT_OF_RANGE_OFFLINE}
    numbers = {
        key
        for tree in (TrainRecipe, SftRecipe, PrmTrainingRecipe)
        for key, hint in leaves(tree)
        if hint in (int, float)
    }
    assert numbers <= tested


def documentation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_config", ROOT / "docs" / "make_config.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("tree", [TrainRecipe, SftRecipe, PrmTrainingRecipe])
def test_every_option_is_explained(tree: type):
    rows = documentation().option_docs(tree)
    assert [key for key, *_ in rows] == [key for key, _ in leaves(tree)]
    assert not [key for key, _, _, doc in rows if not doc.endswith((".", "?"))]


def test_option_docs_say_type_and_default():
    rows = {key: row for key, *row in documentation().option_docs(TrainConfig)}
    assert rows["run.steps"][:2] == ["whole number", "required"]
    assert rows["policy.lr"][:2] == ["number", "`5e-07`"]
    assert rows["advantage.normalizer_floor"][:2] == ["number", "unset"]
    assert rows["model.compute"][:2] == ["`fp32`, `bf16`, `auto`", '`"fp32"`']
    assert rows["data.train"][:2] == ["list of text", "required"]


def test_the_page_of_options_is_up_to_date():
    committed = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert committed == documentation().page(), "run: python docs/make_config.py"


def test_configuration_and_recipes_load_no_torch():
    code = "import sys, credo.config, credo.recipe; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "False"


def test_defaults_are_the_released_run():
    values = flat(train())
    assert (values["policy.lr"], values["prm.lr"], values["prm.beta"]) == (5e-7, 1e-6, 0.05)
    assert (values["rollout.per_prompt"], values["filter.accuracy_low"], values["filter.accuracy_high"]) == (
        4,
        0.2,
        0.8,
    )
    assert (values["prm.max_grad_norm"], values["advantage.semantics"], values["prm.update"]) == (
        10.0,
        "official",
        "after",
    )
