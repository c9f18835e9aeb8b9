"""The loop of a run that tunes one model: what is logged, saved and published, and where it goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import lines, tiny_model

from credo.config import SftConfig
from credo.dist.world import World
from credo.interruption import ask_to_end
from credo.models.causal import load_model
from credo.models.optim import Optimizer, constant
from credo.recipe import build
from credo.tuning import Journal, Learner, tune


class Counting:
    """Adds the number of each batch to all its weights, and remembers what was asked of it."""

    def __init__(self, model: Path, *, steps: int, every: int = 0, learnt_from: str = "these") -> None:
        self.start = load_model(str(model))
        parameters = self.start.model.parameters()
        optimizer = Optimizer(parameters, lr=0.0, schedule=constant(0), weight_decay=0.0, max_grad_norm=1.0)
        self.learner = Learner(model=self.start.model, optimizer=optimizer)
        self.tokenizer, self.steps, self.evaluate_every, self.learnt_from = (
            self.start.tokenizer,
            steps,
            every,
            learnt_from,
        )
        self.asked: list[str] = []
        self.after: Callable[[int], None] = lambda done: None

    def batches(self) -> Iterator[int]:
        return iter(range(1, self.steps + 1))

    @torch.no_grad()
    def step(self, done: int, batch: int) -> dict[str, float]:
        self.asked.append(f"step {batch}")
        for weight in self.learner.model.parameters():
            weight += batch
        self.after(batch)
        return {"sft/loss": float(batch)}

    def validate(self, step: int) -> dict[str, float]:
        self.asked.append(f"validate {step}")
        return {"sft/held_out_loss": float(step)}

    def complete(self, folder: Path) -> None:
        (folder / "beside.txt").write_text(f"{len(self.asked)}")


def config_of(folder: Path, **sections: dict[str, Any]) -> SftConfig:
    run = {"name": "run", "folder": str(folder), "steps": 5, "threads": 1, "device": "cpu"}
    values = {"run": run, "model": {"path": "model"}, "sft": {"sources": ["x.jsonl"]}, "checkpoint": {"every": 2}}
    return build(SftConfig, values | sections)


def made(folder: Path, tuning: Counting) -> list[str]:
    """What was asked of ``tuning`` in a run of it."""

    def make(config: SftConfig, journal: Journal) -> Counting:
        return tuning

    assert tune(config_of(folder), "model", make, world=World()) == folder / "run" / "model"
    return tuning.asked


def first_weight(folder: Path) -> float:
    return next(iter(load_file(folder / "model.safetensors").values())).flatten()[0].item()


def test_the_order_of_a_run(tmp_path: Path):
    start = tiny_model(tmp_path / "start")
    asked = made(tmp_path, Counting(start, steps=5, every=2))
    steps = ["step 1", "step 2", "validate 2", "step 3", "step 4", "validate 4", "step 5", "validate 5"]
    assert asked == ["validate 0", *steps]
    run = tmp_path / "run"
    written = lines(run / "metrics.jsonl")
    assert [row["step"] for row in written] == [0, 1, 2, 3, 4, 5]
    assert [row.get("sft/held_out_loss") for row in written] == [0.0, None, 2.0, None, 4.0, 5.0]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-000004", "step-000005"]
    assert first_weight(run / "model") == pytest.approx(first_weight(start) + 15.0)
    assert (run / "model" / "beside.txt").read_text() == "9"
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_run_asked_to_end_saves_and_goes_on(tmp_path: Path):
    start = tiny_model(tmp_path / "start")
    first = Counting(start, steps=5)
    first.after = lambda done: ask_to_end() if done == 3 else None
    assert made(tmp_path, first) == ["validate 0", "step 1", "step 2", "step 3"]
    assert not (tmp_path / "run" / "model").exists()
    assert made(tmp_path, Counting(start, steps=5)) == ["step 4", "step 5", "validate 5"]
    assert first_weight(tmp_path / "run" / "model") == pytest.approx(first_weight(start) + 15.0)
    assert made(tmp_path, Counting(start, steps=5)) == [], "it is finished"


def test_one_asked_to_end_before_it_began_begins_again(tmp_path: Path):
    start = tiny_model(tmp_path / "start")

    def interrupted(config: SftConfig, journal: Journal) -> Counting:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("not reached")

    tune(config_of(tmp_path), "model", interrupted, world=World())
    assert not (tmp_path / "run" / "model").exists()
    assert made(tmp_path, Counting(start, steps=5))[-1] == "validate 5"


def test_the_copy_elsewhere_is_asked_for_half_of_what_other_ranks_wait(tmp_path: Path):
    start, world, limits = tiny_model(tmp_path / "start"), World(timeout=8.0), []

    def make(config: SftConfig, journal: Journal) -> Counting:
        assert journal.saver.remote is not None
        limits.append(journal.saver.remote.limit)
        return Counting(start, steps=5)

    tune(config_of(tmp_path, checkpoint={"remote": f"file://{tmp_path}/away"}), "model", make, world=world)
    assert limits == [4.0]


def test_another_source_does_not_continue_a_run(tmp_path: Path):
    start = tiny_model(tmp_path / "start")
    first = Counting(start, steps=5)
    first.after = lambda done: ask_to_end() if done == 1 else None
    made(tmp_path, first)
    with pytest.raises(ValueError, match="is not what the run"):
        made(tmp_path, Counting(start, steps=5, learnt_from="those"))
