r"""Is this answer the same as that one? Answers are taken apart by their form (a list, a set, a tuple, an interval,
an equation, a matrix, words, a number with a unit), compared part by part, and only formulas are left to algebra.

A form decides: ``(1,2]`` is never ``(1,2)``, and a whole number is never about right. It ignores where in a response
the answer stands, and time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import product

from credo.verify.expressions import Unreadable, equal, same_equation
from credo.verify.forms import (
    COMMA,
    EQUALS,
    IN,
    TUPLE_NAME,
    all_named,
    border,
    bracketed,
    chain,
    is_name,
    is_tuple,
    matrix,
    readings,
    region,
    renamed,
    value_of,
)
from credo.verify.latex import cleaned, separators, split, ungrouped, unspaced, unworded
from credo.verify.numerals import agree, based, numeral
from credo.verify.strictness import Strictness
from credo.verify.units import is_prose, is_words, same_unit, same_words, without_unit

_DEEPEST = 12
_ALTERNATIVE = re.compile(r"(?:\\text\s*\{\s*)?or", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"-?(?:0|\d{4,}),\d+|-?\d+,(?:\d{1,2}|\d{4,})")
_OF_SETS = re.compile(r"\\(?:cup|cap|setminus|backslash|mathbb|times|begin|emptyset|varnothing)(?![A-Za-z])")
_APPROXIMATELY = re.compile(r"\\approx(?![A-Za-z])|\\sim(?![A-Za-z])")
_GEOMETRY = re.compile(r"\\(?:perp|parallel|cong|sim)(?![A-Za-z])")
_CONDITION = re.compile(
    r"(?:,\s*)?\\text\s*\{\s*,?\s*(?:for|where|if|when|with|such that|provided)\b|,\s*(?:for|where)\b|\b(?:for|where)\s"
)
_RESTRICTS = re.compile(
    r"[<>=\d|]|\\(?:le|ge|ne|in|equiv|mid)(?![A-Za-z])|\b(?:if|when|odd|even|positive|negative|non|not|such|provided)"
)
_LETTER = re.compile(r"(?:\\text\s*\{\s*)?\(?\s*([A-K])\s*\)?(?:(?<=\))\s*\}?|\s*\}?\s*[.:)])(?:.*)|([A-K])")
_RATIO = re.compile(r"\s*\\?:\s*|\\text\s*\{\s*to\s*\}")
_TIME = re.compile(r"(?:\D*\s)?(\d{1,2})(?::(\d{2}))?(?::\d{2})?\s*([ap])\.?\s*m\.?")

Rule = Callable[[str, str, Strictness, int], "bool | None"]


def same(gold: str, answer: str, strictness: Strictness) -> bool:
    """Whether two answers as they stand in a box are the same. ``Unreadable`` where the form of one is not known."""
    return _same(cleaned(gold), cleaned(answer), strictness, 0)


def _same(gold: str, answer: str, strictness: Strictness, depth: int) -> bool:
    gold, answer = ungrouped(gold), ungrouped(answer)
    if unspaced(gold) == unspaced(answer):
        return True
    if not answer or not gold or depth > _DEEPEST:
        return False
    for rule in _RULES:
        verdict = rule(gold, answer, strictness, depth + 1)
        if verdict is not None:
            return verdict
    if is_prose(gold):
        return same_words(gold, answer)
    if is_tuple(gold) != is_tuple(answer) and not _OF_SETS.search(gold + answer):
        return False
    return equal(gold, answer, strictness.decimal_digits)


def _choices(gold: str, answer: str, strictness: Strictness, depth: int) -> bool | None:
    """Letters of a multiple choice: ``(C)``, ``C``, ``C.``, ``(C) 12``."""
    left, right = _LETTER.fullmatch(gold), _LETTER.fullmatch(answer)
    if left and right:
        return (left[1] or left[2]) == (right[1] or right[2])
    return None


def _numbers(gold: str, answer: str, strictness: Strictness, depth: int) -> bool | None:
    """Plain numbers, exactly. A percent sign counts where both have one."""
    left, right = numeral(gold), numeral(answer)
    if left and left.value.denominator != 1 and _DECIMAL_COMMA.fullmatch(answer):
        right = numeral(answer.replace(",", "."))
    if left is None or right is None:
        return None
    if left.percent == right.percent:
        return agree(left, right, strictness.decimal_digits)
    percent, other = (left, right) if left.percent else (right, left)
    if percent.value == other.value * 100:
        return True
    dropped = not strictness.need_units if left.percent else abs(left.value) > 1
    return dropped and percent.value == other.value


def _bases(gold: str, answer: str, strictness: Strictness, depth: int) -> bool | None:
    """Numerals with a base: the same digits and, where both write it, the same base."""
    left, right = based(gold), based(answer)
    if left and right:
        return left == right
    written, bare = (left, answer) if left else (right, gold)
    if written is None or not re.fullmatch(r"[0-9A-Z.]+", bare):
        return None
    return written[0] == bare and not (left and strictness.need_units)


def _times(gold: str, answer: str, strictness: Strictness, depth: int) -> bool | None:
    """Times of day with a.m. or p.m."""
    left, right = (_TIME.fullmatch(unworded(text).casefold()) for text in (gold, answer))
    if left and right:
        return int(left[1]) == int(right[1]) and (left[2] or "00") == (right[2] or "00") and left[3] == right[3]
    return False if left and re.fullmatch(r"[\d:\s]+", answer) else None


def _conditions(gold: str, answer: str, strictness: Strictness, depth: int) -> bool | None:
    """What holds only on a condition. A mere declaration (``for any real x``) may be missing, a restriction may not."""
    left, right = _CONDITION.search(gold), _CONDITION.search(answer)
    if not left and not right:
        return None
    core = [text[: found.start()] if found else text for text, found in ((gold, left), (answer, right))]
    rest = [
        unworded(text[found.start() :]).strip(" ,") if found else "" for text, found in ((gold, left), (answer, right))
    ]
    if not core[0] or not core[1] or core == [gold, answer]:
        return None
    if rest[0] and _RESTRICTS.search(rest[0]) and rest[0].replace(" ", "") != rest[1].replace(" ", ""):
        return False
    if not rest[0] and re.search(r"\b(?:if|when)\b", rest[1]):
        return False
    return _same(core[0], core[1], strictness, depth)


def _lists(gold: str, answer: str, strictness: Strictness, depth: int) -> bool | None:
    """Several answers, in any order: ``1, 2``, ``2 \\text{ or } 1``, ``\\{1, 2\\}``, ``3 \\pm 1``."""
    left, right = readings(gold), readings(answer)
    if all(parts == [text] for text, readings in ((gold, left), (answer, right)) for parts in readings):
        return None
    options = [pair for pair in product(left, right) if pair != ([gold], [answer])]
    if any(_same_list(*pair, strictness, depth) for pair in options):
        return True
    if _ALTERNATIVE.match(next(separators(gold, COMMA), "")):  # one answer, written in several ways
        parts = split(gold, COMMA)
        if any(_holds(part, answer, strictness, depth) for part in parts):
            return all(_holds(parts[0], part, strictness, depth) for part in parts[1:])
    if [gold] in left and [answer] in right:
        return None
    return _loose_tuple(gold, answer, strictness, depth)


def _same_list(left: Sequence[str], right: Sequence[str], strictness: Strictness, depth: int) -> bool:
    if len(set(left)) == len(left):
        right = list({part.replace(" ", ""): part for part in right}.values())  # what is said twice counts once
    if len(left) != len(right):
        return False
    if all_named(left) and not all_named(right):  # x = 1, y = 2 against 1, 2
        return all(_holds(*pair, strictness, depth) for pair in zip(left, right, strict=True))
    waiting = list(right)
    for part in left:
        match = next((other for other in waiting if _holds(part, other, strictness, depth)), None)
        if match is None:
            return False
        waiting.remove(match)
    return True


def _loose_tuple(gold: str, answer: str, strictness: Strictness, depth: int) -> bool:
    """A tuple against its members without parentheses, in order."""
    left, right = bracketed(gold), bracketed(answer)
    if (left is None) == (right is None):
        return False
    bare = split(answer if right is None else gold, COMMA)
    members = left or right or []
    pairs = zip(members, bare, strict=True) if left else zip(bare, members, strict=True)
    return len(members) == len(bare) > 1 and all(_holds(*pair, strictness, depth) for pair in pairs)


def _unions(gold: str, answer: str, strictness: Strictness, depth: int) -> bool | None:
    """Regions of the line: unions of intervals, and the inequalities that say the same."""
    left, right = region(gold), region(answer)
    if left is None or right is None or (not left[1] and not right[1] and len(left[0]) == len(right[0]) == 1):
        return None
    if left[1] and right[1] and left[1] != right[1]:
        return None
    return _same_list(left[0], right[0], strictness, depth)


def _brackets(gold: str, answer: str, strictness: Strictness, depth: int) -> bool | None:
    """Tuples and intervals: the same brackets, and the same members in the same order."""
    left, right = bracketed(gold), bracketed(answer)
    if left is None or right is None:
        if (left is None and right is None) or "\\cup" in gold + answer:
            return None
        vector = matrix(answer if right is None else gold)
        members = left or right or []
        if vector is None or (len(members) < 2):
            return None
        flat = [cell for row in vector for cell in row]
        pairs = list(zip(members, flat, strict=False) if left else zip(flat, members, strict=False))
        in_line = len(vector) == 1 or all(len(row) == 1 for row in vector)
        return in_line and len(flat) == len(members) and all(_holds(*pair, strictness, depth) for pair in pairs)
    if len(left) == len(right) == 1:
        return _same(left[0], right[0], strictness, depth) if gold[0] == answer[0] else None
    if border(gold) != border(answer) or len(left) != len(right):
        return False
    return all(_holds(*pair, strictness, depth) for pair in zip(left, right, strict=True))


def _matrices(gold: str, answer: str, strictness: Strictness, depth: int) -> bool | None:
    """Matrices and vectors, entry by entry."""
    left, right = matrix(gold), matrix(answer)
    if left is None or right is None:
        return None
    if [len(row) for row in left] != [len(row) for row in right]:
        return False
    cells = [pair for rows in zip(left, right, strict=True) for pair in zip(*rows, strict=True)]
    return all(_holds(*pair, strictness, depth) for pair in cells)


def _membership(gold: str, answer: str, strictness: Strictness, depth: int) -> bool | None:
    r"""``x \in S`` is S."""
    left, right = (split(text, IN) for text in (gold, answer))
    if max(len(left), len(right)) != 2 or not all(is_name(parts[0]) for parts in (left, right) if len(parts) == 2):
        return None
    if len(left) == len(right) and left[0].replace(" ", "") != right[0].replace(" ", ""):
        return False
    return _same(left[-1], right[-1], strictness, depth)


def _equations(gold: str, answer: str, strictness: Strictness, depth: int) -> bool | None:
    """``x = 5`` against ``5`` and ``x = 5``; chains end in their value; other equations up to a factor."""
    left, right = (split(text, EQUALS) for text in (gold, answer))
    exact = split(answer, _APPROXIMATELY)
    if len(exact) > 1 and not _APPROXIMATELY.search(gold):
        useful = exact[1] if is_name(exact[0]) else exact[0]
        return _same(gold, useful, strictness, depth)
    if len(left) == len(right) == 1:
        return None
    if len(left) == 1:
        return _same(gold, value_of(right), strictness, depth)
    if len(right) == 1:
        named = any(is_name(member) for member in left[:-1]) or is_name(left[-1])
        return named and _same(value_of(left), answer, strictness, depth)
    if is_name(left[0]) and is_name(right[0]):
        value = renamed(left[0], right[0], right[-1])
        if value is not None:
            return _same(left[-1], value, strictness, depth)
        if TUPLE_NAME.fullmatch(left[0]) or TUPLE_NAME.fullmatch(right[0]):
            return False
    if len(left) == len(right) == 2:
        return same_equation((left[0], left[1]), (right[0], right[1]))
    return False


def _orders(gold: str, answer: str, strictness: Strictness, depth: int) -> bool | None:
    """Chains of inequalities, in either direction."""
    left, right = chain(gold), chain(answer)
    if left is None or right is None:
        return False if left or right else None
    if left[1] == right[1] and all(_holds(*pair, strictness, depth) for pair in zip(left[0], right[0], strict=True)):
        return True
    if left[1] == right[1] == ["\\ne"]:
        return all(_holds(*pair, strictness, depth) for pair in zip(left[0], reversed(right[0]), strict=True))
    if len(left[1]) == 1 and left[1] == right[1]:
        return same_equation((left[0][0], left[0][1]), (right[0][0], right[0][1]), directed=True)
    return False


def _geometry(gold: str, answer: str, strictness: Strictness, depth: int) -> bool | None:
    r"""Statements such as ``AB \perp CD``: the same relation between the same things, in either order."""
    left, right = (_GEOMETRY.findall(text) for text in (gold, answer))
    if not left:
        return None
    if left != right or len(left) != 1:
        return False
    sides = [sorted(unworded(side).replace(" ", "") for side in split(text, _GEOMETRY)) for text in (gold, answer)]
    return sides[0] == sides[1]


def _ratios(gold: str, answer: str, strictness: Strictness, depth: int) -> bool | None:
    """``2:3``, as a ratio or against a fraction."""
    left, right = (split(text, _RATIO) for text in (gold, answer))
    if max(len(left), len(right)) < 2 or (min(len(left), len(right)) > 1 and len(left) != len(right)):
        return None
    if len(left) > 1 and len(right) > 1:
        first, second = ([numeral(part) for part in parts] for parts in (left, right))
        if all(first) and all(second):
            scale = [(one.value, other.value) for one, other in zip(first, second, strict=True) if one and other]
            return all(a * scale[0][1] == b * scale[0][0] for a, b in scale)
        return all(_holds(*pair, strictness, depth) for pair in zip(left, right, strict=True))
    if len(left) + len(right) != 3:
        return None
    texts = [rf"\frac{{{parts[0]}}}{{{parts[1]}}}" if len(parts) == 2 else parts[0] for parts in (left, right)]
    return _same(texts[0], texts[1], strictness, depth)


def _worded(gold: str, answer: str, strictness: Strictness, depth: int) -> bool | None:
    """Words, without regard to capitals."""
    if not is_words(gold) and not is_words(answer):
        return None
    return same_words(gold, answer) or (None if COMMA.search(unworded(gold)) else False)


def _united(gold: str, answer: str, strictness: Strictness, depth: int) -> bool | None:
    """Quantities: the same number and, where both name one, no other unit."""
    left, right = without_unit(gold), without_unit(answer)
    if not left[1] and not right[1]:
        return None
    if strictness.need_units and left[1] and not right[1]:
        return False
    if left[1] and right[1] and not same_unit(left[1], right[1]):
        return False
    return _same(left[0], right[0], strictness, depth)


_RULES: tuple[Rule, ...] = (
    _choices,
    _numbers,
    _bases,
    _times,
    _worded,
    _conditions,
    _unions,
    _lists,
    _membership,
    _equations,
    _orders,
    _geometry,
    _united,
    _brackets,
    _matrices,
    _ratios,
)


def _holds(gold: str, answer: str, strictness: Strictness, depth: int) -> bool:
    try:
        return _same(gold, answer, strictness, depth)
    except Unreadable:
        return False
