"""Runs that are killed or stopped anywhere and started again are the runs that nobody disturbed, number by number."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from tiny import PAIRS, lines, tiny_problems, tiny_recipe, untimed

from credo.checkpoint import newest_whole
from credo.cli import main

STEPS = 14
LONGEST_WAIT = 120.0
STARTER = multiprocessing.get_context("forkserver")
STARTER.set_forkserver_preload(["credo.train", "transformers.models.llama.modeling_llama"])
"""Runs are forked off a process that has imported what they need and done nothing else."""


def recipe(folder: Path) -> Path:
    """Filtered groups, a surplus that is kept while the PRM warms up, evaluations between checkpoints."""
    folder.mkdir()
    held_out = tiny_problems(folder / "held-out.jsonl", PAIRS[:3])
    return tiny_recipe(
        folder,
        run__steps=STEPS,
        rollout__prompts=3,
        filter__accuracy_low=0.2,
        filter__accuracy_high=0.8,
        filter__max_empty_steps=STEPS,
        prm__warmup_steps=4,
        evaluation__sources=[str(held_out)],
        evaluation__every=4,
        checkpoint__every=3,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "x"
    main(["train", str(recipe(folder))])
    rows = lines(folder / "runs" / "run" / "metrics.jsonl")
    assert any(row["filter/reused"] for row in rows), "a surplus is carried from step to step"
    assert any(row["filter/too_hard"] for row in rows)
    return folder / "runs" / "run"


@contextmanager
def started(path: Path) -> Iterator[ForkServerProcess]:
    """``credo train`` in a process of its own."""
    process = STARTER.Process(target=main, args=(["train", str(path)],))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join(LONGEST_WAIT)


def ended(process: ForkServerProcess) -> int | None:
    """Its exit status, as soon as it has one."""
    process.join(LONGEST_WAIT)
    return process.exitcode


def steps_of(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


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
    return (
        untimed(lines(run / "metrics.jsonl")),
        lines(run / "evaluation.jsonl"),
        [lines(path) for path in sorted((run / "rollouts").iterdir())],
        (last / "policy" / "model.safetensors").read_bytes(),
        (last / "prm" / "model.safetensors").read_bytes(),
        state["collector"],
        state["watch"],
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
