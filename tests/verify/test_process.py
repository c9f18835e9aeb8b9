"""One child: what it inherits, how much it may take, and that nothing of it stays."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from credo.verify.process import Process
from credo.verify.worker import pack

ENDLESS = {"kind": "exact", "response": "a" * 40 + "b", "answer": "", "extra": {}}
SETTINGS = {
    "extraction": {"kind": "regex", "pattern": "(a+)+$"},
    "strictness": {},
    "deadline": 1.0,
    "memory_mb": 700,
}
needs_proc = pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="reads /proc, which is Linux's")


def reply_of(process: Process) -> dict[str, Any]:
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        process.flush()
        select.select([process.stdout], [], [], 0.1)
        reply = process.receive()
        if reply is not None:
            return reply
    raise AssertionError("no reply")


def test_messages_larger_than_a_pipe_get_through():
    process = Process(SETTINGS)
    process.send(pack({"warm": "exact"}))
    assert reply_of(process) == {"ready": "exact"}
    process.send(pack(ENDLESS | {"response": "b" * 900_000 + "a", "answer": "a"}))
    assert reply_of(process)["score"] == 1.0
    assert process.alive
    assert process.kill() == -signal.SIGKILL
    assert process.kill() == -signal.SIGKILL
    assert not process.alive


@needs_proc
def test_a_child_has_limits_and_no_secrets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_TOKEN", "secret")
    process = Process(SETTINGS)
    process.send(pack({"warm": "exact"}))
    reply_of(process)
    folder = Path(f"/proc/{process.pid}")
    limits, environment = (folder / "limits").read_text(), (folder / "environ").read_text()
    process.kill()
    memory = next(line for line in limits.splitlines() if line.startswith("Max address space"))
    assert str(700 << 20) in memory
    assert "SOME_TOKEN" not in environment
    assert "OMP_NUM_THREADS=1" in environment


def test_a_child_that_fails_says_why():
    process = Process(SETTINGS | {"extraction": {"kind": "regex", "pattern": "("}})
    with pytest.raises(EOFError):
        reply_of(process)
    assert "verify.pattern" in process.last_words()
    process.kill()


@needs_proc
@pytest.mark.parametrize("message", [ENDLESS, None], ids=["busy", "idle"])
def test_a_child_does_not_outlive_its_parent(message: dict | None):
    program = (
        "import os, sys, time; sys.path.insert(0, os.getcwd())\n"
        "from credo.verify.process import Process; from credo.verify.worker import pack\n"
        f"process = Process({SETTINGS!r})\n"
        f"if {message!r}: process.send(pack({message!r}))\n"
        "print(process.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        time.sleep(1.0)
        assert running(pid)
        parent.kill()
    ends = time.monotonic() + 10
    while running(pid) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not running(pid)


def running(pid: int) -> bool:
    """Whether a process lives; a zombie does not."""
    try:
        os.kill(pid, 0)
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
