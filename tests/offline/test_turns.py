"""The line before the one thread: what a turn holds, what fails alone, what is dropped, and the end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest

from credo.offline.turns import LineFull, Turns

LIMIT = 10.0


class Work:
    """Doubles numbers, once ``go`` is set; a number is its own cost."""

    def __init__(self, *, budget: int = 10, places: int = 8) -> None:
        self.turns: list[list[int]] = []
        self.begun, self.go = threading.Event(), threading.Event()
        self.line = Turns(self.prepare, lambda number: number, self.work, budget=budget, places=places)

    def prepare(self, asked: str) -> int:
        return int(asked)

    def work(self, numbers: Sequence[int]) -> list[int]:
        self.begun.set()
        assert self.go.wait(LIMIT)
        self.turns.append(list(numbers))
        if 7 in numbers:
            raise RuntimeError("seven")
        return [2 * number for number in numbers]

    def busy(self) -> Callable[[], int]:
        """Begins a turn of the number 1, so that what is asked next waits; gives its result."""
        future = self.line.ask("1")
        assert self.begun.wait(LIMIT)
        return lambda: future.result(LIMIT)


def test_what_waits_is_done_together_up_to_the_budget():
    work = Work()
    first = work.busy()
    futures = [work.line.ask(asked) for asked in ("2", "3", "4", "6", "12", "5")]
    work.go.set()
    assert [first(), *(future.result(LIMIT) for future in futures)] == [2, 4, 6, 8, 12, 24, 10]
    assert work.turns == [[1], [2, 3, 4], [6], [12], [5]]
    work.line.close(LIMIT)
    assert (work.line.taken, work.line.spent, work.line.alive) == (5, 33, False)


def test_what_cannot_be_prepared_fails_alone():
    work = Work()
    work.busy()
    good, bad, other = (work.line.ask(asked) for asked in ("2", "x", "3"))
    work.go.set()
    with pytest.raises(ValueError, match="'x'"):
        bad.result(LIMIT)
    assert (good.result(LIMIT), other.result(LIMIT)) == (4, 6)
    assert work.turns[1:] == [[2, 3]]


def test_what_spoils_a_turn_spoils_itself_alone():
    work = Work()
    work.busy()
    good, bad, other = (work.line.ask(asked) for asked in ("1", "7", "2"))
    work.go.set()
    with pytest.raises(RuntimeError, match="seven"):
        bad.result(LIMIT)
    assert (good.result(LIMIT), other.result(LIMIT)) == (2, 4)
    assert work.line.alive


def test_the_line_is_bounded_and_a_dropped_place_is_free_at_once():
    work = Work(places=2)
    work.busy()
    first, second = work.line.ask("2"), work.line.ask("3")
    with pytest.raises(LineFull):
        work.line.ask("4")
    work.line.drop(first)
    third = work.line.ask("4")
    assert work.line.waiting == 2
    work.go.set()
    assert (second.result(LIMIT), third.result(LIMIT)) == (6, 8)
    assert first.cancelled()
    assert work.turns == [[1], [3, 4]]


def test_closing_finishes_what_is_in_the_line_and_takes_no_more():
    work = Work()
    work.busy()
    waiting = work.line.ask("2")
    closing = threading.Thread(target=work.line.close, args=(LIMIT,))
    closing.start()
    while True:
        try:
            work.line.drop(work.line.ask("3"))
        except LineFull:
            break
    work.go.set()
    closing.join(LIMIT)
    assert waiting.result(0) == 4
    assert not work.line.alive


def test_closing_waits_no_longer_than_it_may():
    work = Work()
    work.busy()
    waiting = work.line.ask("2")
    work.line.close(0.05)
    assert waiting.cancelled()
    work.go.set()
