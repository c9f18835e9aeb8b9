"""A program that is loaded once and called many times, and its tests asking through us: the talk between processes.

Every wait has a limit. A program that hangs or dies is started anew for the next question, until its time is over.
"""

from __future__ import annotations

import json
from time import monotonic
from types import TracebackType
from typing import Any

from credo.verify import wire
from credo.verify.sandbox import Child, Limits, Sandbox, TooLong


class Wrong(Exception):
    """What the program did wrong in one test."""


class Clock:
    """The time of one program: some seconds for each test, and for all together."""

    def __init__(self, seconds: float, total_seconds: float) -> None:
        self.seconds, self._total = seconds, total_seconds
        self._ends = monotonic() + total_seconds

    def start(self, child: Child) -> None:
        """Give ``child`` the time of its next test. Wrong: there is none left."""
        if self.over:
            raise Wrong(self.excuse())
        child.expect(self.seconds, self._ends - monotonic())

    @property
    def over(self) -> bool:
        """Whether the time for all tests is used up."""
        return monotonic() >= self._ends

    def excuse(self) -> str:
        """Why a test that took too long has failed."""
        return f"all tests took over {self._total:g} s" if self.over else f"took over {self.seconds:g} s"


class LoadedProgram:
    """The functions of one program in a sandboxed process."""

    def __init__(self, sandbox: Sandbox, limits: Limits, task: dict[str, str], clock: Clock) -> None:
        self._sandbox, self._limits, self._task, self._clock = sandbox, limits, task, clock
        self._child: Child | None = None
        self._names: dict[str, str] = {}
        self._starts = 0
        self.unusable = False
        """It does not even load, or lacks the function: no further test can pass."""

    def __enter__(self) -> LoadedProgram:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()

    def names(self) -> dict[str, str]:
        """The kinds of the program's global names, as it tells. Wrong: it does not load."""
        self._load()
        return self._names

    def call(self, function: str, arguments: list[Any], most: int) -> Any:
        """The result of ``function``, also as a method of ``Solution``, as it came over the wire. Wrong."""
        self._load()
        target = [function] if function in self._names else ["Solution", function]
        if target[0] not in self._names:
            self.unusable = True
            raise Wrong(f"the program defines no {function}")
        request = {"do": "call", "target": target, "arguments": wire.encode(arguments), "keywords": {"dict": []}}
        try:
            reply = json.loads(self._ask(request, most))
        except (ValueError, RecursionError) as error:
            raise Wrong("no readable answer") from error
        if not isinstance(reply, dict) or "value" not in reply:
            raise Wrong(_complaint(reply))
        return reply["value"]

    def assertions(self, task: dict[str, Any]) -> dict[str, Any]:
        """Run tests in a process of their own, with this program behind their calls; returns their outcome."""
        tests = self._sandbox.spawn("assertions", self._limits)
        answered = 0
        try:
            tests.expect(self._clock.seconds)
            tests.send(task)
            while "outcome" not in (message := tests.receive()):
                reply = self._answer(message["ask"])
                answered += "answer" in reply
                tests.expect(self._clock.seconds)
                tests.send(reply)
            return message["outcome"]
        except TooLong:
            reason = f"the tests do not end within {self._clock.seconds:g} s"
        except EOFError:
            reason = "the process of the tests ended"
        except ValueError as error:
            reason = f"too large to travel: {error}"
        finally:
            tests.end()
        # Whatever the tests choked on came from the program, if it has said anything at all.
        return {"passed": 0, "total": 1, "reason": reason} if answered else {"unknown": reason}

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            self._load()
        except Wrong as wrong:
            return {"generation": self._starts, "ended": str(wrong)}
        try:
            return {"generation": self._starts, "answer": self._ask(request, wire.LARGEST_FRAME // 2)}
        except Wrong as wrong:
            return {"generation": self._starts + 1, "lost": str(wrong)}

    def _load(self) -> None:
        if self._child:
            return
        self._child = self._sandbox.spawn("program", self._limits)
        self._starts += 1
        try:
            self._clock.start(self._child)
            self._child.send(self._task)
            loaded = json.loads(self._child.receive_text())
            names = loaded.get("names")
        except (TooLong, EOFError, ValueError, RecursionError, AttributeError) as error:
            self._drop()
            self.unusable = True
            raise Wrong(self._clock.excuse() if isinstance(error, TooLong) else "ended while loading") from error
        if not isinstance(names, dict) or not all(isinstance(kind, str) for kind in names.values()):
            self._drop()
            self.unusable = True
            raise Wrong(_complaint(loaded))
        self._names = names

    def _ask(self, request: dict[str, Any], most: int) -> str:
        assert self._child
        try:
            self._clock.start(self._child)
            self._child.send(request)
            return self._child.receive_text(most)
        except TooLong as error:
            self._drop()
            raise Wrong(self._clock.excuse()) from error
        except EOFError as error:
            self._drop()
            raise Wrong("ended without an answer, or answered far too much") from error

    def _drop(self) -> None:
        child, self._child = self._child, None
        if child:
            child.end()


def _complaint(reply: Any) -> str:
    error = reply.get("error") if isinstance(reply, dict) else None
    return str(error[-1])[:300] if isinstance(error, list) and error else "no readable answer"
