r"""Is this mathematical answer the right one? By text and whole numbers first, then by math-verify, which runs no code.

It ignores time and memory: SymPy can run for ever on a power tower, so the pool calls this in a child that it can kill.
Two of math-verify's holes are closed: letters in another order (``ABDC`` for ``ABCD``) and another base (``10_2`` for
``10_3``) are wrong. One of its gaps too: a unit in plain words may follow a number (``72 clips``).
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import product
from typing import Any

LONGEST_ANSWER = 1000
"""Characters. A marked answer beyond this, and beyond four times the right one, is wrong: it would parse for long."""
SEARCHED = 4000
"""Characters at the end of a response that are searched when nothing marks its answer."""

_LAYOUT = re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[,;:!\s]|~")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}")
_SPACED_TEXT = re.compile(r"\\(text|textbf|mathrm|mbox)\s+\{")
_FRACTION = re.compile(r"\\[dt]frac(?![A-Za-z])")
_BLANK = re.compile(r"(?<!\w) | (?!\w)")
_FENCES = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_WORDS = re.compile(r"(?:[A-Z][A-Za-z]{2,}|[A-Za-z]{4,})(?:[ ,]+[A-Za-z]+)*")
_BASE = re.compile(r"\w+_\{?(\d+)\}?")
_INTEGER = re.compile(r"([+-]?)0*(\d+|\d{1,3}(?:,\d{3})+)")
_UNIT = re.compile(r"(\$?-?\d[\d,]*(?:\.\d+)?)((?: [A-Za-z]{3,})+)")
_NOT_UNITS = re.compile(r"\b(?:hundreds?|thousands?|millions?|billions?|trillions?|dozens?|percent(?:age)?)\b", re.I)


def judge_maths(response: str, answer: str | None, gold: str) -> dict[str, Any]:
    """``{"score", "reason"}`` or ``{"unknown"}`` for a response from which ``answer`` was extracted.

    None as ``answer`` lets math-verify look for one at the end of the response.
    """
    if not plain(gold):
        return {"unknown": "the problem has no answer to grade against"}
    ending = response[-SEARCHED:]
    if answer is not None and len(answer) > max(LONGEST_ANSWER, 4 * len(gold)):
        return {"score": 0.0, "reason": f"answer longer than {LONGEST_ANSWER} characters"}
    decided = by_text(plain(gold), plain(ending if answer is None else answer))
    if decided is not None:
        return {"score": float(decided), "reason": ""}
    golds = read(boxed(gold))
    if all(isinstance(expression, str) for expression in golds):
        return {"unknown": f"the answer to grade against cannot be read as mathematics: {gold[:200]!r}"}
    try:
        answers = read(ending if answer is None else boxed(without_unit(answer)))
    except MemoryError:
        raise
    except Exception as error:  # what the response holds cannot be parsed: that is a wrong answer
        return {"score": 0.0, "reason": f"unreadable answer ({type(error).__name__})"}
    return compare(golds, answers)


def by_text(gold: str, answer: str) -> bool | None:
    """Whether two plain texts are the same answer; None where it takes mathematics to tell."""
    if answer == gold:
        return True
    if _WORDS.fullmatch(gold):
        return answer.casefold() == gold.casefold()
    numbers = _INTEGER.fullmatch(gold), _INTEGER.fullmatch(answer)
    if numbers[0] and numbers[1]:
        return whole(numbers[0]) == whole(numbers[1])
    bases = _BASE.fullmatch(gold), _BASE.fullmatch(answer)
    if bases[0] and bases[1] and bases[0][1] != bases[1][1]:
        return False
    return None


def compare(golds: tuple[Any, ...], answers: tuple[Any, ...]) -> dict[str, Any]:
    """Correct if any reading of the answer equals any reading of the gold; unknown if only errors stood in the way."""
    from math_verify import verify

    failure = ""
    for gold, answer in product(golds, answers):
        try:
            if verify([gold], [answer], timeout_seconds=None, raise_on_error=True):
                return {"score": 1.0, "reason": ""}
        except MemoryError:
            raise
        except Exception as error:
            failure = f"math-verify failed: {type(error).__name__}: {error}"
    if failure:
        return {"unknown": failure}
    return {"score": 0.0, "reason": "" if answers else "no answer found"}


@lru_cache(maxsize=64)
def read(text: str) -> tuple[Any, ...]:
    """What math-verify reads in ``text``: SymPy expressions, and the text itself as a last resort."""
    from math_verify import parse

    return tuple(parse(text, parsing_timeout=None, raise_on_error=True))  # type: ignore[arg-type]


def boxed(answer: str) -> str:
    r"""``answer`` in a ``\boxed{}``, which tells math-verify that all of it is LaTeX."""
    return r"\boxed{" + _SPACED_TEXT.sub(r"\\\1{", unfenced(answer)) + "}"


def plain(text: str) -> str:
    """``text`` without what only changes its looks: fences, spacing, text commands, a closing full stop."""
    text = _FRACTION.sub(r"\\frac", _TEXT.sub(r"\1", _LAYOUT.sub(" ", text)))
    text = text.replace("{,}", ",").replace(r"\%", "%").replace(r"\$", "$")
    return _BLANK.sub("", " ".join(unfenced(text).split()))


def unfenced(text: str) -> str:
    """``text`` without math delimiters, bold marks and a full stop around it."""
    text = text.strip(" \t\n\r*").removesuffix(".").rstrip(" \t\n\r*")
    for left, right in _FENCES:
        inner = text[len(left) : -len(right)]
        if len(text) > len(left + right) and text.startswith(left) and text.endswith(right) and left not in inner:
            text = inner.strip().removesuffix(".").rstrip()
    return text


def whole(number: re.Match[str]) -> str:
    """A whole number in its shortest form. It stays text, as a response may hold a million digits."""
    sign, digits = number[1], number[2].replace(",", "")
    return digits if digits == "0" else sign.replace("+", "") + digits


def without_unit(answer: str) -> str:
    """``72`` of ``72 clips``; an answer that is anything else than a number and words stays as it is."""
    found = _UNIT.fullmatch(" ".join(unfenced(answer).split()))
    return found[1] if found and not _NOT_UNITS.search(found[2]) else answer
