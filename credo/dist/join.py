"""Joins the other processes of a run, where torchrun, SLURM or Ray has started several."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

import torch

from credo.dist.device import choose_device
from credo.dist.meeting import meet
from credo.dist.world import World


@contextmanager
def joined(
    *,
    device: str = "auto",
    timeout: float = 1800.0,
    sharding: Literal["none", "full"] = "none",
    offload: bool = False,
) -> Iterator[World]:
    """The world that this process was started into: a process group already there, torchrun's, or itself alone.

    torchrun says so by the variables RANK, WORLD_SIZE and LOCAL_RANK. Tensors on the CPU travel by gloo, those on GPUs
    by NCCL. Raises RuntimeError if the others do not come within ``timeout`` seconds.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 and not _already():
        yield World(device=choose_device(device))
        return
    import torch.distributed as dist

    joining = not dist.is_initialized()
    if choose_device(device) == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if joining:
        backend = "cpu:gloo,cuda:nccl" if choose_device(device) == "cuda" else "gloo"
        try:
            store, rank, size = meet(timeout)
            limit = timedelta(seconds=timeout)
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
        except (RuntimeError, ValueError) as error:
            raise RuntimeError(
                f"Rank {os.environ.get('RANK')} of {size} could not meet the others: {str(error).splitlines()[0]} "
                "Check that all of them were started and reach MASTER_ADDR:MASTER_PORT; launch.timeout is how long "
                "one waits."
            ) from error
    try:
        yield World(
            rank=dist.get_rank(),
            size=dist.get_world_size(),
            device=choose_device(device),
            timeout=timeout,
            sharding=sharding,
            offload=offload,
        )
    finally:
        if joining and dist.is_initialized():
            dist.destroy_process_group()


def _already() -> bool:
    """Whether a process group exists; without importing what makes one."""
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()
