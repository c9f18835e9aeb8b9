"""Every recipe: it parses, it is called what its file is, its header promises numbers, its plan needs no network."""

from __future__ import annotations

import re
import shlex
import socket
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from credo.config import PrmTrainingConfig, PrmTrainingRecipe, SftConfig, SftRecipe, TrainConfig
from credo.planning import plan as planning
from credo.planning.plan import model_size, plan
from credo.recipe import read_recipe

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
PROMISES = ("command", "machine", "time", "expected")
"""What the comment at the top of a recipe has to say, each behind its name and a colon."""
size_once = cache(model_size)
"""Reading the header of a .gguf file takes seconds, and two recipes name the same one."""


def command_of(path: Path) -> str:
    """``sft``, ``prm train`` or ``train``, by the sections of the recipe."""
    sections = tomllib.loads(path.read_text(encoding="utf-8"))
    return "sft" if "sft" in sections else "prm train" if "offline" in sections else "train"


def read(path: Path, flags: list[str] | None = None) -> SftConfig | PrmTrainingConfig | TrainConfig:
    trees: dict[str, Any] = {"sft": SftRecipe, "prm train": PrmTrainingRecipe, "train": TrainConfig}
    tree = trees[command_of(path)]
    return read_recipe(tree, [path], flags or [])


def header(text: str) -> dict[str, str]:
    """The entries of the comment that ``text`` begins with, by their names in lower case."""
    comment = [line[1:].strip() for line in text.split("\n\n[")[0].splitlines() if line.startswith("#")]
    entries: dict[str, str] = {}
    name = ""
    for line in comment:
        found = re.match(rf"({'|'.join(PROMISES)}):\s*(.*)", line, re.IGNORECASE)
        if found:
            name, line = found[1].lower(), found[2]
        entries[name] = f"{entries.get(name, '')}\n{line}".strip()
    return entries


def test_headers_are_read_to_their_end():
    text = (
        "# A run.\n#\n# Command:  credo train a.toml\n# Time:     1 h\n#           or 2\n\n[run]\n# Machine: below it\n"
    )
    assert header(text) == {"": "A run.", "command": "credo train a.toml", "time": "1 h\nor 2"}


def test_there_are_recipes():
    assert {"demo-sft", "demo", "eurus2-7b"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_parses_and_runs_in_a_folder_of_its_own_name(path: Path):
    assert read(path).run.name == path.stem


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_to_expect(path: Path):
    said = header(path.read_text(encoding="utf-8"))
    assert [name for name in PROMISES if not said.get(name)] == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_command_in_the_header_runs_this_recipe(path: Path):
    said = header(path.read_text(encoding="utf-8")).get("command", "")
    commands = [shlex.split(line, comments=True) for line in said.splitlines() if f"recipes/{path.name}" in line]
    words = next((words[words.index("credo") + 1 :] for words in commands if "credo" in words), [])
    expected = [*command_of(path).split(), f"recipes/{path.name}"]
    assert words[: len(expected)] == expected
    read(path, words[len(expected) :])


@pytest.mark.parametrize("path", [path for path in RECIPES if command_of(path) == "train"], ids=lambda path: path.stem)
def test_a_training_recipe_can_be_planned_without_a_network(path: Path, monkeypatch: pytest.MonkeyPatch):
    attempts: list[object] = []

    def unreachable(*address: object) -> None:
        attempts.append(address)  # counted as well: clients take the error for a network that is down
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(planning, "model_size", size_once)
    config = read(path)
    assert isinstance(config, TrainConfig)
    text = plan(config)
    assert text.startswith(f"{path.stem}: {config.run.steps:,} steps")
    assert f"= {config.responses_per_step:,} responses" in text
    assert attempts == []


def test_the_paper_s_run_takes_four_optimiser_steps_a_batch_and_keeps_undecided_groups():
    config = read(ROOT / "recipes" / "eurus2-7b.toml")
    assert isinstance(config, TrainConfig)
    text = plan(config)
    assert text.count("4 optimiser steps of 256") == 2
    assert "keeps groups with 1 to 3 correct of 4" in text
    assert config.run.steps * config.rollout.prompts == 151_552  # the paper's 150K prompts
