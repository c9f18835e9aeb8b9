"""Whether a program's output is the expected one. Both sides are plain text or plain data; nothing of the program runs.

It neither hashes what the program sent nor orders it, so no output is slow to compare.
"""

from __future__ import annotations

import math
from typing import Any


def texts_agree(expected: str, actual: str, tolerance: float = 0.0) -> bool:
    """The same tokens on the same lines.

    A token is what stands between blanks. Blanks at either end of a line, how many there are between tokens, and empty
    lines at the end do not count; line breaks and empty lines elsewhere do. With a ``tolerance`` two tokens also agree
    if both are finite numbers, not both integers, and differ by at most ``tolerance * max(1, |expected|)``.
    """
    wanted, given = _lines(expected), _lines(actual)
    return len(wanted) == len(given) and all(
        len(ours) == len(theirs) and all(_tokens_agree(*pair, tolerance) for pair in zip(ours, theirs, strict=True))
        for ours, theirs in zip(wanted, given, strict=True)
    )


def _lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.rstrip().splitlines()]


def _tokens_agree(expected: str, actual: str, tolerance: float) -> bool:
    if expected == actual:
        return True
    if not tolerance or len(actual) > 400 or (_is_integer(expected) and _is_integer(actual)):
        return False
    try:
        return _close(float(expected), float(actual), tolerance)
    except (ValueError, OverflowError):
        return False


def _is_integer(token: str) -> bool:
    return token.lstrip("+-").isdigit()


def _close(expected: float, actual: float, tolerance: float) -> bool:
    """False where either is infinite or no number: those have to be equal."""
    finite = math.isfinite(expected) and math.isfinite(actual)
    return finite and abs(expected - actual) <= tolerance * max(1.0, abs(expected))


def values_agree(expected: Any, wire: Any, tolerance: float = 0.0) -> bool:
    """Whether ``wire`` (from the program, as ``credo.verify.wire`` writes it) equals the JSON value ``expected``.

    Equality is Python's on plain values, with what JSON cannot say forgiven: a tuple may stand for a list, and a dict's
    keys may be anything that prints as the expected key. A ``tolerance`` is for floats, as in ``texts_agree``.
    """
    try:
        return _equal(expected, wire, tolerance)
    except (ValueError, TypeError, RecursionError, OverflowError):
        return False


def _equal(expected: Any, wire: Any, tolerance: float) -> bool:
    if isinstance(wire, dict):
        ((tag, held),) = wire.items()
        match tag:
            case "tuple":
                return _equal(expected, held, tolerance) if isinstance(held, list) else False
            case "dict":
                return isinstance(expected, dict) and _same_items(expected, held, tolerance)
            case "int":
                wire = int(held, 16)
            case "float":
                wire = float(held)
            case _:
                return False
    if isinstance(expected, list) or isinstance(wire, list):
        return (
            isinstance(expected, list)
            and isinstance(wire, list)
            and len(expected) == len(wire)
            and all(_equal(*pair, tolerance) for pair in zip(expected, wire, strict=True))
        )
    if tolerance and (type(expected), type(wire)) in ((float, float), (float, int), (int, float)):
        return expected == wire or _close(expected, wire, tolerance)
    return expected == wire


def _same_items(expected: dict[str, Any], pairs: list[Any], tolerance: float) -> bool:
    if len(expected) != len(pairs):
        return False
    left = dict(expected)
    for key, value in pairs:
        name = _key(key)
        if name not in left or not _equal(left.pop(name), value, tolerance):
            return False
    return True


def _key(wire: Any) -> str:
    """A dict's key as JSON would write it."""
    if isinstance(wire, str):
        return wire
    if wire is None or isinstance(wire, bool):
        return {None: "null", True: "true", False: "false"}[wire]
    if isinstance(wire, dict) and "int" in wire:
        return str(int(wire["int"], 16))
    return str(wire)
