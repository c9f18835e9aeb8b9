"""A run with LoRA roles learns, goes on where it was stopped, and leaves models that everyone can load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tiny import lines, tiny_model, tiny_parts, tiny_recipe, untimed

from credo.cli import main
from credo.models.causal import load_model, save_model
from credo.models.prm import Prm
from credo.models.reference import Reference

LORA: dict[str, Any] = {"lora__rank": 4, "lora__alpha": 16.0, "rollout__packed": False, "policy__kl_coef": 0.01}


def run(folder: Path, **changes: Any) -> Path:
    main(["train", str(tiny_recipe(folder, **LORA | changes))])
    return folder / "runs" / "run"


def test_it_learns(tmp_path: Path):
    start = load_model(str(tiny_model(tmp_path / "model", width=64)))
    with torch.no_grad():  # which stays, so it must let some tokens be far likelier than others
        next(start.model.get_input_embeddings().parameters()).mul_(2)
    save_model(start.model, start.tokenizer, tmp_path / "model")
    long = {"run__steps": 40, "rollout__prompts": 16, "rollout__per_prompt": 8, "checkpoint__every": 40}
    rows = lines(run(tmp_path, **long, lora__rank=16, advantage__process_coef=0.3) / "metrics.jsonl")
    accuracies = [row["rollout/accuracy"] for row in rows]
    assert sum(accuracies[:2]) / 2 < 0.25
    assert sum(accuracies[-3:]) / 3 > 0.45
    assert rows[0]["prm/informative_pair_accuracy"] == 0.5, "the PRM starts as its reference"
    assert max(row["prm/informative_pair_accuracy"] for row in rows) > 0.6


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path):
    whole = run(tmp_path / "whole", run__steps=4)
    run(tmp_path / "stopped", run__steps=2)
    stopped = run(tmp_path / "stopped", run__steps=4)
    assert untimed(lines(whole / "metrics.jsonl")) == untimed(lines(stopped / "metrics.jsonl"))
    last = Path("checkpoints") / "step-000004"
    for role in ("policy", "prm"):
        name = last / f"{role}-adapter" / "adapter_model.safetensors"
        one, other = load_file(whole / name), load_file(stopped / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
        assert any(one[key].any() for key in one if "lora_B" in key), "it has learnt"
    saved = load_model(str(whole / last / "policy")).model
    start = load_model(str(tmp_path / "whole" / "model")).model
    assert type(saved) is type(start)
    assert not all(torch.equal(*pair) for pair in zip(saved.parameters(), start.parameters(), strict=True))


def test_all_roles_share_the_weights_of_the_start(tmp_path: Path):
    for compute in ("fp32", "bf16"):
        _, parts = tiny_parts(tmp_path, **LORA, model__compute=compute)
        parts.verifier.close()
        assert isinstance(parts.prm, Prm)
        assert isinstance(parts.reference, Reference)
        assert parts.anchor is parts.reference
        assert parts.reference.model is parts.start.model
        shared = {id(weight) for weight in parts.start.model.parameters()}
        for model in (parts.policy.model, parts.prm.model):
            assert {id(weight) for weight in model.parameters() if not weight.requires_grad} == shared
        assert parts.fingerprint == tiny_parts_fingerprint(tmp_path)


def tiny_parts_fingerprint(folder: Path) -> str:
    """Of the same weights in a run that trains them all."""
    _, parts = tiny_parts(folder)
    parts.verifier.close()
    return parts.fingerprint


def test_the_policy_itself_can_be_the_reference(tmp_path: Path):
    _, parts = tiny_parts(tmp_path, **LORA, prm__reference="policy")
    parts.verifier.close()
    assert parts.reference is parts.policy
    assert parts.anchor is not None
    assert parts.anchor.model is parts.start.model
