"""From a configuration to the objects of a run: which implementations, which problems, and which mistakes are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import PAIRS, tiny_config, tiny_model, tiny_parts, tiny_problems

from credo.assemble import Parts, assemble, fingerprint
from credo.config import ArchitectureConfig
from credo.console import Console
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


def test_a_prm_with_another_vocabulary_is_refused(tmp_path: Path):
    other = tiny_model(tmp_path / "other", alphabet="abcde=")
    assert "prm.path" in refused(tmp_path, prm__path=str(other))


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
    trained = {entry.prompt for entry in parts.collector.stream.take(len(PAIRS) - 3)}
    assert [entry.prompt for entry in parts.held_out] == [prompt for prompt, _ in PAIRS[:3]]
    assert trained == {prompt for prompt, _ in PAIRS[3:]}
    assert "3 training problems are also held out" in capsys.readouterr().out


def test_only_the_problems_that_are_used_are_held_out(tmp_path: Path):
    held_out = tiny_problems(tmp_path / "held-out.jsonl", PAIRS[:3])
    parts = parts_of(tmp_path, evaluation__sources=[str(held_out)], evaluation__limit=1)
    assert len(parts.held_out) == 1
    assert len({entry.prompt for entry in parts.collector.stream.take(15)}) == 15


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
    assert "abcdabcda" not in {entry.prompt for entry in parts.collector.stream.take(16)}
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


def test_a_fingerprint_knows_every_weight():
    shape = ArchitectureConfig(layers=1, width=16, heads=2, alphabet="ab")
    one, same, other = (build_model(shape, seed=seed) for seed in (0, 0, 1))
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)
    with torch.no_grad():
        list(same.model.parameters())[-1].view(-1)[-1] += 1e-6
    assert fingerprint(one) != fingerprint(same)
