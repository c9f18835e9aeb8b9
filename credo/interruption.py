"""Ctrl-C and SIGTERM: they stop a run between two steps, or inside the part of a step that has written nothing yet."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """Raised at a place where stopping loses nothing. No ``except Exception`` on its way takes it for an error."""


class Interruption:
    """Remembers that the user or the system asked the run to end. A second Ctrl-C ends it at once."""

    def __init__(self, agreed: Callable[[bool], bool] | None = None) -> None:
        """With several ranks ``agreed``, collective, says whether it is true on any: they stop in the same place."""
        self.requested = False
        self._agreed = agreed
        self._may_raise = self._within = False

    @contextmanager
    def listening(self) -> Iterator[Interruption]:
        """Takes SIGINT and SIGTERM over until the end of the block; in a thread, which gets none, :func:`ask_to_end`
        stands in for them."""
        main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
        before = {number: signal.signal(number, self._receive) for number in numbers}
        _LISTENING.append(self)
        try:
            yield self
        finally:
            _LISTENING.remove(self)
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Within the block a request raises ``Interrupted`` at once; one that came before raises on entry.

        With several ranks only what runs within :meth:`alone` is left at once; the others must hear of it.
        """
        if self._agreed(self.requested) if self._agreed else self.requested:
            raise Interrupted
        self._within, self._may_raise = True, self._agreed is None
        try:
            yield
        finally:
            self._within = self._may_raise = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Work of one rank, in which the others wait for nothing but its end. Outside of :meth:`allowed` it is not
        disturbed."""
        if not self._within:
            yield
            return
        if self.requested:
            raise Interrupted
        self._may_raise = True
        try:
            yield
        finally:
            self._may_raise = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        if self._may_raise:
            self._may_raise = False
            raise Interrupted


_LISTENING: list[Interruption] = []


def ask_to_end() -> None:
    """Asks the runs of this process to end at the next place where they may."""
    for interruption in _LISTENING:
        interruption.requested = True
