"""Copies of checkpoints elsewhere: whole or not there, pruned alike, fetched by a new machine, never in the way."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from learners import OPTIMIZERS, flip, learners, same

from credo.checkpoint import Remote, Saver, newest_whole
from credo.config import CheckpointConfig


def remote(url: str, run: Path, limit: float = 60.0) -> Remote:
    return Remote(url, run, limit=limit)


def saver(url: str, run: Path, said: list[str], **options: Any) -> Saver:
    config = CheckpointConfig(**{"keep": 2, **options})
    return Saver(run / "checkpoints", config, remote=remote(url, run), warn=said.append)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def away(tmp_path: Path) -> Path:
    return tmp_path / "away"


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_a_new_machine_goes_on_from_the_copy(tmp_path: Path, asynchronous: bool, scheme: str):
    url, said = f"{scheme}://{tmp_path}/away", []
    ours, writing = learners(0), saver(url, tmp_path / "old" / "run", said, asynchronous=asynchronous)
    for step in (1, 2, 3):
        ours.learn()
        (tmp_path / "old" / "run").mkdir(parents=True, exist_ok=True)
        (tmp_path / "old" / "run" / "metrics.jsonl").write_text(f'{{"step": {step}}}\n')
        ours.save(writing, step)
    writing.wait()
    assert not said
    files, _ = fsspec.core.url_to_fs(url)
    there = sorted(Path(name).name for name in files.ls(f"{tmp_path}/away/run/checkpoints", detail=False))
    assert there == ["step-000002", "step-000003"]

    run = tmp_path / "new" / "run"
    remote(url, run).fetch(pytest.fail)
    assert names(run / "checkpoints") == ["step-000003"]
    assert (run / "metrics.jsonl").read_text() == '{"step": 3}\n'
    theirs = learners(5)
    theirs.restore(run / "checkpoints" / "step-000003")
    assert same(theirs.everything(), ours.everything())


@pytest.mark.parametrize(("own", "goes_on_from"), [(1, 2), (2, 2), (3, 3)])
def test_a_run_with_checkpoints_of_its_own_fetches_newer_ones(tmp_path: Path, away: Path, own: int, goes_on_from: int):
    ours = learners(0)
    ours.save(saver(f"file://{away}", tmp_path / "run", []), 2)
    other = tmp_path / "other" / "run"
    ours.saved(other / "checkpoints", own)
    before = names(other / "checkpoints")
    remote(f"file://{away}", other).fetch(pytest.fail)
    whole = newest_whole(other / "checkpoints", pytest.fail)
    assert whole is not None
    assert whole.step == goes_on_from
    assert own == 1 or names(other / "checkpoints") == before


class CutOff(LocalFileSystem):
    """Breaks off in the third file that it is asked for, and counts them."""

    protocol = "cutoff"
    asked: ClassVar[list[str]] = []

    def get_file(self, path: str, own: str, *arguments: Any, **options: Any) -> None:
        self.asked.append(path)
        if len(self.asked) == 3:
            Path(own).write_bytes(Path(path).read_bytes()[:-1])
            raise OSError("connection reset")
        super().get_file(path, own, *arguments, **options)


def test_what_has_come_before_a_break_is_not_sent_again(tmp_path: Path, away: Path):
    fsspec.register_implementation("cutoff", CutOff, clobber=True)
    CutOff.asked.clear()
    ours, run = learners(0), tmp_path / "new" / "run"
    ours.save(saver(f"file://{away}", tmp_path / "run", []), 2)
    far = remote(f"cutoff://{away}", run)
    with pytest.raises(ValueError, match="connection reset"):
        far.fetch(pytest.fail)
    assert newest_whole(run / "checkpoints", pytest.fail) is None
    far.fetch(pytest.fail)
    theirs = learners(5)
    theirs.restore(run / "checkpoints" / "step-000002")
    assert same(theirs.everything(), ours.everything())
    assert len(CutOff.asked) == len(set(CutOff.asked)) + 1, "but for the one that was cut off"


def test_nothing_there_is_a_fresh_start(tmp_path: Path, away: Path):
    remote(f"file://{away}", tmp_path / "run").fetch(pytest.fail)
    assert newest_whole(tmp_path / "run" / "checkpoints", pytest.fail) is None


def test_half_a_copy_is_passed_over_and_a_damaged_one_named(tmp_path: Path, away: Path):
    writing, ours = saver(f"file://{away}", tmp_path / "run", [], keep=0), learners(0)
    for step in (1, 2, 3):
        ours.save(writing, step)
    there = away / "run" / "checkpoints"
    (there / "step-000003" / "manifest.json").unlink()
    flip(there / "step-000002" / OPTIMIZERS)
    said: list[str] = []
    remote(f"file://{away}", tmp_path / "new" / "run").fetch(said.append)
    assert names(tmp_path / "new" / "run" / "checkpoints") == ["step-000001"]
    assert len(said) == 1
    assert "step-000002" in said[0]
    assert OPTIMIZERS in said[0]
    flip(there / "step-000001" / OPTIMIZERS)
    with pytest.raises(ValueError, match="step-000002, step-000001"):
        remote(f"file://{away}", tmp_path / "third" / "run").fetch(said.append)


def test_a_copy_that_fails_stops_nothing_and_is_made_up_for(tmp_path: Path, away: Path):
    away.write_text("a file where the folder should be")
    said: list[str] = []
    writing, ours = saver(f"file://{away}", tmp_path / "run", said), learners(0)
    ours.save(writing, 1)
    assert len(said) == 1
    assert "step 1 could not be copied" in said[0]
    away.unlink()
    ours.save(writing, 2)
    assert len(said) == 1
    assert names(away / "run" / "checkpoints") == ["step-000001", "step-000002"]


def test_one_that_was_cut_short_or_is_of_another_run_is_copied_again(tmp_path: Path, away: Path):
    writing, ours = saver(f"file://{away}", tmp_path / "run", []), learners(0)
    ours.save(writing, 1)
    copied = away / "run" / "checkpoints" / "step-000001"
    (copied / "manifest.json").unlink()
    (copied / "left-over").write_text("of an earlier attempt")
    ours.save(writing, 2)
    assert newest_whole(away / "run" / "checkpoints", pytest.fail) is not None
    assert not (copied / "left-over").exists()
    assert (copied / "manifest.json").exists()


def test_the_best_stay_there_too_even_those_of_another_machine(tmp_path: Path, away: Path):
    url, ours, options = f"file://{away}", learners(0), {"keep": 1, "best": 1}
    first = saver(url, tmp_path / "old" / "run", [], **options)
    for step in (1, 2, 3):
        ours.save(first, step, worth={1: 0.9, 2: 0.3, 3: 0.5})
    assert names(away / "run" / "checkpoints") == ["step-000001", "step-000003"]
    run = tmp_path / "new" / "run"
    remote(url, run).fetch(pytest.fail)
    second = saver(url, run, [], **options)
    ours.save(second, 4, worth={1: 0.9, 3: 0.5, 4: 0.1})
    assert names(away / "run" / "checkpoints") == ["step-000001", "step-000003", "step-000004"]
    ours.save(second, 5, worth={1: 0.1, 3: 0.5, 4: 0.7, 5: 0.2})
    assert names(away / "run" / "checkpoints") == ["step-000004", "step-000005"]


class Stuck(MemoryFileSystem):
    """Takes no file and gives none, until it is told to."""

    protocol = "stuck"
    go_on = threading.Event()

    def put_file(self, lpath: str, rpath: str, *arguments: Any, **options: Any) -> None:
        self.go_on.wait(60)

    def exists(self, path: str, **options: Any) -> bool:
        return self.go_on.wait(60) and False


def test_what_hangs_is_given_up(tmp_path: Path):
    fsspec.register_implementation("stuck", Stuck, clobber=True)
    try:
        far = remote("stuck://there", tmp_path / "run", limit=0.05)
        assert "step 3 could not be copied" in far.follow(3, {}, keep=1, best=0)
        with pytest.raises(ValueError, match=r"checkpoint\.remote"):
            far.fetch(pytest.fail)
        learners(0).saved(tmp_path / "run" / "checkpoints", 1)
        said: list[str] = []
        far.fetch(said.append)
        assert "goes on from its own" in said[0]
    finally:
        Stuck.go_on.set()


class Late(LocalFileSystem):
    """Gives nothing before it is told to."""

    protocol = "late"
    go_on = threading.Event()

    def get_file(self, *arguments: Any, **options: Any) -> None:
        self.go_on.wait(60)
        super().get_file(*arguments, **options)


def test_what_comes_too_late_does_not_reach_a_run_that_has_gone_on(tmp_path: Path, away: Path):
    fsspec.register_implementation("late", Late, clobber=True)
    ours, old, run = learners(0), tmp_path / "old" / "run", tmp_path / "run"
    old.mkdir(parents=True)
    (old / "metrics.jsonl").write_text("theirs")
    ours.save(saver(f"file://{away}", old, []), 2)
    ours.saved(run / "checkpoints", 1)
    (run / "metrics.jsonl").write_text("ours")
    said: list[str] = []
    far = remote(f"late://{away}", run, limit=0.1)
    threads = set(threading.enumerate())
    far.fetch(said.append)
    assert "goes on from its own" in said[0]
    (fetching,) = set(threading.enumerate()) - threads
    Late.go_on.set()
    fetching.join(60)
    assert (run / "metrics.jsonl").read_text() == "ours"
    assert names(run / "checkpoints") == ["fetched", "step-000001"]
    remote(f"file://{away}", run).fetch(pytest.fail)
    assert (run / "metrics.jsonl").read_text() == "theirs"
    assert names(run / "checkpoints") == ["step-000001", "step-000002"]


@pytest.mark.parametrize("url", ["nosuch://bucket", "s3://bucket/runs"])
def test_a_url_that_cannot_be_reached_is_refused(tmp_path: Path, url: str):
    with pytest.raises(ValueError, match=r"checkpoint\.remote"):
        remote(url, tmp_path / "run")
