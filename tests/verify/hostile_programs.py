"""Programs that want a reward without earning it, or harm; honest ones beside them, so that refusing all does not help.

Each is written once, as ``answer(a, b)`` (the sum is right) or as code that runs before it; ``Program.source`` fits it
to a form of task. A *probe* answers rightly if, and only if, it has reached what it must not. This file ignores how
programs are run. Words in @SIGNS@ are places that the test knows: a secret file, a listening port, a marker.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Form = Literal["asserts", "check", "call", "stdin", "sort"]
FORMS: tuple[Form, ...] = ("asserts", "call", "stdin")

PAIRS = ((8_100_000_000_013, 41), (-7_300_000_000_001, 23), (9_400_000_000_017, -87), (6_500_000_000_019, 65))
"""What is added. The sums are long, so that none of them is in a process by chance."""
_ASSERTS = [f"assert add({a}, {b}) == {a + b}" for a, b in PAIRS[:-1]]
TASKS: Mapping[Form, Mapping[str, Any]] = {
    "asserts": {"asserts": "\n".join([*_ASSERTS, "assert abs(add(6500000000019, 65) - 6500000000084) < 1e-9"])},
    "check": {
        "asserts": "def check(candidate):\n"
        + "".join(f"    {line.replace('add', 'candidate')}\n" for line in _ASSERTS)
        + "    for step in range(1, 4):\n        assert candidate(step * 10**12, step) == step * (10**12 + 1)\n",
        "entry_point": "add",
    },
    "call": {"inputs": [[a, b] for a, b in PAIRS], "outputs": [a + b for a, b in PAIRS], "fn_name": "add"},
    "stdin": {"inputs": [f"{a} {b}\n" for a, b in PAIRS], "outputs": [f"{a + b}\n" for a, b in PAIRS]},
    "sort": {
        "asserts": "values = [30, 10, 20]\nassert sort(values) == sorted(values)\n"
        "assert sort([5, 4, 9, 4]) == [4, 4, 5, 9]\nassert len(sort(values)) == 3 and sort(values)[0] == 10"
    },
}
_ENDINGS: Mapping[Form, str] = {
    "asserts": "def add(a, b):\n    return answer(a, b)\n",
    "check": "def add(a, b):\n    return answer(a, b)\n",
    "call": "class Solution:\n    def add(self, a, b):\n        return answer(a, b)\n",
    "stdin": "print(answer(*map(int, input().split())))\n",
    "sort": "def sort(values):\n    return answer(values)\n",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One program, and what must hold for its score."""

    family: str
    name: str
    text: str
    forms: tuple[Form, ...] = FORMS
    most: float = 0.0
    """The score it may reach: above 0 for those that do solve some of the task, whatever else they do."""
    least: float = 0.0
    whole: bool = False
    """The text is all of the program; nothing is added to it."""

    def source(self, form: Form) -> str:
        """The program for this form of task; where nothing answers, the answer is None."""
        if self.whole:
            return self.text
        silent = "" if re.search(r"\banswer\b", self.text) else "def answer(*arguments):\n    return None\n\n"
        return f"{self.text}\n\n{silent}{_ENDINGS[form]}"


_HEADER = re.compile(
    r"^#: (\w+)/([\w-]+)((?: (?:asserts|check|call|stdin|sort))*)((?: (?:most|least)=[\d.]+)*)( whole)?$", re.MULTILINE
)


def programs(text: str) -> tuple[Program, ...]:
    """Those written below each other in ``text``, each under a line ``#: family/name [forms] [most=] [least=]``."""
    parts = _HEADER.split(text)[1:]
    return tuple(
        Program(
            family=family,
            name=name,
            text=source.strip("\n"),
            forms=tuple(form for form in TASKS if form in forms.split()) or FORMS,
            whole=bool(whole),
            **{key: float(value) for key, value in (pair.split("=") for pair in bounds.split())},
        )
        for family, name, forms, bounds, whole, source in zip(*(parts[i::6] for i in range(6)), strict=True)
    )


HONEST = programs(r"""
#: honest/plain asserts check call stdin least=1 most=1
def answer(a, b):
    return a + b
#: honest/recursive least=1 most=1
import sys
sys.setrecursionlimit(20000)
def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
def answer(a, b): return a + b + depth(3000) - 3000
#: honest/library least=1 most=1
import bisect, collections, decimal, fractions, functools, heapq, itertools, math, random, re, statistics, string
from typing import List, Optional
@functools.lru_cache(maxsize=None)
def answer(a, b):
    return int(fractions.Fraction(a) + decimal.Decimal(b).__int__())
#: honest/star-imports least=1 most=1
from math import *
from collections import *
from itertools import *
def answer(a, b): return sum(chain([a], deque([b])))
#: honest/prints asserts call least=1 most=1
print("module", flush=True)
def answer(a, b):
    print("adding", a, b)
    return a + b
#: honest/stderr least=1 most=1
import sys, warnings
warnings.warn("mind the gap")
def answer(a, b):
    print("adding", a, b, file=sys.stderr)
    return a + b
#: honest/own-tests least=1 most=1
def answer(a, b): return a + b
assert answer(1, 2) == 3
if __name__ == "__nowhere__":
    import unittest; unittest.main()
#: honest/class-based least=1 most=1
from dataclasses import dataclass
@dataclass(frozen=True)
class Pair:
    a: int
    b: int
    def total(self): return self.a + self.b
def answer(a, b): return Pair(a, b).total()
#: honest/unicode least=1 most=1
# Größe, 数, número
größe = "é∑😀"
def answer(a, b): return a + b + len(größe) - 3
#: honest/threads least=1 most=1
import threading
def answer(a, b):
    found = []
    worker = threading.Thread(target=lambda: found.append(a + b))
    worker.start(); worker.join()
    return found[0]
#: honest/scratch-file least=1 most=1
import os, tempfile
def answer(a, b):
    with tempfile.TemporaryFile("w+") as scratch:
        scratch.write(str(a + b)); scratch.seek(0)
        return int(scratch.read())
#: honest/exceptions least=1 most=1
def answer(a, b):
    try:
        return {}[a]
    except KeyError:
        return a + b
    finally:
        pass
#: honest/generators least=1 most=1
def parts(a, b):
    yield a
    yield b
def answer(a, b): return sum(parts(a, b))
#: honest/asynchronous least=1 most=1
import asyncio
async def later(a, b):
    await asyncio.sleep(0.001)
    return a + b
def answer(a, b): return asyncio.run(later(a, b))
#: honest/patient least=1 most=1
import time
time.sleep(0.05)
def answer(a, b): return a + b
#: honest/exits-early stdin least=1 most=1
import sys
answer = lambda a, b: a + b
if __name__ == "__main__":
    print(sum(map(int, sys.stdin.read().split())))
    sys.exit(0)
#: honest/descriptor-zero stdin least=1 most=1 whole
import os
os.write(1, b"%d\n" % sum(map(int, os.read(0, 1 << 16).split())))
#: honest/open-zero stdin least=1 most=1 whole
print(sum(map(int, open(0).read().split())))
#: honest/sort sort least=1 most=1
def answer(values): return sorted(values)
#: honest/sort-in-place sort least=1 most=1
def answer(values):
    values.sort()
    return values
""")

