"""The child process that judges: reads frames, writes frames, and bounds itself. It never imports torch.

A frame is a length and a JSON object in ASCII, so no text, however broken, can garble the channel. The child speaks on
a private copy of its standard output; what libraries print goes to standard error. It dies with its parent: idle,
because its input ends; busy, because an alarm outside Python kills it soon after the item's deadline.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, BinaryIO

HEADER = struct.Struct(">I")
Judge = Callable[[Mapping[str, Any]], dict[str, Any]]
"""From a task to ``{"score", "reason"}`` or ``{"unknown": reason}``."""
START_SECONDS = 60.0
"""Allowed for the start of a process with its imports, apart from any item's deadline."""
GRACE_SECONDS = 1.0
"""How much later than the parent the child's own alarm acts."""


def pack(message: Mapping[str, Any]) -> bytes:
    """``message`` as a frame."""
    body = json.dumps(message).encode("ascii")
    return HEADER.pack(len(body)) + body


def main() -> None:
    """Serve until the input ends: settings first, then ``{"warm": kind}`` or a task a frame, one reply to each."""
    requests, replies = _private_channel()
    settings = _read(requests)
    if settings is None:
        return
    _limit()
    judge, warm_up = _users(settings) if "function" in settings else _ours(settings)
    while (request := _read(requests)) is not None:
        warming = "warm" in request
        signal.setitimer(signal.ITIMER_REAL, (START_SECONDS if warming else settings["deadline"]) + GRACE_SECONDS)
        if warming:
            warm_up(request["warm"])
            reply: dict[str, Any] = {"ready": request["warm"]}
        else:
            reply = {key: value[:500] if key != "score" else value for key, value in judge(request).items()}
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(pack(reply))
        replies.flush()


def _private_channel() -> tuple[BinaryIO, BinaryIO]:
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    os.dup2(2, 1)
    return requests, replies


def _ours(settings: Mapping[str, Any]) -> tuple[Judge, Callable[[str], None]]:
    """How the kinds that credo knows are judged, and prepared for."""
    from credo.verify.extraction import Extraction
    from credo.verify.judges import judge, warm_up
    from credo.verify.strictness import Strictness

    _limit_memory(settings["memory_mb"] << 20)
    extraction, strictness = Extraction(**settings["extraction"]), Strictness(**settings["strictness"])
    return partial(judge, extraction=extraction, strictness=strictness), warm_up


def _users(settings: Mapping[str, Any]) -> tuple[Judge, Callable[[str], None]]:
    """The user's function for every kind. The memory limit begins where its imports end: torch alone maps gigabytes."""
    from credo.verify.adapters import FunctionJudge, FunctionPlace

    own = FunctionJudge(FunctionPlace(**settings["function"]), settings["environment"])

    def warm_up(kind: str) -> None:
        try:
            own.prepare()
        except ValueError as error:
            sys.exit(str(error))
        _limit_memory((settings["memory_mb"] << 20) + _address_space())

    return own.judge, warm_up


def _limit() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    logging.disable(logging.CRITICAL)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 1 << 20)


def _limit_memory(size: int) -> None:
    if sys.platform == "linux":  # elsewhere the system refuses this limit or does not keep to it
        _lower(resource.RLIMIT_AS, size)


def _lower(kind: int, limit: int) -> None:
    hard = resource.getrlimit(kind)[1]
    allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(kind, (allowed, allowed))


def _address_space() -> int:
    """Bytes that this process has mapped; 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _read(stream: BinaryIO) -> dict[str, Any] | None:
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    size = HEADER.unpack(header)[0]
    body = stream.read(size)
    return json.loads(body) if len(body) == size else None
