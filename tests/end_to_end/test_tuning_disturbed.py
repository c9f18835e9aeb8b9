"""Warm-ups and offline PRMs that are killed and started again, or made by several ranks, are those of one process."""

from __future__ import annotations

import io
import json
import os
import random
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from credo.checkpoint import newest_whole
from credo.cli import main
from credo.config import PrmTrainingConfig, SftConfig
from credo.dist.world import World
from credo.offline.training import train_prm
from credo.recipe import build, to_toml
from credo.sft import _Sft, sft
from credo.tuning import Journal, tune
from tests.disturbed import steps_of
from tests.ranks import STARTER, run_ranks
from tests.tiny import LETTERS, PAIRS, lines, tiny_model, untimed

STEPS, TOGETHER = 40, 12
"""Steps of a run that is killed, and of one that ranks make together."""
LONGEST_WAIT = 120.0
WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A command that tunes one model."""

    words: tuple[str, ...]
    tree: Any
    run: Callable[..., Path]
    learns: dict[str, Any]
    """Its section of a recipe: batches of 5 of 13 demonstrations, or of 24 responses, so that epochs and batches do not
    meet; a share is held out."""


LEARNS = {"batch": 5, "lr": 1e-2, "held_out_share": 0.2, "evaluate_every": 3}
KINDS = {
    "sft": Kind(words=("sft",), tree=SftConfig, run=sft, learns={"sft": LEARNS}),
    "prm": Kind(words=("prm", "train"), tree=PrmTrainingConfig, run=train_prm, learns={"offline": LEARNS}),
    "kto": Kind(
        words=("prm", "train"), tree=PrmTrainingConfig, run=train_prm, learns={"offline": LEARNS | {"loss": "kto"}}
    ),
}


def config_of(kind: str, folder: Path, *, model: str = "", **sections: dict[str, Any]) -> Any:
    """Its sources are as many demonstrations as there are pairs, or twice as many responses, half of them right."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for index, (prompt, letter) in enumerate(PAIRS):
        rows.append({"prompt": prompt, "response": letter * (1 + index % 5)})
        if kind != "sft":
            rows[-1]["label"] = True
            rows.append({"prompt": prompt, "response": LETTERS[index % 3] * 2, "label": False})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values: dict[str, dict[str, Any]] = {
        "run": {"name": "run", "folder": str(folder / "runs"), "steps": STEPS, "threads": 1, "device": "cpu"},
        "model": {"path": model or str(tiny_model(folder / "model"))},
        "checkpoint": {"every": 4},
        "training": {"tokens_per_microbatch": 20},
    }
    for name, options in KINDS[kind].learns.items():
        values[name] = {"sources": [str(folder / "rows.jsonl")], **options}
    for name, options in sections.items():
        values[name] = values.get(name, {}) | options
    return build(KINDS[kind].tree, values)


def model_of(run: Path) -> Path:
    """The folder of the finished model, if there is one."""
    return run / ("model" if (run / "model").exists() else "prm")


def remembered(run: Path) -> tuple[list[dict[str, Any]], bytes]:
    return untimed(lines(run / "metrics.jsonl")), (model_of(run) / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("kind", "asynchronous"), [("sft", False), ("sft", True), ("prm", False), ("kto", True)])
def test_a_run_killed_twice_is_the_run_that_was_not(tmp_path: Path, kind: str, asynchronous: bool):
    train = KINDS[kind].run
    train(config_of(kind, tmp_path / "calm"))
    config = config_of(kind, tmp_path / "killed", checkpoint={"every": 4, "asynchronous": asynchronous})
    (tmp_path / "killed" / "recipe.toml").write_text(to_toml(config))
    run, chance = tmp_path / "killed" / "runs" / "run", random.Random(4)
    command = [*KINDS[kind].words, str(tmp_path / "killed" / "recipe.toml")]
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
        assert not model_of(run).exists()
    train(config)
    assert remembered(run) == remembered(tmp_path / "calm" / "runs" / "run")


def tuned(world: World, kind: str, folder: Path) -> list[dict[str, Any]]:
    options = {"folder": str(folder / "runs"), "steps": TOGETHER}
    config = config_of(kind, folder / f"rank-{world.rank}", model=str(folder / "model"), run=options)
    KINDS[kind].run(config, world=world)
    return untimed(lines(folder / "runs" / "run" / "metrics.jsonl"))