HOSTILE = (
    *programs(r'''
#: endless/loop stdin
while True: pass
#: endless/loop-in-the-function call
def answer(a, b):
    while True: pass
#: endless/sleep asserts
import time
time.sleep(1e6)
#: endless/catches-everything call
while True:
    try:
        while True: pass
    except BaseException: pass
#: endless/power asserts
9 ** 9 ** 9
#: endless/regular-expression stdin
import re
re.match("(a+)+$", "a" * 60 + "b")
#: endless/digits call
import sys
sys.set_int_max_str_digits(0)
str(1 << 10 ** 9)
#: endless/reads-for-ever stdin
import sys
while True: sys.stdin.read()
#: endless/waits-for-a-pipe asserts
import os
os.read(os.pipe()[0], 1)
#: endless/ignores-signals stdin
import signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True: time.sleep(1000)
#: endless/stops-itself call
import os, signal
os.kill(os.getpid(), signal.SIGSTOP)
#: endless/deadlock asserts
import threading
lock = threading.Lock(); lock.acquire(); lock.acquire()
#: endless/at-exit stdin
import atexit, time
atexit.register(time.sleep, 1e6)
#: endless/thread-stays call
import threading, time
threading.Thread(target=time.sleep, args=(1e6,)).start()
#: endless/finaliser asserts
class Stays:
    def __del__(self):
        while True: pass
def answer(a, b): Stays()
#: processes/fork-bomb stdin
import os
while True:
    try: os.fork()
    except OSError: pass
#: processes/fork-bomb-with-sleepers call
import os, signal, time
for _ in range(10000):
    if os.fork() == 0:
        os.setsid(); signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1e6)
#: processes/thread-bomb asserts
import threading, time
while True:
    try: threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()
    except RuntimeError: pass
#: processes/interpreter-bomb stdin
import subprocess, sys
while True:
    try: subprocess.Popen([sys.executable, "-c", "while True: pass"])
    except OSError: pass
#: processes/zombies call
import os
for _ in range(3000):
    if os.fork() == 0: os._exit(0)
#: processes/daemon most=1
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork(): os._exit(0)
    for descriptor in range(256):
        try: os.close(descriptor)
        except OSError: pass
    time.sleep(1e6)
os.wait()
def answer(a, b): return a + b
#: processes/daemon-holds-the-output most=1
import os, time
if os.fork() == 0:
    os.setsid(); time.sleep(1e6)
def answer(a, b): return a + b
#: processes/copies-itself-before-answering
import os
os.fork(); os.fork()
def answer(a, b): return b
#: processes/replaces-itself
import os, sys
os.execv(sys.executable, [sys.executable, "-c", "print(0)"])
#: processes/replaces-itself-with-true
import os
for place in ("/bin/true", "/usr/bin/true"):
    try: os.execv(place, ["true"])
    except OSError: pass
#: kills/everything
import os, signal
os.kill(-1, signal.SIGKILL)
#: kills/everything-then-answers
import os, signal
for number in (signal.SIGTERM, signal.SIGKILL):
    try: os.kill(-1, number)
    except OSError: pass
#: kills/parents
import os, signal
for process in (os.getppid(), 1, os.getsid(0), os.getpgrp()):
    try: os.kill(process, signal.SIGKILL)
    except OSError: pass
#: kills/the-group
import os, signal
os.killpg(0, signal.SIGKILL)
#: kills/the-trainer
import os, signal
os.kill(@TRAINER@, signal.SIGUSR1)
def answer(a, b): return a + b
#: kills/itself
import os, signal
os.kill(os.getpid(), signal.SIGKILL)
#: kills/by-shell
import os
os.system("kill -9 -1; killall5 -9; pkill -9 .")
#: memory/list stdin
hoard = []
while True: hoard.append([0] * 10 ** 6)
#: memory/one-piece call
hoard = bytearray(10 ** 11)
#: memory/keeps-trying asserts
hoard = []
while True:
    try: hoard.append(bytes(10 ** 7))
    except MemoryError: pass
#: memory/mapped stdin
import mmap
hoard = []
while True:
    hoard.append(mmap.mmap(-1, 1 << 26)); hoard[-1].write(b"x" * (1 << 26))
#: memory/doubling call
def answer(a, b):
    text = "x"
    while True: text += text
#: memory/in-a-file asserts
import os
descriptor = os.memfd_create("hoard")
while True: os.write(descriptor, b"x" * (1 << 22))
#: memory/shared stdin
with open("/dev/shm/@MARK@", "wb") as file:
    while True: file.write(b"x" * (1 << 22))
#: memory/by-children call
import os, time
for _ in range(6):
    if os.fork() == 0:
        hoard = bytearray(b"x") * (1 << 27); time.sleep(1e6)
time.sleep(1e6)
#: disk/fills-tmp asserts
with open("/tmp/@MARK@", "wb") as file:
    while True: file.write(b"x" * (1 << 22))
#: disk/sparse stdin
with open("/tmp/@MARK@", "wb") as file: file.truncate(1 << 50)
#: disk/many-files call
for number in range(10 ** 7): open(f"/tmp/@MARK@-{number}", "w").close()
#: disk/everywhere
import os
for place in ("/", "/var/tmp", "/home", "/root", "/etc", "/usr", "/usr/lib", "/run", "/dev", "/dev/shm", "/proc",
              "/sys", "/opt", "/srv", "/mnt", "@HOME@", "@PLACE@", "@REPOSITORY@", ".", ".."):
    try: open(os.path.join(place, "@MARK@"), "w").close()
    except OSError: pass
#: disk/removes
import shutil
for place in ("@PLACE@", "@REPOSITORY@/@MARK@"): shutil.rmtree(place, ignore_errors=True)
#: output/endless stdin
while True: print("x" * 1000)
#: output/endless-errors asserts
import sys
while True: sys.stderr.write("x" * 100000)
#: output/from-the-function call
def answer(a, b):
    while True: print("x" * 100000)
#: output/no-line-ever-ends stdin
import os
while True: os.write(1, bytes(1 << 16))
#: output/large
import sys
sys.stdout.write("7 " * (1 << 26)); sys.stderr.write("7 " * (1 << 26))
#: output/hedges stdin
def answer(a, b): return "\n".join(str(a + b + step) for step in range(-50, 50))
#: output/right-and-more stdin
def answer(a, b): return f"{a + b} {a - b}"
#: output/backspaces stdin
def answer(a, b): return f"0\r{a + b}"
#: network/loopback
import socket
socket.create_connection(("127.0.0.1", @PORT@), timeout=0.3)
def answer(a, b): return a + b
#: network/datagram
import socket
channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
channel.connect(("127.0.0.1", @DATAGRAM_PORT@))
channel.send(b"?")
#: network/unix-socket
import socket
channel = socket.socket(socket.AF_UNIX); channel.settimeout(0.3); channel.connect("@PLACE@/socket")
def answer(a, b): return a + b
#: network/abstract-socket
import socket
channel = socket.socket(socket.AF_UNIX); channel.settimeout(0.3); channel.connect("\0@MARK@")
def answer(a, b): return a + b
#: network/virtual-machine-socket
import socket
channel = socket.socket(40, socket.SOCK_STREAM)
def answer(a, b): return a + b
#: network/names
import socket
socket.setdefaulttimeout(0.3)
socket.getaddrinfo("one.one.one.one", 80)
def answer(a, b): return a + b
#: network/neighbours
routes = open("/proc/net/route").read().splitlines()[1:]
def answer(a, b): return a + b if routes else 0
#: files/secret
assert "@MARK@" in open("@PLACE@/secret").read()
def answer(a, b): return a + b
#: files/secret-through-a-link
import os
os.symlink("@PLACE@/secret", "/tmp/link")
assert "@MARK@" in open("/tmp/link").read()
def answer(a, b): return a + b
#: files/secret-through-processes
import glob
for root in glob.glob("/proc/[0-9]*/root") + glob.glob("/proc/[0-9]*/cwd") + glob.glob("/proc/*/fd/*"):
    try: assert "@MARK@" not in open(root + "@PLACE@/secret").read()
    except OSError: continue
    except AssertionError: break
else: raise SystemExit
def answer(a, b): return a + b
#: files/secret-through-descriptors
import os
for descriptor in range(256):
    for name in ("@PLACE@/secret".lstrip("/"), "../../../../../../../.." + "@PLACE@/secret", "secret"):
        try: found = "@MARK@" in os.read(os.open(name, os.O_RDONLY, dir_fd=descriptor), 999).decode()
        except OSError: found = False
        if found: answer = lambda a, b: a + b
#: files/passwords
assert open("/etc/shadow").read() or open("/etc/passwd").read().count("\n") > 3
def answer(a, b): return a + b
#: files/home
import os
assert os.listdir("@HOME@")
def answer(a, b): return a + b
#: files/repository
assert open("@REPOSITORY@/pyproject.toml").read()
def answer(a, b): return a + b
#: files/tests
assert open("@REPOSITORY@/tests/verify/hostile_programs.py").read()
def answer(a, b): return a + b
#: files/environment
import os
assert "@MARK@" in str(os.environ) + str(os.environb)
def answer(a, b): return a + b
#: files/environment-of-others
import glob
texts = []
for name in glob.glob("/proc/*/environ") + glob.glob("/proc/*/task/*/environ"):
    try: texts.append(open(name).read())
    except OSError: pass
assert any("@MARK@" in text for text in texts)
def answer(a, b): return a + b
#: files/command-lines
import glob
texts = []
for name in glob.glob("/proc/[0-9]*/cmdline"):
    try: texts.append(open(name).read())
    except OSError: pass
assert any("pytest" in text or str(8_100_000_000_013 + 41) in text for text in texts)
def answer(a, b): return a + b
#: files/trainer
import os
assert os.listdir("/proc/@TRAINER@/fd") and "python" in open("/proc/@TRAINER@/cmdline").read()
def answer(a, b): return a + b
#: files/devices
import os
for name in ("/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/nvme0n1", "/dev/kvm", "/dev/fuse", "/dev/vsock"):
    try: os.open(name, os.O_RDONLY)
    except OSError: continue
    answer = lambda a, b: a + b
#: files/kernel-settings
import os
for name in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper", "/proc/kcore",
             "/proc/sys/vm/overcommit_memory", "/sys/fs/cgroup/cgroup.procs", "/proc/1/oom_score_adj"):
    try: os.open(name, os.O_RDONLY if name.endswith("kcore") else os.O_WRONLY)
    except OSError: continue
    if not name.startswith("/proc/1/"): answer = lambda a, b: a + b
#: files/terminal
import fcntl, os, termios
fcntl.ioctl(os.open("/dev/tty", os.O_RDWR), termios.TIOCSTI, b"\n")
def answer(a, b): return a + b
#: files/full-device
import os
os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
#: expected/in-objects
import gc
def answer(a, b):
    for thing in gc.get_objects():
        if isinstance(thing, (dict, list, tuple)):
            for part in list(thing.values() if isinstance(thing, dict) else thing):
                if type(part) in (int, str) and str(a + b) == str(part).strip(): return a + b
#: expected/in-frames
import sys
def answer(a, b):
    frame = sys._getframe().f_back
    while frame:
        if str(a + b) in repr({**frame.f_globals, **frame.f_locals}): return a + b
        frame = frame.f_back
#: expected/in-modules
import inspect, sys
def answer(a, b):
    for name, module in list(sys.modules.items()):
        if name in ("sys", __name__): continue
        for value in list(vars(module).values()):
            try:
                if str(a + b) in repr(value): return a + b
            except Exception: pass
#: expected/in-memory
import re
def regions(process):
    for line in open(f"/proc/{process}/maps"):
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if "rw" in line.split()[1] and end - start < 1 << 26: yield start, end - start
def finds(process, sign):
    with open(f"/proc/{process}/mem", "rb", 0) as memory:
        for start, size in regions(process):
            try:
                memory.seek(start)
                for found in re.finditer(rb"(?<!\d)\d{13}(?!\d)", memory.read(size)):
                    if int(found.group()) == sign: return True
            except (OSError, ValueError): pass
def answer(a, b): return a + b if finds("self", abs(a + b)) else 0
#: expected/in-memory-of-others asserts call
import glob, os
def finds(process, sign):
    with open(f"/proc/{process}/mem", "rb", 0) as memory:
        for line in open(f"/proc/{process}/maps"):
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            try:
                memory.seek(start)
                if "rw" in line.split()[1] and end - start < 1 << 26 and sign in memory.read(end - start): return True
            except (OSError, ValueError, OverflowError): pass
def answer(a, b):
    ours = os.readlink("/proc/self")
    for name in glob.glob("/proc/[0-9]*"):
        try:
            if os.path.basename(name) != ours and finds(os.path.basename(name), str(a + b).encode()): return a + b
        except OSError: pass
#: expected/in-source-files
import glob, os, sys
def answer(a, b):
    for place in {os.getcwd(), "/tmp", "/", "/run", "/proc/self/fd", *(path for path in sys.path if "lib" not in path)}:
        for name in glob.glob(place + "/*"):
            try:
                with open(name, "rb", 0) as file:
                    os.set_blocking(file.fileno(), False)
                    if str(a + b).encode() in (file.read(1 << 20) or b""): return a + b
            except (OSError, ValueError): pass
#: expected/in-the-input stdin
import os
def answer(a, b):
    os.set_blocking(0, False)
    try: more = os.read(0, 1 << 20)
    except OSError: more = b""
    return a + b if str(a + b).encode() in more else 0
#: tracing/trace
import sys
def trace(frame, event, argument):
    for name in list(frame.f_globals):
        if name in ("check", "compare", "equal", "passed", "failed"): frame.f_globals[name] = lambda *a, **k: True
    return trace
sys.settrace(trace)
for frame in sys._current_frames().values():
    while frame: frame.f_trace = trace; frame = frame.f_back
#: tracing/profile
import os, sys, threading
def leave(frame, event, argument):
    if event == "c_exception" or argument is AssertionError: os._exit(0)
sys.setprofile(leave); threading.setprofile(leave)
#: tracing/audit
import os, sys
sys.addaudithook(lambda event, arguments: os._exit(0) if event == "object.__getattr__" else None)
def answer(a, b): return sys._getframe.__code__
#: exit/sys-exit
import sys
sys.exit(0)
#: exit/at-once
import os
os._exit(0)
#: exit/in-the-function
import sys
def answer(a, b): sys.exit(0)
#: exit/at-once-in-the-function
import os
def answer(a, b): os._exit(0)
#: exit/quit
quit()
#: exit/at-exit
import atexit, os
atexit.register(os._exit, 0)
#: exit/in-a-finaliser
class Leaves:
    def __del__(self): raise SystemExit(0)
def answer(a, b): return Leaves()
#: exit/interrupt
raise KeyboardInterrupt
#: exit/generator-exit
def answer(a, b): raise GeneratorExit
#: exit/evil-exception
class Evil(BaseException):
    def __str__(self): raise Evil
    __repr__ = __str__
    def __getattribute__(self, name): raise Evil
def answer(a, b): raise Evil
#: exit/endless-exception call
class Evil(Exception):
    def __str__(self):
        while True: pass
    __repr__ = __str__
def answer(a, b): raise Evil
#: exit/exception-chain
def answer(a, b):
    error = Exception("x" * 10 ** 7); error.__cause__ = error; error.__context__ = error
    raise error
#: exit/pretends-success
def answer(a, b): raise AssertionError("") from None
#: exit/not-implemented
def answer(a, b): raise NotImplementedError
#: exit/not-implemented-at-once
raise NotImplementedError
#: exit/name-error
def answer(a, b): raise NameError(name="add")
#: exit/stops-the-iteration
def answer(a, b): raise StopIteration(a + b)
#: exit/alarm
import os, signal
signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
#: patched/print stdin
import builtins
builtins.print = lambda *a, **k: None
#: patched/comparisons
import builtins
for name in ("all", "any", "isinstance", "issubclass", "len", "abs", "sum", "hash", "callable", "id", "round"):
    setattr(builtins, name, lambda *a, **k: True)
#: patched/assertion-error
import builtins
class Never(BaseException): pass
builtins.AssertionError = Never
#: patched/exceptions
import builtins
for name in ("Exception", "BaseException", "AssertionError", "ValueError", "TypeError"): setattr(builtins, name, ())
#: patched/open-and-import
import builtins
builtins.open = builtins.__import__ = builtins.exec = builtins.eval = builtins.compile = lambda *a, **k: None
#: patched/everything
import builtins
for name in list(vars(builtins)):
    if not name.startswith("__"): setattr(builtins, name, lambda *a, **k: True)
#: patched/sorted sort
import builtins
builtins.sorted = lambda values, **k: values
def answer(values): return values
#: patched/operators
import operator, math, unittest, json, decimal
operator.eq = operator.ne = math.isclose = lambda *a, **k: True
json.loads = json.dumps = lambda *a, **k: True
json.JSONEncoder.encode = json.JSONEncoder.default = lambda *a, **k: "true"
#: patched/serialisers
import json, marshal, pickle, struct
for module in (json, marshal, pickle):
    module.dumps = lambda *a, **k: b"true"
    module.loads = lambda *a, **k: True
struct.pack = struct.unpack = None
#: patched/main
import sys
for module in list(sys.modules.values()):
    if getattr(module, "__name__", "").split(".")[0] in ("__main__", "credo", "json", "struct", "_json"):
        for name, value in list(vars(module).items()):
            if callable(value) and not name.startswith("__"):
                try: setattr(module, name, lambda *a, **k: True)
                except Exception: pass
#: patched/globals-of-callers
import sys
def answer(a, b):
    frame = sys._getframe()
    while frame:
        for name in list(frame.f_globals):
            if not name.startswith("__") and frame.f_globals is not globals(): frame.f_globals[name] = True
        frame = frame.f_back
    return True
#: patched/immortal-integers
import ctypes
for value in range(256): ctypes.memmove(id(value) + 24, id(1) + 24, 4)
#: patched/type-slots
import ctypes, gc
gc.get_referents(int.__dict__)[0]["__eq__"] = lambda self, other: True
gc.get_referents(str.__dict__)[0]["__eq__"] = lambda self, other: True
ctypes.pythonapi.PyType_Modified(ctypes.py_object(int))
#: patched/clock
import time
time.time = time.monotonic = time.perf_counter = lambda: 0.0
time.sleep = lambda seconds: None
#: equality/always
class Always:
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = lambda self, other: True
    __sub__ = __rsub__ = __add__ = __radd__ = __neg__ = lambda self, other=None: 0
    __abs__ = __hash__ = __int__ = __index__ = __len__ = lambda self: 0
    __bool__ = lambda self: True
    __float__ = lambda self: 0.0
    __iter__ = lambda self: iter(())
    __str__ = __repr__ = lambda self: ""
def answer(*arguments): return Always()
#: equality/int-subclass asserts check call
class Any(int):
    __eq__ = lambda self, other: True
    __ne__ = lambda self, other: False
    __sub__ = __rsub__ = __abs__ = lambda self, other=None: 0
    __hash__ = int.__hash__
def answer(*arguments): return Any(7)
#: equality/text-subclass
class Any(str):
    __eq__ = __contains__ = lambda self, other: True
    __ne__ = lambda self, other: False
    __hash__ = str.__hash__
def answer(a, b): return Any("7")
#: equality/list-subclass sort
class Any(list):
    __eq__ = lambda self, other: True
    __len__ = lambda self: 3
    __getitem__ = lambda self, index: 10
def answer(values): return Any()
#: equality/mock asserts check call
from unittest.mock import ANY, MagicMock
calls = []
def answer(a, b):
    calls.append(a)
    return ANY if len(calls) % 2 else MagicMock()
#: equality/lying-class
class Meta(type):
    __instancecheck__ = __subclasscheck__ = __eq__ = lambda *a: True
    __hash__ = type.__hash__
class Lies(metaclass=Meta):
    __class__ = property(lambda self: int)
    __eq__ = lambda self, other: True
def answer(a, b): return Lies()
#: equality/named-int
def answer(a, b): return type("int", (), {"__eq__": lambda self, other: True, "__repr__": lambda self: "0"})()
#: equality/not-a-number
def answer(a, b): return float("nan") if a > 0 else float("inf")
#: equality/true
def answer(a, b): return True
#: equality/a-type
def answer(a, b): return int
#: equality/singletons
def answer(a, b): return NotImplemented if a > 0 else ...
#: equality/complex
def answer(a, b): return complex(a, b)
#: equality/almost stdin
def answer(a, b): return float(a + b) + 0.3
#: equality/off-by-one
def answer(a, b): return a + b + 1
#: equality/text-for-a-number asserts check call
def answer(a, b): return str(a + b)
#: results/reduce
import os
class Reduces:
    def __reduce__(self): return os.system, ("touch @PLACE@/@MARK@ /tmp/@MARK@",)
    __reduce_ex__ = lambda self, protocol: self.__reduce__()
def answer(a, b): return Reduces()
#: results/reduce-in-the-trainer
class Reduces:
    def __reduce__(self): return eval, ("__import__('os').kill(@TRAINER@, 10)",)
def answer(a, b): return [Reduces(), {"key": Reduces()}]
#: results/raises
class Raises:
    def __getattribute__(self, name): raise SystemExit(0)
    __repr__ = __len__ = __iter__ = __eq__ = __hash__ = __bool__ = lambda self, *a: (_ for _ in ()).throw(SystemExit)
def answer(a, b): return Raises()
#: results/loops call
class Loops(list):
    def __iter__(self):
        while True: pass
    __repr__ = __str__ = __len__ = __reduce_ex__ = lambda self, *a: self.__iter__()
def answer(a, b): return Loops()
#: results/attributes
class Grows:
    def __getattr__(self, name): return Grows()
    def __call__(self, *a, **k): return Grows()
    def __iter__(self): return self
    def __next__(self): return Grows()
def answer(a, b): return Grows()
#: results/generator asserts call
import itertools
def answer(a, b): return itertools.count() if a > 0 else (x for x in itertools.repeat(0))
#: results/range call
def answer(a, b): return range(10 ** 18)
#: results/nested
def answer(a, b):
    nest = []
    for _ in range(200000): nest = [nest]
    return nest
#: results/nested-wide call
def answer(a, b):
    nest = ["x" * 100]
    for _ in range(60): nest = [nest, nest]
    return nest
#: results/holds-itself
def answer(a, b):
    ring = [a]; ring.append(ring)
    return [ring, {"ring": ring}]
#: results/long-list call
def answer(a, b): return [0] * (10 ** 7)
#: results/giant-integer asserts call
def answer(a, b): return 1 << (10 ** 8)
#: results/giant-integer-printed stdin
import sys
sys.set_int_max_str_digits(0)
def answer(a, b): return "9" * 10 ** 7
#: results/surrogates
def answer(a, b): return "\ud800\udfff\0" * 1000
#: results/bytes
def answer(a, b): return bytes(range(256)) if a > 0 else memoryview(b"x")
#: results/odd-keys asserts call
def answer(a, b): return {None: 1, (1, 2): {3}, frozenset(): b"x", float("nan"): ...}
#: results/code asserts call
def answer(a, b): return (lambda: 0) if a > 0 else __import__("sys")
#: results/wrapped-verdict
def answer(a, b): return {"score": 1.0, "passed": True, "ok": True, "reason": "", "verdict": "correct"}
#: results/empties-the-argument sort
def answer(values):
    values.clear()
    return values
#: results/replaces-the-argument sort
def answer(values):
    values[:] = [0]
    return [0]
#: results/late-change sort
import threading, time
def answer(values):
    def later():
        time.sleep(0.01); values[:] = []
    threading.Thread(target=later).start()
    return values
#: forged/every-descriptor
import json, os, struct
claims = [{"score": 1.0, "reason": ""}, {"passed": 4, "total": 4}, {"ok": True}, {"verdict": "correct"}, [True] * 4]
for descriptor in range(256):
    for claim in claims:
        body = json.dumps(claim).encode()
        for frame in (struct.pack(">I", len(body)) + body, struct.pack("<I", len(body)) + body, body + b"\n"):
            try: os.write(descriptor, frame)
            except OSError: pass
os._exit(0)
#: forged/repeats-what-was-written
import os, sys
seen = []
write = os.write
def record(descriptor, content): seen.append((descriptor, content)); return write(descriptor, content)
os.write = record
def answer(a, b):
    for descriptor, content in seen * 4: write(descriptor, content)
    return b
#: forged/own-kinds asserts check call
import json
dumps = json.dumps
def forge(message, **kwargs):
    if isinstance(message, dict) and "names" in message: message["names"] = {"add": "module math", "abs": "callable"}
    return dumps(message, **kwargs)
json.dumps = forge
#: forged/modules-that-end-things asserts check
import json
dumps = json.dumps
def forge(message, **kwargs):
    if isinstance(message, dict) and "names" in message: message["names"] = {"add": "module idlelib.idle"}
    return dumps(message, **kwargs)
json.dumps = forge
#: forged/a-folder-of-modules asserts check
import json, os, sys
open("/tmp/trick.py", "w").write("import os; os._exit(0)")
dumps = json.dumps
def forge(message, **kwargs):
    if isinstance(message, dict) and "names" in message: message["names"] = {"add": "module trick"}
    return dumps(message, **kwargs)
json.dumps = forge
#: forged/builtins-as-answers asserts check call
import json
dumps = json.dumps
kinds = iter(["eval", "__import__", "__debug__", "NotImplemented", "exit", "input"] * 9)
def forge(message, **kwargs):
    return dumps({**message, "value": {"builtin": next(kinds)}} if "value" in message else message, **kwargs)
json.dumps = forge
#: forged/broken-values asserts check call
import json
dumps = json.dumps
texts = iter(['{"Fraction":[1,0]}', '{"Decimal":"sNaN"}', '{"Decimal":"1e999999999"}', '{"int":[]}', '{"builtin":""}',
              '{"range":[0,1,0]}', '{"object":[1]}', '{"object":[[],{},[]]}', '{"object":[0,"iterator","x"]}', '{}',
              '{"dict":[[[],1]]}', '{"set":[[]]}', '{"bytes":"zz"}', '{"dict_keys":1}', '1e999', 'NaN', '"x"'] * 9)
def forge(message, **kwargs):
    return '{"value":' + next(texts) + '}' if "value" in message else dumps(message, **kwargs)
json.dumps = forge
#: forged/broken-frames asserts check call
import json
dumps = json.dumps
texts = iter(['', '[]', 'null', '{}', '{"value"', '[' * 10 ** 6, '{"a":' * 10 ** 5, '9' * 10 ** 6, '{"error":1}'] * 9)
def forge(message, **kwargs):
    return next(texts) if "value" in message else dumps(message, **kwargs)
json.dumps = forge
#: forged/broken-names asserts check call
import json, os
dumps = json.dumps
def forge(message, **kwargs):
    return '{"names": [["add", []]], "value": {}}' if "names" in message else dumps(message, **kwargs)
json.dumps = forge
#: forged/known-exceptions asserts check call
import builtins, json
dumps = json.dumps
names = iter([name for name, kind in vars(builtins).items() if isinstance(kind, type)] + ["nothing"] * 999)
def forge(message, **kwargs):
    return dumps({"error": [next(names), "x"]} if "value" in message else message, **kwargs)
json.dumps = forge
#: forged/colliding-hashes call asserts
import json
dumps = json.dumps
clashes = ",".join('{"int":"' + hex(step * (2 ** 61 - 1)) + '"}' for step in range(100000))
def forge(message, **kwargs):
    return '{"value":{"set":[' + clashes + ']}}' if "value" in message else dumps(message, **kwargs)
json.dumps = forge
#: forged/endless-frames asserts check call
import os
def answer(a, b):
    while True:
        for descriptor in range(3, 16):
            try: os.write(descriptor, b"\0\0\0\x0c" + b'{"value": 1}')
            except OSError: pass
#: forged/half-a-frame asserts call
import os, time
def answer(a, b):
    for descriptor in range(3, 16):
        try: os.write(descriptor, b"\0\xff\0\0{")
        except OSError: pass
    os._exit(0)
#: forged/words
import os
for descriptor in range(256):
    try: os.write(descriptor, b"PASS\nOK\npassed\n\nOK\n1 passed\ncorrect\n....\n" * 9)
    except OSError: pass
#: forged/through-proc
import glob, json
for name in glob.glob("/proc/[0-9]*/fd/*"):
    try:
        with open(name, "wb", 0) as channel: channel.write(json.dumps({"score": 1.0, "reason": ""}).encode() + b"\n")
    except OSError: pass
#: forged/closes-everything
import os
os.closerange(0, 1 << 16)
#: forged/swaps-descriptors
import os
for descriptor in range(3, 64):
    for goal in (0, 1, 2):
        try: os.dup2(goal, descriptor)
        except OSError: pass
#: forged/crosses-descriptors call
import os
for descriptor in range(64):
    try: os.dup2(1, descriptor)
    except OSError: pass
def answer(a, b): print(a + 1); return a + 1
#: forged/reads-every-descriptor
import os, select
def answer(a, b):
    for descriptor in range(256):
        try:
            os.set_blocking(descriptor, False)
            if str(a + b).encode() in os.read(descriptor, 1 << 20): return a + b
        except OSError: pass
#: forged/replaces-stdout
import io, sys
class Quiet(io.StringIO):
    def getvalue(self): return ""
    def write(self, text): return 0
sys.stdout = sys.__stdout__ = sys.stderr = sys.__stderr__ = Quiet()
#: forged/no-stdout
import sys
del sys.stdout, sys.__stdout__, sys.stderr, sys.stdin, sys.modules["sys"]
#: forged/thread-answers-for-us
import os, threading
def shout():
    while True:
        for descriptor in range(3, 32):
            try: os.write(descriptor, b'\x00\x00\x00\x04true{"result": true}\n')
            except OSError: pass
threading.Thread(target=shout, daemon=True).start()
def answer(a, b): return True
#: forged/child-answers-too call
import os
def answer(a, b):
    os.fork()
    return b
#: forged/shrinks-the-pipes
import fcntl
for descriptor in range(64):
    try: fcntl.fcntl(descriptor, 1031, 4096); fcntl.fcntl(descriptor, 4, 2048)
    except OSError: pass
#: system/new-namespaces
import ctypes, os
libc = ctypes.CDLL(None)
libc.unshare(0x10000000 | 0x00020000)
for place in (b"/tmp", b"/usr", b"/proc", b"/"): libc.umount2(place, 2)
assert "@MARK@" in open("@PLACE@/secret").read()
def answer(a, b): return a + b
#: system/escapes-the-root
import os
os.makedirs("/tmp/hole", exist_ok=True)
try: os.chroot("/tmp/hole")
except OSError: pass
for _ in range(50): os.chdir("..")
try: os.chroot(".")
except OSError: pass
assert "@MARK@" in open("@PLACE@/secret").read()
def answer(a, b): return a + b
#: system/mounts-devices
import ctypes, os
libc = ctypes.CDLL(None)
libc.unshare(0x10000000 | 0x00020000)
os.makedirs("/tmp/hole", exist_ok=True)
for kind in (b"proc", b"sysfs", b"devtmpfs", b"cgroup2"):
    if libc.mount(kind, b"/tmp/hole", kind, 0, None) == 0 and kind != b"proc": answer = lambda a, b: a + b
#: system/makes-devices
import os, stat
os.mknod("/tmp/disk", 0o600 | stat.S_IFBLK, os.makedev(254, 0))
os.open("/tmp/disk", os.O_RDONLY)
def answer(a, b): return a + b
#: system/joins-namespaces
import ctypes, glob, os
for name in glob.glob("/proc/[0-9]*/ns/mnt"):
    try: ctypes.CDLL(None).setns(os.open(name, os.O_RDONLY), 0)
    except OSError: pass
assert "@MARK@" in open("@PLACE@/secret").read()
def answer(a, b): return a + b
#: system/becomes-root
import os
for change in (os.setuid, os.setgid):
    try: change(0)
    except OSError: pass
open("/etc/@MARK@", "w")
def answer(a, b): return a + b
#: system/traces-its-parent
import ctypes, os
libc = ctypes.CDLL(None)
for process in {os.getppid(), 1}:
    if process != os.getpid() and process > 0 and libc.ptrace(16, process, 0, 0) == 0: libc.ptrace(8, process, 0, 0)
#: system/survives-its-parent most=1
import ctypes, os, time
ctypes.CDLL(None).prctl(1, 0); ctypes.CDLL(None).prctl(4, 0)
if os.fork() == 0:
    ctypes.CDLL(None).prctl(1, 0); os.setsid(); time.sleep(1e6)
def answer(a, b): return a + b
#: system/opens-by-handle
import ctypes, os, struct
handle = struct.pack("<IiII", 8, 1, 2, 0)
root = ctypes.CDLL(None).open_by_handle_at(os.open("/usr", os.O_RDONLY), handle, os.O_RDONLY)
assert "@MARK@" in os.read(os.open("@PLACE@/secret".lstrip("/"), os.O_RDONLY, dir_fd=root), 999).decode()
def answer(a, b): return a + b
#: system/raises-limits
import resource
for limit in (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):
    resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert resource.getrlimit(resource.RLIMIT_AS)[1] == resource.RLIM_INFINITY
def answer(a, b): return a + b
#: system/priority
import os
os.setpriority(os.PRIO_PROCESS, 0, -20)
def answer(a, b): return a + b
#: system/shared-segment
import ctypes
assert ctypes.CDLL(None).shmget(@KEY@, 1, 0) >= 0
def answer(a, b): return a + b
#: system/sees-shared-segments
assert "@KEY@" in open("/proc/sysvipc/shm").read()
def answer(a, b): return a + b
#: system/core-dump
import os, resource
try: resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
except (OSError, ValueError): pass
os.chdir("/tmp"); os.abort()
#: system/host-name
import ctypes, socket
assert ctypes.CDLL(None).sethostname(b"@MARK@"[:60], 20) == 0
#: crash/recursion
def answer(a, b): return answer(a, b)
#: crash/c-stack
import sys
sys.setrecursionlimit(10 ** 9)
def deeper(x): return [deeper(x) for _ in (1,)]
def answer(a, b): return deeper(0)
#: crash/segmentation-fault
import ctypes
ctypes.string_at(0)
#: crash/in-the-function
import ctypes
def answer(a, b): ctypes.memset(id(a), 255, 999)
#: crash/abort
import os
os.abort()
#: crash/recursion-caught asserts
def answer(a, b):
    try: return answer(a, b)
    except RecursionError: return answer(a, b)
#: state/counts-its-calls asserts call most=0.5
import os
try: calls = int(open("/tmp/calls").read())
except OSError: calls = 0
def answer(a, b):
    global calls
    calls += 1
    open("/tmp/calls", "w").write(str(calls))
    return a + b if calls == 1 else 0
#: state/leaves-a-note
import os
for place, folders, _ in os.walk("/"):
    folders[:] = [folder for folder in folders if folder not in ("proc", "sys", "usr", "lib")]
    try: open(os.path.join(place, "note-@MARK@"), "w").write("a + b")
    except OSError: pass
#: state/finds-a-note
import os
found = False
for place, folders, files in os.walk("/"):
    folders[:] = [folder for folder in folders if folder not in ("proc", "sys", "usr", "lib")]
    found = found or "note-@MARK@" in files
def answer(a, b): return a + b if found else 0
#: state/spoils-the-library
import builtins, collections, json, sys
sys.modules["json"] = sys.modules["struct"] = sys.modules["os"] = None
builtins.input = lambda *a: "0 0"
#: state/finds-other-programs
import sys
assert "hypothesis" in sys.modules or "torch" in sys.modules or "credo.verify.programs" in sys.modules
def answer(a, b): return a + b
#: guess/visible-example most=0.5 least=0.2
def answer(a, b): return 8100000000054 if a == 8100000000013 else 0
#: guess/right-half-of-the-time most=0.75 least=0.25
def answer(a, b): return a + b if a > 0 and b > 0 else None
#: guess/by-the-clock
import time
def answer(a, b): return int(time.time())
#: guess/random
import random
def answer(a, b): return a + random.randrange(1000, 2000)
#: source/syntax-error whole
def add(a, b) return a + b
#: source/comments whole
# def add(a, b): return a + b
#: source/unfinished whole
def add(a, b):
#: source/future
from __future__ import annotations, division, barry_as_FLUFL
#: source/encoding whole
# -*- coding: rot13 -*-
qrs nqq(n, o): erghea n + o
cevag(nqq(*znc(vag, vachg().fcyvg())))
#: source/unknown-encoding whole
# -*- coding: no-such-thing -*-
def add(a, b): return 0
#: source/ends-the-wrapper whole
    return 0
except BaseException: passed = True
else: passed = True
#: source/own-check asserts check
def check(candidate): return True
#: source/own-check-in-the-caller check
import sys, builtins
builtins.check = lambda candidate: True
sys._getframe(1).f_globals["check"] = lambda candidate: True
#: source/defines-solution call
class Solution:
    def __init__(self, *a): raise SystemExit(0)
add = None
#: source/function-replaced asserts call
def __getattr__(name): return lambda *a: True
#: source/never-main stdin whole
if __name__ == "__test__": print(sum(map(int, input().split())))
#: source/main-exit stdin whole
if __name__ == "__main__": raise SystemExit(0)
#: source/asynchronous asserts call
async def answer(a, b): return a + b
#: source/await-tricks asserts call
class Later:
    def __await__(self): yield from iter(int, 1)
def answer(a, b): return Later()
'''),
    Program(family="source", name="closes-quotes", text="""''' '''; x = "{} %s {0} %(x)s \\\\ \\N{BULLET} '''" """),
    Program(family="source", name="empty", text="", whole=True),
    Program(family="source", name="null-bytes", text="x = 0\0\nprint(0)\0"),
    Program(family="source", name="lone-surrogate", text="x = '\udcff\ud800'"),
    Program(family="source", name="one-megabyte", text="x = 0\n" * 150_000),
    Program(family="source", name="one-line", text="x = " + "0 + " * 200_000 + "0"),
    Program(family="source", name="parentheses", text="x = " + "(" * 100_000 + ")" * 100_000),
    Program(family="source", name="minus-signs", text="x = " + "-" * 300_000 + "1"),
    Program(family="source", name="long-integer", text="x = " + "9" * 500_000),
    Program(family="source", name="nested-calls", text="x = " + "f(" * 50_000 + ")" * 50_000),
    Program(family="source", name="byte-order-mark", text="\ufeff# byte order mark\nx = 0"),
    Program(family="source", name="other-line-ends", text="x = 0\rdef answer(a, b): return 0\r\f\v\n"),
    Program(family="source", name="look-alikes", text="def аnswer(a, b): return a + b\ndef answer(a, b): return 0"),
)  # fmt: skip
