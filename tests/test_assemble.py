"""From a configuration to the objects of a run: which implementations, which problems, and which mistakes are named."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import PAIRS, collector_of, tiny_config, tiny_model, tiny_parts, tiny_problems

from credo.assemble import Parts, assemble, fingerprint
from credo.config import ArchitectureConfig
from credo.console import Console
from credo.data.prm_record import PrmRecord, Prompting, write_record
from credo.dist.world import World
from credo.models.causal import build_model, load_model
from credo.models.prm import Prm
from credo.models.reference import Reference
from credo.rollout.torch_engine import TorchEngine
from credo.types import Problem


def parts_of(folder: Path, **changes: Any) -> Parts:
    _, parts = tiny_parts(folder, **changes)
    parts.verifier.close()
    return parts


def problem(prompt: str) -> Problem:
    return Problem(id="1", kind="exact", prompt=prompt, answer="a", source="here")


def refused(folder: Path, **changes: Any) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        parts_of(folder, **changes)
    return str(error.value)


def test_prm_and_reference_start_from_the_policy_and_share_nothing_with_it(tmp_path: Path):
    parts = parts_of(tmp_path)
    assert isinstance(parts.prm, Prm)
    assert isinstance(parts.reference, Reference)
    models = (parts.policy.model, parts.prm.model, parts.reference.model)
    first, *others = ([*model.parameters()] for model in models)
    for other in others:
        for mine, theirs in zip(first, other, strict=True):
            assert torch.equal(mine, theirs)
            assert mine.data_ptr() != theirs.data_ptr()
    assert not any(parameter.requires_grad for parameter in parts.reference.model.parameters())


def test_outcome_only_runs_load_neither_prm_nor_reference(tmp_path: Path):
    parts = parts_of(tmp_path, prm__enabled=False, filter__accuracy_low=0.2, filter__accuracy_high=0.8)
    assert parts.prm is None
    assert parts.reference is None


def test_the_policy_can_be_its_own_reference(tmp_path: Path):
    parts = parts_of(tmp_path, prm__reference="policy")
    assert parts.reference is parts.policy


def test_the_prm_may_start_from_other_weights(tmp_path: Path):
    other = tiny_model(tmp_path / "other", seed=1)
    parts = parts_of(tmp_path, prm__path=str(other))
    assert parts.prm is not None
    assert fingerprint(load_model(str(other))) != parts.fingerprint
    loaded = load_model(str(other)).model.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in parts.prm.model.state_dict().items())


def same_weights(one: Any, other: Any) -> bool:
    return all(torch.equal(*pair) for pair in zip(one.parameters(), other.parameters(), strict=True))


def test_the_reference_may_be_the_prms_start_or_a_third_model(tmp_path: Path):
    other, third = (str(tiny_model(tmp_path / name, seed=seed)) for name, seed in (("other", 1), ("third", 2)))
    for changes, path in (({"prm__reference": "own"}, other), ({"prm__reference_path": third}, third)):
        parts = parts_of(tmp_path, prm__path=other, **changes)
        assert isinstance(parts.reference, Reference)
        assert parts.prm is not None
        assert same_weights(parts.reference.model, load_model(path).model)
        assert parts.reference.model is not parts.prm.model
        assert not any(parameter.requires_grad for parameter in parts.reference.model.parameters())
        assert all(parameter.requires_grad for parameter in parts.prm.model.parameters())


def test_an_offline_prm_beside_another_reference_or_beta_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other, third = (tiny_model(tmp_path / name, seed=seed) for name, seed in (("other", 1), ("third", 2)))
    sha256 = fingerprint(load_model(str(third)))
    record = PrmRecord(
        beta=0.05, loss="ce", reference=str(third), reference_sha256=sha256, prompting=Prompting(), steps=1
    )
    write_record(other, record)

    def said(**changes: Any) -> str:
        parts_of(tmp_path, prm__path=str(other), **changes)
        return "".join(capsys.readouterr())

    assert "was trained against" not in said(prm__reference_path=str(third))
    itself = {"prm__reference": "own"}
    for changes in ({}, {"prm__reference": "policy"}, itself, {"prm__top_layers": 1, **itself}):
        assert f"was trained against {third}" in said(**changes)
    assert "trained with beta 0.05" in said(prm__beta=0.1, prm__reference_path=str(third))
    assert "trained with beta" not in said()


@pytest.mark.parametrize("reference", [{"reference": "own"}, {"reference_path": "other"}, {}], ids=str)
def test_a_prm_on_the_layers_of_its_reference(tmp_path: Path, reference: dict[str, str]):
    other = str(tiny_model(tmp_path / "other", seed=1))
    start = {"prm__path": other} if reference else {}
    start |= {f"prm__{key}": other if value == "other" else value for key, value in reference.items()}
    parts = parts_of(tmp_path, prm__top_layers=1, **start)
    assert parts.prm is not None
    assert isinstance(parts.reference, Reference)
    assert parts.prm.trunk is not None
    assert parts.prm.trunk is parts.reference.trunk
    assert parts.prm.trunk.model is parts.reference.model
    assert same_weights(parts.prm.model, load_model(other if reference else str(tmp_path / "model")).model)
    assert same_weights(parts.prm.model, parts.reference.model)
    own = {weight for weight in parts.prm.model.parameters() if weight.requires_grad}
    assert {*parts.prm.model.parameters()} - own < {*parts.reference.model.parameters()}
    assert not own & {*parts.reference.model.parameters()}
    assert all(weight.requires_grad for weight in parts.policy.model.parameters())
    assert not {*parts.policy.model.parameters()} & {*parts.prm.model.parameters()}
    assert "prm.top_layers" in refused(tmp_path, prm__top_layers=2)


@pytest.mark.parametrize(
    ("changes", "shared"),
    [
        ({}, True),
        ({"prm__path": "other"}, True),
        ({"prm__reference_path": "other"}, False),
        ({"prm__path": "other", "prm__reference": "own"}, False),
        ({"prm__reference": "policy"}, False),
        ({"prm__enabled": False, "filter__drop_unanimous": True}, False),
    ],
    ids=str,
)
def test_the_anchor_is_the_policys_start(tmp_path: Path, changes: dict[str, Any], shared: bool):
    other = str(tiny_model(tmp_path / "other", seed=1))
    changes = {key: other if value == "other" else value for key, value in changes.items()}
    parts = parts_of(tmp_path, policy__kl_coef=0.1, **changes)
    assert parts.anchor is not None
    assert (parts.anchor is parts.reference) == shared, "one model is held once"
    assert same_weights(parts.anchor.model, load_model(str(tmp_path / "model")).model)
    assert parts.anchor.model is not parts.policy.model
    assert not any(parameter.requires_grad for parameter in parts.anchor.model.parameters())
    assert all(parameter.requires_grad for parameter in parts.policy.model.parameters())


def test_what_nobody_reads_is_not_made(tmp_path: Path):
    parts = parts_of(tmp_path)
    assert (parts.anchor, parts.critic, parts.step_ends) == (None, None, None)
    assert parts.prm is not None
    assert parts.prm.average is None
    assert collector_of(parts).stream.memory is None
    assert not collector_of(parts).greedy
    assert parts.gate.open(0.0) == 1.0
    ratios, mask = torch.randn(2, 3), torch.ones(2, 3, dtype=torch.bool)
    assert parts.control(ratios, mask, 0) is ratios


def test_options_reach_the_part_that_reads_them(tmp_path: Path):
    parts = parts_of(
        tmp_path,
        advantage__estimator="gae",
        advantage__gate_accuracy=0.75,
        advantage__gae_lambda=0.9,
        advantage__normalizer_floor=0.5,
        critic__lr=1e-3,
        policy__minibatch=7,
        policy__max_grad_norm=3.0,
        prm__granularity="step",
        prm__beta=0.2,
        prm__ema=0.5,
        filter__memory_floor=0.25,
        filter__accuracy_low=0.1,
        filter__length_matched=True,
    )
    critic, rules, memory = parts.critic, parts.rules, collector_of(parts).stream.memory
    assert critic is not None
    assert (critic.minibatch, critic.optimizer.lr, critic.optimizer.max_grad_norm) == (7, 1e-3, 3.0)
    assert same_weights(critic.model.trunk, parts.policy.model.base_model)
    assert critic.model.trunk is not parts.policy.model.base_model
    assert (rules.estimator, rules.gae_lambda, rules.beta, rules.granularity) == ("gae", 0.9, 0.2, "step")
    assert (rules.normalizer_floor, rules.normalizer, rules.whitening) == (0.5, None, None)
    assert parts.gate.open(0.625) == pytest.approx(0.5)
    assert parts.step_ends is not None
    assert memory is not None
    assert (memory.floor, memory.per_prompt, memory.low, memory.high, memory.drop_unanimous) == (0.25, 4, 0.1, 1, True)
    assert collector_of(parts_of(tmp_path, advantage__estimator="remax")).greedy


@pytest.mark.parametrize(("estimator", "least"), [("rloo", 2), ("grpo", 2), ("reinforce", 1), ("gae", 1), ("remax", 1)])
def test_a_baseline_of_others_needs_two(tmp_path: Path, estimator: str, least: int):
    assert collector_of(parts_of(tmp_path, advantage__estimator=estimator)).least_judged == least


@pytest.mark.parametrize("control", ["shuffled", "random"])
def test_a_control_draws_anew_at_every_step_and_the_same_in_every_run(tmp_path: Path, control: str):
    ratios, mask = torch.arange(40.0).view(2, 20), torch.ones(2, 20, dtype=torch.bool)
    one, same = (parts_of(tmp_path, advantage__control=control).control for _ in range(2))
    other = parts_of(tmp_path, advantage__control=control, run__seed=2).control
    first = one(ratios, mask, 0)
    assert first is not None
    assert torch.equal(first, same(ratios, mask, 0))  # pyright: ignore[reportArgumentType]
    for another in (one(ratios, mask, 1), other(ratios, mask, 0), ratios):
        assert another is not None
        assert not torch.equal(first, another)
    assert one(None, mask, 0) is None, "without a PRM there is nothing to replace"


def test_a_prm_with_another_vocabulary_is_refused(tmp_path: Path):
    other = tiny_model(tmp_path / "other", alphabet="abcde=")
    assert "prm.path" in refused(tmp_path, prm__path=str(other))
    assert "prm.reference_path" in refused(tmp_path, prm__reference_path=str(other))


def test_the_embedded_engine_samples_from_the_policy_itself(tmp_path: Path):
    parts = parts_of(tmp_path)
    assert isinstance(parts.engine, TorchEngine)
    assert parts.engine.model is parts.policy.model


def test_a_prompt_goes_to_tokens_and_back(tmp_path: Path):
    parts = parts_of(tmp_path, data__suffix="=")
    ids = parts.encode(problem("ab"))
    assert parts.decode(ids) == "ab="
    assert parts.decode((*ids, parts.start.pad_id, *parts.start.eos_ids)) == "ab=", "special tokens are left out"


def test_held_out_problems_are_taken_out_of_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    held_out = tiny_problems(tmp_path / "held-out.jsonl", PAIRS[:3])
    parts = parts_of(tmp_path, evaluation__sources=[str(held_out)])
    trained = {entry.prompt for entry in collector_of(parts).stream.take(len(PAIRS) - 3)}
    assert [entry.prompt for entry in parts.held_out] == [prompt for prompt, _ in PAIRS[:3]]
    assert trained == {prompt for prompt, _ in PAIRS[3:]}
    assert "3 training problems are also held out" in capsys.readouterr().out


def test_only_the_problems_that_are_used_are_held_out(tmp_path: Path):
    held_out = tiny_problems(tmp_path / "held-out.jsonl", PAIRS[:3])
    parts = parts_of(tmp_path, evaluation__sources=[str(held_out)], evaluation__limit=1)
    assert len(parts.held_out) == 1
    assert len({entry.prompt for entry in collector_of(parts).stream.take(15)}) == 15


def test_nothing_left_to_train_on_is_refused(tmp_path: Path):
    assert "evaluation.sources" in refused(tmp_path, evaluation__sources=[str(tiny_problems(tmp_path / "same.jsonl"))])


def test_a_prompt_over_the_limit_is_refused_by_name_or_dropped_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    tiny_problems(tmp_path / "train.jsonl", [*PAIRS, ("abcdabcda", "a")])
    sentence = refused(tmp_path)
    assert "train.jsonl:17" in sentence
    assert "9 tokens" in sentence
    capsys.readouterr()
    parts = parts_of(tmp_path, data__drop_long_prompts=True)
    assert "1 problems dropped" in capsys.readouterr().out
    assert "abcdabcda" not in {entry.prompt for entry in collector_of(parts).stream.take(16)}
    assert "max_prompt_tokens" in refused(tmp_path, data__drop_long_prompts=True, data__max_prompt_tokens=2)


def test_a_held_out_prompt_over_the_limit_is_refused_too(tmp_path: Path):
    held_out = tiny_problems(tmp_path / "held-out.jsonl", [("abcdabcda", "a")])
    assert "held-out.jsonl:1" in refused(tmp_path, evaluation__sources=[str(held_out)])


def test_unreadable_rows_are_said_where_they_are_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tiny_problems(tmp_path / "train.jsonl")
    path.write_text(path.read_text() + "nonsense\n")
    parts_of(tmp_path, data__max_bad_share=0.1)
    assert "train.jsonl, line 17" in capsys.readouterr().out


def test_data_is_read_before_a_model_is_loaded(tmp_path: Path):
    config = tiny_config(tmp_path, model__path=str(tmp_path / "absent"), data__train=[str(tmp_path / "missing.jsonl")])
    with pytest.raises(ValueError, match=r"missing\.jsonl"):
        assemble(config, World(), Console())


def test_the_sampler_gets_its_options_and_is_described_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    parts = parts_of(
        tmp_path,
        rollout__concurrent=7,
        rollout__cache_gb=0.25,
        rollout__top_k=3,
        rollout__top_p=0.9,
        rollout__min_p=0.01,
        rollout__stop=["==", "a"],
        model__compute="bf16",
    )
    engine, params = parts.engine, collector_of(parts).params
    assert isinstance(engine, TorchEngine)
    assert (engine.concurrent, engine.cache_bytes, engine.compute) == (7, 2**28, "bf16")
    assert (params.top_k, params.top_p, params.min_p, params.stop) == (3, 0.9, 0.01, ("==", "a"))
    assert capsys.readouterr().out.count(engine.summary) == 1
    unbounded = parts_of(tmp_path).engine
    assert isinstance(unbounded, TorchEngine)
    assert unbounded.cache_bytes is None


def test_a_bound_on_the_cache_too_small_for_one_sequence_is_refused(tmp_path: Path):
    parts = parts_of(tmp_path, rollout__cache_gb=1e-9)
    with pytest.raises(ValueError, match="keys"):
        parts.engine.sample([(3, 4)], 1, collector_of(parts).params, [0])


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed")
def test_an_engine_that_is_not_installed_names_its_extra(tmp_path: Path):
    assert "credo[vllm]" in refused(tmp_path, rollout__engine="vllm")


def test_a_fingerprint_knows_every_weight():
    shape = ArchitectureConfig(layers=1, width=16, heads=2, alphabet="ab")
    one, same, other = (build_model(shape, seed=seed) for seed in (0, 0, 1))
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)
    with torch.no_grad():
        list(same.model.parameters())[-1].view(-1)[-1] += 1e-6
    assert fingerprint(one) != fingerprint(same)
