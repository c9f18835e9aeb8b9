"""The run folder: one process at a time, what was written after the checkpoint cut off, changes of the recipe named."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import lines

from credo.checkpoint import MANIFEST, Checkpoint
from credo.run_folder import CONFIG, EVALUATION, METRICS, RunFolder

CONFIGURATION = {"run.name": "x", "run.steps": 9, "policy.lr": 1e-06, "data.train": ("a.jsonl",), "prm.enabled": True}
TOML = '[run]\nname = "x"\nsteps = 9\n[policy]\nlr = 1e-06\n[data]\ntrain = ["a.jsonl"]\n[prm]\nenabled = true\n'


def begin(path: Path, resume: str = "auto", **changes: Any) -> Checkpoint | None:
    with RunFolder(path) as folder:
        config = CONFIGURATION | {key.replace("__", "."): value for key, value in changes.items()}
        return folder.begin(resume, config, TOML, pytest.fail)


def checkpointed(path: Path, step: int) -> Path:
    """What matters here of a checkpoint."""
    folder = path / "checkpoints" / f"step-{step:06d}"
    folder.mkdir(parents=True)
    state = json.dumps({"step": step, "config": CONFIGURATION}).encode()
    (folder / "state.json").write_bytes(state)
    fingerprint = {"bytes": len(state), "sha256": hashlib.sha256(state).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps({"state.json": fingerprint}))
    return folder


def logged(path: Path, *steps: int, name: str = METRICS) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / name).write_text("".join(json.dumps({"step": step}) + "\n" for step in steps))


def steps(path: Path, name: str = METRICS) -> list[int]:
    return [row["step"] for row in lines(path / name)]


def test_a_new_folder_starts_fresh_and_says_how(tmp_path: Path):
    assert begin(tmp_path / "runs" / "x") is None
    assert (tmp_path / "runs" / "x" / CONFIG).read_text() == TOML


def test_what_was_chosen_before_is_found_wherever_the_run_goes_on_from(tmp_path: Path):
    with RunFolder(tmp_path / "x") as folder:
        assert folder.recorded("policy.lr") is None
        folder.begin("auto", CONFIGURATION, TOML, pytest.fail)
        assert folder.recorded("policy.lr") == 1e-06
        assert folder.recorded("no.such") is None
    saved = checkpointed(tmp_path / "y", 3)
    with RunFolder(tmp_path / "z") as folder:
        assert folder.recorded("run.steps", str(saved)) == 9


def test_a_folder_in_use_is_refused_and_free_again_afterwards(tmp_path: Path):
    holder = (
        "import sys; from pathlib import Path; from credo.run_folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        with pytest.raises(ValueError, match=str(tmp_path)):
            RunFolder(tmp_path)
        process.kill()
    with RunFolder(tmp_path), pytest.raises(ValueError, match="Another process"):
        RunFolder(tmp_path)
    begin(tmp_path)


def test_a_rank_that_only_reads_takes_no_lock_and_writes_nothing(tmp_path: Path):
    with RunFolder(tmp_path / "new", reads_only=True) as folder:
        folder.append(METRICS, {"step": 1})
    assert not (tmp_path / "new").exists()
    with RunFolder(tmp_path) as first, RunFolder(tmp_path, reads_only=True) as other:
        first.append(EVALUATION, {"step": 1})
        other.append(EVALUATION, {"step": 1})
        assert other.read_lines(EVALUATION) == [{"step": 1}]


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ValueError, match="runs"):
        RunFolder(tmp_path / "runs" / "x")


def test_what_was_written_after_the_checkpoint_is_cut_off(tmp_path: Path):
    checkpointed(tmp_path, 2)
    logged(tmp_path, 1, 2, 3)
    logged(tmp_path, 0, 2, 3, name=EVALUATION)
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 4, "half of a li')
    (tmp_path / "checkpoints" / "step-000004.tmp").mkdir()
    with RunFolder(tmp_path) as folder:
        for step in (2, 3):
            folder.write_rollouts(step, [{"id": "a"}])
    found = begin(tmp_path)
    assert found is not None
    assert found.step == 2
    assert steps(tmp_path) == [1, 2]
    assert steps(tmp_path, EVALUATION) == [0, 2]
    assert [path.name for path in (tmp_path / "rollouts").iterdir()] == ["step-000002.jsonl"]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000002"]
    assert not list(tmp_path.glob("*.tmp"))


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path: Path):
    begin(tmp_path)
    logged(tmp_path, 1)
    assert begin(tmp_path) is None
    assert steps(tmp_path) == []


def test_the_log_of_another_run_without_checkpoints_is_not_overwritten(tmp_path: Path):
    begin(tmp_path)
    logged(tmp_path, 1, 2)
    with pytest.raises(ValueError, match=r"policy\.lr"):
        begin(tmp_path, policy__lr=1e-5)
    assert steps(tmp_path) == [1, 2]
    assert (tmp_path / CONFIG).read_text() == TOML


@pytest.mark.parametrize(
    ("key", "value"), [("policy__lr", 1e-5), ("data__train", ("b.jsonl",)), ("prm__enabled", False), ("new__key", 1)]
)
def test_a_change_that_matters_is_named_and_cuts_nothing(tmp_path: Path, key: str, value: Any):
    checkpointed(tmp_path, 2)
    logged(tmp_path, 1, 2, 3)
    with pytest.raises(ValueError, match=key.replace("__", r"\.")):
        begin(tmp_path, **{key: value})
    assert steps(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize(
    ("key", "value"), [("run__steps", 20), ("run__name", "y"), ("checkpoint__every", 3), ("evaluation__every", 4)]
)
def test_a_change_that_alters_no_number_is_allowed(tmp_path: Path, key: str, value: Any):
    checkpointed(tmp_path, 2)
    assert begin(tmp_path, **{key: value}) is not None


def test_never_resumes_never(tmp_path: Path):
    assert begin(tmp_path, "never") is None
    assert begin(tmp_path, "never") is None, "a start that was refused left no run"
    logged(tmp_path, 1)
    with pytest.raises(ValueError, match="already holds a run"):
        begin(tmp_path, "never")
    checkpointed(tmp_path / "saved", 2)
    with pytest.raises(ValueError, match="already holds a run"):
        begin(tmp_path / "saved", "never")
    assert steps(tmp_path) == [1]


def test_a_branch_starts_from_a_checkpoint_of_another_run_whatever_has_changed(tmp_path: Path):
    origin = checkpointed(tmp_path / "x", 4)
    found = begin(tmp_path / "y", str(origin), policy__lr=1e-5)
    assert found is not None
    assert (found.step, found.folder) == (4, origin)


def test_a_branch_that_was_killed_early_starts_again_from_the_branching_point(tmp_path: Path):
    origin = checkpointed(tmp_path / "x", 4)
    begin(tmp_path / "y", str(origin))
    logged(tmp_path / "y", 5)
    found = begin(tmp_path / "y", str(origin))
    assert found is not None
    assert found.step == 4
    assert steps(tmp_path / "y") == []


def test_a_branch_needs_a_folder_of_its_own_and_a_whole_checkpoint(tmp_path: Path):
    origin = checkpointed(tmp_path / "x", 4)
    with pytest.raises(ValueError, match=r"run\.name"):
        begin(tmp_path / "x", str(origin))
    (origin / "state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"state\.json"):
        begin(tmp_path / "y", str(origin))


def test_lines_are_appended_and_read_back(tmp_path: Path):
    with RunFolder(tmp_path) as folder:
        assert folder.read_lines(EVALUATION) == []
        folder.append(EVALUATION, {"step": 0, "scores": [0.5, None]})
        folder.append(EVALUATION, {"step": 3, "scores": []})
        assert folder.read_lines(EVALUATION) == [{"step": 0, "scores": [0.5, None]}, {"step": 3, "scores": []}]


def test_rollouts_keep_every_letter(tmp_path: Path):
    with RunFolder(tmp_path) as folder:
        folder.write_rollouts(12, [{"response": "é漢\u2028"}, {"response": "b"}])
    text = (tmp_path / "rollouts" / "step-000012.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line)["response"] for line in text.split("\n") if line] == ["é漢\u2028", "b"]
