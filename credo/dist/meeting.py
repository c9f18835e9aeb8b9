"""Where ranks that were started together find each other, also after some of them were started before.

torchrun keeps one store for all its restarts, and what dead ranks wrote there sends the living to addresses at which
nobody answers (github.com/pytorch/pytorch/issues/135712). The number of restarts would not tell them apart, since each
machine counts its own; so the first rank invites the others anew.
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

from torch.distributed import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

POLL = 0.05


def meet(timeout: float) -> tuple[Store, int, int]:
    """A store that holds nothing yet, the rank of this process in it, and how many meet there.

    Says who it is by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. Raises RuntimeError if the others do not come
    within ``timeout`` seconds.
    """
    shared, rank, size = next(iter(rendezvous("env://", timeout=timedelta(seconds=timeout))))
    name = uuid.uuid4().hex
    room = _invite(shared, name, size, timeout) if rank == 0 else _accept(shared, name, rank)
    return PrefixStore(f"credo/room/{room}", shared), rank, size


def _invite(shared: Store, room: str, size: int, timeout: float) -> str:
    """Tells each rank's newest name of ``room``, until all have answered."""
    deadline, missing = time.monotonic() + timeout, set(range(1, size))
    while missing:
        if time.monotonic() > deadline:
            raise RuntimeError(f"No sign of rank {', '.join(map(str, sorted(missing)[:8]))} in {timeout:.0f} s.")
        for rank in sorted(missing):
            if shared.check([f"credo/present/{rank}"]):
                name = shared.get(f"credo/present/{rank}").decode()  # may be that of a dead one, who will not answer
                shared.set(f"credo/invited/{name}", room)
            if shared.check([f"credo/here/{room}/{rank}"]):
                missing.remove(rank)
        time.sleep(POLL if missing else 0)
    return room


def _accept(shared: Store, name: str, rank: int) -> str:
    shared.set(f"credo/present/{rank}", name)
    room = shared.get(f"credo/invited/{name}").decode()
    shared.set(f"credo/here/{room}/{rank}", name)
    return room
