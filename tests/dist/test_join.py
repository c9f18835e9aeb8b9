"""Which world a process finds itself in: alone, among those that torchrun started, or in a group already there."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import STARTER, run_ranks

import credo.dist.world
from credo.dist.join import joined
from credo.dist.world import World

LONGEST_WAIT = 60.0
LATE = 1.5
"""Seconds that a rank waits for one that does not come."""


@pytest.fixture(autouse=True)
def started_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_a_process_that_nobody_else_was_started_with_is_alone(monkeypatch: pytest.MonkeyPatch):
    with joined(timeout=60.0) as world:
        assert (world.rank, world.size, world.timeout) == (0, 1, 60.0)
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with joined(sharding="full") as world:
        assert (world.rank, world.size) == (0, 1)
        assert not world.sharded
        assert not dist.is_initialized()


def test_alone_it_can_spread_models_out_of_the_accelerator():
    with joined(device="cpu", sharding="full", offload=True) as world:
        assert (world.rank, world.size, world.sharded, world.offload) == (0, 1, True, True)
        assert dist.get_world_size() == 1
    assert not dist.is_initialized()


def test_variables_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="RANK expected"), joined(device="cpu", timeout=LATE):
        pytest.fail("nobody was met")


@pytest.mark.parametrize("rank", [0, 1])
def test_others_that_do_not_come_are_waited_for_so_long(monkeypatch: pytest.MonkeyPatch, rank: int):
    for name, value in meeting(2).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RANK", str(rank))
    started = time.monotonic()
    with (
        pytest.raises(RuntimeError, match=rf"Rank {rank} of 2 .* launch\.timeout"),
        joined(device="cpu", timeout=LATE),
    ):
        pytest.fail("nobody was met")
    assert time.monotonic() - started < 10 * LATE
    assert not dist.is_initialized()


def meeting(size: int) -> dict[str, str]:
    """What torchrun tells all ranks of a run of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}


def started(work: Callable[[World, Path], None], size: int, folder: Path, options: Mapping[str, Any]) -> list[int]:
    """The exit statuses of ``size`` processes that join as torchrun's do, do ``work`` and leave; -9 if none came."""
    place = meeting(size)
    processes = [
        STARTER.Process(
            target=joins, args=(place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, work, folder, options)
        )
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + LONGEST_WAIT
    for process in reversed(processes):  # the first may be one that never ends
        process.join(max(0.0, deadline - time.monotonic()) if process is not processes[0] else 3.0)
        process.kill()
        process.join()
    return [process.exitcode or 0 for process in processes]


def joins(place: Mapping[str, str], work: Callable[[World, Path], None], folder: Path, options: Mapping[str, Any]):
    os.environ.update(place)
    torch.set_num_threads(1)
    with joined(device="cpu", **options) as world:
        work(world, folder)
    assert not dist.is_initialized()


def write_down(world: World, folder: Path) -> None:
    seen = world.gather((world.rank, world.sharded, world.offload, world.timeout))
    (folder / str(world.rank)).write_text(f"{world.rank} of {world.size}: {seen}")


def test_what_torchrun_started_meets(tmp_path: Path):
    options = {"timeout": LONGEST_WAIT, "sharding": "full", "offload": True}
    assert started(write_down, 2, tmp_path, options) == [0, 0]
    seen = [(0, True, True, LONGEST_WAIT), (1, True, True, LONGEST_WAIT)]
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == [f"{rank} of 2: {seen}" for rank in (0, 1)]


def left_alone(world: World, folder: Path, number: signal.Signals) -> None:
    credo.dist.world.PATIENCE = 0.5  # in a process of its own
    short = World(rank=world.rank, size=world.size, timeout=LATE).beside()
    with pytest.raises(RuntimeError) as error, short.stage("learning"):
        short.gather(world.rank)
        if world.is_first:
            os.kill(os.getpid(), number)
        short.gather(world.rank)
    (folder / f"heard-{world.rank}").write_text(str(error.value))


def killed_first(world: World, folder: Path) -> None:
    left_alone(world, folder, signal.SIGKILL)


def frozen_first(world: World, folder: Path) -> None:
    left_alone(world, folder, signal.SIGSTOP)


@pytest.mark.parametrize("work", [killed_first, frozen_first])
def test_the_rank_that_keeps_word_of_the_others_can_be_lost_too(tmp_path: Path, work: Callable[[World, Path], None]):
    statuses = started(work, 3, tmp_path, {"timeout": LONGEST_WAIT})
    assert statuses == [-signal.SIGKILL, 0, 0]
    for rank in (1, 2):
        words = (tmp_path / f"heard-{rank}").read_text()
        assert f"Rank {rank} of 3 waited" in words
        assert "'learning'" in words
        assert "Rank 0, which keeps word of them, does not answer" in words


def in_a_group_of_others(world: World) -> tuple[int, int, bool, bool]:
    """What joins where somebody else has made a group, as Ray does, and whether the group outlives it."""
    with joined(device="cpu", sharding="full") as ours:
        found = ours.rank, ours.size, ours.sharded
        assert ours.gather(ours.rank) == [0, 1]
    return *found, world.gather(1) == [1, 1]


def test_a_group_that_is_already_there_is_joined_and_left_in_place():
    assert run_ranks(2, in_a_group_of_others) == [(0, 2, True, True), (1, 2, True, True)]
