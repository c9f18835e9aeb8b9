"""How exact a mathematical answer must be. It ignores how answers are compared."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Strictness:
    """How exact an answer must be where tastes differ."""

    need_units: bool = False
    """Whether an answer without the unit, percent sign or base that the right one has is wrong."""
    decimal_digits: int = 6
    """Significant digits from which a decimal may stand for the number that it rounds. Whole numbers never may."""
