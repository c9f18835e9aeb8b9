"""The trusted side of assertion tests: runs the source of the tests against stand-ins for the program's names.

It holds the expected values, so the program is elsewhere: a stand-in sends the arguments of a call out and receives
data, rebuilt here of plain builtins, so that no equality of the program's making decides anything. Tests come from data
sets and may be hostile as well: this too runs inside the sandbox, from its own task; standard library only.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import os
import random
import socket
import sys
import types
from typing import Any

from credo.verify import wire
from credo.verify.stand_ins import MODULES, Caller, ProgramEnded, StandIn, Unsupported

_COUNT = "_credo_holds"


class BrokenTests(Exception):
    """The tests cannot judge any program."""


def serve(channel: socket.socket) -> None:
    """Run the tests of the one task that the channel brings and send the outcome."""
    task = wire.receive(channel)
    random.seed(1)
    caller = Caller(channel)
    try:
        outcome = _judge(task, caller)
    except BrokenTests as error:
        outcome = {"unknown": str(error)}
    except BaseException as error:
        outcome = {"unknown": f"running the tests failed: {type(error).__name__}: {error}"[:500]}
    wire.send(channel, {"outcome": outcome})
    os._exit(0)


class _Tally:
    """Which assertions held, by their place in the source."""

    def __init__(self, total: int, stop: bool) -> None:
        self.total, self._stop = total, stop
        self.held: dict[int, bool] = {}
        self.reason = ""

    def __call__(self, place: int, condition: Any) -> None:
        """Judge one assertion; its condition is a function."""
        try:
            holds = bool(condition())
            reason = "" if holds else f"assertion {place + 1} does not hold"
        except (ProgramEnded, Unsupported):
            raise
        except Exception as error:
            holds, reason = False, f"assertion {place + 1}: {type(error).__name__}: {error}"[:300]
        self.held[place] = self.held.get(place, True) and holds
        self.reason = self.reason or reason
        if not holds and self._stop:
            raise AssertionError(reason)

    @property
    def passed(self) -> int:
        return sum(self.held.values())


def _judge(task: dict[str, Any], caller: Caller) -> dict[str, Any]:
    tree = parse(task["source"], "the tests")
    places = _Rewriter()
    rewritten = ast.fix_missing_locations(places.visit(tree))
    tally = _Tally(places.total, task["stop"])
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    names = module.__dict__
    _prepare(names, task, tree, caller)
    names[_COUNT] = tally
    failure = ""
    try:
        exec(compile(rewritten, "tests.py", "exec", dont_inherit=True), names)
        if _wants_check(tree):
            names["check"](_candidate(task, names))
    except Unsupported as error:
        raise BrokenTests(f"the tests need what cannot be done here: {error}") from error
    except BaseException as error:
        failure = f"{type(error).__name__}: {error}"[:300]
        if not caller.calls and not _blames_program(error):
            raise BrokenTests(f"the tests fail before they call the program: {failure}") from error
    if not caller.calls and not failure and not tally.reason:
        raise BrokenTests("the tests never call the program")
    complete = not failure and not tally.reason
    total = max(tally.total + (1 if failure and tally.passed == tally.total else 0), 1)
    return {
        "passed": total if complete else min(tally.passed, total - 1),
        "total": total,
        "reason": tally.reason or failure,
    }


def parse(source: str, what: str) -> ast.Module:
    """The syntax tree, or BrokenTests."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BrokenTests(f"{what} cannot be parsed: {error}") from error


def _prepare(names: dict[str, Any], task: dict[str, Any], tree: ast.Module, caller: Caller) -> None:
    """Give the tests what they name: the imports, the prompt's own definitions, and stand-ins for the program's."""
    for part in ("imports", "prompt"):
        if task[part]:
            try:
                exec(compile(parse(task[part], f"the {part} of the tests"), part, "exec", dont_inherit=True), names)
            except BrokenTests:
                raise
            except Exception as error:
                raise BrokenTests(f"the {part} of the tests fail: {type(error).__name__}: {error}") from error
    entry = task["entry_point"].split("(")[0].split(".")[0]
    own = {name for name in names if name != entry}
    wanted = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    wanted = (wanted | {entry}) - _defined(tree) - {_COUNT}
    free = {name for name in wanted if name == entry or not hasattr(builtins, name)} - own - {""}
    for name in sorted(free or wanted - own):
        kind = task["names"].get(name)
        if name in MODULES and name != entry:
            names[name] = importlib.import_module(name)
        elif kind is not None:
            names[name] = StandIn(caller, {"name": name}, kind, name)


def _defined(tree: ast.Module) -> set[str]:
    defined = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                defined.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                defined.add(name)
            case ast.alias(name=name, asname=other):
                defined.add(other or name.split(".")[0])
    return defined


def _wants_check(tree: ast.Module) -> bool:
    """Whether the source defines ``check`` and leaves the call to us."""
    defined = any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body)
    called = any(isinstance(node, ast.Call) and ast.unparse(node.func) == "check" for node in ast.walk(tree))
    return defined and not called


def _candidate(task: dict[str, Any], names: dict[str, Any]) -> Any:
    if not task["entry_point"]:
        raise Unsupported("they define check(candidate), but `entry_point` does not say what the candidate is")
    return eval(task["entry_point"], names)


def _blames_program(error: BaseException) -> bool:
    """Whether the program may be why a test fell over before its first call: a name is missing, or is no function."""
    return isinstance(error, ProgramEnded | NameError | TypeError | AttributeError)


class _Rewriter(ast.NodeTransformer):
    """Turns each assertion outside ``try`` into a counted one, so that one failure does not hide the next."""

    def __init__(self) -> None:
        self.total = 0

    def visit_Try(self, node: ast.Try) -> ast.AST:
        """Leave what the source itself catches."""
        return node

    def visit_TryStar(self, node: ast.TryStar) -> ast.AST:
        """Leave what the source itself catches."""
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        """Leave what may await."""
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """``assert condition`` as ``holds(place, lambda: condition)``; a constant one tests nothing."""
        if isinstance(node.test, ast.Constant) or any(isinstance(part, ast.NamedExpr) for part in ast.walk(node.test)):
            return node
        nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
        condition = ast.Lambda(args=nothing, body=node.test)
        call = ast.Call(
            func=ast.Name(id=_COUNT, ctx=ast.Load()), args=[ast.Constant(self.total), condition], keywords=[]
        )
        self.total += 1
        return ast.copy_location(ast.Expr(call), node)
