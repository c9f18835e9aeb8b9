"""One call in a thread of its own, waited for with a limit. A thread that outlives it does not keep the process.

On Linux it takes what processor time the others leave: it must not slow down what it was started to run beside.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

Result = TypeVar("Result")
LOWEST = 19
"""Of priorities, as ``nice`` counts them."""


class Background(Generic[Result]):
    """``work`` in progress; what it returns or raises is for who waits."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._results: list[Result] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self, limit: float) -> Result:
        """What the work returned, once it is done. Raises TimeoutError after ``limit`` seconds, or what it raised."""
        self._thread.join(limit)
        if self._thread.is_alive():
            raise TimeoutError(f"no end after {limit:.0f} s")
        if self._error is not None:
            raise self._error
        return self._results[0]

    def _run(self) -> None:
        try:
            if sys.platform == "linux":  # where a priority is a thread's own
                with suppress(OSError):
                    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)
            self._results.append(self._work())
        except BaseException as error:
            self._error = error
