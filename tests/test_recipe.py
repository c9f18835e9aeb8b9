"""Recipes: files merged in order, flags on top, every mistake named, and TOML that reads back as it was."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from credo.config import LaunchConfig, SftConfig, TrainConfig, TrainRecipe
from credo.recipe import build, flat, leaves, read_recipe, to_toml

RECIPE = """
[run]
name = "x"
steps = 10
[model]
path = "m"
[data]
train = ["a.jsonl"]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def written(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def with_flags(recipe: Path, *flags: str) -> TrainConfig:
    return read_recipe(TrainConfig, [recipe], flags)


def refusal(*paths: Path, flags: tuple[str, ...] = ()) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        read_recipe(TrainConfig, paths, flags)
    assert type(error.value) is ValueError
    return str(error.value)


def test_later_files_win_and_sections_are_merged(tmp_path: Path, recipe: Path):
    larger = written(tmp_path, "larger.toml", '[run]\nsteps = 20\n[data]\ntrain = ["b.jsonl", "c.jsonl"]\n')
    longer = written(tmp_path, "longer.toml", "[run]\nsteps = 30\n[rollout]\nprompts = 8\n")
    config = read_recipe(TrainConfig, [recipe, larger, longer])
    assert (config.run.name, config.run.steps, config.rollout.prompts) == ("x", 30, 8)
    assert config.data.train == ("b.jsonl", "c.jsonl"), "a list replaces the list before it"
    assert read_recipe(TrainConfig, [longer, larger, recipe]).run.steps == 10


def test_flags_win_over_files(recipe: Path):
    assert with_flags(recipe, "--run.steps", "7", "--run.name=y").run.steps == 7
    assert with_flags(recipe, "--run.steps", "7", "--run.steps", "8").run.steps == 8


@pytest.mark.parametrize(
    ("flags", "key", "value"),
    [
        (["--rollout.temperature", "0.7"], "rollout.temperature", 0.7),
        (["--rollout.temperature=0.7"], "rollout.temperature", 0.7),
        (["--rollout.temperature", ".7"], "rollout.temperature", 0.7),
        (["--rollout.temperature", "1"], "rollout.temperature", 1.0),
        (["--policy.lr", "1e-6"], "policy.lr", 1e-6),
        (["--rollout.max-tokens", "64"], "rollout.max_tokens", 64),
        (["--rollout.per-prompt=8"], "rollout.per_prompt", 8),
        (["--prm.enabled", "false"], "prm.enabled", False),
        (["--prm.enabled=False"], "prm.enabled", False),
        (["--filter.drop_unanimous", "true"], "filter.drop_unanimous", True),
        (["--filter.drop_unanimous", "True"], "filter.drop_unanimous", True),
        (["--run.name", "true"], "run.name", "true"),
        (["--run.name", "7"], "run.name", "7"),
        (["--data.suffix=a = b"], "data.suffix", "a = b"),
        (["--data.suffix=--think"], "data.suffix", "--think"),
        (["--data.suffix", ""], "data.suffix", ""),
        (["--data.train", "b.jsonl"], "data.train", ("b.jsonl",)),
        (["--data.train", "gym:chain_sum?size=10&seed=1"], "data.train", ("gym:chain_sum?size=10&seed=1",)),
        (["--data.train", '["b.jsonl", "c.jsonl"]'], "data.train", ("b.jsonl", "c.jsonl")),
        (["--data.train", "7"], "data.train", ("7",)),
        (["--run.trackers", "[]"], "run.trackers", ()),
        (["--advantage.normalizer_floor", "0.1"], "advantage.normalizer_floor", 0.1),
        (["--advantage.semantics", "paper"], "advantage.semantics", "paper"),
    ],
)
def test_flags_are_read_as_people_type_them(recipe: Path, flags: list[str], key: str, value: Any):
    found = flat(with_flags(recipe, *flags))[key]
    assert found == value
    assert type(found) is type(value)


def test_a_negative_number_is_a_value(recipe: Path):
    assert "-1" in refusal(recipe, flags=("--run.seed", "-1"))
    assert "-0.5" in refusal(recipe, flags=("--rollout.temperature", "-0.5"))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--rollout.temprature", "1"), "'rollout.temperature'"),
        (("--temperature", "1"), ".temperature'"),
        (("--rolout.max-tokens", "1"), "'rollout.max_tokens'"),
        (("--rollout.clip_low", "0.1"), "'policy.clip_low'"),
        (("--rollout", "1"), "rollout"),
        (("steps", "1"), "'steps'"),
        (("--run.steps",), "run.steps"),
        (("--run.name", "--run.steps", "1"), "run.name"),
        (("--run.steps", "many"), "run.steps"),
        (("--run.steps", "1.5"), "run.steps"),
        (("--rollout.temperature", "hot"), "rollout.temperature"),
        (("--rollout.temperature", "nan"), "rollout.temperature"),
        (("--prm.enabled", "1"), "prm.enabled"),
        (("--prm.update", "afterwards"), "'after'"),
        (("--run.trackers", "wandbd"), "'wandb'"),
        (("--data.train", '["a"'), "data.train"),
    ],
)
def test_a_wrong_flag_is_named(recipe: Path, flags: tuple[str, ...], named: str):
    assert named in refusal(recipe, flags=flags)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[rollout]\ntemprature = 1.0", "'rollout.temperature'"),
        ("[training]\nclip_low = 0.1", "'policy.clip_low'"),
        ("[rolout]\nprompts = 1", "'rollout'"),
        ("steps = 3", "'run.steps'"),
        ("[rollout]\nzzz = 1", "rollout.prompts"),
        ("[zzzzzz]\nyyy = 1", "rollout"),
        ("rollout = 3", "rollout is a section"),
        ("[[rollout]]\nprompts = 3", "rollout is a section"),
        ("[rollout]\nprompts = 1.5", "rollout.prompts"),
        ("[rollout]\nprompts = '8'", "rollout.prompts"),
        ("[rollout]\nprompts = true", "rollout.prompts"),
        ("[rollout]\ntemperature = 'hot'", "rollout.temperature"),
        ("[rollout]\ntemperature = inf", "rollout.temperature"),
        ("[rollout]\ntemperature = false", "rollout.temperature"),
        ("[prm]\nenabled = 1", "prm.enabled"),
        ("[prm]\nupdate = 'afer'", "'after'"),
        ("[prm]\nupdate = 3", "prm.update"),
        ("[prm]\nupdate = ['after']", "prm.update"),
        ("[data]\ntrain = 'a.jsonl'", "data.train"),
        ("[data]\ntrain = [1]", "data.train"),
        ("[run]\nname = 2024-01-01", "run.name"),
        ("[advantage]\nnormalizer_floor = 'low'", "advantage.normalizer_floor"),
        ("[run\nname = 3", "TOML"),
    ],
)
def test_a_mistake_in_a_file_names_the_file_and_the_key(tmp_path: Path, recipe: Path, text: str, named: str):
    wrong = written(tmp_path, "wrong.toml", text)
    for order in ((recipe, wrong), (wrong, recipe)):
        sentence = refusal(*order)
        assert named in sentence
        assert "wrong.toml" in sentence
        assert "recipe.toml" not in sentence


