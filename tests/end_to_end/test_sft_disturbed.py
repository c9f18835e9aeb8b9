"""Warm-ups that are killed and started again, and those of several ranks, are that of one undisturbed process."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from credo.checkpoint import newest_whole
from credo.cli import main
from credo.config import SftConfig
from credo.dist.world import World
from credo.recipe import build, to_toml
from credo.sft import sft
from tests.ranks import STARTER, run_ranks
from tests.tiny import PAIRS, lines, tiny_model, untimed

STEPS, TOGETHER = 40, 12
"""Steps of a run that is killed, and of one that ranks make together."""
LONGEST_WAIT = 120.0


def config_of(folder: Path, *, model: str = "", **sections: dict[str, Any]) -> SftConfig:
    """Batches of 5 of 13 demonstrations, so that epochs and batches do not meet; a share is held out."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"prompt": prompt, "response": letter * (1 + index % 5)} for index, (prompt, letter) in enumerate(PAIRS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values: dict[str, dict[str, Any]] = {
        "run": {"name": "run", "folder": str(folder / "runs"), "steps": STEPS, "threads": 1, "device": "cpu"},
        "model": {"path": model or str(tiny_model(folder / "model"))},
        "sft": {
            "sources": [str(folder / "rows.jsonl")],
            "batch": 5,
            "lr": 1e-2,
            "held_out_share": 0.2,
            "evaluate_every": 3,
        },
        "checkpoint": {"every": 4},
        "training": {"tokens_per_microbatch": 20},
    }
    for name, options in sections.items():
        values[name] = values.get(name, {}) | options
    return build(SftConfig, values)


def remembered(run: Path) -> tuple[list[dict[str, Any]], bytes]:
    return untimed(lines(run / "metrics.jsonl")), (run / "model" / "model.safetensors").read_bytes()


def steps_of(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_run_killed_twice_is_the_run_that_was_not(tmp_path: Path, asynchronous: bool):
    undisturbed = config_of(tmp_path / "calm")
    sft(undisturbed)
    config = config_of(tmp_path / "killed", checkpoint={"every": 4, "asynchronous": asynchronous})
    (tmp_path / "killed" / "recipe.toml").write_text(to_toml(config))
    run, chance = tmp_path / "killed" / "runs" / "run", random.Random(4)
    command = ["sft", str(tmp_path / "killed" / "recipe.toml")]
    for least in (6, 20):
        process = STARTER.Process(target=main, args=(command,))
        process.start()
        limit = time.monotonic() + LONGEST_WAIT
        least += chance.randint(0, 3)
        while steps_of(run) < least or not list(run.glob("checkpoints/step-??????")):
            assert time.monotonic() < limit
            assert process.exitcode is None
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        whole = newest_whole(run / "checkpoints", pytest.fail)
        assert whole is not None
        assert 0 < whole.step < STEPS
        assert not (run / "model").exists()
    sft(config)
    assert remembered(run) == remembered(tmp_path / "calm" / "runs" / "run")


def tuned(world: World, folder: Path) -> list[dict[str, Any]]:
    options = {"folder": str(folder / "runs"), "steps": TOGETHER}
    config = config_of(folder / f"rank-{world.rank}", model=str(folder / "model"), run=options)
    sft(config, world=world)
    return untimed(lines(folder / "runs" / "run" / "metrics.jsonl"))


@pytest.mark.parametrize(("ranks", "sharding"), [(2, "none"), (2, "full"), (3, "full")])
def test_ranks_learn_what_one_does(tmp_path: Path, ranks: int, sharding: Any):
    for name in ("one", "several"):
        tiny_model(tmp_path / name / "model")
    expected = tuned(World(), tmp_path / "one")
    for written in run_ranks(ranks, tuned, tmp_path / "several", sharding=sharding):
        assert [row["step"] for row in written] == [row["step"] for row in expected]
        for row, other in zip(written, expected, strict=True):
            assert row == pytest.approx(other, abs=1e-5, rel=1e-5)
    one, several = (load_file(tmp_path / name / "runs/run/model/model.safetensors") for name in ("one", "several"))
    assert one.keys() == several.keys()
    assert all(torch.allclose(one[name], several[name], atol=1e-5) for name in one)


def test_what_one_has_begun_several_finish(tmp_path: Path):
    tiny_model(tmp_path / "model")
    expected = tuned(World(), tmp_path)
    run = tmp_path / "runs" / "run"
    weights = load_file(run / "model" / "model.safetensors")
    for folder in ("model", f"checkpoints/step-{TOGETHER:06d}"):
        shutil.rmtree(run / folder)
    written = run_ranks(2, tuned, tmp_path, sharding="full")[0]
    assert written[:9] == expected[:9], "what was made before the checkpoint of step 8 stays"
    assert written[-1] == pytest.approx(expected[-1], abs=1e-5, rel=1e-5)
    again = load_file(run / "model" / "model.safetensors")
    assert all(torch.allclose(again[name], weights[name], atol=1e-5) for name in weights)
