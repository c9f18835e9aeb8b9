r"""The forms of an answer: lists, tuples, intervals, inequalities, matrices and names, found in cleaned text.

It ignores whether two answers are the same: ``answers`` compares what is found here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from credo.verify.latex import matching, separators, split, unworded

COMMA = re.compile(
    r"[,;]|(?<!\\)\\text\s*\{\s*,?\s*(?:and|or|OR)\s*,?\s*\}|(?<![\w\\{])(?:and|or|AND|OR)(?![\w}])|(?<=\d)or(?=[A-Z\d(-])"
)
_SEMICOLON, _MARK = re.compile(";"), re.compile("[,;]")
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?:\D.*)?")
_SIGN = re.compile(r"\\pm|\\mp|±")
_CUP = re.compile(r"\\cup(?![A-Za-z])")
EQUALS = re.compile(r"(?<![<>!\\:])=(?!=)|\\(?:equiv)(?![A-Za-z])(?!.*mod)|:=")
_ORDER = re.compile(r"\\(?:le|ge|ne)(?![A-Za-z])|[<>]")
IN = re.compile(r"\\in(?![A-Za-z])")
_NAME = re.compile(r"\\frac\{[A-Z]+\}\{[A-Z]+\}|(?>[A-Za-z\s':{}|]|\\[A-Za-z]+|_\{?\w+\}?|\([\w,\s]*\))+")
_OPERATOR = re.compile(r"\\(?:frac|sqrt|cdot|times|sin|cos|tan|log|ln|pi)(?![A-Za-z])|[+*/^\d]|(?<=\w)\s*-")
_INDEX = re.compile(r"_\{?\w+\}?|\(\w+\)|\\frac\{[A-Z]+\}\{[A-Z]+\}")
_FUNCTION = re.compile(r"([A-Za-z])\s*\(\s*([A-Za-z])\s*\)")
TUPLE_NAME = re.compile(r"\(\s*[A-Za-z]\w*(?:\s*,\s*[A-Za-z]\w*)+\s*\)")
_ENVIRONMENT = re.compile(r"\\begin\s*\{([pbB]?(?:small)?matrix|array)\}(?:\s*\{[lcr|\s]*\})?(.*)\\end\s*\{\1\}")
_ROW = re.compile(r"\\\\(?:\[[^\]]*\])?")


def readings(text: str) -> list[list[str]]:
    """The lists that ``text`` may be: one for most texts, two for ``1,234`` and for ``(x, y) = (1, 2)``."""
    found = [_members(text)]
    if _THOUSANDS.fullmatch(text) and len(found[0]) > 1:
        found.append([re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)])
    name, _, value = text.partition("=")
    if TUPLE_NAME.fullmatch(name.strip()) and found == [[text]]:
        names, values = bracketed(name.strip()) or [], bracketed(value.strip()) or []
        if len(names) == len(values):
            found.append([f"{one} = {other}" for one, other in zip(names, values, strict=True)])
    return found


def _members(text: str) -> list[str]:
    if text.startswith("\\{") and matching(text, 0) == len(text) - 1:
        return list(dict.fromkeys(_members(text[2:-2].strip())))
    name, sign, value = text.partition("=")
    if not sign:
        name, _, value = text.partition("\\in ")
    if value and is_name(name.strip()) and not EQUALS.search(value) and not split(name, COMMA)[1:]:
        values = _members(value.strip())
        if (sign and len(values) > 1) or value.strip().startswith("\\{"):  # x = 1, 2
            return values
    parts = split(text, _SEMICOLON)
    return [sign for part in (parts if len(parts) > 1 else split(text, COMMA)) if part for sign in _signs(part)]


def _signs(text: str) -> list[str]:
    r"""Both values of a text with one ``\pm``."""
    if not _SIGN.search(text) or len(re.findall(r"\\pm|±", text)) > 1:
        return [text]
    upper = _SIGN.sub(lambda found: "-" if found[0] == "\\mp" else "+", text)
    lower = _SIGN.sub(lambda found: "+" if found[0] == "\\mp" else "-", text)
    return [re.sub(r"(^|[=({,])\s*\+\s*", r"\1", upper), lower]


def bracketed(text: str) -> list[str] | None:
    """The members between the brackets of a tuple or an interval."""
    for left, right in ((r"\langle", r"\rangle"), ("(", ")"), ("(", "]"), ("[", ")"), ("[", "]")):
        if text.startswith(left) and text.endswith(right) and matching(text, 0) == len(text) - 1:
            return split(text[len(left) : -len(right)], _MARK)
    return None


def is_tuple(text: str) -> bool:
    """Whether ``text`` is a tuple or an interval of two members or more."""
    return len(bracketed(text) or ()) > 1


def border(text: str) -> str:
    """The brackets around a tuple or an interval."""
    return "()" if text.startswith("\\langle") else text[0] + text[-1]


def matrix(text: str) -> list[list[str]] | None:
    """The rows of a matrix or a vector."""
    inside = bracketed(text)
    if inside is not None and len(inside) == 1:
        text = inside[0]
    found = _ENVIRONMENT.fullmatch(text.strip())
    if not found or r"\begin" in found[2]:
        return None
    rows = [row for row in _ROW.split(found[2].strip()) if row.strip()]
    return [[cell.strip() for cell in row.split("&")] for row in rows]


def region(text: str) -> tuple[list[str], str] | None:
    """The intervals that make up a region, and the name of the number in it; None for other texts."""
    intervals: list[str] = []
    name = ""
    members = split(text, IN)
    if len(members) == 2 and is_name(members[0]):
        name, text = members[0].replace(" ", ""), members[1]
    if text.replace(" ", "") in (r"\mathbb{R}", r"\R"):
        return [r"(-\infty,\infty)"], name
    parts = split(text, _CUP)
    parts = split(text, COMMA) if len(parts) == 1 and _ORDER.search(text) else parts
    for part in parts:
        inside = bracketed(part)
        found = chain(part)
        if found:
            limits = _limits(*found)
            if limits is None or (name and name != limits[1]):
                return None
            intervals.append(limits[0])
            name = limits[1]
        elif (inside and len(inside) == 2) or (len(parts) > 1 and part.startswith(r"\{")):
            intervals.append(part)
        else:
            return None
    return intervals, name


def _limits(members: list[str], signs: list[str]) -> tuple[str, str] | None:
    """The interval of a chain ``a < x <= b``, ``x < b`` or ``a < x``, and the name in it."""
    closing = ["]" if sign == "\\le" else ")" for sign in signs]
    opening = ["[" if sign == "\\le" else "(" for sign in signs]
    if "\\ne" in signs:
        return None
    if len(members) == 3 and is_name(members[1]):
        return f"{opening[0]}{members[0]},{members[2]}{closing[1]}", members[1].replace(" ", "")
    if len(members) != 2 or is_name(members[0]) == is_name(members[1]):
        return None
    if is_name(members[0]):
        return rf"(-\infty,{members[1]}{closing[0]}", members[0].replace(" ", "")
    return rf"{opening[0]}{members[0]},\infty)", members[1].replace(" ", "")


def chain(text: str) -> tuple[list[str], list[str]] | None:
    r"""Members and signs of an inequality, turned so that the signs are ``<`` and ``\le``."""
    signs = list(separators(text, _ORDER))
    if not signs:
        return None
    members = split(text, _ORDER)
    if all(sign in (">", "\\ge") for sign in signs):
        return members[::-1], [{">": "<", "\\ge": "\\le"}[sign] for sign in signs[::-1]]
    return members, signs


def is_name(text: str) -> bool:
    r"""Whether ``text`` only names something: ``x``, ``f(x)``, ``(a, b)``, ``\angle ABC``, ``\text{Area}``."""
    return bool(text) and len(text) < 60 and not _OPERATOR.search(_INDEX.sub("", text)) and bool(_NAME.fullmatch(text))


def all_named(parts: Sequence[str]) -> bool:
    """Whether every part is an equation."""
    return all("=" in part for part in parts)


def value_of(members: Sequence[str]) -> str:
    """What a chain of equal members ends in; ``5 = x`` ends in 5."""
    return members[0] if is_name(members[-1]) and not is_name(members[0]) else members[-1]


def renamed(gold: str, answer: str, value: str) -> str | None:
    """``value`` in the letters of ``gold`` if both names are the same up to the argument's letter: f(x) and f(y)."""
    left, right = gold.replace(" ", ""), answer.replace(" ", "")
    if left == right or unworded(left) == unworded(right):
        return value
    first, second = _FUNCTION.fullmatch(left), _FUNCTION.fullmatch(right)
    if not first or not second or first[1] != second[1]:
        return None
    if re.search(rf"(?<![A-Za-z\\]){first[2]}(?![A-Za-z])", value):
        return None
    return re.sub(rf"(?<![A-Za-z\\]){second[2]}(?![A-Za-z])", first[2], value)
