"""The same run in one process, on the ranks of torchrun, and in the workers of a Ray cluster; also when they die."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny import lines, tiny_recipe, untimed

from credo.checkpoint import newest_whole
from credo.cli import main

ROOT = Path(__file__).resolve().parents[2]
STEPS = 10
LONGEST_WAIT = 240.0
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TORCHRUN += ["--max-restarts", "1", "--monitor-interval", "0.1", "-m", "credo.cli"]
ON_RAY = ["--launch.kind", "ray", "--launch.workers", "2", "--launch.timeout", "120"]


def recipe(folder: Path) -> tuple[Path, Path]:
    """A recipe, and the folder of its run."""
    return tiny_recipe(folder, run__steps=STEPS, checkpoint__every=3), folder / "runs" / "run"


@contextmanager
def started(command: list[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """``command`` in a process group of its own, of which nothing is left afterwards."""
    apart = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    apart |= {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", **environment}
    process = subprocess.Popen(
        command, env=apart, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=LONGEST_WAIT)


def credo(path: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "credo.cli", "train", str(path), *flags]


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit status and all that it said."""
    said, _ = process.communicate(timeout=LONGEST_WAIT)
    return process.returncode, said


def wait_for_step(step: int, run: Path, process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + LONGEST_WAIT
    path = run / "metrics.jsonl"
    while not path.exists() or path.read_bytes().count(b"\n") < step:
        assert time.monotonic() < limit, "the run does not move"
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.003)


def below(process: subprocess.Popen[str], named: str) -> list[int]:
    """The processes that ``process`` started, or that these started, with ``named`` in their command line; by age."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended since
    family = {process.pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return sorted(pid for pid in family - {process.pid} if named in command_line(pid))


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def numbers(run: Path) -> list[dict[str, Any]]:
    return untimed(lines(run / "metrics.jsonl"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The metrics of the run in one process."""
    path, run = recipe(tmp_path_factory.mktemp("alone") / "x")
    main(["train", str(path)])
    return numbers(run)


def assert_same(run: Path, expected: list[dict[str, Any]]) -> None:
    """The same steps, and the same numbers but for the order in which they were summed."""
    found = numbers(run)
    assert [row["step"] for row in found] == [row["step"] for row in expected] == list(range(1, STEPS + 1))
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5, nan_ok=True)


def test_two_ranks_of_torchrun_make_the_same_run(tmp_path: Path, alone: list[dict[str, Any]]):
    path, run = recipe(tmp_path / "x")
    with started([*TORCHRUN, "train", str(path)]) as process:
        status, said = ended(process)
    assert status == 0, said
    assert_same(run, alone)
    assert said.count(f"step {STEPS}/{STEPS}") == 1, "one rank speaks for both"
    assert "launch" not in (run / "config.toml").read_text()


@pytest.mark.parametrize("rank", [0, 1])
def test_torchrun_starts_killed_ranks_again(tmp_path: Path, alone: list[dict[str, Any]], rank: int):
    path, run = recipe(tmp_path / "x")
    with started([*TORCHRUN, "train", str(path)]) as process:
        wait_for_step(1, run, process)
        ranks = below(process, "credo.cli")
        wait_for_step(4, run, process)
        os.kill(ranks[rank], signal.SIGKILL)
        status, said = ended(process)
    assert status == 0, said
    assert "Resumed after step" in said
    assert_same(run, alone)


def test_ranks_told_to_stop_save_and_one_process_goes_on(tmp_path: Path, alone: list[dict[str, Any]]):
    path, run = recipe(tmp_path / "x")
    with started([*TORCHRUN, "train", str(path)]) as process:
        wait_for_step(2, run, process)
        process.send_signal(signal.SIGTERM)
        _, said = ended(process)
    assert "Stopped after step" in said
    whole = newest_whole(run / "checkpoints", pytest.fail)
    assert whole is not None
    assert 2 <= whole.step < STEPS
    main(["train", str(path)])
    assert_same(run, alone)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_workers_of_ray_make_the_same_run(tmp_path: Path, alone: list[dict[str, Any]]):
    pytest.importorskip("ray")
    path, run = recipe(tmp_path / "x")
    with started(credo(path, *ON_RAY)) as process:
        status, said = ended(process)
    assert status == 0, said
    assert_same(run, alone)
    assert said.count(f"step {STEPS}/{STEPS}") == 1
    assert "INFO" not in said
    told = json.loads((run / "checkpoint_manager_snapshot.json").read_text())["latest_checkpoint_result"]
    assert told["checkpoint_dir_name"] == f"checkpoints/step-{STEPS:06d}", "Ray knows it where it lies"
    assert told["metrics"]["step"] == STEPS


