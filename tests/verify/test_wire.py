"""Values survive the way as data; what is no data does not travel."""

from __future__ import annotations

import math
import socket
from collections import Counter, namedtuple
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from credo.verify import wire

PLAIN = [
    None, True, 0, -(1 << 70), 10**5000, 0.1, -0.0, math.inf, "\ud800\0é", b"\0\xff", bytearray(b"x"), 1 - 2j,
    [1, [2, (3, {4})]], (), set(), frozenset({(1, 2)}), {1: "a", (2, 3): [4], None: {}}, range(1, 9, 2),
    Decimal("1.10"), Fraction(-1, 3), int, len, NotImplemented,
]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: type(value).__name__)
def test_plain_values_come_back_as_they_were(value: Any):
    back = wire.decode(wire.encode(value))
    assert type(back) is type(value)
    assert back == value


def test_subclasses_come_back_as_the_builtin_they_extend():
    class Same(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    back = wire.decode(wire.encode([Same(3), Counter("aab"), namedtuple("Pair", "x y")(1, 2)]))
    assert [type(each) for each in back] == [int, dict, tuple]
    assert back == [3, {"a": 2, "b": 1}, (1, 2)]
    assert not back[0] == 4  # noqa: SIM201  the operator is the point


def test_what_is_no_data_is_refused_and_so_is_a_circle():
    with pytest.raises(wire.NotData):
        wire.encode([lambda: None])
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(RecursionError):
        wire.encode(circle)


@pytest.mark.parametrize("written", [{"tuple": 3}, {}, {"a": 1, "b": 2}, {"int": "z"}, {"dict": [[1]]}, {"set": [[]]}])
def test_what_encode_does_not_write_is_not_read(written: Any):
    with pytest.raises((ValueError, TypeError, KeyError)):
        wire.decode(written)


def test_a_message_that_is_cut_or_too_large_does_not_arrive():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire.send(ours, {"a": [1]})
        assert wire.receive(theirs) == {"a": [1]}
        with pytest.raises(ValueError, match="limit"):
            wire.send(ours, "x" * wire.LARGEST_FRAME)
        ours.sendall(b"\xff\xff\xff\xff")
        with pytest.raises(EOFError):
            wire.receive(theirs)
        ours.sendall(b"\0\0\0\x09short")
        ours.close()
        with pytest.raises(EOFError):
            wire.receive(theirs)
