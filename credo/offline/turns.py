"""The work of many clients, done together: a bounded line before one thread, which takes as much as fits in a turn.

It knows neither models nor HTTP; what a piece of work costs and how it is done are functions that it is given.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Ready = TypeVar("Ready")
Answer = TypeVar("Answer")


class LineFull(Exception):
    """There is no place left in the line, or it takes no more."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Job(Generic[Asked, Ready, Answer]):
    asked: Asked
    ready: Ready | None = None
    future: Future[Answer] = field(default_factory=Future)


class Turns(Generic[Asked, Ready, Answer]):
    """A line of ``places``. A turn takes from its front what costs ``budget`` together, and one piece at least."""

    def __init__(
        self,
        prepare: Callable[[Asked], Ready],
        cost: Callable[[Ready], int],
        work: Callable[[Sequence[Ready]], Sequence[Answer]],
        *,
        budget: int,
        places: int,
    ) -> None:
        """All three run in the one thread. What ``prepare`` raises, and what ``work`` raises over one piece alone,
        becomes that piece's answer."""
        self._prepare, self._cost, self._work = prepare, cost, work
        self._budget, self._places = budget, places
        self._line: deque[_Job[Asked, Ready, Answer]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.taken = self.spent = 0
        """Turns so far, and what they have cost."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Pieces of work in the line."""
        return len(self._line)

    @property
    def alive(self) -> bool:
        """Whether there is still someone to do the work."""
        return self._thread.is_alive()

    def ask(self, asked: Asked) -> Future[Answer]:
        """Puts a piece of work into the line. Raises LineFull where there is no place, or no one to do it."""
        job: _Job[Asked, Ready, Answer] = _Job(asked=asked)
        with self._changed:
            if self._closed or len(self._line) >= self._places or not self.alive:
                raise LineFull
            self._line.append(job)
            self._changed.notify()
        return job.future

    def drop(self, future: Future[Answer]) -> None:
        """Takes the work behind ``future`` out of the line, if it has not been begun."""
        future.cancel()
        with self._changed:
            self._line = deque(job for job in self._line if job.future is not future)

    def close(self, limit: float) -> None:
        """Takes no more, and waits for what is in the line; after ``limit`` seconds the rest of it is cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(limit)
        with self._changed:
            for job in self._line:
                job.future.cancel()
            self._line.clear()

    def _run(self) -> None:
        while turn := self._turn():
            self.taken += 1
            begun = [job for job in turn if job.future.set_running_or_notify_cancel()]
            if begun:
                self._do(begun)

    def _turn(self) -> list[_Job[Asked, Ready, Answer]]:
        """The next pieces of work; none when the line has been closed and is empty."""
        turn: list[_Job[Asked, Ready, Answer]] = []
        cost = 0
        while (job := self._next(wait=not turn)) is not None:
            if job.ready is None and not self._prepared(job):
                continue
            assert job.ready is not None
            cost += self._cost(job.ready)
            if turn and cost > self._budget:
                with self._changed:
                    self._line.appendleft(job)
                break
            turn.append(job)
        return turn

    def _next(self, *, wait: bool) -> _Job[Asked, Ready, Answer] | None:
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._line or self._closed)
            return self._line.popleft() if self._line else None

    def _prepared(self, job: _Job[Asked, Ready, Answer]) -> bool:
        try:
            job.ready = self._prepare(job.asked)
        except Exception as error:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(error)
            return False
        return True

    def _do(self, jobs: list[_Job[Asked, Ready, Answer]]) -> None:
        pieces = [job.ready for job in jobs if job.ready is not None]
        try:
            answers = self._work(pieces)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
                return
            for job in jobs:  # what one of them has spoilt the others need not pay for
                self._do([job])
            return
        self.spent += sum(map(self._cost, pieces))
        for job, answer in zip(jobs, answers, strict=True):
            job.future.set_result(answer)