@pytest.mark.parametrize(
    ("kind", "ranks", "sharding"), [("sft", 2, "none"), ("sft", 3, "full"), ("prm", 2, "full"), ("kto", 3, "none")]
)
def test_ranks_learn_what_one_does(tmp_path: Path, kind: str, ranks: int, sharding: Any):
    for name in ("one", "several"):
        tiny_model(tmp_path / name / "model")
    expected = tuned(World(), kind, tmp_path / "one")
    for written in run_ranks(ranks, tuned, kind, tmp_path / "several", sharding=sharding):
        assert [row["step"] for row in written] == [row["step"] for row in expected]
        for row, other in zip(written, expected, strict=True):
            assert row == pytest.approx(other, abs=1e-5, rel=1e-5)
    one, several = (load_file(model_of(tmp_path / name / "runs/run") / WEIGHTS) for name in ("one", "several"))
    assert one.keys() == several.keys()
    assert all(torch.allclose(one[name], several[name], atol=1e-5) for name in one)


class Disturbed(_Sft):
    """A warm-up that calls ``disturbance`` in the middle of its third step."""

    def __init__(self, config: SftConfig, journal: Journal, world: World, disturbance: Callable[[], None]) -> None:
        super().__init__(config, journal.console, world)
        self.disturbance = disturbance

    def step(self, done: int, rows: Any) -> dict[str, float]:
        if done == 2:
            self.disturbance()
        return super().step(done, rows)


def disturbed(world: World, folder: Path, who: int, disturbance: Callable[[Path], None]) -> str:
    """What the rank says when ``disturbance``, told of the run's folder, comes over the rank ``who``."""
    options = {"folder": str(folder / "runs"), "steps": TOGETHER}
    sections: dict[str, Any] = {"run": options, "sft": {"evaluate_every": 0}, "checkpoint": {"every": 100}}
    config = config_of("sft", folder / f"rank-{world.rank}", model=str(folder / "model"), **sections)
    come = partial(disturbance, folder / "runs" / "run") if world.rank == who else lambda: None
    out = redirect_stdout(io.StringIO())  # which may be a file that is full too
    with out, pytest.raises((RuntimeError, OSError)) as error:
        tune(config, "model", lambda config, journal: Disturbed(config, journal, world, come), world=world)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return str(error.value)


def die(run: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def say_and_wait(world: World, folder: Path, said: Path) -> None:
    said.write_text(disturbed(world, folder, 1, die))


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_rank_that_loses_another_names_the_stage(tmp_path: Path, sharding: Any):
    tiny_model(tmp_path / "model")
    with pytest.raises(AssertionError, match="rank 1 of 2: exit status -9"):
        run_ranks(2, say_and_wait, tmp_path, tmp_path / "said.txt", sharding=sharding)
    said = (tmp_path / "said.txt").read_text()
    assert "Rank 0 of 2 waited" in said
    assert "in 'learning' for the others" in said
    assert "rank 1 in 'learning since" in said


def fill(run: Path) -> None:
    """No file of this process may become longer than the metrics are."""
    size = (run / "metrics.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_full_disk_is_said_on_all_ranks(tmp_path: Path):
    tiny_model(tmp_path / "model")
    first, second = run_ranks(2, disturbed, tmp_path, 0, fill)
    assert "File too large" in first
    assert re.search("Rank 0 of 2 failed in 'learning'.*File too large", second)


def on_a_disk_of_its_own(world: World, folder: Path) -> str:
    """What the rank says of a run whose folder is another one on each rank."""
    (folder / str(world.rank)).mkdir(exist_ok=True)
    os.chdir(folder / str(world.rank))
    options = {"folder": "runs", "steps": TOGETHER}
    config = config_of("sft", folder / f"rank-{world.rank}", model=str(folder / "model"), run=options)
    try:
        sft(config, world=world)
    except RuntimeError as error:
        return str(error)
    return ""


def test_ranks_that_do_not_see_the_checkpoint_of_the_first_one_say_so(tmp_path: Path):
    tiny_model(tmp_path / "model")
    assert run_ranks(1, on_a_disk_of_its_own, tmp_path) == [""]
    shutil.rmtree(tmp_path / "0" / "runs" / "run" / "model")
    first, second = run_ranks(2, on_a_disk_of_its_own, tmp_path)
    assert "does not see runs/run/checkpoints/" in second
    assert re.search("Rank 1 of 2 failed .*does not see runs/run/checkpoints/", first)


@pytest.mark.parametrize("kind", ["sft", "prm"])
def test_what_one_has_begun_several_finish(tmp_path: Path, kind: str):
    tiny_model(tmp_path / "model")
    expected = tuned(World(), kind, tmp_path)
    run = tmp_path / "runs" / "run"
    weights = load_file(model_of(run) / WEIGHTS)
    for folder in (model_of(run).name, f"checkpoints/step-{TOGETHER:06d}"):
        shutil.rmtree(run / folder)
    written = run_ranks(2, tuned, kind, tmp_path, sharding="full")[0]
    assert written[:9] == expected[:9], "what was made before the checkpoint of step 8 stays"
    assert written[-1] == pytest.approx(expected[-1], abs=1e-5, rel=1e-5)
    again = load_file(model_of(run) / WEIGHTS)
    assert all(torch.allclose(again[name], weights[name], atol=1e-5) for name in weights)
