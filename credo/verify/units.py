r"""Units and words beside a number: where they begin, and whether two of them can be the same.

It ignores amounts: nothing is converted, so 2 hours is not 120 minutes.
"""

from __future__ import annotations

import re

from credo.verify.latex import unworded

_MARKED = re.compile(r"(.*?[\w})!%\]])\s*\\text\s*\{([^{}]*)\}(\s*\^\s*\{?\s*[23]\s*\}?)?\s*\.?")
_PLAIN = re.compile(
    r"(.*?[\d})!])((?: +|(?<=\d))(?:[A-Za-z]{3,}|per|a|an|of|cm|km|mm|ft|in|kg|mi|hr|lb|m)(?:[ /]+[A-Za-z]+)*)"
    r"(\s*\^\s*\{?\s*[23]\s*\}?)?\s*\.?"
)
_NOT_UNITS = re.compile(
    r"\b(?:or|and|not|no|if|for|when|where|than|less|more|most|least|about|over|times|plus|minus|mod|pi|sqrt|infinity|"
    r"percent|hundreds?|thousands?|millions?|billions?|trillions?|dozens?|half|halves|thirds?|fourths?|quarters?|fifths?|"
    r"factorial|squared|cubed|base|sin|cos|tan|log|ln|exp|to|is|are|only|either|between|undefined|approx\w*)\b|[\d=<>]",
    re.IGNORECASE,
)
_WORDS = re.compile(
    r"(?:(?=.*[A-Za-z]{4})[a-z]{2,}(?= [A-Za-z])|[A-Z][A-Za-z'’]{2,}|[A-Za-z]{4,}['’]?s?)(?:[\s,.-]+[A-Za-z'’]+)*[.!]?"
)
_MARKED_WORDS = re.compile(r"\\text\s*\{\s*[A-Za-z]{2,}[A-Za-z\s,.'’!-]*\}")
_COMMANDS = re.compile(
    r"\\(?:begin|end|operatorname|mathbb|mathcal)\s*\{[^{}]*\}|\b(?:sqrt|sinh|cosh|tanh|arc(?:sin|cos|tan)|binom)\b"
)
_PROSE = re.compile(r"\\text\s*\{[^{}]*[A-Za-z]{3}|(?<![\\A-Za-z])[A-Za-z]{4,}")
_VERDICTS = re.compile(r"(yes|no|true|false)\b[,.;:!]?\s*(.*)", re.DOTALL)
_SAME = (
    ("second", "seconds", "sec", "secs", "s"),
    ("minute", "minutes", "min", "mins"),
    ("hour", "hours", "hr", "hrs", "h"),
    ("day", "days"),
    ("week", "weeks", "wk", "wks"),
    ("month", "months"),
    ("year", "years", "yr", "yrs"),
    ("millimeter", "millimeters", "millimetre", "millimetres", "mm"),
    ("centimeter", "centimeters", "centimetre", "centimetres", "cm"),
    ("meter", "meters", "metre", "metres", "m"),
    ("kilometer", "kilometers", "kilometre", "kilometres", "km"),
    ("inch", "inches", "in"),
    ("foot", "feet", "ft"),
    ("yard", "yards", "yd", "yds"),
    ("mile", "miles", "mi"),
    ("gram", "grams", "g"),
    ("kilogram", "kilograms", "kg", "kgs"),
    ("pound", "pounds", "lb", "lbs"),
    ("ounce", "ounces", "oz"),
    ("milliliter", "milliliters", "ml"),
    ("liter", "liters", "litre", "litres", "l"),
    ("gallon", "gallons", "gal"),
    ("cent", "cents"),
    ("dollar", "dollars", "usd"),
    ("degree", "degrees"),
    ("radian", "radians", "rad"),
)
_UNIT = {word: names[0] for names in _SAME for word in names}


def without_unit(text: str) -> tuple[str, str]:
    """What stands before a unit, and the unit; an empty unit where there is none."""
    found = _MARKED.fullmatch(text) or _PLAIN.fullmatch(text)
    if not found or _NOT_UNITS.search(found[2]) or not found[2].strip() or is_prose(found[1]):
        return text, ""
    return found[1].strip(), found[2].strip().casefold() + re.sub(r"[\s{}]", "", found[3] or "")


def same_unit(gold: str, answer: str) -> bool:
    """Whether two units can be the same: known ones must be, what is counted (``clips``) may have any name."""
    left, right = _known(gold), _known(answer)
    return left == right or not left or not right


def is_words(text: str) -> bool:
    """Whether ``text`` is words and no formula."""
    return bool(_MARKED_WORDS.fullmatch(text) or (_WORDS.fullmatch(unworded(text)) and "\\" not in unworded(text)))


def is_prose(text: str) -> bool:
    """Whether words that no formula has stand in ``text``; then only the same text is the same answer."""
    return bool(_PROSE.search(_COMMANDS.sub("", text)))


def same_words(gold: str, answer: str) -> bool:
    """Whether two texts have the same words. A bare yes or no answers a longer one, and the other way round."""
    left, right = (" ".join(re.sub(r"[^\w\s+-]", " ", unworded(text)).casefold().split()) for text in (gold, answer))
    if left == right:
        return bool(left)
    first, second = _VERDICTS.fullmatch(left), _VERDICTS.fullmatch(right)
    return bool(first and second and first[1] == second[1] and not (first[2] and second[2]))


def _known(unit: str) -> tuple[str, ...]:
    r"""The known units in ``unit``, with what squares and cubes them; empty where one is not known."""
    power = re.search(r"\^([23])", unit)
    words = re.sub(r"\^[23]|\b(?:of|per|a|an)\b|[/.]", " ", unit).split()
    squared = [word for word in words if word in ("square", "sq", "cubic", "cu")]
    names = [_UNIT.get(word, "") for word in words if word not in squared]
    if not names or not all(names):
        return ()
    exponent = power[1] if power else {"s": "2", "c": "3"}[squared[0][0]] if squared else "1"
    return (*sorted(names), exponent)
