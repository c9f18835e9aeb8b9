"""Where untrusted programs run: a bubblewrap sandbox that forks a fresh, locked process for each task.

It starts, limits, speaks to and ends such processes, and says how strong the walls are. It ignores what they compute.

Levels: 0 nothing works here; 1 a fresh process with resource limits in a session of its own; 2 also namespaces (no
network, no files of the user, no other process in sight) and no capabilities; 3 also a system-call filter.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from functools import cache
from time import monotonic
from typing import Any

from credo.verify import walls, wire

START_SECONDS = 20.0
"""Allowed for the start of a sandbox or of one process in it, apart from any task's time."""
_PATIENCE = 4.0
"""How many times its limit a process that waits for a processor may take."""
END_SECONDS = 10.0
"""Allowed for a killed process to be gone."""


class SandboxError(RuntimeError):
    """Our machinery failed: the sandbox or a process in it did not start, or was lost."""


class TooLong(Exception):
    """A message did not come in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one process may take."""

    memory_mb: int = 1024
    """Address space."""
    cpu_seconds: int = 60
    scratch_mb: int = 64
    """Of the private /tmp, and of any one file."""
    processes: int = 128
    """Threads, that is, where the system-call filter works: it allows no further process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strength:
    """How strong a sandbox can be here."""

    level: int
    reason: str
    """Why it is not 3; empty if it is."""
    bubblewrap: str | None
    """The binary that works."""


class Child:
    """One process in the sandbox. After ``end`` nothing of it is left.

    Its time is the wall clock's less what it waited for a processor, so that a busy machine fails no program.
    """

    def __init__(self, channel: socket.socket, control: socket.socket) -> None:
        self._channel, self._control = channel, control
        self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._place: str | None = None
        self.level = 0
        self.expect(START_SECONDS)

    def report(self) -> dict[str, Any]:
        """The first message; the system tells with it which process sends it."""
        _, credentials, _, _ = self._channel.recvmsg(0, socket.CMSG_SPACE(12), socket.MSG_PEEK)
        for _, kind, content in credentials:
            if kind == socket.SCM_CREDENTIALS:
                self._place = f"/proc/{struct.unpack('3i', content)[0]}/schedstat"
        return self.receive()

    def expect(self, seconds: float, most: float = math.inf) -> None:
        """From now on, everything until the next ``expect`` has to happen within ``seconds`` that count, and ``most``
        by the clock on the wall.
        """
        self._allowed, self._most = seconds, min(most, _PATIENCE * seconds)
        self._begun, self._waited = monotonic(), self._waiting()

    def used(self) -> float:
        """Seconds since ``expect`` that count."""
        return monotonic() - self._begun - (self._waiting() - self._waited)

    def _waiting(self) -> float:
        """Seconds that the process has waited for a processor, where the system tells."""
        try:
            with open(self._place or "") as stream:
                return int(stream.read().split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            return 0.0

    def _left(self) -> float:
        """Seconds to wait before looking again. TooLong."""
        left = min(self._allowed - self.used(), self._most - (monotonic() - self._begun))
        if left <= 0:
            raise TooLong
        return left

    def send(self, message: Any) -> None:
        """Write one message. TooLong, EOFError; ValueError: it is too large."""
        self._channel.settimeout(min(self._left() * _PATIENCE, self._most))
        try:
            wire.send(self._channel, message)
        except TimeoutError as error:
            raise TooLong from error
        except OSError as error:
            raise EOFError from error

    def receive_text(self, most: int = wire.LARGEST_FRAME) -> str:
        """The text of the next message, unread. TooLong; EOFError, also for one of more than ``most`` bytes."""
        return wire.receive_bytes(self.read, most).decode("ascii", "replace")

    def receive(self) -> Any:
        """The next message. TooLong, EOFError (also for what is not JSON)."""
        try:
            return json.loads(self.receive_text())
        except (ValueError, RecursionError) as error:
            raise EOFError from error

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes, none at the end. TooLong."""
        return self._patiently(self._channel, size)

    def wait(self) -> int | None:
        """The exit status (negative: the signal), or None if it is not known. TooLong: it does not end."""
        return _status(self._patiently(self._control, 2000))

    def _patiently(self, source: socket.socket, size: int) -> bytes:
        while True:
            source.settimeout(self._left())
            try:
                return source.recv(size)
            except TimeoutError:
                continue
            except OSError:
                return b""

    def end(self) -> None:
        """Kill the process and everything it started, and wait until it is gone."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        self._control.settimeout(END_SECONDS)
        with contextlib.suppress(OSError):
            self._control.recv(2000)
        self._channel.close()
        self._control.close()

    def failure(self) -> str:
        """What its keeper says of a start that failed."""
        self._control.settimeout(1.0)
        try:
            return self._control.recv(2000)[1:].decode("utf-8", "replace")
        except OSError:
            return ""


def _status(word: bytes) -> int | None:
    return int(word[1:]) if word[:1] == b"X" else None


class Sandbox:
    """A place that processes start in, one fresh process for each task; restarted by itself if it is lost."""

    def __init__(self, strength: Strength, *, filtered: bool = True) -> None:
        self._strength, self._filtered = strength, filtered
        self._isolated = strength.bubblewrap is not None and strength.level != 1
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None
        self._complaints: Any = None
        self._first: int | None = None
        """The first process of the pid namespace; when it is gone, all others in there are."""
        self._lock = threading.Lock()
        self._closed = False

    def spawn(self, kind: str, limits: Limits) -> Child:
        """A fresh process that waits for a task of ``kind`` ("program" or "assertions"). SandboxError."""
        with self._lock:
            if self._closed:
                raise SandboxError("the sandbox is closed")
            if self._process is None or self._process.poll() is not None:
                self._start()
            ours, theirs = socket.socketpair()
            control, control_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs, control_theirs:
                try:
                    assert self._requests
                    socket.send_fds(
                        self._requests, [self._task(kind, limits)], [theirs.fileno(), control_theirs.fileno()]
                    )
                except OSError as error:
                    ours.close()
                    control.close()
                    raise SandboxError(f"the sandbox is gone: {error} {self._last_words()}") from error
        child = Child(ours, control)
        try:
            child.level = self._level_of(child)
        except BaseException:
            child.end()
            raise
        return child

    def _task(self, kind: str, limits: Limits) -> bytes:
        places = ["/packages"] if self._isolated else sorted({str(place.parent) for place in walls.packages()})
        task = {
            "kind": kind,
            "path": places,
            "filter": self._filtered,
            "memory_mb": limits.memory_mb,
            "cpu_seconds": limits.cpu_seconds,
            "scratch_mb": limits.scratch_mb,
            "processes": limits.processes if self._isolated else 0,  # outside, all of the user's would count
        }
        return json.dumps(task).encode()

    def _level_of(self, child: Child) -> int:
        try:
            report = child.report()
        except (EOFError, OSError, TooLong) as error:
            raise SandboxError(
                f"a process in the sandbox did not start: {child.failure() or 'it said nothing'}"
            ) from error
        if "failed" in report:
            raise SandboxError(f"a process in the sandbox did not start: {report['failed']}")
        return 1 + report["isolated"] * (1 + report["filtered"])

    def _start(self) -> None:
        self._stop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._requests, self._complaints = ours, tempfile.TemporaryFile()  # noqa: SIM115  closed by _stop
        news, news_theirs = os.pipe()
        with theirs, open(news, "rb") as reader, open(news_theirs, "wb"):
            self._process = subprocess.Popen(
                walls.command(self._strength.bubblewrap if self._isolated else None, news_theirs),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._complaints,
                pass_fds=[news_theirs] if self._isolated else [],
                env=walls.environment(self._isolated),
                cwd="/",
                start_new_session=True,
            )
            theirs.close()
            ours.settimeout(START_SECONDS)
            try:
                ready = ours.recv(10) == b"ready"
            except OSError:
                ready = False
            if ready and self._isolated:
                self._first = os.pidfd_open(json.loads(os.read(reader.fileno(), 1 << 16))["child-pid"])
        if not ready:
            said = self._last_words()
            self._stop()
            raise SandboxError(f"the sandbox did not start: {said or 'it said nothing'}")

    def _last_words(self) -> str:
        if self._complaints is None:
            return ""
        length = self._complaints.seek(0, os.SEEK_END)
        self._complaints.seek(max(0, length - 500))
        return self._complaints.read().decode("utf-8", "replace").strip()

    def interrupt(self) -> None:
        """End all that runs in it, from any thread, and let nothing new start before ``resume``."""
        self._closed = True
        process = self._process
        if process:
            process.kill()

    def resume(self) -> None:
        """Be ready again after ``interrupt``, once nobody uses it."""
        self._stop()
        self._closed = False

    def close(self) -> None:
        """End the sandbox with all that runs in it. Closing twice is harmless."""
        self._closed = True
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process:
            process.kill()
            process.wait()
        if self._first is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._first, signal.SIGKILL)
            select.select([self._first], [], [], END_SECONDS)
            os.close(self._first)
            self._first = None
        for held in (self._requests, self._complaints):
            if held:
                held.close()
        self._requests = self._complaints = None


def sandbox_level() -> int:
    """The strongest level that works here, measured by trying once."""
    return strength().level


@cache
def strength() -> Strength:
    """The strongest sandbox that works here, measured by trying once."""
    if sys.platform != "linux":
        return Strength(level=0, reason=f"sandboxes need Linux, and this is {sys.platform}", bubblewrap=None)
    reasons = []
    for binary in walls.bubblewraps():
        found, reason = _try(Strength(level=3, reason="", bubblewrap=binary))
        if found >= 2:
            return Strength(level=found, reason=reason, bubblewrap=binary)
        reasons.append(f"{binary}: {reason}")
    why = "; ".join(reasons) or "bubblewrap is not installed"
    found, reason = _try(Strength(level=1, reason=why, bubblewrap=None))
    return Strength(level=found, reason=why if found else f"{why}; without it: {reason}", bubblewrap=None)


def _try(wanted: Strength) -> tuple[int, str]:
    sandbox = Sandbox(wanted)
    try:
        child = sandbox.spawn("program", Limits())
        child.end()
    except (SandboxError, OSError) as error:
        return 0, str(error)
    finally:
        sandbox.close()
    return child.level, "" if child.level >= 3 else f"no system-call filter on {platform.machine()}"
