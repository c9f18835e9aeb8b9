"""Judging in child processes that can be killed: many items, each with a hard deadline of its own.

The pool ignores how an answer is judged (``judges`` does that, in the child). It promises one judgement per item in the
order given, whatever the items hold: an item that is out of time or takes two processes down is ``Unknown``, and no
other item loses anything. Children start at the first ``verify`` (or at ``start``), live across calls, and are replaced
now and then because SymPy's caches grow.
"""

from __future__ import annotations

import os
import selectors
import threading
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import Any

from credo.types import Problem, Unknown, Verdict
from credo.verify.extraction import Extraction
from credo.verify.judges import LONGEST_RESPONSE
from credo.verify.process import Process
from credo.verify.strictness import Strictness
from credo.verify.worker import START_SECONDS, pack

_MOST_FAILED_STARTS = 3


@dataclass(slots=True, kw_only=True)
class _Errand:
    """What a worker is doing: judging the item ``index``, or getting ready for a kind of problem (None)."""

    index: int | None
    kind: str
    begun: float
    expires: float


@dataclass(slots=True)
class _Worker:
    """A seat for one process after another."""

    process: Process | None = None
    errand: _Errand | None = None
    kinds: set[str] = field(default_factory=set)
    """What the process is ready for."""
    judged: int = 0
    retry: int | None = None
    """An item that took the last process down; the next one tries it once more."""

    def stop(self) -> int:
        """Kill the process if there is one; returns its exit status."""
        process, self.process, self.errand = self.process, None, None
        self.kinds, self.judged = set(), 0
        return process.kill() if process else 0


class _Round:
    """One call of ``verify``: what is asked, what is left, what is answered."""

    def __init__(self, tasks: Sequence[tuple[Problem, str]]) -> None:
        self.tasks = tasks
        self.waiting = deque(range(len(tasks)))
        self.retried: set[int] = set()
        self.answers: dict[int, Verdict | Unknown] = {}


