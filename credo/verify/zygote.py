"""The process inside the sandbox that forks a fresh, locked child for each program; Python's start is paid once.

It holds nothing secret and runs nothing foreign itself. Each child gets new pid, mount, ipc and uts namespaces with a
private /tmp of bounded size, then loses every capability, is bound by resource limits and the system-call filter, says
what was reached, and only then looks at its task. A keeper process stands between: it kills the child when our side of
its control socket closes and reports how the child ended. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import platform
import resource
import select
import signal
import socket
import sys
from typing import Any

from credo.verify import assertion_child, program_child, seccomp, wire
from credo.verify.stand_ins import MODULES

CONTROL_LETTER = b"E"
"""Before the text of a failure; an exit is told by ``wait`` status after ``X``."""

_NAMESPACES = 0x00020000 | 0x20000000 | 0x08000000 | 0x04000000  # mount, pid, ipc, uts
_PRIVATE_RECURSIVE = (1 << 18) | (1 << 14)
_NOSUID_NODEV = 2 | 4
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 24, 22, 38, 47
_libc = ctypes.CDLL(None, use_errno=True)


class _FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def main(isolated: bool) -> None:
    """Fork one child for each request on standard input until it closes."""
    requests = socket.socket(fileno=os.dup(0))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    os.close(nowhere)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps the keepers
    for name in MODULES:
        importlib.import_module(name)
    gc.freeze()
    requests.send(b"ready")
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 1 << 16, 2)
        if not message:
            return None
        if os.fork() == 0:
            requests.close()
            channel, control = (socket.socket(fileno=descriptor) for descriptor in descriptors)
            _keep(channel, control, isolated)  # only the child comes out of it
            return _become(json.loads(message), channel, isolated)
        for descriptor in descriptors:
            os.close(descriptor)


def _keep(channel: socket.socket, control: socket.socket, isolated: bool) -> None:
    """Start the child, watch it and the control socket, and report the end. Returns in the child only."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if isolated:
            _require(_libc.unshare(_NAMESPACES), "new namespaces")
        child = os.fork()
        if child == 0:
            control.close()
            return
        channel.close()
        watch = os.pidfd_open(child)
        ready = select.select([watch, control], [], [])[0]
        if watch not in ready:
            _kill(child, isolated)
        control.send(b"X" + str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
    except OSError as error:
        control.send(CONTROL_LETTER + f"{type(error).__name__}: {error}".encode()[:1000])
    os._exit(0)


def _kill(child: int, isolated: bool) -> None:
    if not isolated:  # in a pid namespace the first process takes all others along
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)


def _become(task: dict[str, Any], channel: socket.socket, isolated: bool) -> None:
    """Give up every right, say what was reached, then do the task."""
    try:
        os.setsid()
        _require(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "the death signal")
        if isolated:
            _mount_private_folder(task["scratch_mb"])
            _drop_capabilities()
        _require(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
        limit(task)
        filtered = _filter_system_calls() if task["filter"] else False
        wire.send(channel, {"isolated": isolated and os.getpid() == 1, "filtered": filtered})
    except BaseException as error:
        wire.send(channel, {"failed": f"{type(error).__name__}: {error}"[:1000]})
        os._exit(1)
    sys.path += task["path"]
    for name in set(os.environ) - {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"}:
        del os.environ[name]
    os.chdir("/tmp")
    serve = assertion_child.serve if task["kind"] == "assertions" else program_child.serve
    serve(channel)


def _mount_private_folder(size_mb: int) -> None:
    _require(_libc.mount(b"none", b"/", None, ctypes.c_ulong(_PRIVATE_RECURSIVE), None), "private mounts")
    options = f"size={size_mb}m,nr_inodes=4096,mode=1777".encode()
    _require(_libc.mount(b"tmpfs", b"/tmp", b"tmpfs", ctypes.c_ulong(_NOSUID_NODEV), options), "a private /tmp")


def _drop_capabilities() -> None:
    capability = 0
    while _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    _libc.prctl(_PR_CAP_AMBIENT, 4, 0, 0, 0)  # clear all
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    _require(_libc.capset(header, none), "dropping capabilities")


def limit(task: dict[str, Any]) -> None:
    """Bind this process by the task's resource limits."""
    limits = {
        resource.RLIMIT_AS: task["memory_mb"] << 20,
        resource.RLIMIT_CPU: task["cpu_seconds"],
        resource.RLIMIT_FSIZE: task["scratch_mb"] << 20,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_STACK: 64 << 20,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if task["processes"]:
        limits[resource.RLIMIT_NPROC] = task["processes"]
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (allowed, allowed))


def _filter_system_calls() -> bool:
    instructions = seccomp.program(platform.machine())
    if instructions is None:
        return False
    loaded = _FilterProgram(len(instructions) // 8, instructions)
    return _libc.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(loaded), 0, 0) == 0


def _require(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