def test_whole_numbers_do_for_numbers(tmp_path: Path, recipe: Path):
    config = read_recipe(TrainConfig, [recipe, written(tmp_path, "b.toml", "[rollout]\ntemperature = 1")])
    assert config.rollout.temperature == 1.0
    assert type(config.rollout.temperature) is float


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, "'run.name'"),
        ({"run": {"name": "x"}}, "'run.steps'"),
        ({"run": {"name": "x", "steps": 1}, "data": {"train": ["a"]}}, "'model.path'"),
        ({"run": {"name": "x", "steps": 1}, "model": {"path": "m"}, "data": {"kind": "math"}}, "'data.train'"),
    ],
)
def test_what_is_missing_is_named(values: dict[str, Any], named: str):
    with pytest.raises(ValueError, match=named):
        build(TrainConfig, values)


def test_files_that_cannot_be_read(tmp_path: Path):
    assert "absent.toml" in refusal(tmp_path / "absent.toml")
    assert str(tmp_path) in refusal(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"[run]\nname = '\xe9'")
    assert "latin.toml" in refusal(tmp_path / "latin.toml")


def test_a_byte_order_mark_does_no_harm(tmp_path: Path):
    (tmp_path / "marked.toml").write_bytes(b"\xef\xbb\xbf" + RECIPE.encode())
    assert read_recipe(TrainConfig, [tmp_path / "marked.toml"]).run.steps == 10


