"""Where a run is told to run, and every place in which it cannot. Runs on several ranks are in end_to_end."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import lines, tiny_config, tiny_model

from credo.config import LaunchConfig, SftRecipe
from credo.launch import launch, launch_sft
from credo.recipe import build


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nobody had started this process; what a launch sets is set back."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_MAX_RESTARTS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"):
        monkeypatch.setenv(name, os.environ.get(name, "5"))


def as_if_by_torchrun(monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": ranks}.items():
        monkeypatch.setenv(name, str(value))


def refusal(folder: Path, *, resume: str = "auto", **options: Any) -> str:
    """The sentence with which a launch is refused; nothing of a run is there afterwards."""
    with pytest.raises(ValueError) as error:  # noqa: PT011
        launch(tiny_config(folder), LaunchConfig(**options), resume=resume)
    assert type(error.value) is ValueError
    assert not (folder / "runs").exists()
    return str(error.value)


@pytest.mark.parametrize("kind", ["auto", "local"])
def test_a_run_that_nobody_started_runs_here(tmp_path: Path, kind: Any):
    launch(tiny_config(tmp_path, run__steps=1), LaunchConfig(kind=kind))
    assert [row["step"] for row in lines(tmp_path / "runs" / "run" / "metrics.jsonl")] == [1]


def test_a_rank_that_torchrun_started_alone_is_a_world_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    as_if_by_torchrun(monkeypatch, ranks=1)
    launch(tiny_config(tmp_path, run__steps=1), LaunchConfig())
    assert [row["step"] for row in lines(tmp_path / "runs" / "run" / "metrics.jsonl")] == [1]


@pytest.mark.parametrize("options", [{"sharding": "full"}, {"timeout": 60.0}])
def test_one_process_refuses_what_only_several_have(tmp_path: Path, options: dict[str, Any]):
    assert f"launch.{next(iter(options))}" in refusal(tmp_path, **options)


@pytest.mark.parametrize("waited_for", [{"checkpoint__remote": "file://{}/away"}, {"checkpoint__asynchronous": True}])
def test_one_process_waits_for_its_checkpoints_as_long_as_it_is_told(tmp_path: Path, waited_for: dict[str, Any]):
    changes = {key: value.format(tmp_path) if isinstance(value, str) else value for key, value in waited_for.items()}
    launch(tiny_config(tmp_path, run__steps=1, **changes), LaunchConfig(timeout=60.0))
    assert [row["step"] for row in lines(tmp_path / "runs" / "run" / "metrics.jsonl")] == [1]


def test_what_is_in_the_memory_of_the_host_cannot_be_sent_there(tmp_path: Path):
    assert "launch.offload" in refusal(tmp_path, kind="local", sharding="full", offload=True)


def test_a_world_of_one_cannot_be_sharded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    as_if_by_torchrun(monkeypatch, ranks=1)
    assert "launch.sharding" in refusal(tmp_path, sharding="full")


def test_torchrun_has_to_have_started_the_process(tmp_path: Path):
    assert "torchrun --standalone --nproc-per-node" in refusal(tmp_path, kind="torchrun")


@pytest.mark.parametrize("kind", ["local", "ray"])
def test_several_processes_do_not_each_run_for_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    as_if_by_torchrun(monkeypatch, ranks=2)
    assert f"launch.kind = '{kind}'" in refusal(tmp_path, kind=kind)


def test_ray_has_to_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'credo[ray]'" in refusal(tmp_path, kind="ray")


def test_workers_that_start_again_have_to_be_allowed_to_go_on(tmp_path: Path):
    assert "--resume never" in refusal(tmp_path, kind="ray", retries=1, resume="never")


@pytest.mark.parametrize("resume", ["never", "runs/other/checkpoints/step-000001"])
def test_ranks_that_torchrun_starts_again_have_to_be_allowed_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: str
):
    as_if_by_torchrun(monkeypatch, ranks=2)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    said = refusal(tmp_path, resume=resume)
    assert f"--resume {resume}" in said
    assert "--max-restarts" in said


def test_ranks_that_torchrun_starts_once_may_refuse_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    as_if_by_torchrun(monkeypatch, ranks=1)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    launch(tiny_config(tmp_path, run__steps=1), LaunchConfig(), resume="never")
    assert [row["step"] for row in lines(tmp_path / "runs" / "run" / "metrics.jsonl")] == [1]


@pytest.mark.slow
def test_ray_without_workers_runs_in_this_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("ray")
    launch(tiny_config(tmp_path, run__steps=2), LaunchConfig(kind="ray", workers=0))
    assert [row["step"] for row in lines(tmp_path / "runs" / "run" / "metrics.jsonl")] == [1, 2]
    assert "INFO" not in "".join(capsys.readouterr()), "Ray keeps quiet"


def tiny_warm_up(folder: Path, **launch: Any) -> SftRecipe:
    demonstrations = folder / "demonstrations.jsonl"
    demonstrations.write_text('{"prompt": "ab=", "response": "a"}\n')
    values = {
        "run": {"name": "warm", "folder": str(folder / "runs"), "steps": 1, "threads": 1, "device": "cpu"},
        "model": {"path": str(tiny_model(folder / "model"))},
        "sft": {"sources": [str(demonstrations)], "batch": 1},
        "launch": launch,
    }
    return build(SftRecipe, values)


def test_a_warm_up_that_nobody_started_runs_here(tmp_path: Path):
    launch_sft(tiny_warm_up(tmp_path))
    assert (tmp_path / "runs" / "warm" / "model" / "config.json").exists()
    assert "launch" not in (tmp_path / "runs" / "warm" / "config.toml").read_text()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sharding": "full"}, r"launch\.sharding"),
        ({"timeout": 60.0}, r"launch\.timeout"),
        ({"kind": "torchrun"}, "torchrun --standalone --nproc-per-node"),
    ],
)
def test_a_warm_up_refuses_places_where_it_is_not(tmp_path: Path, options: dict[str, Any], named: str):
    with pytest.raises(ValueError, match=named):
        launch_sft(tiny_warm_up(tmp_path, **options))
    assert not (tmp_path / "runs").exists()
