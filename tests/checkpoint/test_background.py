"""One call in a thread: waited for with a limit, its error raised to who waits."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from credo.checkpoint.background import Background


def test_it_is_done_when_it_has_been_waited_for():
    done: list[int] = []
    work = Background(lambda: done.append(threading.get_ident()))
    work.wait(10.0)
    work.wait(10.0)
    assert len(done) == 1
    assert done[0] != threading.get_ident()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives threads priorities of their own")
def test_it_leaves_the_processor_to_the_others():
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    seen, before = [], priority()
    Background(lambda: seen.append(priority())).wait(10.0)
    assert seen == [19]
    assert priority() == before


def test_what_it_raises_is_raised_to_who_waits():
    def fail() -> None:
        raise KeyError("here")

    with pytest.raises(KeyError, match="here"):
        Background(fail).wait(10.0)


def test_nobody_waits_for_ever():
    go_on = threading.Event()

    def hang() -> None:
        go_on.wait(60)

    work = Background(hang)
    with pytest.raises(TimeoutError, match="0 s"):
        work.wait(0.01)
    go_on.set()
    work.wait(10.0)
