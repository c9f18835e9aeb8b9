r"""Is this mathematical answer the right one? By text and whole numbers first, then by math-verify, which runs no code.

It ignores time and memory: SymPy can run for ever on a power tower, so the pool calls this in a child that it can kill.
Three of math-verify's holes are closed here: letters in another order (``ABDC`` for ``ABCD``), another base
(``10_2`` for ``10_3``), and a unit in plain words after a number.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import product
from typing import Any

_LAYOUT = re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[,;:!\s]|~")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}")
_SPACED_TEXT = re.compile(r"\\(text|textbf|mathrm|mbox)\s+\{")
_FRACTION = re.compile(r"\\[dt]frac(?![A-Za-z])")
_BLANK = re.compile(r"(?<!\w)\s+|\s+(?!\w)")
_FENCES = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_WORDS = re.compile(r"(?:[A-Z][A-Za-z]{2,}|[A-Za-z]{4,})(?:[ ,]+[A-Za-z]+)*")
_BASE = re.compile(r"\w+_\{?(\d+)\}?")
_INTEGER = re.compile(r"([+-]?)0*(\d+|\d{1,3}(?:,\d{3})+)")
_UNIT = re.compile(r"(\$?-?\d[\d,]*(?:\.\d+)?)((?: [A-Za-z]{3,})+)")
_NOT_UNITS = re.compile(r"\b(?:hundreds?|thousands?|millions?|billions?|trillions?|dozens?|percent(?:age)?)\b", re.I)


def judge_maths(response: str, answer: str | None, gold: str) -> dict[str, Any]:
    """``{"score", "reason"}`` or ``{"unknown"}`` for a response from which ``answer`` was extracted.

    None as ``answer`` lets math-verify look for one in the whole response.
    """
    gold_text = plain(gold)
    if not gold_text:
        return {"unknown": "the problem has no answer to grade against"}
    answer_text = plain(response if answer is None else answer)
    if answer_text == gold_text:
        return {"score": 1.0, "reason": ""}
    if _WORDS.fullmatch(gold_text):
        same = answer_text.casefold() == gold_text.casefold()
        return {"score": float(same), "reason": "" if same else "another word"}
    whole_numbers = _INTEGER.fullmatch(gold_text), _INTEGER.fullmatch(answer_text)
    if whole_numbers[0] and whole_numbers[1]:
        return {"score": float(whole(whole_numbers[0]) == whole(whole_numbers[1])), "reason": ""}
    golds = read(boxed(gold))
    if all(isinstance(expression, str) for expression in golds):
        return {"unknown": f"the answer to grade against cannot be read as mathematics: {gold[:200]!r}"}
    bases = _BASE.fullmatch(gold_text), _BASE.fullmatch(answer_text)
    if bases[0] and bases[1] and bases[0][1] != bases[1][1]:
        return {"score": 0.0, "reason": "another base"}
    try:
        answers = read(response if answer is None else boxed(without_unit(answer)))
    except MemoryError:
        raise
    except Exception as error:  # what the response holds cannot be parsed: that is a wrong answer
        return {"score": 0.0, "reason": f"unreadable answer ({type(error).__name__})"}
    return compare(golds, answers)


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
    return _BLANK.sub("", unfenced(text)).strip()


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
