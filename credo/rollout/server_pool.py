"""Several servers behind one door: which of them may be asked, who looks after those that failed, and who is next.

Each server has a keeper, a thread that looks at it every few seconds and brings it to the current weights; that is the
only way in, at the start as after a failure. Knows nothing of prompts and responses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic

from credo.rollout.server import Limits, Refusal, Server, ServerFailure, Unfit

_LONGEST_PAUSE = 12
"""Looks that pass without one at a server that failed again and again."""


@dataclass(slots=True)
class _Standing:
    """What is known of a server; read and written under the pool's lock."""

    number: int | None = None
    """The version of its weights, or None if it may not be asked."""
    outstanding: int = 0
    begun: int = 0
    """How often its keeper has begun to look at it."""
    ended: int = 0
    """How often it has come to an end with that."""
    failures: int = 0
    """In a row."""
    said: str = "no answer yet"
    unfit: bool = False
    wake: threading.Event = field(default_factory=threading.Event)


class ServerPool:
    """Hands out the server with the fewest requests under way, of those with weights that are new enough."""

    def __init__(self, servers: Sequence[Server], renew: Callable[[Server], int], limits: Limits) -> None:
        """``renew`` brings a server to the current weights and returns their number, from a thread of that server;
        ServerFailure and Refusal keep it out."""
        self._renew, self._limits = renew, limits
        self._standings = {server: _Standing() for server in servers}
        self.failed = 0
        """Requests that failed; each was tried again, within limits."""
        self._changed, self._closing = threading.Condition(), threading.Event()
        self._keepers = [threading.Thread(target=self._keep, args=(server,), daemon=True) for server in servers]
        for keeper in self._keepers:
            keeper.start()

    def look(self, *, at_all: bool = False, wait: bool = True) -> None:
        """Sends all keepers; returns when those have looked whose server may be asked, or really all of them, unless
        nobody is to ``wait``."""
        with self._changed:
            due = {
                server: standing.begun + 1
                for server, standing in self._standings.items()
                if at_all or standing.number is not None
            }
            for standing in self._standings.values():
                standing.wake.set()
            self._changed.wait_for(
                lambda: not wait or all(self._standings[server].ended >= look for server, look in due.items()),
                self._limits.update,
            )

    def take(self, least: Callable[[], int], given_up: threading.Event) -> Server:
        """A server with weights of the number ``least()`` or a later one; give it back after use.

        Waits for one. Raises RuntimeError after ``gone`` seconds without any, ServerFailure if the wait is given up.
        """
        ends = monotonic() + self._limits.gone
        with self._changed:
            while not given_up.is_set():
                ready = {
                    server: standing.outstanding
                    for server, standing in self._standings.items()
                    if standing.number is not None and standing.number >= least()
                }
                if ready:
                    server = min(ready, key=lambda server: ready[server])
                    self._standings[server].outstanding += 1
                    return server
                if not self._changed.wait(ends - monotonic()) and monotonic() >= ends:
                    raise RuntimeError(
                        f"For {self._limits.gone:.0f} s no server could be sampled from "
                        f"({self.said() or 'their weights are too old'}). Start those of rollout.servers again, or "
                        "name others there; the run goes on from its last checkpoint."
                    )
        raise ServerFailure("the call was given up")

    def give_back(self, server: Server, failure: ServerFailure | None = None) -> None:
        """After use; a server that failed is out until its keeper has brought it back."""
        with self._changed:
            standing = self._standings[server]
            standing.outstanding -= 1
            if failure is None:
                standing.failures = 0
            else:
                self._out(standing, failure)
                self.failed += 1
            self._changed.notify_all()

    def wait_for_one(self, least: int) -> None:
        """Raises RuntimeError after ``gone`` seconds without a server with weights of number ``least``."""
        self.give_back(self.take(lambda: least, threading.Event()))

    def notify(self) -> None:
        """Lets those who wait in ``take`` look whether they are to give up."""
        with self._changed:
            self._changed.notify_all()

    def unfit(self) -> list[str]:
        """What is wrong with each server that was started in another way than needed."""
        with self._changed:
            return [standing.said for standing in self._standings.values() if standing.unfit]

    def ready(self) -> int:
        """How many servers may be asked."""
        with self._changed:
            return sum(standing.number is not None for standing in self._standings.values())

    def said(self) -> str:
        """What each server has said last that may not be asked."""
        with self._changed:
            return "; ".join(standing.said for standing in self._standings.values() if standing.number is None)

    def close(self) -> None:
        """The servers run on, unattended; a look that has begun ends by its own limits."""
        self._closing.set()
        for standing in self._standings.values():
            standing.wake.set()

    def _keep(self, server: Server) -> None:
        standing, unanswered = self._standings[server], 0
        while not self._closing.is_set():
            standing.wake.clear()
            with self._changed:
                standing.begun += 1
            number: int | None = None
            failure: ServerFailure | None = None
            try:
                number = self._renew(server)
            except ServerFailure as error:
                failure = error
            except Refusal as error:
                failure = ServerFailure(str(error))
            with self._changed:
                standing.ended = standing.begun
                if failure is None:
                    standing.number, standing.unfit = number, False
                else:
                    self._out(standing, failure)
                pause = self._limits.check * min(2 ** max(standing.failures - 1, 0), _LONGEST_PAUSE)
                self._changed.notify_all()
            unanswered = unanswered + 1 if failure is not None and isinstance(failure.__cause__, OSError) else 0
            if unanswered > 1:
                server.hang_up()  # one that does not answer its keeper will not answer others
            standing.wake.wait(pause)

    def _out(self, standing: _Standing, failure: ServerFailure) -> None:
        standing.failures += standing.number is not None
        standing.number, standing.said, standing.unfit = None, str(failure), isinstance(failure, Unfit)
