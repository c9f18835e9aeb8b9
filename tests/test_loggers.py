"""Loggers: a whole line on disk at once, several as one, and trackers only where their extra is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from credo.config import Tracker
from credo.loggers import JsonlLogger, Loggers, RecordingLogger, RunLogger, TensorBoardLogger, tracker


def test_a_step_is_one_line_and_on_disk_at_once(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    logger = JsonlLogger(path)
    logger.log(1, {"prm/loss": 0.5})
    assert path.read_text() == '{"step": 1, "prm/loss": 0.5}\n'
    logger.log(2, {"prm/loss": 0.1 + 0.2})
    assert json.loads(path.read_text().splitlines()[1]) == {"step": 2, "prm/loss": 0.1 + 0.2}, "every digit is kept"
    logger.close()


def test_an_older_file_is_continued(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2):
        logger = JsonlLogger(path)
        logger.log(step, {})
        logger.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_what_json_has_no_number_for_becomes_null(tmp_path: Path):
    logger = JsonlLogger(tmp_path / "metrics.jsonl")
    logger.log(1, {"a": float("nan"), "b": float("inf"), "c": 0.0})
    logger.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"step": 1, "a": None, "b": None, "c": 0.0}


def test_a_recording_remembers_what_it_was_told():
    logger, metrics = RecordingLogger(), {"a": 1.0}
    logger.log(1, metrics)
    metrics["a"] = 2.0
    assert logger.steps == [(1, {"a": 1.0})]


class Closable(RecordingLogger):
    closed = False

    def close(self) -> None:
        self.closed = True


def test_several_loggers_as_one():
    first, second = Closable(), Closable()
    both = Loggers([first, second])
    both.log(3, {"a": 1.0})
    both.close()
    assert first.steps == second.steps == [(3, {"a": 1.0})]
    assert first.closed
    assert second.closed


class Service:
    """What wandb and trackio have in common."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def init(self, **options: Any) -> None:
        self.calls.append(("init", options))

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.calls.append(("log", (step, metrics)))

    def finish(self) -> None:
        self.calls.append(("finish", None))


def test_a_run_of_a_tracking_service(tmp_path: Path):
    service = Service()
    logger = RunLogger(service, "demo", tmp_path, {"run.seed": 1})
    logger.log(4, {"a": 1.0})
    logger.close()
    assert service.calls == [
        ("init", {"project": "credo", "name": "demo", "config": {"run.seed": 1}}),
        ("log", (4, {"a": 1.0})),
        ("finish", None),
    ]


@pytest.mark.parametrize("kind", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed_names_its_extra(kind: Tracker, tmp_path: Path):
    if importlib.util.find_spec(kind):
        pytest.skip(f"{kind} is installed here")
    with pytest.raises(ValueError, match=rf"credo\[{kind}\]"):
        tracker(kind, "demo", tmp_path, {})


def test_tensorboard_writes_an_event_file(tmp_path: Path):
    pytest.importorskip("tensorboard", reason="the extra is not installed")
    logger = tracker("tensorboard", "demo", tmp_path, {})
    assert isinstance(logger, TensorBoardLogger)
    logger.log(1, {"prm/loss": 0.5})
    logger.close()
    assert list((tmp_path / "tensorboard").iterdir())
