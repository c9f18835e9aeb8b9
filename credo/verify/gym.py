"""Scores for reasoning-gym's procedural tasks, by the scorer that comes with each family.

It ignores where the answer stood in the response. Some of those scorers hand the answer to ``eval`` or to SymPy's
``parse_expr``, which evaluates too; ``disarm`` lets plain lists and formulas through to them and nothing else.
Partial scores reward substrings and mere attempts (a wrong countdown earns 0.05), so a score counts as 1 from 0.99 on
and as 0 below, unless the problem's ``extra`` says ``"partial": true``.
"""

from __future__ import annotations

import ast
import operator
import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

_OPERATORS: Mapping[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: operator.invert,
    ast.Not: operator.not_,
}
_FORMULA = (
    ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.Load, ast.UnaryOp, ast.BinOp, ast.operator, ast.unaryop,
    ast.Name, ast.Call,
)  # fmt: skip


def judge_gym(answer: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """``{"score", "reason"}`` or ``{"unknown"}``; ``extra`` holds ``family`` and ``entry`` as reasoning-gym made it."""
    entry = extra["entry"]
    if entry["answer"] is not None and answer == entry["answer"].strip():
        return {
            "score": 1.0,
            "reason": "",
        }  # some scorers miss this once the entry has been JSON and its tuples are lists
    score_answer = scorer(extra["family"])
    try:
        score = float(score_answer(answer, entry))
    except MemoryError:
        raise
    except Exception as error:
        failure = f"the scorer of {extra['family']} failed: {type(error).__name__}: {error}"
        if accepts(score_answer, entry):  # the scorer works on this entry, so the answer is what it cannot read
            return {"score": 0.0, "reason": failure}
        return {"unknown": failure}
    if not 0.0 <= score <= 1.0:
        return {"unknown": f"the scorer of {extra['family']} gave {score}, which is not in [0, 1]"}
    return {"score": score if extra.get("partial") is True else float(score >= 0.99), "reason": ""}


def accepts(score_answer: Callable[..., float], entry: Mapping[str, Any]) -> bool:
    """Whether the scorer gives full marks to the entry's own answer."""
    try:
        return isinstance(entry["answer"], str) and score_answer(entry["answer"], entry) >= 0.99
    except Exception:
        return False


@cache
def scorer(family: str) -> Callable[..., float]:
    """The family's ``score_answer``, disarmed."""
    import reasoning_gym

    disarm()
    return reasoning_gym.get_score_answer_fn(family)


@cache
def disarm() -> None:
    """Put guards where reasoning-gym and SymPy evaluate text: names that shadow theirs, in this process only."""
    from sympy.parsing import sympy_parser

    for name, module in list(sys.modules.items()):
        if name.startswith("reasoning_gym."):
            module.__dict__["eval"] = evaluate_arithmetic
    stringify = sympy_parser.stringify_expr

    def checked_stringify(text: str, local_dict: dict, global_dict: dict, transformations: tuple) -> str:
        code = stringify(text, local_dict, global_dict, transformations)
        check_formula(code, {**global_dict, **local_dict})
        return code

    sympy_parser.__dict__["stringify_expr"] = checked_stringify


def evaluate_arithmetic(source: str) -> Any:
    """What ``source`` comes to, if it is made of literals, lists and operators; worked out here, never run as code."""
    return _value(ast.parse(source.strip(), mode="eval").body)


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.List():
            return [_value(element) for element in node.elts]
        case ast.Tuple():
            return tuple(_value(element) for element in node.elts)
        case ast.UnaryOp() if type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](_value(node.operand))
        case ast.BinOp() if type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError(f"a formula may not contain {type(node).__name__}")


def check_formula(code: str, names: Mapping[str, Any]) -> None:
    """Refuse code that SymPy is about to evaluate unless it only builds expressions out of SymPy's own classes."""
    from sympy import Basic, cbrt, root, sqrt

    tree = ast.parse(code.strip(), mode="eval")
    _refuse_others(tree, _FORMULA)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (node.keywords or not isinstance(node.func, ast.Name)):
            raise ValueError("a formula may only call functions by their names")
        if isinstance(node, ast.Name):
            value = names.get(node.id)
            is_expression = isinstance(value, Basic) or (isinstance(value, type) and issubclass(value, Basic))
            if not is_expression and value not in (sqrt, cbrt, root):
                raise ValueError(f"a formula may not use {node.id!r}")


def _refuse_others(tree: ast.AST, allowed: tuple[type[ast.AST], ...]) -> None:
    for node in ast.walk(tree):
        if not isinstance(node, allowed):
            raise ValueError(f"a formula may not contain {type(node).__name__}")
