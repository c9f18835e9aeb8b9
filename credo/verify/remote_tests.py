"""Calls and asserts on a server: this runs there, between us, the program and the tests, each in a process of its own.

The order, with a token that only this process knows, is read from standard input before the program starts; the report
stands behind the token, so nothing else that is printed can be taken for it. The isolation is the server's. It imports
only what is sent along, which imports nothing but the standard library.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from credo.verify import wire
from credo.verify.sandbox import Limits, Sandbox, Strength
from credo.verify.sessions import Clock, LoadedProgram, Wrong


def report(order: Mapping[str, Any]) -> dict[str, Any]:
    """For ``calls`` ``{"results": [{"value"} or {"wrong"}, ...]}``, for ``tests`` the outcome of the asserts."""
    sandbox = Sandbox(Strength(level=1, reason="the server is the sandbox", bubblewrap=None))
    clock = Clock(order["seconds"], order["total_seconds"])
    try:
        with LoadedProgram(sandbox, Limits(memory_mb=order["memory_mb"]), order["task"], clock) as program:
            if "calls" in order:
                return {"results": [_result(program, order["function"], *call) for call in order["calls"]]}
            try:
                names = program.names()
            except Wrong as wrong:
                return {"passed": 0, "total": 1, "reason": str(wrong)}
            return program.assertions({**order["tests"], "names": names})
    finally:
        sandbox.close()


def _result(program: LoadedProgram, function: str, arguments: Any, most: int) -> dict[str, Any]:
    """What one call comes to; ``most`` bounds the bytes of its value."""
    if program.unusable:
        return {"wrong": "it does not load or has no such function"}
    try:
        return {"value": program.call(function, wire.decode(arguments), most)}
    except Wrong as wrong:
        return {"wrong": str(wrong)}


def main() -> None:
    """Read the order, carry it out, report behind the token."""
    order = json.load(sys.stdin)
    print("\n" + order["token"] + json.dumps(report(order)), flush=True)