@contextmanager
def cluster() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A Ray cluster of this machine as `ray start` makes one, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray = str(Path(sys.executable).with_name("ray"))
    options = ["--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:  # longer names do not fit into a socket's
        command = [ray, "start", *options, f"--temp-dir={folder}", "--disable-usage-stats"]
        with started(command) as process:
            limit = time.monotonic() + LONGEST_WAIT
            while not below(process, "raylet/raylet"):
                assert time.monotonic() < limit, "no cluster came up"
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.2)
            yield process, f"127.0.0.1:{port}"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ray_starts_killed_workers_again(tmp_path: Path, alone: list[dict[str, Any]]):
    pytest.importorskip("ray")
    path, run = recipe(tmp_path / "x")
    with (
        cluster() as (head, address),
        started(credo(path, *ON_RAY, "--launch.retries", "1"), RAY_ADDRESS=address) as process,
    ):
        wait_for_step(4, run, process)
        os.kill(below(head, "RayTrainWorker")[-1], signal.SIGKILL)
        status, said = ended(process)
    assert status == 0, said
    assert "Resumed after step" in said
    assert_same(run, alone)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_lost_worker_and_a_user_who_stops_are_a_sentence_each(tmp_path: Path, alone: list[dict[str, Any]]):
    pytest.importorskip("ray")
    path, run = recipe(tmp_path / "x")
    with started(credo(path, *ON_RAY)) as process:
        wait_for_step(2, run, process)
        os.kill(below(process, "RayTrainWorker")[0], signal.SIGKILL)
        status, said = ended(process)
    assert status == 1
    assert "launch.retries" in said
    assert "Traceback" not in said
    with started(credo(path, *ON_RAY)) as process:
        wait_for_step(5, run, process)
        os.killpg(process.pid, signal.SIGINT)
        status, said = ended(process)
    assert status == 0, said
    assert "Stopped after step" in said
    assert not (run / ".stop").exists()
    main(["train", str(path)])
    assert_same(run, alone)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_mistake_seen_by_workers_is_one_sentence_here(tmp_path: Path):
    pytest.importorskip("ray")
    path, _ = recipe(tmp_path / "x")
    flags = ["--model.path", str(tmp_path / "nowhere"), "--launch.retries", "5"]
    with started(credo(path, *ON_RAY, *flags)) as process:
        status, said = ended(process)
    assert status == 1
    assert [line for line in said.splitlines() if line.startswith("credo: ")] == [said.splitlines()[-1]]
    assert "model.path" in said.splitlines()[-1]
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_learns_on_ray_though_a_worker_is_killed(tmp_path: Path):
    pytest.importorskip("ray")
    runs = ["--run.folder", str(tmp_path / "runs")]
    main(["sft", str(ROOT / "recipes" / "demo-sft.toml"), "--run.steps", "500", "--run.threads", "1", *runs])
    flags = [*ON_RAY, "--launch.retries", "1", *runs, "--model.path", str(tmp_path / "runs" / "demo-sft" / "model")]
    run = tmp_path / "runs" / "demo"
    with (
        cluster() as (head, address),
        started(credo(ROOT / "recipes" / "demo.toml", *flags), RAY_ADDRESS=address) as process,
    ):
        wait_for_step(25, run, process)
        os.kill(below(head, "RayTrainWorker")[-1], signal.SIGKILL)
        status, said = ended(process)
    assert status == 0, said
    assert "Resumed after step 20" in said
    assert [row["step"] for row in lines(run / "metrics.jsonl")] == list(range(1, 46))
    first, last = (row["eval/accuracy"] for row in lines(run / "evaluation.jsonl"))
    assert last > first + 0.05
