"""Values as JSON between a program, its tests and us: what travels is data, never code and never a pickle.

A frame is a length and a JSON text in ASCII. JSON's own values stand for themselves; everything else is an object with
one key, its tag: ``{"tuple": [...]}``, ``{"dict": [[key, value], ...]}``. What is no data becomes a reference that its
owner keeps. This file also runs inside the sandbox: it imports nothing but the standard library.
"""

from __future__ import annotations

import builtins
import json
import math
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any

LARGEST_FRAME = 16 << 20
"""Bytes of one message. A longer answer is a wrong one."""
_HEADER = struct.Struct(">I")
_SMALL = 1 << 53
_SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}
_VIEWS = {"dict_keys": type({}.keys()), "dict_values": type({}.values()), "dict_items": type({}.items())}

Refer = Callable[[Any], Any]


class NotData(TypeError):
    """A value that has no form on the wire."""


def send(channel: socket.socket, message: Any) -> None:
    """Write one frame. ValueError: the message is too large."""
    body = json.dumps(message, separators=(",", ":")).encode("ascii")
    if len(body) > LARGEST_FRAME:
        raise ValueError(f"a message of {len(body)} bytes; the limit is {LARGEST_FRAME}")
    channel.sendall(_HEADER.pack(len(body)) + body)


def receive_bytes(read: Callable[[int], bytes], most: int = LARGEST_FRAME) -> bytes:
    """The text of one frame, by a ``read`` that returns at most so many bytes. EOFError: no whole frame came, or one of
    more than ``most`` bytes.
    """
    size = _HEADER.unpack(_exactly(read, _HEADER.size))[0]
    if size > most:
        raise EOFError("the message is too large")
    return _exactly(read, size)


def receive(channel: socket.socket) -> Any:
    """The next message. EOFError: the other side is gone."""
    return json.loads(receive_bytes(channel.recv))


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        chunk = read(min(size - len(received), 1 << 20))
        if not chunk:
            raise EOFError("the message ends early")
        received += chunk
    return bytes(received)


def refuse(value: Any) -> Any:
    """The ``refer`` of a side that keeps no references."""
    raise NotData(f"a value of type {type(value).__name__} cannot travel")


def encode(value: Any, refer: Refer = refuse) -> Any:
    """``value`` in JSON's types; ``refer`` says what stands for a value that is no data.

    Subclasses travel as the builtin they extend (a named tuple as a tuple, a ``Counter`` as a dict), numpy's values as
    Python's. RecursionError: nested too deeply, or within itself.
    """
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is int:
        return value if -_SMALL < value < _SMALL else {"int": hex(value)}
    for name, sequence in _SEQUENCES.items():
        if isinstance(value, sequence):
            items = [encode(item, refer) for item in sequence.__iter__(value)]
            return items if name == "list" else {name: items}
    if isinstance(value, dict):
        return {"dict": [[encode(key, refer), encode(held, refer)] for key, held in dict.items(value)]}
    return _encode_rare(value, refer)


def _encode_rare(value: Any, refer: Refer) -> Any:
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return encode(value.tolist(), refer)
    plain = _plain(value)
    if plain is not None:
        return encode(plain, refer)
    for name, view in _VIEWS.items():
        if isinstance(value, view):
            return {name: [encode(item, refer) for item in value]}
    match value:
        case bytes() | bytearray():
            return {"bytes" if isinstance(value, bytes) else "bytearray": value.hex()}
        case complex():
            return {"complex": [encode(value.real), encode(value.imag)]}
        case range():
            return {"range": [encode(bound) for bound in (value.start, value.stop, value.step)]}
        case Decimal():
            return {"Decimal": str(value)}
        case Fraction():
            return {"Fraction": [encode(value.numerator), encode(value.denominator)]}
        case _ if value is Ellipsis or value is NotImplemented:
            return {"builtin": repr(value)}
        case _ if getattr(builtins, getattr(value, "__name__", None) or "", None) is value:
            return {"builtin": value.__name__}
    return refer(value)


def _plain(value: Any) -> Any:
    """What a subclass of str, int or float extends."""
    match value:
        case str():
            return str.__str__(value)
        case int():
            return int.__int__(value)
        case float():
            return float.__float__(value)
    return None


def decode(wire: Any, resolve: Refer = refuse) -> Any:
    """The value, built anew of plain builtins; ``resolve`` receives the tagged objects that are references.

    ValueError, TypeError, KeyError, RecursionError: not something that ``encode`` writes.
    """
    if isinstance(wire, list):
        return [decode(item, resolve) for item in wire]
    if not isinstance(wire, dict):
        return wire
    ((tag, held),) = wire.items()
    if tag in _SEQUENCES:
        return _SEQUENCES[tag](decode(item, resolve) for item in held)
    match tag:
        case "dict":
            return {decode(key, resolve): decode(value, resolve) for key, value in held}
        case "float":
            return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[held]
        case "int":
            return int(held, 16)
        case "bytes":
            return bytes.fromhex(held)
        case "bytearray":
            return bytearray.fromhex(held)
        case "complex":
            return complex(*_all(held))
        case "range":
            return range(*_all(held))
        case "Decimal":
            return Decimal(held)
        case "Fraction":
            return Fraction(*_all(held))
        case "dict_keys":
            return dict.fromkeys(decode(item, resolve) for item in held).keys()
        case "dict_values":
            return dict(enumerate(decode(held, resolve))).values()
        case "dict_items":
            return dict(decode(held, resolve)).items()
        case "builtin":
            return getattr(builtins, held)
    return resolve(wire)


def _all(held: Iterable[Any]) -> list[Any]:
    return [decode(item) for item in held]
