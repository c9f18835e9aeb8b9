"""Runs that are killed or stopped anywhere and started again are the runs that nobody disturbed, number by number."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from disturbed import eventful_recipe, filtered, started, steps_of
from learners import OPTIMIZERS
from ranks import STARTER
from safetensors.torch import load_file
from tiny import lines, tiny_recipe, untimed

from credo.checkpoint import newest_whole
from credo.cli import main
from credo.loggers import JsonlLogger

STEPS = 14
LONGEST_WAIT = 120.0


def recipe(folder: Path) -> Path:
    """Filtered groups, a surplus that is kept while the PRM warms up, evaluations between checkpoints."""
    return eventful_recipe(folder, STEPS, prm__warmup_steps=4, evaluation__every=4, checkpoint__every=3)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "x"
    main(["train", str(recipe(folder))])
    rows = lines(folder / "runs" / "run" / "metrics.jsonl")
    assert any(row["filter/reused"] for row in rows), "a surplus is carried from step to step"
    assert any(row["filter/too_hard"] for row in rows)
    return folder / "runs" / "run"


def ended(process: ForkServerProcess) -> int | None:
    """Its exit status, as soon as it has one."""
    process.join(LONGEST_WAIT)
    return process.exitcode


def wait_for(steps: range, run: Path, process: ForkServerProcess) -> None:
    """Returns when metrics.jsonl has a number of lines that lies in ``steps``."""
    limit = time.monotonic() + LONGEST_WAIT
    while steps_of(run) not in steps:
        assert time.monotonic() < limit, "the run does not move"
        assert process.exitcode is None, "the run ended"
        time.sleep(0.003)


def remembered(run: Path) -> tuple[Any, ...]:
    """Everything of a run that must not depend on how often it was disturbed."""
    last = run / "checkpoints" / f"step-{STEPS:06d}"
    state = json.loads((last / "state.json").read_text())
    manifest = json.loads((last / "manifest.json").read_text())
    manifest.pop("state.json")  # it holds the run's folder
    manifest.pop(OPTIMIZERS)  # the same tensors can be written in other bytes
    learnt = {name: tensor.tolist() for name, tensor in load_file(last / OPTIMIZERS).items()}
    learnt.pop("random")  # torch's own generator, from which no run draws
    return (
        untimed(lines(run / "metrics.jsonl")),
        lines(run / "evaluation.jsonl") if (run / "evaluation.jsonl").exists() else [],
        [lines(path) for path in sorted((run / "rollouts").iterdir())],
        manifest | learnt,
        {name: state[name] for name in state.keys() - {"config"}},
    )


def test_a_run_killed_three_times_is_the_run_that_was_not(tmp_path: Path, undisturbed: Path):
    path, run, chance = recipe(tmp_path / "x"), tmp_path / "x" / "runs" / "run", random.Random(20250702)
    for _ in range(3):
        whole = newest_whole(run / "checkpoints", pytest.fail) if run.exists() else None
        begun = whole.step if whole else 0
        with started(path) as process:
            wait_for(range(begun + 1), run, process)  # what was written after the checkpoint is cut off
            wait_for(range(begun + chance.randint(1, 4), STEPS), run, process)
            time.sleep(chance.random() * 0.1)
            process.kill()
            assert ended(process) == -signal.SIGKILL
        assert 0 < steps_of(run) < STEPS
    with started(path) as process:
        assert ended(process) == 0
    assert remembered(run) == remembered(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_told_to_stop_saves_and_goes_on(tmp_path: Path, undisturbed: Path, number: signal.Signals):
    path, run = recipe(tmp_path / "x"), tmp_path / "x" / "runs" / "run"
    with started(path) as process:
        wait_for(range(5, STEPS), run, process)
        told = time.monotonic()
        os.kill(process.pid or 0, number)
        assert ended(process) == 0
        assert time.monotonic() - told < 10
    whole = newest_whole(run / "checkpoints", pytest.fail)
    assert whole is not None
    assert 5 <= whole.step == steps_of(run) < STEPS, "every finished step is saved"
    main(["train", str(path)])
    assert remembered(run) == remembered(undisturbed)


STATEFUL: dict[str, dict[str, Any]] = {
    "gae": {
        "advantage__estimator": "gae",
        "advantage__gate_accuracy": 0.9,
        "advantage__control": "shuffled",
        "critic__lr": 1e-2,
        "critic__warmup_steps": 2,
        "prm__update": "before",
        "prm__ema": 0.7,
        "prm__loss": "bon_rm",
        "prm__top_layers": 1,
        "policy__kl_coef": 0.1,
    },
    "remax": {
        "advantage__estimator": "remax",
        "advantage__control": "shuffled",
        "prm__reference": "policy",
        "prm__ema": 0.7,
        "prm__granularity": "step",
        "prm__step_boundary": "regex",
        "prm__step_pattern": "[abcd]",
        "prm__warmup_steps": 5,
    },
}
"""As much of what a run remembers as goes together; both with a memory of solve rates and measurements of the PRM."""


def stateful(folder: Path, name: str) -> Path:
    folder.mkdir()
    return tiny_recipe(
        folder,
        **filtered(STEPS),
        rollout__max_tokens=3,
        filter__memory_floor=0.05,
        instruments__every=2,
        instruments__prefixes=3,
        instruments__completions=2,
        checkpoint__every=3,
        **STATEFUL[name],
    )


def disturbed(path: str, number: signal.Signals, at: int) -> None:
    """``credo train`` that is sent the signal ``number`` as soon as the metrics of step ``at`` are written."""
    log = JsonlLogger.log

    def log_and_signal(self: JsonlLogger, step: int, metrics: Mapping[str, float]) -> None:
        log(self, step, metrics)
        if step == at:
            os.kill(os.getpid(), number)

    JsonlLogger.log = log_and_signal  # in a process of its own
    main(["train", path])


@pytest.mark.parametrize("name", STATEFUL)
def test_whatever_a_run_remembers_outlives_a_kill_and_a_stop(tmp_path: Path, name: str):
    whole, path, run = stateful(tmp_path / "whole", name), stateful(tmp_path / "x", name), tmp_path / "x" / "runs/run"
    main(["train", str(whole)])
    for number, at, status in ((signal.SIGKILL, 5, -signal.SIGKILL), (signal.SIGTERM, 8, 0)):
        process = STARTER.Process(target=disturbed, args=(str(path), number, at))
        process.start()
        assert ended(process) == status
        assert steps_of(run) == at
    main(["train", str(path)])
    expected = remembered(tmp_path / "whole" / "runs" / "run")
    assert remembered(run) == expected
    rows, _, _, manifest, state = expected
    assert any(row["filter/passed_over"] for row in rows), "the memory has a say"
    assert any(row.get("prm/prefix_stretches") for row in rows)
    assert "prm-average/model.safetensors" in manifest
    assert any(key.startswith("critic-weights/") for key in manifest) == (name == "gae")
    if name == "gae":
        assert any(0 < row.get("prm/gate", 0) < 1 for row in rows)
        assert len(state["gate"]["accuracies"]) == 5
    else:
        assert any(row["filter/reused"] for row in rows), "a surplus with greedy responses is carried"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_run_that_lost_its_disk_goes_on_from_the_copy(tmp_path: Path, asynchronous: bool):
    options = {"checkpoint__remote": f"file://{tmp_path}/away", "checkpoint__asynchronous": asynchronous}
    options |= {"run__steps": 8, "checkpoint__best": 1, "checkpoint__metric": "-prm/loss"}
    whole, lost = (tmp_path / name for name in ("whole", "lost"))
    main(["train", str(tiny_recipe(whole, **options, run__name="whole"))])
    path, run = tiny_recipe(lost, **options), lost / "runs" / "run"
    main(["train", str(path), "--run.steps", "5"])
    shutil.rmtree(run)
    main(["train", str(path)])
    rows, expected = (untimed(lines(folder / "metrics.jsonl")) for folder in (run, whole / "runs" / "whole"))
    assert rows == expected
    last, other = (folder / "checkpoints" / "step-000008" for folder in (run, whole / "runs" / "whole"))
    for role in ("policy", "prm"):
        assert (last / role / "model.safetensors").read_bytes() == (other / role / "model.safetensors").read_bytes()
    kept, copied = (
        sorted(path.name for path in (tmp_path / "away" / name / "checkpoints").iterdir()) for name in ("run", "whole")
    )
    best = min((row for row in rows if row["step"] in (2, 4, 6)), key=lambda row: row["prm/loss"])["step"]
    assert kept == copied == sorted({f"step-{step:06d}" for step in (best, 6, 8)})
