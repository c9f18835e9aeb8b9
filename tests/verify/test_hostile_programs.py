"""No program gets a reward that it has not earned, and nothing of it outlives its verdict.

All programs are judged once, together; the tests look at what came of it. Without namespaces they are skipped.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from credo.types import Problem, Unknown, Verdict
from credo.verify.programs import ProgramVerifier
from credo.verify.sandbox import sandbox_level, strength
from tests.verify.hostile_programs import HONEST, HOSTILE, TASKS, Form, Program

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = 1.0
"""A test's limit; those of one program together have three times as long, and its start and end three more."""
LIMITS: dict[str, Any] = {
    "min_level": 2, "seconds": SECONDS, "total_seconds": 3 * SECONDS, "memory_mb": 512, "partial": True,
}  # fmt: skip
pytestmark = pytest.mark.skipif(sandbox_level() < 2, reason=f"no namespaces here: {strength().reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """What a program must not reach: places and channels of this process. ``signs`` name them in the programs."""

    signs: Mapping[str, str]
    listeners: tuple[socket.socket, ...]
    signals: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of judging everything."""

    judged: Mapping[str, Verdict | Unknown]
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    left_running: set[int]
    grown_mb: float


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    place, mark, key = tmp_path_factory.mktemp("trainer"), f"mark-{uuid.uuid4().hex}", uuid.uuid4().int % (1 << 30)
    (place / "secret").write_text(mark)
    stream, datagram, unix, abstract = listeners = (
        socket.socket(),
        socket.socket(type=socket.SOCK_DGRAM),
        socket.socket(socket.AF_UNIX),
        socket.socket(socket.AF_UNIX),
    )
    for listener, address in (
        (stream, ("127.0.0.1", 0)),
        (datagram, ("127.0.0.1", 0)),
        (unix, f"{place}/socket"),
        (abstract, f"\0{mark}"),
    ):
        listener.bind(address)
        listener.setblocking(False)
        if listener is not datagram:
            listener.listen()
    libc, received = ctypes.CDLL(None), []
    segment = libc.shmget(key, 4096, 0o1600)
    previous = signal.signal(signal.SIGUSR1, lambda number, _: received.append(number))
    libc.prctl(36, 1)  # a subreaper: processes that lose their parent become children of this one, and are found
    os.environ["CREDO_TEST_SECRET"] = mark
    signs = {
        "PLACE": str(place),
        "MARK": mark,
        "HOME": str(Path.home()),
        "REPOSITORY": str(REPOSITORY),
        "TRAINER": str(os.getpid()),
        "PORT": str(stream.getsockname()[1]),
        "DATAGRAM_PORT": str(datagram.getsockname()[1]),
        "KEY": str(key),
    }
    yield Trainer(signs=signs, listeners=listeners, signals=received)
    del os.environ["CREDO_TEST_SECRET"]
    libc.prctl(36, 0)
    libc.shmctl(segment, 0, None)
    signal.signal(signal.SIGUSR1, previous)
    for listener in listeners:
        listener.close()


def text(program: Program, form: Form, trainer: Trainer) -> str:
    source = program.source(form)
    for sign, value in trainer.signs.items():
        source = source.replace(f"@{sign}@", value)
    return source


def task(program: Program, form: Form, trainer: Trainer) -> tuple[Problem, str]:
    name = f"{program.family}/{program.name} {form}"
    tests = {"tests": TASKS[form]}
    problem = Problem(id=name, kind="code", prompt="", answer="", source="test", extra=tests)  # type: ignore[arg-type]
    return problem, f"Here it is.\n```python\n{text(program, form, trainer)}\n```\n"


def tasks(programs: tuple[Program, ...], trainer: Trainer) -> list[tuple[Problem, str]]:
    return [task(program, form, trainer) for program in programs for form in program.forms]


def verifier_with(**changes: Any) -> ProgramVerifier:
    return ProgramVerifier(**{**LIMITS, **changes})


def descendants() -> set[int]:
    """The processes that this one or its children started and that still run."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(") ")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            parents[int(folder.name)] = int(parent)
    found, more = set(), {os.getpid()}
    while more:
        found |= more
        more = {process for process, parent in parents.items() if parent in more} - found
    return found - {os.getpid()}


def condition() -> dict[str, Any]:
    """What a program could have changed in this process."""
    return {
        "descriptors": {name: os.readlink(f"/proc/self/fd/{name}") for name in _descriptors()},
        "handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "mask": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "directory": Path.cwd(),
        "environment": dict(os.environ),
        "limits": [resource.getrlimit(limit) for limit in range(resource.RLIMIT_NICE)],
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "processors": os.sched_getaffinity(0),
        "threads": threading.active_count(),
        "host": socket.gethostname(),
    }


def _descriptors() -> list[str]:
    return [name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")]


def _after_a_moment(running: set[int]) -> set[int]:
    """The new descendants that are still there when killed processes have had two seconds to be gone."""
    until = time.monotonic() + 2.0
    while (left := descendants() - running) and time.monotonic() < until:
        time.sleep(0.02)
    return left


@pytest.fixture(scope="module")
def outcome(trainer: Trainer) -> Outcome:
    asked = tasks(HOSTILE, trainer)
    running, before = descendants(), condition()
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    verifier = verifier_with(workers=6)
    judged = verifier.verify(asked)
    verifier.close()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - largest
    return Outcome(
        judged={problem.id: verdict for (problem, _), verdict in zip(asked, judged, strict=True)},
        before=before,
        after=condition(),
        left_running=_after_a_moment(running),
        grown_mb=grown / 1024,
    )


def test_no_program_gets_more_than_it_earned(outcome: Outcome):
    most = {f"{program.family}/{program.name} {form}": program.most for program in HOSTILE for form in program.forms}
    least = {f"{program.family}/{program.name} {form}": program.least for program in HOSTILE for form in program.forms}
    scores = {name: verdict.score for name, verdict in outcome.judged.items() if isinstance(verdict, Verdict)}
    assert not {name: score for name, score in scores.items() if not least[name] <= score <= most[name]}


def test_what_a_program_does_is_never_called_our_failure(outcome: Outcome):
    assert not {name: verdict.reason for name, verdict in outcome.judged.items() if isinstance(verdict, Unknown)}


def test_every_program_ends_within_its_limit(outcome: Outcome):
    slow = {name: verdict.seconds for name, verdict in outcome.judged.items() if verdict.seconds > 6 * SECONDS}
    assert not slow


def test_nothing_is_left_running(outcome: Outcome):
    assert not outcome.left_running


def test_nothing_is_written(outcome: Outcome, trainer: Trainer):
    mark, place = trainer.signs["MARK"], Path(trainer.signs["PLACE"])
    assert sorted(path.name for path in place.iterdir()) == ["secret", "socket"]
    shallow = ("/", "/tmp", "/var/tmp", "/dev", "/dev/shm", "/etc", "/run", "/usr", "/usr/lib", "/opt", "/srv", "/mnt")
    places = {*shallow, "/home", "/root", str(REPOSITORY), str(Path.cwd()), str(Path.home())}
    assert not [path for place in places if os.access(place, os.R_OK) for path in Path(place).glob(f"*{mark}*")]


def test_the_trainer_is_unharmed(outcome: Outcome, trainer: Trainer):
    assert outcome.after == outcome.before
    assert not trainer.signals
    assert outcome.grown_mb < 200
    for listener in trainer.listeners:
        with pytest.raises(BlockingIOError):
            listener.recv(1) if listener.type == socket.SOCK_DGRAM else listener.accept()


def test_honest_programs_pass(trainer: Trainer):
    asked = tasks(HONEST, trainer)
    verifier = verifier_with(workers=2, seconds=5.0, total_seconds=20.0)
    judged = verifier.verify(asked)
    verifier.close()
    wrong = {
        problem.id: verdict
        for (problem, _), verdict in zip(asked, judged, strict=True)
        if isinstance(verdict, Unknown) or verdict.score != 1.0
    }
    assert not wrong


def test_honest_programs_pass_among_hostile_ones(trainer: Trainer):
    names = ("fork-bomb", "everything", "closes-everything", "list", "spoils-the-library")
    honest, hostile = tasks(HONEST[:3], trainer), tasks(tuple(one for one in HOSTILE if one.name in names), trainer)
    mixed = [one for index, bad in enumerate(hostile) for one in (bad, honest[index % len(honest)])]
    verifier = verifier_with(workers=2, seconds=3.0, total_seconds=6.0)
    judged = verifier.verify(mixed)
    verifier.close()
    assert [verdict.score for verdict in judged[1::2] if isinstance(verdict, Verdict)] == [1.0] * len(hostile)


def test_a_program_leaves_nothing_to_the_next(trainer: Trainer):
    leaves, finds = (one for one in HOSTILE if one.name in ("leaves-a-note", "finds-a-note"))
    verifier = verifier_with(workers=1)
    judged = verifier.verify([task(one, "stdin", trainer) for one in (leaves, finds, leaves, finds)])
    verifier.close()
    assert [verdict.score for verdict in judged if isinstance(verdict, Verdict)] == [0.0] * 4


def test_guesses_earn_nothing_where_all_tests_must_pass(trainer: Trainer):
    asked = tasks(tuple(one for one in HOSTILE if one.family in ("guess", "state")), trainer)
    verifier = verifier_with(workers=2, partial=False)
    judged = verifier.verify(asked)
    verifier.close()
    assert [verdict.score for verdict in judged if isinstance(verdict, Verdict)] == [0.0] * len(asked)


REACHABLE = (
    "loopback", "unix-socket", "abstract-socket", "secret", "secret-through-a-link", "repository", "environment",
    "environment-of-others", "trainer", "shared-segment", "sees-shared-segments",
)  # fmt: skip


@pytest.mark.parametrize("name", REACHABLE)
def test_without_a_sandbox_a_probe_reaches_its_goal(name: str, trainer: Trainer, tmp_path: Path):
    (probe,) = (one for one in HOSTILE if one.name == name)
    source = text(probe, "stdin", trainer).replace("/tmp/link", str(tmp_path / "link"))
    shown = subprocess.run([sys.executable, "-c", source], input="8 5\n", capture_output=True, text=True, timeout=30)
    assert shown.stdout == "13\n", shown.stderr
    for listener in trainer.listeners:
        with contextlib.suppress(OSError):
            listener.accept()[0].close()  # so that no visit waits to be counted later


@pytest.mark.parametrize("name", ["sys-exit", "at-once-in-the-function", "always", "mock", "list-subclass", "sorted"])
def test_a_grader_in_the_same_process_falls_for_a_trick(name: str, trainer: Trainer):
    (program,) = (one for one in HOSTILE if one.name == name)
    form = program.forms[0]
    source = f"{text(program, form, trainer)}\n{TASKS[form]['asserts'].splitlines()[0]}\n"
    assert subprocess.run([sys.executable, "-c", source], capture_output=True, timeout=30).returncode == 0


@pytest.mark.parametrize("name", ["in-objects", "in-frames", "in-modules", "in-memory"])
def test_a_grader_in_the_same_process_tells_what_it_expects(name: str, trainer: Trainer):
    (probe,) = (one for one in HOSTILE if one.name == name)
    driver = """
import json, sys, types
asked = sys.stdin.read()  # and kept, as graders do
source, tests = json.loads(asked)
module = sys.modules["solution"] = types.ModuleType("solution")
exec(source, vars(module))
assert [module.Solution().add(*pair) for pair in tests["inputs"]] == tests["outputs"]
"""
    asked = json.dumps([text(probe, "call", trainer), dict(TASKS["call"])])
    run = subprocess.run([sys.executable, "-c", driver], input=asked, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
