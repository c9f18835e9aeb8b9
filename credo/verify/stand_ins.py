"""What the tests hold in place of the program's functions, classes and objects: they send calls out as data.

A stand-in tells the program as little as it can: arguments of calls, names of attributes. Comparing, arithmetic and
membership never reach the program unless both sides are its own objects, so no expected value does. What a function (a
name in lower case) returns is read as data: it has attributes but no methods. It runs inside the sandbox; standard
library only.
"""

from __future__ import annotations

import builtins
import json
import socket
from collections.abc import Iterator
from typing import Any

from credo.verify import wire

_STRUCTURES = ("array", "bisect", "cmath", "collections", "copy", "heapq", "itertools", "functools", "operator")
_OTHERS = (
    "datetime",
    "decimal",
    "fractions",
    "hashlib",
    "json",
    "math",
    "random",
    "re",
    "statistics",
    "string",
    "time",
    "typing",
)
MODULES = (*_STRUCTURES, *_OTHERS)
"""Imported before any program is, and what tests get by these names even where they forget to import them."""


class ProgramEnded(BaseException):
    """The program is gone and will not come back."""


class Unsupported(BaseException):
    """The tests ask for what a stand-in cannot do: our shortcoming, not the program's fault."""


class ProgramError(Exception):
    """The program raised an exception of its own, or did not answer."""


class Caller:
    """The way to the program: one request at a time."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.calls = 0
        self.generation = 0

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to ``request``. Raises what the program raised; nobody reads a request that ends the program."""
        self.calls += 1
        try:
            wire.send(self._channel, {"ask": request})
        except ValueError as error:
            raise Unsupported(str(error)) from error
        reply = wire.receive(self._channel)
        self.generation = reply["generation"]
        if "ended" in reply:
            raise ProgramEnded(reply["ended"])
        if "lost" in reply:
            raise ProgramError(reply["lost"])
        answer = _read(reply["answer"])
        if "error" in answer:
            name, text = answer["error"]
            kind = getattr(builtins, name, None)
            known = isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, StopIteration)
            raise _raised(kind if known else ProgramError, str(text))
        return answer

    def encode(self, value: Any) -> Any:
        """Arguments as data. Unsupported: something that only exists on this side."""
        try:
            return wire.encode(value, _reference)
        except (wire.NotData, RecursionError) as error:
            raise Unsupported(f"an argument that cannot travel ({error})") from error

    def decode(self, value: Any, root: str) -> Any:
        """What the program sent, rebuilt. ProgramError: it sent no value."""
        try:
            return wire.decode(value, lambda reference: _stand_in(self, reference, root))
        except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError, MemoryError) as error:
            raise ProgramError(f"the program did not send a value: {error}") from error


def _read(text: str) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProgramError("the program did not send a message") from error
    if not isinstance(answer, dict):
        raise ProgramError("the program did not send a message")
    if "error" in answer and not (isinstance(answer["error"], list) and len(answer["error"]) == 2):
        raise ProgramError("the program did not send a message")
    return answer


def _raised(kind: Any, text: str) -> Exception:
    try:
        return kind(text)
    except TypeError:  # UnicodeDecodeError and its like want more
        return ProgramError(text)


def _reference(value: Any) -> Any:
    if isinstance(value, StandIn):
        return object.__getattribute__(value, "_reference")
    return wire.refuse(value)


def _stand_in(caller: Caller, reference: dict[str, Any], root: str) -> Any:
    number, kind, _ = reference["object"]
    if kind == "iterator":
        return _iterate(caller, number, root)
    return StandIn(caller, {"object": number}, kind, root)


def _iterate(caller: Caller, number: int, root: str) -> Iterator[Any]:
    while "end" not in (answer := caller.ask({"do": "next", "target": number})):
        yield caller.decode(answer.get("value"), root)


class StandIn:
    """A name or an object of the program."""

    def __init__(self, caller: Caller, reference: dict[str, Any], kind: str, root: str) -> None:
        self._caller = caller
        self._reference = reference
        self._kind = kind
        self._root = root
        self._generation = caller.generation
        self._recipe: tuple[StandIn, Any, Any] | None = None

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        sent = self._caller.encode(list(arguments))
        request = {"do": "call", "target": self._target(), "arguments": sent, "keywords": self._caller.encode(keywords)}
        answer = self._caller.ask(request)
        value = self._caller.decode(answer.get("value"), self._root)
        if value is None and "after" in answer:  # else a program could agree with a test by changing its argument
            _follow(arguments, self._caller.decode(answer["after"], self._root))
        if isinstance(value, StandIn) and self._kind == "class":
            value._recipe = (self, arguments, keywords)
        return value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        answer = self._caller.ask({"do": "get", "target": self._target(), "name": name})
        value = self._caller.decode(answer.get("value"), self._root)
        if isinstance(value, StandIn) and value._kind != "object" and not self._root.lstrip("_")[:1].isupper():
            raise AttributeError(f"what {self._root} returned is read as data; it has no method {name}")
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            raise Unsupported(f"the tests set the attribute {name} of an object of the program")
        object.__setattr__(self, name, value)

    def _target(self) -> Any:
        """Where the program finds this; an instance lost with an earlier process is made again."""
        if "name" in self._reference:
            return [self._reference["name"]]
        if self._generation != self._caller.generation:
            if self._recipe is None:
                raise ProgramError("the object was lost when the program was stopped")
            maker, arguments, keywords = self._recipe
            again = maker(*arguments, **keywords)
            if not isinstance(again, StandIn):
                raise ProgramError("the object was lost when the program was stopped")
            self._reference, self._generation = again._reference, self._caller.generation
        return self._reference["object"]

    def _special(self, name: str, *arguments: Any) -> Any:
        if any(not isinstance(argument, StandIn) for argument in arguments) and name != "__getitem__":
            return NotImplemented
        sent = self._caller.encode(list(arguments))
        answer = self._caller.ask({"do": "special", "target": self._target(), "name": name, "arguments": sent})
        return self._caller.decode(answer.get("value"), self._root)

    def __len__(self) -> int:
        return self._special("__len__")

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        return self._special("__str__")

    def __repr__(self) -> str:
        return self._special("__repr__")

    def __iter__(self) -> Any:
        return iter(self._special("__iter__"))

    def __getitem__(self, key: Any) -> Any:
        return self._special("__getitem__", key)

    def __eq__(self, other: object) -> Any:
        return self._special("__eq__", other)

    def __lt__(self, other: object) -> Any:
        return self._special("__lt__", other)

    def __add__(self, other: object) -> Any:
        return self._special("__add__", other)

    def __sub__(self, other: object) -> Any:
        return self._special("__sub__", other)

    def __mul__(self, other: object) -> Any:
        return self._special("__mul__", other)

    __hash__ = object.__hash__


def _follow(before: tuple[Any, ...], after: Any) -> None:
    """What the program did to the lists, dicts and sets that it was given happens to the test's own."""
    if not isinstance(after, list):
        return
    for mine, theirs in zip(before, after, strict=False):
        if type(mine) is not type(theirs):
            continue
        if isinstance(mine, list):
            mine[:] = theirs
        elif isinstance(mine, dict | set):
            mine.clear()
            mine.update(theirs)
