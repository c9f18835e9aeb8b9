"""Real worlds of several ranks on this machine: processes that meet by gloo, do one thing together, and report it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from credo.dist.world import World

LIMIT = 60.0
GRACE = 8.0
"""Seconds that the others have to report too, once one rank has failed."""
STARTER = multiprocessing.get_context("forkserver")
STARTER.set_forkserver_preload(["credo.train", "transformers.models.llama.modeling_llama"])
"""Ranks are forked off a process that has imported what they need and done nothing else."""


def run_ranks(
    size: int,
    work: Callable[..., Any],
    *arguments: Any,
    sharding: Literal["none", "full"] = "none",
    timeout: float = LIMIT,
) -> list[Any]:
    """What ``work(world, *arguments)`` returns on each of ``size`` ranks, by rank.

    ``work`` is a function of a module, and what it returns can be pickled. Raises AssertionError with the traceback of
    each rank that failed, with the exit status of one that is gone, or after ``timeout`` seconds; no rank outlives it.
    ``timeout`` bounds each collective of ``world`` too.
    """
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryDirectory() as folder:
        ranks = {}
        for rank in range(size):
            here, there = STARTER.Pipe(duplex=False)
            place = (rank, size, Path(folder) / "meeting", sharding, timeout)
            process = STARTER.Process(target=_rank, args=(there, place, work, arguments))
            process.start()
            there.close()
            ranks[here] = process
        reports: dict[Connection, tuple[str, Any]] = {}
        try:
            reports = _reports(list(ranks), deadline)
        finally:
            for connection, process in ranks.items():
                process.join(GRACE if connection in reports else 0)
                process.kill()
                process.join()
    found = [reports.get(connection, ("late", f"no report within {timeout:.0f} s")) for connection in ranks]
    errors = [
        f"rank {rank} of {size}: {report or f'exit status {process.exitcode}'}"
        for rank, (process, (kind, report)) in enumerate(zip(ranks.values(), found, strict=True))
        if kind != "done"
    ]
    assert not errors, "\n".join(errors)
    return [report for _, report in found]


def _reports(connections: list[Connection], deadline: float) -> dict[Connection, tuple[str, Any]]:
    """What came through each connection until ``deadline``, or until a little after the first bad news.

    It is "done" with a result, "failed" with a traceback, or "gone" with nothing.
    """
    found: dict[Connection, tuple[str, Any]] = {}
    while open_ones := [connection for connection in connections if connection not in found]:
        ready = wait(open_ones, max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        for connection in ready:
            assert isinstance(connection, Connection)
            try:
                found[connection] = pickle.loads(connection.recv_bytes())
            except EOFError:
                found[connection] = ("gone", None)
            if found[connection][0] != "done":
                deadline = min(deadline, time.monotonic() + GRACE)
    return found


def _rank(
    connection: Connection,
    place: tuple[int, int, Path, Literal["none", "full"], float],
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """One rank, from its process group to its report."""
    import torch
    import torch.distributed as dist

    rank, size, meeting, sharding, timeout = place
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    try:
        if size > 1:
            limit = timedelta(seconds=timeout)
            dist.init_process_group("gloo", f"file://{meeting}", timeout=limit, rank=rank, world_size=size)
        report = ("done", work(World(rank=rank, size=size, timeout=timeout, sharding=sharding), *arguments))
        message = pickle.dumps(report)
    except BaseException:
        message = pickle.dumps(("failed", traceback.format_exc()))
    connection.send_bytes(message)
    connection.close()
    if dist.is_initialized():
        dist.destroy_process_group()
