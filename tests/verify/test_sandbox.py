"""Processes in the sandbox: what they are confined to, and that nothing of them stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from credo.verify.sandbox import Child, Limits, Sandbox, SandboxError, Strength, TooLong, sandbox_level, strength

pytestmark = pytest.mark.skipif(sandbox_level() < 2, reason=f"no namespaces here: {strength().reason}")
LIMITS = Limits(memory_mb=512, cpu_seconds=5, scratch_mb=8)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    sandbox = Sandbox(strength())
    yield sandbox
    sandbox.close()


def started(sandbox: Sandbox, program: str, seconds: float = 10.0) -> Child:
    child = sandbox.spawn("program", LIMITS)
    child.expect(seconds)
    child.send({"program": program, "prefix": "", "input": ""})
    return child


def shown(sandbox: Sandbox, program: str) -> str:
    child = started(sandbox, program)
    output = b""
    while chunk := child.read(1 << 16):
        output += chunk
    child.end()
    return output.decode().strip()


def processes(parent: int) -> set[int]:
    """The live descendants of ``parent``."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, above = (folder / "stat").read_text().rpartition(") ")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            parents[int(folder.name)] = int(above)
    found: set[int] = set()
    more = {parent}
    while more:
        found |= more
        more = {process for process, above in parents.items() if above in more} - found
    return found - {parent}


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("import os; print(os.getpid(), os.getppid())", "1 0"),
        ("import os; print(sorted(os.listdir('/')))", None),
        ("import os; print(os.listdir('/tmp'), os.getcwd())", "[] /tmp"),
        ("import os; print(sorted(os.environ))", "['OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS']"),
        ("import os; print([place for place in ('/proc', '/root', '/home') if os.path.exists(place)])", "[]"),
        ("open('x', 'w').write('a' * 1000); print(open('x').read(3))", "aaa"),
        ("import sys; print(__name__, sys.argv)", "__main__ ['program.py']"),
        ("import socket; print(sorted(name for _, name in socket.if_nameindex()))", None),
    ],
)  # fmt: skip
def test_what_a_program_sees(program: str, expected: str | None, sandbox: Sandbox):
    output = shown(sandbox, program)
    if expected is not None:
        assert output == expected
    elif "listdir" in program:
        assert not set(eval(output)) - {"credo", "dev", "etc", "lib", "lib64", "packages", "python", "tmp", "usr"}
    else:
        assert output in ("['lo']", "")  # no interface, or not even the socket to ask with


@pytest.mark.parametrize(
    "attempt",
    [
        "open('/credo/zygote.py', 'a')",
        "open('/new', 'w')",
        "open('/tmp/large', 'wb').write(bytes(9 << 20))",
        "[open(f'/tmp/{i}', 'wb').write(bytes(5 << 20)) for i in range(2)]",
        "[open(f'/tmp/{i}', 'w').close() for i in range(5000)]",
        "bytes(1 << 30)",
        "[open('/dev/null') for _ in range(100)]",
    ],
)
def test_what_a_program_may_not_take(attempt: str, sandbox: Sandbox):
    source = f"try:\n    {attempt}\n    print('done')\nexcept (OSError, MemoryError):\n    print('refused')"
    assert shown(sandbox, source) == "refused"


@pytest.mark.skipif(sandbox_level() < 3, reason="no system-call filter here")
@pytest.mark.parametrize(
    "attempt",
    [
        "os.fork()",
        "socket.socket()",
        "os.memfd_create('x')",
        "os.system('true') == 0 or os.execv('/none', ['x'])",
        "check(libc.ptrace(0, 0, 0, 0))",
        "check(libc.unshare(0x10000000))",
        "check(libc.mount(b'none', b'/tmp', b'tmpfs', 0, None))",
        "check(libc.shmget(0, 4096, 0o1600))",
    ],
)
def test_system_calls_that_are_refused(attempt: str, sandbox: Sandbox):
    source = (
        "import ctypes, os, socket\nlibc = ctypes.CDLL(None)\n"
        "def check(result):\n    if result < 0: raise OSError\n"
        f"try:\n    {attempt}\n    print('done')\nexcept OSError:\n    print('refused')"
    )
    assert shown(sandbox, source) == "refused"


def test_threads_are_allowed_and_awaited(sandbox: Sandbox):
    source = "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()"
    assert shown(sandbox, source) == "late"


def test_an_exit_is_told_and_a_loop_is_ended(sandbox: Sandbox):
    child = started(sandbox, "raise SystemExit(3)")
    assert child.read(1) == b""
    assert child.wait() == 3
    child.end()
    child = started(sandbox, "while True: pass", seconds=0.2)
    with pytest.raises(TooLong):
        child.read(1)
    child.end()
    assert shown(sandbox, "print('still here')") == "still here"


def test_a_lost_sandbox_restarts_and_a_closed_one_refuses():
    others = processes(os.getpid())
    sandbox = Sandbox(strength())
    assert shown(sandbox, "print(1)") == "1"
    child = started(sandbox, "import time; time.sleep(60)")
    inside = processes(os.getpid()) - others
    assert inside
    sandbox.interrupt()
    assert child.read(1) == b""
    child.end()
    with pytest.raises(SandboxError):
        sandbox.spawn("program", LIMITS)
    sandbox.resume()
    assert not inside & processes(os.getpid())
    assert shown(sandbox, "print(2)") == "2"
    sandbox.close()
    with pytest.raises(SandboxError):
        sandbox.spawn("program", LIMITS)


def test_nothing_outlives_the_sandbox_or_its_owner():
    before = processes(1)
    sandbox = Sandbox(strength())
    child = started(sandbox, "import time; time.sleep(60)")
    assert processes(1) - before
    sandbox.close()
    child.end()
    owner = "import os, signal, sys; from tests.verify.test_sandbox import *; box = Sandbox(strength())\n"
    owner += "child = started(box, 'import time; time.sleep(60)'); print(*processes(os.getpid()), flush=True)\n"
    owner += "os.kill(os.getpid(), signal.SIGKILL)"
    root = Path(__file__).parents[2]
    died = subprocess.run([sys.executable, "-c", owner], cwd=root, capture_output=True, text=True, timeout=60)
    assert died.returncode == -signal.SIGKILL
    theirs = {int(word) for word in died.stdout.split()}
    assert theirs
    ends = time.monotonic() + 10
    while theirs & processes(1) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not theirs & processes(1)


def test_without_bubblewrap_the_level_is_lower():
    sandbox = Sandbox(Strength(level=1, reason="asked for", bubblewrap=None))
    child = sandbox.spawn("program", LIMITS)
    assert child.level == 1
    child.end()
    assert shown(sandbox, "print(input() if False else 'ran')") == "ran"
    child = started(sandbox, "while True: pass", seconds=0.2)
    with pytest.raises(TooLong):
        child.read(1)
    child.end()
    sandbox.close()