class JudgePool:
    """Judges maths, gym and exact problems in ``workers`` child processes."""

    def __init__(
        self,
        extraction: Extraction | None = None,
        *,
        workers: int = 2,
        deadline: float = 5.0,
        memory_mb: int = 2048,
        recycle_after: int = 2000,
        strictness: Strictness | None = None,
        own: Mapping[str, Any] | None = None,
    ) -> None:
        """``deadline`` is wall-clock seconds for one item; ``memory_mb`` bounds the address space of one child.

        ``own`` are the child's settings for a function of the user's (see ``custom``) that judges in place of ours.
        """
        least = {"workers": (workers, 1), "memory_mb": (memory_mb, 512), "recycle_after": (recycle_after, 1)}
        for name, (value, minimum) in least.items():
            if value < minimum:
                raise ValueError(f"`verify.{name}` is {value}; the verifier needs {minimum} or more.")
        if not 0.0 < deadline <= 3600.0:
            raise ValueError(f"`verify.deadline` is {deadline}; it must be above 0 and at most 3600 seconds.")
        self._settings = {
            "extraction": asdict(extraction or Extraction()),
            "strictness": asdict(strictness or Strictness()),
            "deadline": deadline,
            "memory_mb": memory_mb,
            **(own or {}),
        }
        self._whole = own is not None
        self._deadline = deadline
        self._recycle_after = recycle_after
        self._workers = [_Worker() for _ in range(workers)]
        self._failed_starts = 0
        self._lock = threading.Lock()
        self._close = weakref.finalize(self, _stop_all, self._workers, os.getpid())

    def start(self, kind: str = "math") -> None:
        """Let every worker get ready for ``kind`` in the background; returns at once."""
        with self._lock:
            self._refuse_closed()
            for worker in self._workers:
                if worker.process is None:
                    self._prepare(worker, kind)

    def verify(self, tasks: Sequence[tuple[Problem, str]]) -> list[Verdict | Unknown]:
        """One judgement for each task, in their order. RuntimeError: the child processes do not start."""
        with self._lock:
            self._refuse_closed()
            current = _Round(tasks)
            try:
                while len(current.answers) < len(tasks):
                    for worker in self._workers:
                        if worker.errand is None:
                            self._employ(worker, current)
                    self._listen(current)
            except (
                BaseException
            ):  # an interrupt too: what is in flight belongs to this call and must not answer the next
                for worker in self._workers:
                    worker.retry = None
                    if worker.errand:
                        worker.stop()
                raise
            return [current.answers[index] for index in range(len(tasks))]

    def close(self) -> None:
        """End the children; nothing is left of them when this returns."""
        with self._lock:
            self._close()

    def _refuse_closed(self) -> None:
        if not self._close.alive:
            raise RuntimeError("This verifier is closed; make a new one.")

    def _prepare(self, worker: _Worker, kind: str) -> None:
        if worker.process is None:
            worker.process = Process(self._settings)
        now = monotonic()
        worker.errand = _Errand(index=None, kind=kind, begun=now, expires=now + START_SECONDS)
        worker.process.send(pack({"warm": kind}))

    def _employ(self, worker: _Worker, current: _Round) -> None:
        """Give an idle worker an item, or let it get ready for one that no other worker is getting ready for."""
        while worker.retry is not None or current.waiting:
            index = current.waiting[0] if worker.retry is None else worker.retry
            problem, response = current.tasks[index]
            if worker.process and (worker.judged >= self._recycle_after or not worker.process.alive):
                worker.stop()
            if worker.process is None or problem.kind not in worker.kinds:
                coming = sum(other.errand is not None and other.errand.index is None for other in self._workers)
                if worker.retry is not None or len(current.waiting) > coming:
                    self._prepare(worker, problem.kind)
                return
            if worker.retry is None:
                current.waiting.popleft()
            worker.retry = None
            frame = _request(problem, response, whole=self._whole)
            if isinstance(frame, bytes):
                now = monotonic()
                worker.errand = _Errand(index=index, kind=problem.kind, begun=now, expires=now + self._deadline)
                worker.process.send(frame)
                return
            current.answers[index] = frame

    def _listen(self, current: _Round) -> None:
        """Wait until a child says something or is out of time, and act on it."""
        busy = [worker for worker in self._workers if worker.errand and worker.process]
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                assert worker.process
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
                if worker.process.wants_to_write:
                    selector.register(worker.process.stdin, selectors.EVENT_WRITE, worker)
            expiry = min((worker.errand.expires for worker in busy if worker.errand), default=0.0)
            ready = selector.select(max(0.0, expiry - monotonic())) if busy else []
        for key, _ in ready:
            worker = key.data
            if worker.process and key.fd == worker.process.stdin:
                worker.process.flush()
            elif worker.process:
                self._hear(worker, current)
        for worker in busy:
            if worker.errand and worker.errand.expires <= monotonic():
                self._give_up(worker, current)

    def _hear(self, worker: _Worker, current: _Round) -> None:
        assert worker.process
        assert worker.errand
        try:
            reply = worker.process.receive()
        except (EOFError, ValueError):
            self._replace(worker, current)
            return
        if reply is None:
            return
        errand, worker.errand = worker.errand, None
        if errand.index is None:
            worker.kinds.add(errand.kind)
            self._failed_starts = 0
        else:
            worker.judged += 1
            current.answers[errand.index] = _judgement(reply, monotonic() - errand.begun)

    def _give_up(self, worker: _Worker, current: _Round) -> None:
        assert worker.process
        assert worker.errand
        index, last_words = worker.errand.index, worker.process.last_words()
        worker.stop()
        if index is None:
            self._count_failed_start(f"was not ready within {START_SECONDS:g} s", last_words)
        else:
            current.answers[index] = Unknown(reason=f"no verdict within {self._deadline:g} s", seconds=self._deadline)

    def _replace(self, worker: _Worker, current: _Round) -> None:
        assert worker.process
        assert worker.errand
        errand, last_words = worker.errand, worker.process.last_words()
        status = worker.stop()
        if errand.index is None:
            self._count_failed_start(f"ended with status {status}", last_words)
        elif errand.index in current.retried:
            seconds = monotonic() - errand.begun
            reason = f"verifier process died twice (status {status})"
            current.answers[errand.index] = Unknown(reason=reason, seconds=seconds)
        else:
            current.retried.add(errand.index)
            worker.retry = errand.index

    def _count_failed_start(self, what: str, last_words: str) -> None:
        self._failed_starts += 1
        if self._failed_starts >= _MOST_FAILED_STARTS:
            self._failed_starts = 0
            raise RuntimeError(
                f"A verifier process {what}, {_MOST_FAILED_STARTS} times in a row. "
                f"It wrote: {last_words or 'nothing'}. Install what is missing there or raise `verify.memory_mb`."
            )


def _request(problem: Problem, response: str, *, whole: bool) -> bytes | Verdict | Unknown:
    """The frame that asks for a judgement, with the ``whole`` problem if it takes that, or the judgement where there is
    nothing to ask."""
    if len(response) > LONGEST_RESPONSE:
        return Verdict(score=0.0, reason=f"response longer than {LONGEST_RESPONSE} characters")
    extra = dict(problem.extra) if problem.kind == "gym" else {}
    task = {"kind": problem.kind, "response": response, "answer": problem.answer, "extra": extra}
    try:
        return pack(asdict(problem) | {"response": response} if whole else task)
    except (TypeError, ValueError, RecursionError) as error:
        return Unknown(reason=f"the problem is not made of JSON values: {error}")


def _judgement(reply: dict[str, Any], seconds: float) -> Verdict | Unknown:
    if "unknown" in reply:
        return Unknown(reason=reply["unknown"], seconds=seconds)
    return Verdict(score=reply["score"], reason=reply["reason"], seconds=seconds)


def _stop_all(workers: list[_Worker], owner: int) -> None:
    if os.getpid() == owner:  # a forked copy of the parent must leave the children alone
        for worker in workers:
            worker.stop()
