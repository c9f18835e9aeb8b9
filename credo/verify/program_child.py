"""The untrusted side: runs one program with an input, or loads it and answers calls with data.

Nothing here is trusted: from its first line the program may replace all of it. It never receives an expected output or
a line of a test, and what it sends is read elsewhere as data. Runs inside the sandbox; standard library only.
"""

from __future__ import annotations

import builtins
import io
import os
import random
import socket
import sys
import types
from collections.abc import Iterator
from typing import Any

from credo.verify import wire

_HIDDEN = ("StopIteration", "StopAsyncIteration", "GeneratorExit")  # these would end a test's loop quietly


def serve(channel: socket.socket) -> None:
    """Do the one task that the channel brings. Returns or ends the process."""
    task = wire.receive(channel)
    random.seed(0)
    if "input" in task:
        _run(task, channel)
    else:
        _Calls(task, channel).answer()
    os._exit(0)


def _compiled(task: dict[str, Any]) -> types.CodeType:
    """The program behind its prefix, or alone where the two do not fit together."""
    whole = f"{task['prefix']}\n{task['program']}" if task["prefix"] else task["program"]
    try:
        return compile(whole, "program.py", "exec", dont_inherit=True)
    except SyntaxError:
        if whole == task["program"]:
            raise
        return compile(task["program"], "program.py", "exec", dont_inherit=True)


def _run(task: dict[str, Any], channel: socket.socket) -> None:
    """Run the program as a script; its output is the rest of what the channel carries."""
    with open("input", "w+b") if os.getpid() == 1 else _unnamed_file() as stored:
        stored.write(task["input"].encode("utf-8", "surrogatepass"))
        stored.flush()
        os.lseek(stored.fileno(), 0, os.SEEK_SET)
        os.dup2(stored.fileno(), 0)
        if os.getpid() == 1:
            os.unlink("input")
    os.dup2(channel.fileno(), 1)
    channel.close()
    sys.stdin, sys.stdout, sys.stderr = _text(0, "r"), _text(1, "w"), _text(2, "w")
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    sys.argv = ["program.py"]
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    exec(_compiled(task), module.__dict__)
    raise SystemExit(0)  # the interpreter's own end: threads are awaited, buffers flushed


def _unnamed_file() -> Any:
    import tempfile

    return tempfile.TemporaryFile()


def _text(descriptor: int, mode: str) -> io.TextIOWrapper:
    raw = open(descriptor, mode + "b", buffering=-1, closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(raw, encoding="utf-8", errors="surrogatepass", line_buffering=False)


class _Calls:
    """The names of a loaded program, and the objects it has handed out by number."""

    def __init__(self, task: dict[str, Any], channel: socket.socket) -> None:
        self._channel = channel
        self._objects: list[Any] = []
        self._module = types.ModuleType("program")
        sys.modules["program"] = self._module
        try:
            exec(_compiled(task), self._module.__dict__)
        except BaseException as error:
            wire.send(channel, {"error": _description(error)})
            os._exit(0)
        names = {name: _kind(value) for name, value in self._module.__dict__.items() if not name.startswith("__")}
        wire.send(channel, {"names": names})

    def answer(self) -> None:
        """Answer requests until the channel closes."""
        while True:
            request = wire.receive(self._channel)
            try:
                reply = self._reply(request)
            except BaseException as error:
                reply = {"error": _description(error)}
            try:
                wire.send(self._channel, reply)
            except ValueError as error:
                wire.send(self._channel, {"error": ["ValueError", str(error)]})

    def _reply(self, request: dict[str, Any]) -> dict[str, Any]:
        target = self._target(request["target"])
        match request["do"]:
            case "call":
                arguments = wire.decode(request["arguments"], self._resolve)
                keywords = wire.decode(request["keywords"], self._resolve)
                reply = {"value": wire.encode(target(*arguments, **keywords), self._refer)}
                after = wire.encode(arguments, self._refer)
                return reply if after == request["arguments"] else reply | {"after": after}
            case "get":
                return {"value": wire.encode(getattr(target, request["name"]), self._refer)}
            case "next":
                for value in target:
                    return {"value": wire.encode(value, self._refer)}
                return {"end": True}
            case "special":
                arguments = wire.decode(request["arguments"], self._resolve)
                value = getattr(type(target), request["name"])(target, *arguments)
                return {"value": wire.encode(value, self._refer)}
        raise ValueError(request["do"])

    def _target(self, target: Any) -> Any:
        """``["f"]``, ``["Solution", "f"]`` (a method of a new instance) or an object's number."""
        if isinstance(target, int):
            return self._objects[target]
        found: Any = self._module
        for name in target:
            found = getattr(found() if isinstance(found, type) else found, name)
        return found

    def _refer(self, value: Any) -> dict[str, Any]:
        self._objects.append(value)
        return {"object": [len(self._objects) - 1, _kind(value), type(value).__name__]}

    def _resolve(self, reference: dict[str, Any]) -> Any:
        if "name" in reference:
            return getattr(self._module, reference["name"])
        return self._objects[reference["object"]]


def _kind(value: Any) -> str:
    if isinstance(value, types.ModuleType):
        return f"module {value.__name__}"
    if isinstance(value, type):
        return "class"
    if isinstance(value, Iterator):
        return "iterator"
    return "callable" if callable(value) else "object"


def _description(error: BaseException) -> list[str]:
    kind = type(error)
    while kind.__name__ not in builtins.__dict__:
        kind = kind.__mro__[1]
    name = "RuntimeError" if kind.__name__ in _HIDDEN or not issubclass(kind, Exception) else kind.__name__
    try:
        text = str(error)[:300]
    except BaseException:
        text = ""
    return [name, f"{type(error).__name__}: {text}"]
