"""Text made comparable: what two spellings of one problem have in common. It knows words and symbols, no mathematics.

Capitals, spacing, sentence marks, LaTeX layout (``$``, ``\\left``, ``\\,``, ``\\text``), thousands separators and
hyphens do not count; numbers, operators and the order of words do.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_CHARACTERS = str.maketrans(
    {"²": "^2", "³": "^3", "−": "-", "–": "-", "×": "*", "·": "*", "÷": "/", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne "}
    | dict.fromkeys("—―", " ")
    | dict.fromkeys("’‘´`", "'")
    | dict.fromkeys("“”„", '"')
)
_SPELLINGS: dict[str, str] = {
    "dfrac": "frac",
    "tfrac": "frac",
    "cdot": "*",
    "times": "*",
    "leq": "le",
    "geq": "ge",
    "neq": "ne",
}
_SPELLINGS |= {"ldots": "dots", "cdots": "dots", "mid": "|", "lbrace": "{", "rbrace": "}"}
_LAYOUT = re.compile(
    r"\\\\(?:\[[^\]]{0,12}\])?"  # a line break, with its distance
    r"|\\(?:left|right|bigg?[lrm]?|displaystyle|textstyle|limits|qquad|quad|mathrm|mathbf|mathit|mbox|operatorname"
    r"|boldsymbol|text(?:bf|it|rm)?|rm|bf)(?![a-z])"
    r"|\\[,;:! >()\[\]]|\\(?=[%#&_{}$])|[$~&]|\{\s*\}"
)
_DRAWING = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL | re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<=\d)(?:,|\{,\}|\\,)(?=\d{3}(?!\d))")
_APOSTROPHE = re.compile(r"(?<=[^\W\d_])'(?=[^\W\d_])")
_HYPHEN = re.compile(r"(?<=[^\W\d_]{2})-(?=[^\W\d_]{2})")
_TOKEN = re.compile(r"\\?[^\W\d_]+|\d+(?:\.\d+)?|[^\w\s]|_")
_SENTENCE_MARKS = frozenset('.,;:?"')
_OPERATORS = frozenset("+-*/=<>^%")


def tokens(text: str) -> list[str]:
    """Words, numbers and symbols of ``text`` in one spelling, without sentence marks."""
    plain = unicodedata.normalize("NFKC", text.translate(_CHARACTERS)).translate(_CHARACTERS)
    plain = _LAYOUT.sub(" ", _THOUSANDS.sub("", plain.casefold()))
    plain = _HYPHEN.sub(" ", _APOSTROPHE.sub("", plain))
    found: list[str] = [
        token.removeprefix("\\") or token for token in _TOKEN.findall(plain) if token not in _SENTENCE_MARKS
    ]
    return [_SPELLINGS.get(token, token) for token in found]


def exact_key(text: str) -> str:
    """Two texts with the same key are the same text, written in two ways."""
    return " ".join(tokens(text))


def words(text: str) -> list[str]:
    """The tokens that carry the meaning: words, numbers and operators, without brackets and drawing code."""
    return [token for token in tokens(_DRAWING.sub(" ", text)) if token[0].isalnum() or token in _OPERATORS]


def ngrams(sequence: Sequence[str], n: int) -> set[str]:
    """The different runs of ``n`` neighbours in ``sequence``, each as one text; none if it is shorter."""
    return {" ".join(sequence[start : start + n]) for start in range(len(sequence) - n + 1)}
