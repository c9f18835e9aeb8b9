"""The plan for a cluster as text: its columns are the estimates, and its words say what to set and what not to buy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from counted import counted_llama

from credo.cli import main
from credo.config import TrainConfig
from credo.models.size import size_text
from credo.planning.cluster import cluster_plan
from credo.planning.estimate import estimate
from credo.planning.gpus import gpu_named
from credo.planning.plan import model_sizes
from credo.recipe import build

SEVEN = "no-such-owner/Some-7B"
PAPER: dict[str, Any] = {
    "model__compute": "bf16",
    "data__max_prompt_tokens": 1024,
    "rollout__max_tokens": 3072,
    "rollout__prompts": 256,
    "rollout__concurrent": 128,
    "training__tokens_per_microbatch": 4096,
    "training__gradient_checkpointing": True,
}
LEAN: dict[str, Any] = {"rollout__packed": False, "rollout__concurrent": 64}


def config(path: str, **options: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "run": {"name": "demo", "steps": 5},
        "model": {"path": path},
        "data": {"train": ["a.jsonl"]},
    }
    for key, value in options.items():
        section, name = key.split("__")
        values.setdefault(section, {})[name] = value
    return build(TrainConfig, values)


def cells(text: str, row: str) -> list[str]:
    """The columns of the line that begins with ``row``."""
    line = next(line for line in text.splitlines() if line.strip().startswith(row))
    return re.split(r"\s{2,}", line.strip())[1:]


def words(text: str) -> str:
    return " ".join(text.split("In words\n")[1].split())


def test_a_column_is_the_estimate_for_so_many(tmp_path: Path):
    settings = config(counted_llama(tmp_path), rollout__prompts=512)
    text = cluster_plan(settings, "h100", "8,64,512")
    made = [estimate(settings, model_sizes(settings), gpu_named("h100"), count) for count in (8, 64, 512)]
    assert cells(text, "GPUs") == ["8", "64", "512"]
    assert cells(text, "launch.sharding") == ["none", "none", "none"]
    assert cells(text, "sampling: key-value cache") == [size_text(one.footprint.cache) for one in made]
    assert cells(text, "most at once") == [size_text(one.footprint.peak) for one in made]
    assert cells(text, "seconds a step") == [f"{one.seconds.total:,.1f} s" for one in made]
    assert cells(text, "seconds x GPUs")[0] == "1.00 x"
    assert "learning: layers" not in text, "fp32 and whole models need none"
    assert "critic" not in text


def test_a_guessed_shape_is_said_to_be_one(tmp_path: Path):
    assert "policy: 7,615,616,512 parameters (taken to be shaped like Qwen2.5-7B)" in " ".join(
        cluster_plan(config(SEVEN), "h100", "8").split()
    )
    assert "taken to be" not in cluster_plan(config(counted_llama(tmp_path)), "h100", "8")


def test_a_7b_is_spread_over_eight_gpus_and_offloaded_or_computed_again():
    text = cluster_plan(config(SEVEN, **PAPER), "a800", "8")
    assert cells(text, "launch.sharding") == ["full + offload"]
    assert "launch.offload" in words(text)
    kept = PAPER | LEAN | {"training__gradient_checkpointing": False}
    assert "training.gradient_checkpointing does without" in words(cluster_plan(config(SEVEN, **kept), "a800", "8"))
    spared = cluster_plan(config(SEVEN, **(PAPER | LEAN)), "a800", "8")
    assert cells(spared, "launch.sharding") == ["full"]
    assert "launch.offload" not in words(spared)


def test_what_does_not_fit_is_said_with_what_to_change():
    text = words(cluster_plan(config(SEVEN, **PAPER), "4090", "1"))
    assert "1 GPU: does not fit into 21.6 of 24 GiB" in text
    assert "lora.rank" in text
    assert "each doubling" not in text


def test_gpus_without_work_are_counted():
    text = words(cluster_plan(config(SEVEN, **PAPER), "h100", "2048"))
    assert "Only 256 GPUs have a prompt to answer." in text
    assert "An optimiser step of 256 responses leaves 1,792 GPUs without one." in text
    assert "leaves" not in words(cluster_plan(config(SEVEN, **PAPER), "h100", "256"))


def test_where_one_long_response_is_waited_for():
    assert "1.6 responses of an optimiser step a GPU" in words(cluster_plan(config(SEVEN, **PAPER), "h100", "160"))
    assert "of an optimiser step a GPU" not in words(cluster_plan(config(SEVEN, **PAPER), "h100", "128"))


def test_an_engine_that_starts_operations_one_by_one_is_said_to():
    eager = words(cluster_plan(config(SEVEN, **PAPER), "h100", "8"))
    assert "rollout.engine = 'vllm'" in eager
    graphs = words(cluster_plan(config(SEVEN, **PAPER, rollout__engine="vllm"), "h100", "8"))
    assert "rollout.engine" not in graphs
    assert "rollout.engine" not in words(cluster_plan(config(SEVEN, **PAPER, lora__rank=8), "h100", "8"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--gpus", "8"], "--gpus and --gpu go together"),
        (["--gpu", "h100"], "--gpus and --gpu go together"),
        (["--gpus", "8", "--gpu", "h10"], "Did you mean h100?"),
        (["--gpus", "0", "--gpu", "h100"], "expected 1 or more, got 0"),
        (["--gpus", "8,x", "--gpu", "h100"], "got '8,x'"),
        (["--gpus", "8", "--gpu", "h100", "--model.path", "absent"], "absent"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str):
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'[run]\nname = "r"\nsteps = 1\n[model]\npath = "{SEVEN}"\n[data]\ntrain = ["a.jsonl"]\n')
    with pytest.raises(SystemExit) as left:
        main(["plan", str(recipe), *flags])
    printed = capsys.readouterr()
    assert left.value.code == 1
    assert said in printed.err
    assert printed.out == ""


def test_the_command_prints_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'[run]\nname = "r"\nsteps = 1\n[model]\npath = "{SEVEN}"\n[data]\ntrain = ["a.jsonl"]\n')
    main(["plan", str(recipe), "--gpus=64", "--rollout.prompts", "256", "--gpu=h200"])
    assert capsys.readouterr().out == cluster_plan(config(SEVEN, rollout__prompts=256), "h200", "64") + "\n"


def test_help_names_the_flags(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        main(["plan", "--help"])
    assert left.value.code == 0
    assert "--gpus N" in capsys.readouterr().out