ODD_VALUES = {
    "run": {"name": 'a "quoted" \\ name', "steps": 3, "trackers": ["wandb", "tensorboard"]},
    "model": {"path": "m"},
    "data": {"train": ["a.jsonl", "gym:x?a=b&c=d"], "suffix": "line\none\ttab \x7f \x01 é 漢 \U0001f600"},
    "policy": {"lr": 1e-9},
    "advantage": {"normalizer_floor": 1e16},
    "prm": {"enabled": False},
}


def test_toml_reads_back_as_it_was(tmp_path: Path):
    config = build(TrainConfig, ODD_VALUES)
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert read_recipe(TrainConfig, [path]) == config


def test_toml_reads_back_without_the_optional_section(tmp_path: Path):
    values = {"run": {"name": "x", "steps": 1}, "sft": {"sources": ["trace:chain_sum"]}, "architecture": {"layers": 2}}
    config = build(SftConfig, values)
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert "[model]" not in path.read_text(encoding="utf-8")
    assert read_recipe(SftConfig, [path]) == config


def test_a_recipe_may_say_where_the_run_runs(tmp_path: Path, recipe: Path):
    placed = written(tmp_path, "placed.toml", '[launch]\nkind = "ray"\nworkers = 4\n')
    read = read_recipe(TrainRecipe, [recipe, placed], ["--launch.workers", "8", "--launch.sharding=full"])
    assert read.launch == LaunchConfig(kind="ray", workers=8, sharding="full")
    assert read.config == with_flags(recipe)
    assert type(read.config) is TrainConfig, "what is written down of a run knows nothing of it"
    assert "launch" not in to_toml(read.config)
    assert read_recipe(TrainRecipe, [recipe]).launch == LaunchConfig()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--launch.worker", "2"], "'launch.workers'"),
        (["--lunch.workers", "2"], "'launch.workers'"),
        (["--launch.kind", "rai"], "'ray'"),
        (["--rollout.temprature", "1"], "'rollout.temperature'"),
        (["--launch.workers", "2"], "launch.kind = 'auto'"),
        (["--policy.lr", "0"], "policy.lr"),
    ],
)
def test_a_mistake_beside_the_launch_is_named(recipe: Path, flags: list[str], named: str):
    with pytest.raises(ValueError, match=re.escape(named)):
        read_recipe(TrainRecipe, [recipe], flags)


def test_flat_has_every_option_that_is_set(recipe: Path):
    config = with_flags(recipe)
    unset = {f"advantage.{name}" for name in ("baseline", "normalizer", "normalizer_floor", "whitening")}
    assert set(flat(config)) == {key for key, _ in leaves(TrainConfig)} - unset
    assert flat(config)["data.train"] == ("a.jsonl",)


def test_leaves_are_sections_unfolded_also_optional_ones():
    kinds = dict(leaves(SftConfig))
    assert kinds["architecture.layers"] is int
    assert kinds["model.path"] is str
    assert "model" not in kinds


def test_the_values_given_stay_as_they_were():
    values = {"run": {"name": "x", "steps": 1}, "model": {"path": "m"}, "data": {"train": ["a"]}}
    build(TrainConfig, values)
    assert values == {"run": {"name": "x", "steps": 1}, "model": {"path": "m"}, "data": {"train": ["a"]}}
