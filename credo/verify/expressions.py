r"""Are two formulas equal? math-verify's parser reads them, and SymPy evaluates both at a few points, to many digits.

It ignores lists, intervals and the other forms of an answer: ``answers`` takes those apart first. It ignores time and
memory too: the worker bounds both. Nothing here runs text as code.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from credo.verify.latex import deepest
from credo.verify.numerals import numeral, rounds

_DIGITS, _FEW, _ENOUGH = 110, 20, 3
_ALIKE = 100
"""Significant digits compared. An integer beyond that is compared exactly."""
_DEEPEST = 25
_PLACES = (
    (Fraction(17, 5), Fraction(23, 7), Fraction(29, 9), Fraction(31, 11)),
    (Fraction(7, 10), Fraction(5, 9), Fraction(4, 7), Fraction(3, 8)),
    (Fraction(-13, 6), Fraction(-9, 8), Fraction(19, 10), Fraction(-8, 7)),
    (Fraction(6), Fraction(3), Fraction(4), Fraction(2)),
    (Fraction(5), Fraction(7), Fraction(8), Fraction(11)),
)
_ASCII = (
    (re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])"), r"\\pi "),
    (re.compile(r"(?<![\\A-Za-z])(sqrt|sin|cos|tan|ln|log)(?=\s*[({])"), r"\\\1"),
)
_LOG = re.compile(r"\\log(?![A-Za-z])(?!\s*_)")
_PLAIN_ROOT = re.compile(r"\\sqrt\s*\(([^()]*)\)")
_TOWER = re.compile(
    r"(?:\^|\*\*)\s*\{[^{}]*(?:\^|\*\*)\s*\{[^{}]*(?:\^|\*\*)"  # 2^{3^{4^5}}
    r"|(?:\^|\*\*)\s*\w+\s*(?:\^|\*\*)"  # 9^9^9
    r"|(?:\^|\*\*)\s*\{?\s*\d[^{}]{0,20}(?:\^|\*\*)\s*\{?\s*\d{2,}"  # 10^{10^{10}}
    r"|(?:\^|\*\*)\s*\{?\s*\d{6,}|\d{5,}[\s)}]*!|![\s)}]*!"
)


class Unreadable(Exception):
    """The text is no formula that can be read."""


class UnreadableGold(Exception):
    """The answer to grade against is no formula that can be read."""


def equal(gold: str, answer: str, digits: int) -> bool:
    r"""Whether two formulas are the same for every value of their letters.

    ``\log`` without a base has the same base on both sides, be it 10 or e. ``Unreadable`` or ``UnreadableGold`` where
    one cannot be read.
    """
    if _equal(gold, answer, digits):
        return True
    natural = [_LOG.sub(r"\\ln", text) for text in (gold, answer)]
    return natural != [gold, answer] and _equal(natural[0], natural[1], digits)


def _equal(gold: str, answer: str, digits: int) -> bool:
    try:
        left = read(gold)
    except Unreadable as error:
        raise UnreadableGold(str(error)) from error
    right = read(answer)
    for decimal, exact in ((numeral(gold), right), (numeral(answer), left)):
        if decimal and decimal.decimals is not None and not _letters(exact) and _is_number(exact):
            value = _value(exact, {})
            if value is not None and value.is_real:
                return rounds(decimal, _fraction(value), digits)
    if _is_number(left) and _is_number(right):
        verdict = _alike(left, right)
        if verdict is not None:
            return verdict
    return _verified(left, right)


def same_equation(gold: tuple[str, str], answer: tuple[str, str], *, directed: bool = False) -> bool:
    """Whether two equations ``left = right`` are multiples of each other; positive ones with ``directed``."""
    try:
        sides = [read(side) for side in gold]
    except Unreadable as error:
        raise UnreadableGold(str(error)) from error
    sides += [read(side) for side in answer]
    if not all(_is_number(side) for side in sides):
        return False
    ratios = []
    names = sorted({letter for side in sides for letter in _letters(side)})
    for place in _places(names):
        values = [_value(side, place) for side in sides]
        if any(value is None for value in values):
            continue
        below = values[2] - values[3]
        if abs(below) < 1e-60:
            return False
        ratios.append((values[0] - values[1]) / below)
    return (
        len(ratios) >= 3
        and (not directed or ratios[0].is_positive)
        and abs(ratios[0]) > 1e-60
        and all(abs(ratio - ratios[0]) <= abs(ratios[0]) * 1e-60 for ratio in ratios)
    )


@lru_cache(maxsize=512)
def read(text: str) -> Any:
    """The SymPy object that ``text`` writes in LaTeX; its decimals are exact fractions. Raises ``Unreadable``."""
    from latex2sympy2_extended.math_normalization import normalize_latex
    from math_verify.parser import parse_latex_cached
    from sympy import Float, I, Product, Rational, Sum, Symbol, nan, zoo

    if _TOWER.search(text):
        raise Unreadable("a tower of powers or factorials")
    if deepest(text) > _DEEPEST:
        raise Unreadable(f"brackets more than {_DEEPEST} deep")
    for pattern, replacement in _ASCII:
        text = pattern.sub(replacement, text)
    text = _PLAIN_ROOT.sub(r"\\sqrt{\1}", text)
    try:
        parsed: Any = parse_latex_cached(normalize_latex(text, config=_normalization()))
        if parsed is None or parsed in (zoo, nan) or getattr(parsed, "has", lambda *_: False)(zoo, nan):
            raise Unreadable("no formula")
        if not hasattr(parsed, "atoms"):
            return parsed
        exact: dict[Any, Any] = {number: Rational(str(number)) for number in parsed.atoms(Float)}
        if not parsed.has(Sum, Product):
            exact |= {letter: I for letter in parsed.atoms(Symbol) if letter.name == "i"}
        return parsed.xreplace(exact) if exact else parsed
    except (MemoryError, Unreadable):
        raise
    except Exception as error:
        raise Unreadable(type(error).__name__) from error


@lru_cache(maxsize=1)
def _normalization() -> Any:
    from latex2sympy2_extended.math_normalization import NormalizationConfig

    return NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")


def _is_number(parsed: Any) -> bool:
    """Whether ``parsed`` stands for a number once its letters have values, and evaluates without a search."""
    from sympy import Derivative, Expr, Integral, Limit, Product, Sum
    from sympy.core.function import AppliedUndef
    from sympy.matrices import MatrixExpr

    slow = (Integral, Sum, Product, Limit, Derivative, AppliedUndef, MatrixExpr)
    return isinstance(parsed, Expr) and not isinstance(parsed, MatrixExpr) and not parsed.has(*slow)


def _letters(parsed: Any) -> set[str]:
    return {symbol.name for symbol in getattr(parsed, "free_symbols", ())}


def _alike(left: Any, right: Any) -> bool | None:
    """Whether two expressions have the same values at the places; None where too few of them have one."""
    names = sorted(_letters(left) | _letters(right))
    compared = 0
    for place in _places(names):
        if _apart(left, right, place, _FEW, _FEW - 8):
            return False
        if compared < _ENOUGH and _value(left, place, _FEW) is not None:
            if _apart(left, right, place, _DIGITS, _ALIKE):
                return False
            compared += 1
    if not names and compared:
        return _exactly(left, right)
    return True if compared == _ENOUGH else None


def _apart(left: Any, right: Any, place: dict[str, Fraction], digits: int, alike: int) -> bool:
    """Whether two expressions differ at a place, or only one of them has a value there."""
    first, second = _value(left, place, digits), _value(right, place, digits)
    if first is None or second is None:
        return (first is None) != (second is None)
    size = max(abs(first), abs(second))
    return bool(size > 10**-alike and abs(first - second) > size * 10**-alike)


def _exactly(left: Any, right: Any) -> bool:
    """Two numbers with the same leading digits: whether they are equal to the last digit, if they are rational."""
    first, second = left.doit(), right.doit()
    return bool(first == second) if first.is_Rational and second.is_Rational else True


def _places(names: list[str]) -> list[dict[str, Fraction]]:
    if not names:
        return [{}]
    return [
        {name: place[index % len(place)] + index // len(place) for index, name in enumerate(names)} for place in _PLACES
    ]


def _value(parsed: Any, place: dict[str, Fraction], digits: int = _DIGITS) -> Any:
    """The number that ``parsed`` is at ``place``; None where it is none."""
    from sympy import Rational

    values = {
        symbol: Rational(place[symbol.name].numerator, place[symbol.name].denominator)
        for symbol in parsed.free_symbols
        if symbol.name in place
    }
    try:
        number = (parsed.subs(values) if values else parsed).evalf(digits)
        if not number.is_number or number.has(*_unevaluated()):
            number = number.doit().evalf(digits)
    except (ArithmeticError, ValueError, TypeError, AttributeError, NotImplementedError):
        return None
    return number if number.is_number and number.is_finite else None


@lru_cache(maxsize=1)
def _unevaluated() -> tuple[Any, ...]:
    from sympy import Function, UnevaluatedExpr

    return (Function, UnevaluatedExpr)


def _fraction(value: Any) -> Fraction:
    from sympy import Rational

    exact: Any = Rational(value)
    return Fraction(int(exact.p), int(exact.q))


def _verified(left: Any, right: Any) -> bool:
    from math_verify import verify

    try:
        return bool(verify([left], [right], timeout_seconds=None, raise_on_error=True))
    except MemoryError:
        raise
    except Exception as error:
        raise Unreadable(type(error).__name__) from error
