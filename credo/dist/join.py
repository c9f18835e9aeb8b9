"""Joins the other processes of a run, where torchrun, SLURM or Ray has started several."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

import torch

from credo.console import first_line
from credo.dist.device import choose_device
from credo.dist.meeting import meet
from credo.dist.world import World


@contextmanager
def joined(
    device: str = "auto",
    *,
    timeout: float = 1800.0,
    sharding: Literal["none", "full"] = "none",
    offload: bool = False,
) -> Iterator[World]:
    """The world that this process was started into: a process group already there, torchrun's, or itself alone, in a
    group of one if ``offload`` is to keep models out of the GPU.

    torchrun says so by the variables RANK, WORLD_SIZE and LOCAL_RANK. Tensors on the CPU travel by gloo, those on GPUs
    by NCCL. Raises RuntimeError if the others do not come within ``timeout`` seconds.
    """
    device, joining = choose_device(device), not _already()
    size = os.environ.get("WORLD_SIZE", "1")
    if joining and size == "1" and not offload:
        yield World(device=device, timeout=timeout)
        return
    import torch.distributed as dist

    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if joining:
        _join("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout, size)
    try:
        yield World(
            rank=dist.get_rank(),
            size=dist.get_world_size(),
            device=device,
            timeout=timeout,
            sharding=sharding,
            offload=offload,
        )
    finally:
        if joining and dist.is_initialized():
            dist.destroy_process_group()


def _join(backend: str, timeout: float, size: str) -> None:
    """Makes the process group of all that were started with this process."""
    import torch.distributed as dist

    if size == "1":
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        return
    limit = timedelta(seconds=timeout)
    try:
        store, rank, count = meet(timeout)
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=limit)
    except (RuntimeError, ValueError) as error:
        raise RuntimeError(
            f"Rank {os.environ.get('RANK')} of {size} could not meet the others: {first_line(error)} Check that "
            "all of them were started and reach MASTER_ADDR:MASTER_PORT; launch.timeout is how long one waits."
        ) from error


def _already() -> bool:
    """Whether a process group exists; without importing what makes one."""
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()
