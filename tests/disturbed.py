"""Runs to be killed and started again: processes of their own, and a recipe that has much to remember between steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from ranks import STARTER
from tiny import PAIRS, tiny_problems, tiny_recipe

from credo.cli import main

LONGEST_END = 60.0


def filtered(steps: int) -> dict[str, Any]:
    """What a tiny recipe says for ``steps`` steps from which groups too hard and too easy are dropped."""
    return {
        "run__steps": steps,
        "rollout__prompts": 3,
        "filter__accuracy_low": 0.2,
        "filter__accuracy_high": 0.8,
        "filter__max_empty_steps": steps,
    }


def eventful_recipe(folder: Path, steps: int, **changes: Any) -> Path:
    """A tiny recipe of filtered groups and evaluations; a surplus is kept while ``prm__warmup_steps`` last."""
    folder.mkdir(parents=True)
    held_out = tiny_problems(folder / "held-out.jsonl", PAIRS[:3])
    return tiny_recipe(folder, **filtered(steps), evaluation__sources=[str(held_out)], **changes)


@contextmanager
def started(path: Path) -> Iterator[ForkServerProcess]:
    """``credo train`` in a process of its own, which does not outlive the block."""
    process = STARTER.Process(target=main, args=(["train", str(path)],))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join(LONGEST_END)


def steps_of(run: Path) -> int:
    """Lines of metrics.jsonl."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0
