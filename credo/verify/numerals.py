r"""Written numbers, exactly: ``1{,}234``, ``-3/4``, ``2\frac{1}{3}``, ``3.8 \times 10^{5}``, ``12 \%``, ``1200_7``.

It ignores everything that is not one number: there is no arithmetic here beyond a numerator and a denominator.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_LONGEST = 2000
"""Digits. A longer numeral is compared as text only."""
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMERAL = re.compile(
    rf"(?P<sign>[+-]?)\s*(?:(?P<whole>{_DIGITS})?(?:\.(?P<decimals>\d*))?)"
    r"(?:(?:\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*(?:\{\s*(?P<power>[+-]?\d+)\s*\}|(?P<digit>\d)))|[eE](?P<exponent>[+-]?\d+))?"
)
_FRACTION = re.compile(
    r"(?P<sign>[+-]?)\s*(?P<whole>\d+)??\s*"
    r"(?:\\frac\s*(?:\{\s*(?P<above>[+-]?\d+)\s*\}|(?P<a>\d))\s*(?:\{\s*(?P<below>[+-]?\d+)\s*\}|(?P<b>\d))|"
    r"(?<!\d)(?P<over>\d+)\s*/\s*(?P<under>\d+))"
)
_BASE = re.compile(
    r"\(?([0-9A-Z]+(?:\.[0-9A-Z]+)?)\)?(?:\s*_\s*(?:\{\s*(\d+)\s*\}|(\d{1,2}))|\s*\\text\{ *base *(\d+) *\})"
)
_MULTIPLES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_MULTIPLE = re.compile(r"(.*\d)\s*(?:\\text\{)?\s*(hundred|thousand|million|billion|trillion)\s*(?:\})?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Numeral:
    """A written number: its exact value, and the decimals that were written (None: a whole number or a fraction)."""

    value: Fraction
    decimals: int | None = None
    digits: int = 0
    """Significant digits written, where there are decimals."""
    percent: bool = False
    """Whether a percent sign follows. ``value`` is what stands before it."""


def numeral(text: str) -> Numeral | None:
    """The number that the whole of ``text`` writes, or None."""
    text = text.strip()
    if len(text) > _LONGEST:
        return None
    if text.endswith("%"):
        bare = numeral(text[:-1])
        if bare is None or bare.percent:
            return None
        return Numeral(value=bare.value, decimals=bare.decimals, digits=bare.digits, percent=True)
    if found := _MULTIPLE.fullmatch(text):
        bare = numeral(found[1])
        return Numeral(value=bare.value * 10 ** _MULTIPLES[found[2].lower()]) if bare and not bare.percent else None
    return _decimal(text) or _fraction(text)


def based(text: str) -> tuple[str, int] | None:
    """The digits and the base of ``1200_7``, or None where no base is written."""
    found = _BASE.fullmatch(text)
    return (re.sub(r"^0+(?=\w)", "", found[1]), int(found[2] or found[3] or found[4])) if found else None


def agree(gold: Numeral, answer: Numeral, digits: int) -> bool:
    """Whether two numbers are the same. A decimal stands for what it rounds, from ``digits`` significant digits on."""
    if gold.value == answer.value:
        return True
    return any(
        rounded.decimals is not None
        and (other.decimals is None or other.decimals > rounded.decimals)
        and rounds(rounded, other.value, digits)
        for rounded, other in ((gold, answer), (answer, gold))
        if other.value.denominator != 1
    )


def rounds(rounded: Numeral, value: Fraction, digits: int) -> bool:
    """Whether the decimal ``rounded`` has ``digits`` significant digits or more and is ``value`` rounded to its own
    decimals, or cut off there."""
    if rounded.decimals is None or rounded.digits < digits:
        return False
    missing = (value - rounded.value) * 10**rounded.decimals
    cut_off = 0 <= (missing if value > 0 else -missing) < 1
    return cut_off or abs(missing) <= Fraction(1, 2)


def _decimal(text: str) -> Numeral | None:
    found = _NUMERAL.fullmatch(text)
    if not found or not (found["whole"] or found["decimals"]):
        return None
    whole, decimals = (found["whole"] or "").replace(",", ""), found["decimals"] or ""
    power = int(found["power"] or found["digit"] or found["exponent"] or 0)
    if abs(power) > _LONGEST:
        return None
    value = Fraction(int(f"{found['sign']}{whole}{decimals}"), 10 ** len(decimals)) * Fraction(10) ** power
    places = len(decimals) - power
    written = len((whole + decimals).lstrip("0"))
    return Numeral(value=value, decimals=places if decimals.strip("0") and places > 0 else None, digits=written)


def _fraction(text: str) -> Numeral | None:
    found = _FRACTION.fullmatch(text)
    if not found:
        return None
    above = int(found["above"] or found["a"] or found["over"])
    below = int(found["below"] or found["b"] or found["under"])
    if below == 0:
        return None
    value = Fraction(above, below)
    if found["whole"] is not None:
        if not 0 < value < 1 or above < 0:  # 2\frac{3}{2} may be a product
            return None
        value += int(found["whole"])
    return Numeral(value=-value if found["sign"] == "-" else value)
