"""The parent's hold on one child process: start it, write to it and read from it without blocking, kill it.

It ignores what the messages mean and when they are due.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from credo.verify.worker import HEADER, pack

_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "HOME")
_OWN_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
_LONGEST_REPLY = 1 << 16


class Process:
    """A running child in a process group of its own. After ``kill`` nothing of it is left."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  closed by kill
        self._popen = subprocess.Popen(
            [sys.executable, "-s", "-P", "-W", "ignore", "-c", _program()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ} | _OWN_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
        assert self._popen.stdin
        assert self._popen.stdout
        self.pid = self._popen.pid
        self.stdin, self.stdout = self._popen.stdin.fileno(), self._popen.stdout.fileno()
        os.set_blocking(self.stdin, False)
        os.set_blocking(self.stdout, False)
        self._unsent = bytearray()
        self._received = bytearray()
        self.send(pack(settings))

    @property
    def wants_to_write(self) -> bool:
        """Whether part of a message still waits for room in the pipe."""
        return bool(self._unsent)

    @property
    def alive(self) -> bool:
        """Whether the child runs."""
        return self._popen.poll() is None

    def send(self, frame: bytes) -> None:
        """Queue ``frame`` and write what fits."""
        self._unsent += frame
        self.flush()

    def flush(self) -> None:
        """Write what fits. A child that is gone is noticed by ``receive``."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            while self._unsent:
                del self._unsent[: os.write(self.stdin, self._unsent[: 1 << 16])]

    def receive(self) -> dict[str, Any] | None:
        """The reply if it is complete, else None. EOFError: the child is gone or has lost the thread."""
        try:
            chunk = os.read(self.stdout, 1 << 16)
        except BlockingIOError:
            return None
        self._received += chunk
        if not chunk or len(self._received) > _LONGEST_REPLY:
            raise EOFError
        end = HEADER.size + (HEADER.unpack_from(self._received)[0] if len(self._received) >= HEADER.size else 0)
        if len(self._received) < max(end, HEADER.size + 1):
            return None
        body = bytes(self._received[HEADER.size : end])
        del self._received[:end]
        return json.loads(body)

    def kill(self) -> int:
        """End the child and its process group at once, and return its exit status (negative: the signal)."""
        if self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, signal.SIGKILL)
        status = self._popen.wait()
        for stream in (self._popen.stdin, self._popen.stdout, self._stderr):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        return status

    def last_words(self, size: int = 2000) -> str:
        """The end of what the child wrote to standard error. Ask before ``kill``."""
        length = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, length - size))
        return self._stderr.read().decode("utf-8", "replace").strip()


def _program() -> str:
    """A one-line program for the child that can import what the parent can, from absolute places only."""
    package_root = str(Path(__file__).resolve().parents[2])
    places = [place for place in [*sys.path, package_root] if os.path.isabs(place)]
    return f"import sys; sys.path[:] = {places!r}; from credo.verify.worker import main; main()"
