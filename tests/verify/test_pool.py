"""The pool keeps its promises whatever the items hold: one bounded judgement each, in order, and no process left."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from credo.types import Problem, Unknown, Verdict
from credo.verify.extraction import Extraction
from credo.verify.pool import JudgePool

CATASTROPHE = Extraction(kind="regex", pattern="(?:a+)+$|b$")
ENDLESS = "a" * 40 + "c"
A_WHILE = "a" * 21 + "c"
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc, which is Linux's")


def problem(answer: str, kind: str = "math", **extra: object) -> Problem:
    return Problem(id=answer[:10], kind=kind, prompt="", answer=answer, source="test", extra=extra)  # type: ignore[arg-type]


def children() -> set[int]:
    """The living verifier processes that this process started."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(") ")[2].split()[:2]
            command = (folder / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == os.getpid() and state != "Z" and b"credo.verify.worker" in command:
            found.add(int(folder.name))
    return found


def scores(judged: list[Verdict | Unknown]) -> list[float | None]:
    return [verdict.score if isinstance(verdict, Verdict) else None for verdict in judged]


@pytest.fixture(scope="module")
def pool() -> Iterator[JudgePool]:
    shared = JudgePool(deadline=1.0)
    shared.start()
    yield shared
    shared.close()


def test_all_kinds_in_one_call(pool: JudgePool):
    entry = {"question": "", "answer": "39", "metadata": {}}
    tasks = [
        (problem("1/2"), r"\boxed{0.5}"),
        (problem("39", "gym", family="chain_sum", entry=entry), "<answer>39</answer>"),
        (problem("Paris", "exact"), "paris"),
        (problem("3"), "The answer is 4."),
        (problem("39", "gym", family="chain_sum", entry=entry), "40"),
        (problem("Paris", "exact"), " Paris "),
        (problem("39", "gym"), "39"),
    ]
    pytest.importorskip("reasoning_gym")
    judged = pool.verify(tasks)
    assert scores(judged) == [1.0, 1.0, 0.0, 0.0, 0.0, 1.0, None]
    assert all(0.0 < verdict.seconds < 1.0 for verdict in judged)
    assert pool.verify([]) == []


def test_order_and_threads_do_not_matter(pool: JudgePool):
    tasks = [(problem(str(index // 2)), f"so $\\boxed{{{index}/2}}$") for index in range(60)]
    expected = [float(index % 2 == 0) for index in range(60)]
    assert scores(pool.verify(tasks)) == expected
    shuffled = random.Random(0).sample(range(60), 60)
    assert scores(pool.verify([tasks[index] for index in shuffled])) == [expected[index] for index in shuffled]
    in_threads: dict[int, list[float | None]] = {}

    def judge(number: int) -> None:
        in_threads[number] = scores(pool.verify(tasks))

    threads = [threading.Thread(target=judge, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert in_threads == {0: expected, 1: expected}


POISON = [
    r"\boxed{9^{9^{9^{9}}}}",
    "the answer is 9**9**9**9",
    r"\boxed{(((100!)!)!)!}",
    r"\boxed{\binom{10^{9}}{5\cdot10^{8}}}",
    r"\boxed{10^{10^{10}}}",
    r"\boxed{(x+y+z+1)^{3000}}",
    r"\boxed{1e999999999}",
    "\\boxed{" + "{" * 400 + "1" + "}" * 400 + "}",
    "\\boxed{" + "{" * 5000 + "1" + "}" * 5000 + "}",
    "\\boxed{" + "\\frac{" * 100 + "1" + "}{2}" * 100 + "}",
    "\\boxed{" + "(" * 100_000 + "}",
    "\\boxed{" + "1" * 999_000 + "}",
    "\\boxed{" + "7" * 1_000_000 + "}",
    "7 " * 499_000,
    "\\boxed{" * 140_000,
    "answer is " * 90_000,
    "$" * 900_000,
    "\\boxed{\ud800\udfff \udc00}",
    "\\boxed{1\x00/3}",
    "\x00" * 1000,
]


def test_poison_is_bounded_and_never_rewarded(pool: JudgePool):
    pool.start()
    tasks = [(problem("1/3"), response) for response in POISON] + [(problem("1/3"), r"\boxed{\frac{1}{3}}")]
    started = time.monotonic()
    judged = pool.verify(tasks)
    assert time.monotonic() - started < 60
    assert 1.0 not in scores(judged[:-1])
    assert scores(judged)[-1] == 1.0
    assert all(verdict.seconds < 2.0 for verdict in judged)
    assert isinstance(judged[0], Verdict), "a tower of powers is refused unread: wrong, not unknown"
    assert scores(judged)[11:13] == [0.0, 0.0], "over the limits of length"


def test_the_deadline_takes_no_other_item_down():
    pool = JudgePool(CATASTROPHE, deadline=0.4)
    judged = pool.verify([(problem("b", "exact"), text) for text in ["b", ENDLESS, "b", "x", ENDLESS, "b", "b"]])
    pool.close()
    assert scores(judged) == [1.0, None, 1.0, 0.0, None, 1.0, 1.0]
    assert 0.4 <= judged[1].seconds < 1.0


@needs_proc
def test_a_killed_child_costs_no_verdict():
    before = children()
    pool = JudgePool(CATASTROPHE, deadline=20.0)
    pool.verify([(problem("b", "exact"), "b")] * 20)
    tasks = [(problem("b", "exact"), text) for text in [A_WHILE, "b"] * 12]
    judged: list[Verdict | Unknown] = []
    thread = threading.Thread(target=lambda: judged.extend(pool.verify(tasks)))
    thread.start()
    time.sleep(0.15)
    victims = children() - before
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    thread.join()
    assert victims
    assert not victims & children()
    assert scores(judged) == [0.0, 1.0] * 12
    pool.close()


@needs_proc
def test_an_item_that_takes_two_processes_down_is_unknown():
    before = children()
    pool = JudgePool(CATASTROPHE, workers=1, deadline=30.0)
    pool.verify([(problem("b", "exact"), "b")])
    judged: list[Verdict | Unknown] = []
    tasks = [(problem("b", "exact"), text) for text in ["b", ENDLESS, "b"]]
    thread = threading.Thread(target=lambda: judged.extend(pool.verify(tasks)))
    thread.start()
    killed: set[int] = set()
    while len(killed) < 2 and thread.is_alive():
        for pid in children() - before - killed:
            wait_until_busy(pid)
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        time.sleep(0.02)
    thread.join()
    pool.close()
    assert scores(judged) == [1.0, None, 1.0]
    assert "died" in judged[1].reason


@needs_proc
def test_a_retry_survives_a_process_that_does_not_get_ready():
    before = children()
    pool = JudgePool(CATASTROPHE, workers=1, deadline=30.0)
    pool.verify([(problem("b", "exact"), "b")])
    judged: list[Verdict | Unknown] = []
    tasks = [(problem("b", "exact"), text) for text in ["b", ENDLESS, "b"]]
    thread = threading.Thread(target=lambda: judged.extend(pool.verify(tasks)))
    thread.start()
    killed: set[int] = set()
    while len(killed) < 2 and thread.is_alive():
        for pid in children() - before - killed:
            if not killed:
                wait_until_busy(pid)
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    thread.join(timeout=60)
    pool.close()
    assert scores(judged) == [1.0, None, 1.0]


def wait_until_busy(pid: int) -> None:
    """Until the process has worked for half a second on end: no start-up looks like that to a child without imports."""

    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        return int(fields[11])

    before = ticks()
    while ticks() < before + 50:
        time.sleep(0.02)


@needs_proc
def test_close_leaves_nothing_and_is_final():
    before = children()
    pool = JudgePool(workers=3)
    pool.start("exact")
    assert len(children() - before) == 3
    pool.close()
    pool.close()
    assert children() == before
    with pytest.raises(RuntimeError, match="closed"):
        pool.verify([])


@needs_proc
def test_a_forgotten_pool_leaves_nothing():
    before = children()
    pool = JudgePool(workers=1)
    pool.verify([(problem("a", "exact"), "a")])
    assert children() != before
    del pool
    assert children() == before


@needs_proc
def test_processes_are_reused_and_replaced_in_time():
    pool = JudgePool(workers=1, recycle_after=5)
    before, seen = children(), set()
    for _ in range(11):
        assert scores(pool.verify([(problem("a", "exact"), "a")])) == [1.0]
        seen |= children() - before
    pool.close()
    assert len(seen) == 3


def test_an_interrupt_leaves_the_pool_usable():
    pool = JudgePool(CATASTROPHE, workers=1, deadline=30.0)
    pool.verify([(problem("b", "exact"), "b")])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pool.verify([(problem("b", "exact"), ENDLESS)])
    timer.join()
    signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 5
    assert scores(pool.verify([(problem("b", "exact"), text) for text in ["x", "b"]])) == [0.0, 1.0]
    pool.close()


def test_children_that_do_not_start_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "python").write_text("#!/bin/sh\necho no library here >&2\nexit 3\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    pool = JudgePool(workers=2)
    with pytest.raises(RuntimeError, match="no library here"):
        pool.verify([(problem("a", "exact"), "a")] * 4)
    monkeypatch.undo()
    assert scores(pool.verify([(problem("a", "exact"), "a")])) == [1.0]
    pool.close()


def test_a_problem_that_is_not_json_is_unknown(pool: JudgePool):
    odd = problem("a", "gym", family="chain_sum", entry={"answer": object()})
    assert scores(pool.verify([(odd, "a"), (problem("a", "exact"), "a")])) == [None, 1.0]


@pytest.mark.parametrize(
    "options",
    [{"workers": 0}, {"deadline": 0.0}, {"memory_mb": 100}, {"recycle_after": 0}],
    ids=lambda options: min(options),
)
def test_options_are_checked(options: dict[str, Any]):
    with pytest.raises(ValueError, match=rf"verify\.{min(options)}"):
        JudgePool(**options)
