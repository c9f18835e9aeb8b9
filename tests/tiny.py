"""The smallest real run: a one-layer model on disk, a file of problems and a recipe, all made in milliseconds.

The task is to say the first letter of a prompt such as ``bd=``; the first character of a response is its answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from credo.assemble import Parts, assemble
from credo.collect import Collector
from credo.config import ArchitectureConfig, TrainConfig
from credo.console import Console
from credo.dist.world import World
from credo.models.causal import CausalModel, build_model, save_model
from credo.recipe import read_recipe, toml_value
from credo.rollout.engine import SamplingParams
from credo.rollout.torch_engine import TorchEngine
from credo.types import Group, Problem, Verdict
from credo.verify_resume import TIMED

LETTERS = "abcd"
PAIRS = [(f"{first}{second}=", first) for first in LETTERS for second in LETTERS]
"""Prompts with their answers."""


def tiny_model(folder: Path, *, seed: int = 0, width: int = 16, alphabet: str = f"{LETTERS}=") -> Path:
    """A random one-layer model with a token per character, saved in ``folder``."""
    shape = ArchitectureConfig(layers=1, width=width, heads=2, positions=16, alphabet=alphabet)
    built = build_model(shape, seed=seed)
    save_model(built.model, built.tokenizer, folder)
    return folder


def tiny_problems(path: Path, pairs: Sequence[tuple[str, str]] = PAIRS) -> Path:
    """A JSONL file of problems."""
    path.write_text("".join(json.dumps({"prompt": prompt, "answer": answer}) + "\n" for prompt, answer in pairs))
    return path


def tiny_recipe(folder: Path, **changes: Any) -> Path:
    """``folder/recipe.toml`` with its model and its problems beside it; ``changes`` as in ``prm__lr=1e-3``.

    A change to None leaves the key out. The run is called ``run`` and lives in ``folder/runs``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model").exists():
        tiny_model(folder / "model")
    if not (folder / "train.jsonl").exists():
        tiny_problems(folder / "train.jsonl")
    path = folder / "recipe.toml"
    path.write_text(_toml(tiny_values(folder, **changes)))
    return path


def tiny_values(folder: Path = Path(), **changes: Any) -> dict[str, dict[str, Any]]:
    """The keys of :func:`tiny_recipe`, with nothing written."""
    values: dict[str, dict[str, Any]] = {
        "run": {"name": "run", "folder": str(folder / "runs"), "steps": 3, "seed": 1, "threads": 1, "device": "cpu"},
        "model": {"path": str(folder / "model")},
        "data": {"train": [str(folder / "train.jsonl")], "kind": "exact", "max_prompt_tokens": 8},
        "rollout": {"prompts": 4, "per_prompt": 4, "max_tokens": 2},
        "verify": {"extract": "regex", "pattern": "^.", "workers": 1, "deadline": 60.0},
        "filter": {"accuracy_low": 0.0, "accuracy_high": 1.0},
        "prm": {"lr": 1e-2},
        "policy": {"lr": 1e-2},
        "checkpoint": {"every": 2},
    }
    for key, value in changes.items():
        section, name = key.split("__")
        values.setdefault(section, {})[name] = value
    return {
        section: {name: value for name, value in entries.items() if value is not None}
        for section, entries in values.items()
    }


def tiny_config(folder: Path, **changes: Any) -> TrainConfig:
    """The configuration of :func:`tiny_recipe`."""
    return read_recipe(TrainConfig, [tiny_recipe(folder, **changes)])


def tiny_parts(folder: Path, **changes: Any) -> tuple[TrainConfig, Parts]:
    """The configuration and the objects of a run; close ``parts.verifier`` after use."""
    config = tiny_config(folder, **changes)
    return config, assemble(config, World(), Console())


def collector_of(parts: Parts) -> Collector:
    """The collector of a run that samples nothing ahead."""
    assert isinstance(parts.collector, Collector)
    return parts.collector


def tiny_groups(
    start: CausalModel,
    *,
    prompts: Sequence[tuple[int, ...]],
    per_prompt: int,
    max_tokens: int,
    temperature: float = 1.0,
) -> tuple[Group, ...]:
    """Groups sampled from ``start``, in which every other response counts as correct."""
    engine = TorchEngine(start.model, eos_ids=start.eos_ids, pad_id=start.pad_id, concurrent=64)
    params = SamplingParams(temperature=temperature, max_tokens=max_tokens)
    sampled = engine.sample(prompts, per_prompt, params, seeds=range(len(prompts)))
    verdicts = tuple(Verdict(score=float(k % 2)) for k in range(per_prompt))
    return tuple(
        Group(
            problem=Problem(id=str(index), kind="exact", prompt=str(prompt), answer="a", source="tiny"),
            rollouts=tuple(rollouts),
            responses=("",) * per_prompt,
            verdicts=verdicts,
        )
        for index, (prompt, rollouts) in enumerate(zip(prompts, sampled, strict=True))
    )


def lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def untimed(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl without what differs between two runs that are the same."""
    return [{key: row[key] for key in row if not key.startswith(TIMED)} for row in rows]


def _toml(values: Mapping[str, Mapping[str, Any]]) -> str:
    said = [
        [f"[{section}]", *(f"{name} = {toml_value(value)}" for name, value in entries.items())]
        for section, entries in values.items()
    ]
    return "\n".join(line for section in said for line in section) + "\n"
