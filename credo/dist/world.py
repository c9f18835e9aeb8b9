"""Who else is training: rank, size, and the exchanges that keep numbers independent of both.

Every rank holds the whole batch of a step and does its share of the work on it; what the others found comes back
through :meth:`World.all_reduce` and :meth:`World.gather`. One process is a world of size 1, which exchanges nothing.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from credo.interruption import Interrupted

Value = TypeVar("Value")
Result = TypeVar("Result")
STAGE = "credo/stage/{}"
"""Where each rank leaves word of what it is doing, in the store by which the ranks have met."""
PATIENCE = 5.0
"""Seconds in which that store answers, or is gone with the rank that keeps it."""


@dataclass(frozen=True, slots=True)
class _Failed:
    """What a rank sends in place of a result."""

    reason: str
    interrupted: bool


class World:
    """The processes of one run, as seen from one of them; ``group`` must exist if there are several.

    Every method marked collective has to be called by all ranks in the same order; it raises RuntimeError, with the
    stage that each rank was last in, when ``timeout`` seconds pass without the others, or when one of them is gone.
    """

    def __init__(
        self,
        *,
        rank: int = 0,
        size: int = 1,
        device: str = "cpu",
        timeout: float = 1800.0,
        sharding: Literal["none", "full"] = "none",
        offload: bool = False,
    ) -> None:
        """``sharding`` and ``offload`` say how models lie on the ranks, or beside the only one; see
        :mod:`credo.dist.shard`."""
        assert 0 <= rank < size
        self.rank, self.size, self.device, self.timeout = rank, size, device, timeout
        self.sharded, self.offload = sharding == "full" and (size > 1 or offload), offload
        self.group: Any = None
        self.alone: Callable[[], AbstractContextManager[None]] = nullcontext
        """What the work of one rank runs in, such as what lets it be interrupted."""
        self._stage, self._word, self._lost = "starting", STAGE, threading.Event()

    def beside(self) -> World:
        """Collective. The same ranks with a line of their own, for exchanges in another thread than the main one."""
        other = World(rank=self.rank, size=self.size, timeout=self.timeout)
        if self.size > 1:
            import torch.distributed as dist

            other._word, other._lost = STAGE + "/beside", self._lost
            with self._bounded():
                other.group = dist.new_group(timeout=timedelta(seconds=self.timeout), backend="gloo")
        return other

    @property
    def is_first(self) -> bool:
        """True on the rank that writes files."""
        return self.rank == 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Names what is being done, for the error of a rank that waits in vain; after an error it stays named."""
        before = self._stage
        self._enter(name)
        yield
        self._enter(before)

    def all_reduce(self, value: Tensor, operation: Literal["sum", "max"]) -> Tensor:
        """Collective. ``value`` combined over all ranks, the same to the bit on each; a new tensor."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        assert dist.is_initialized(), "more than one rank needs a process group"
        combined = value.detach().clone()
        with self._bounded():
            dist.all_reduce(combined, {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}[operation], self.group)
        return combined

    def sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Collective. Writes into each tensor its sum over all ranks; all of them travel at once."""
        if self.size == 1:
            return
        import torch.distributed as dist

        with self._bounded():
            travelling = [dist.all_reduce(tensor, group=self.group, async_op=True) for tensor in tensors]
            for one in travelling:
                if one is not None:
                    one.wait()

    def gather(self, value: Value) -> list[Value]:
        """Collective. The values of all ranks, by rank; anything that can be pickled."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        with self._bounded():
            dist.all_gather_object(values, value, self.group)
        return values

    def broadcast(self, value: Value) -> Value:
        """Collective. The first rank's value."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        values = [value]
        with self._bounded():
            dist.broadcast_object_list(values, src=0, group=self.group)
        return values[0]

    def any(self, here: bool) -> bool:
        """Collective. Whether it is so on any rank."""
        return bool(self.all_reduce(torch.tensor(float(here)), "max"))

    def together(self, work: Callable[[], Result]) -> list[Result]:
        """Collective. What ``work`` returns on each rank, by rank.

        If it is interrupted on one, all raise Interrupted; if it fails on one, that one raises its own error and the
        others a RuntimeError that names it, so that none waits for an answer that will not come.
        """
        if self.size == 1:
            return [work()]
        outcome: Any
        own: BaseException | None = None
        try:
            with self.alone():
                outcome = work()
        except (Exception, Interrupted) as error:
            own, outcome = error, _Failed(f"{type(error).__name__}: {error}", isinstance(error, Interrupted))
        try:
            outcomes = self.gather(outcome)
        except RuntimeError:
            if own is not None:
                raise own from None
            raise
        failed = {rank: found for rank, found in enumerate(outcomes) if isinstance(found, _Failed)}
        if any(found.interrupted for found in failed.values()):
            raise Interrupted from own
        if own is not None:
            raise own
        for rank, found in failed.items():
            raise RuntimeError(f"Rank {rank} of {self.size} failed in '{self._stage}': {found.reason}")
        return outcomes

    def everywhere(self, work: Callable[[], Result]) -> Result:
        """Collective. What ``work`` returns here, once it is done on all ranks; errors as in :meth:`together`."""
        results: list[Result] = []
        self.together(lambda: results.append(work()))
        return results[0]

    def first(self, work: Callable[[], Result]) -> Result:
        """Collective. What ``work`` returns on the first rank, which alone does it; errors as in :meth:`together`."""
        results = self.together(lambda: work() if self.is_first else None)
        return results[0]  # pyright: ignore[reportReturnType]

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Turns what torch raises where it exchanges by itself, in sharded layers and checkpoints, into the sentence
        that the collectives above raise when a rank is gone or late."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not _of_the_group(error):
                raise
            with self._bounded():
                raise

    def _enter(self, stage: str) -> None:
        self._stage = stage
        if self.size > 1 and not self._lost.is_set():
            with suppress(RuntimeError):  # if the store is gone, what comes next says so in a sentence
                _store().set(self._word.format(self.rank), f"{stage} since {time.strftime('%H:%M:%S')}")

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        """Turns what the process group says of a lost or late rank into a sentence."""
        started = time.monotonic()
        try:
            yield
        except RuntimeError as error:
            waited = time.monotonic() - started
            raise RuntimeError(
                f"Rank {self.rank} of {self.size} waited {waited:.0f} s in '{self._stage}' for the others: "
                f"{_reason(error)}. "
                f"{self._others()}Look for the error of the rank that is missing; the run goes on from its last "
                "checkpoint when it is started again. launch.timeout is how long a rank waits."
            ) from error

    def _others(self) -> str:
        """Where the other ranks were last seen, as far as that can still be asked."""
        self._lost.set()
        seen: list[str] = []
        asking = threading.Thread(target=self._ask, args=(seen,), daemon=True)
        asking.start()
        asking.join(PATIENCE)  # a store whose machine is gone without a word never answers
        return f"Last seen: {', '.join(seen[:8])}. " if seen else "Rank 0, which keeps word of them, does not answer. "

    def _ask(self, seen: list[str]) -> None:
        with suppress(RuntimeError):
            for rank in range(self.size):
                if rank != self.rank:
                    key = self._word.format(rank)
                    known = _store().check([key])
                    seen.append(f"rank {rank} in '{_store().get(key).decode()}'" if known else f"rank {rank} nowhere")


def _of_the_group(error: RuntimeError) -> bool:
    """Whether a process group raised it: NCCL's have a class, gloo's the place in its sources."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or re.match(r"\[\S*gloo\S*\] ", str(error)) is not None


def _reason(error: RuntimeError) -> str:
    """The first sentence of what torch says, without the place in its sources."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^(Gloo connectFullMesh failed with )?\[\S+\] ", "", lines[0]).split(". ")[0].rstrip(".")


def _store() -> Any:
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()
