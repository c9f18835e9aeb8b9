"""Ctrl-C and SIGTERM: they stop a run between two steps, or inside the part of a step that has written nothing yet."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """Raised at a place where stopping loses nothing. No ``except Exception`` on its way takes it for an error."""


class Interruption:
    """Remembers that the user or the system asked the run to end. A second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.requested = False
        self._may_raise = False

    @contextmanager
    def listening(self) -> Iterator[Interruption]:
        """Takes SIGINT and SIGTERM over until the end of the block."""
        before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Within the block a request raises ``Interrupted`` at once; one that came before raises on entry."""
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
