r"""The text of an answer, put into one form: what only changes its looks goes, and its parts are found by brackets.

It ignores meaning: everything here works on characters, in time linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_FENCES = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_STYLES = re.compile(
    r"\\(?:mbox|textnormal|textrm|textbf|textit|textsf|texttt|mathrm|mathbf|mathit|mathsf|bm|rm)\s*(?=\{)"
)
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_LAYOUT = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|quad|qquad|hspace\{[^{}]*\}|phantom\{[^{}]*\})(?![A-Za-z])\.?"
    r"|(?<!\\)\\[;:,\s>()\[\]]|~"
)
_THIN = re.compile(r"\\!\s*|(?<=\d)\s*(?:\\[,;: ]|~|\{\s*,\s*\}|[\u00a0\u2009\u202f])(?=\d{3}(?!\d))")
_RENAMED = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:leqslant|leq|le)(?![A-Za-z])|<=|≤|⩽"), r"\\le "),
    (re.compile(r"\\(?:geqslant|geq|ge)(?![A-Za-z])|>=|≥|⩾"), r"\\ge "),
    (re.compile(r"\\(?:neq|ne)(?![A-Za-z])|!=|≠"), r"\\ne "),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\lbrace(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\colon(?![A-Za-z])"), ":"),
    (re.compile(r"\\(?:simeq|approxeq|doteq)(?![A-Za-z])|≈"), r"\\approx "),
    (re.compile(r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree(?![A-Za-z])|°"), r"\\text{ degrees}"),
    (re.compile(r"\\%|\b[Pp]ercent(?:age)?\b|\bpct\b"), "%"),
    (re.compile(r"\\(?:infin|infinity)(?![A-Za-z])|∞|\binfinity\b"), r"\\infty "),
    (re.compile(r"\\operatorname\s*\{(arcsin|arccos|arctan|lcm|gcd|sgn|max|min)\}"), r"\\\1 "),
    (re.compile(r"\{\s*,\s*\}"), ","),
    (re.compile(r"\\(?:varnothing|O)(?![A-Za-z])|∅"), r"\\emptyset "),
    (re.compile(r"^\\+(?=\d)|(?<!\\)\\(?=\d)"), ""),  # a lost dollar sign: \15 was \$15
)
_MONEY = re.compile(r"\s*(-?)\s*\\?\$\s*(-?[\d.,]*\d)\s*")
_SIGNS = str.maketrans({"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "π": r"\pi ", "∪": r"\cup ", "∈": r"\in "})
_POWERS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_BLANK = re.compile(r"(?<!\w) | (?!\w)")
_GROUPED = re.compile(r"-?\d{1,3}(?: \d{3})+(?:\.\d+)?")
_ROWS = re.compile(r"\\begin\s*\{|\\\\\s*\[")
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z{}])")
_BRACKETS = re.compile(r"\\[\\{}]|\\(?:langle|rangle|lfloor|rfloor|lceil|rceil|begin|end)(?![A-Za-z])|[(\[{}\])]")
_OPENING = frozenset((r"\{", "(", "[", "{", r"\langle", r"\lfloor", r"\lceil", r"\begin"))


def cleaned(text: str) -> str:
    r"""``text`` without delimiters, spacing and font commands; words stay marked as ``\text{...}``."""
    text = unfenced(text.translate(_SIGNS))
    if not _ROWS.search(text):
        text = _DOUBLED.sub(r"\\", text)
    text = _SUPERSCRIPTS.sub(lambda found: "^{" + found[0].translate(_POWERS) + "}", text)
    text = _LAYOUT.sub(" ", _THIN.sub("", _STYLES.sub(r"\\text", text)))
    text = _TEXT.sub(_words, text)
    for pattern, replacement in _RENAMED:
        text = pattern.sub(replacement, text)
    money = _MONEY.fullmatch(text)
    text = f"{money[1]}{money[2]}\\text{{ dollars}}" if money else text
    text = text.replace(r"\$", "").replace("$", "")
    text = " ".join(text.split())
    text = text.replace(" ", "") if _GROUPED.fullmatch(text) else text
    while (inner := ungrouped(text)) != text:
        text = inner
    return text


def unfenced(text: str) -> str:
    """``text`` without math delimiters, bold marks and a full stop around it."""
    text = _unstopped(text)
    for left, right in _FENCES:
        inner = text[len(left) : -len(right)]
        if len(text) > len(left + right) and text.startswith(left) and text.endswith(right) and left not in inner:
            text = _unstopped(inner)
    return text


def ungrouped(text: str) -> str:
    r"""``text`` without closing punctuation and without one pair of braces around all of it."""
    text = text.strip().rstrip(".,;").strip() if not text.endswith(r"\.") else text
    if text.startswith("{") and matching(text, 0) == len(text) - 1:
        return text[1:-1].strip()
    if (found := _TEXT.fullmatch(text)) is not None:
        return text if found[1].strip() and found[1].strip().isalpha() else found[1].strip() or text
    return text


def matching(text: str, start: int) -> int:
    """Where the bracket that opens at ``start`` closes, whatever its kind; -1 if nowhere."""
    depth = 0
    for token in _BRACKETS.finditer(text, start):
        if token[0] == "\\\\":
            continue
        depth += 1 if token[0] in _OPENING else -1
        if depth == 0:
            return token.end() - 1
    return -1


def deepest(text: str) -> int:
    """How deep brackets stand in each other."""
    depth = most = 0
    for token in _BRACKETS.finditer(text):
        if token[0] != "\\\\":
            depth += 1 if token[0] in _OPENING else -1
            most = max(most, depth)
    return most


def split(text: str, separator: re.Pattern[str]) -> list[str]:
    """The parts of ``text`` between separators that stand outside every bracket."""
    parts, begin = [], 0
    ends = [(token.start(), token.end(), token[0]) for token in _BRACKETS.finditer(text)]
    depth, passed = 0, 0
    for found in separator.finditer(text):
        while passed < len(ends) and ends[passed][0] < found.start():
            if ends[passed][2] != "\\\\":
                depth += 1 if ends[passed][2] in _OPENING else -1
            passed += 1
        if depth == 0:
            parts.append(text[begin : found.start()].strip())
            begin = found.end()
    return [*parts, text[begin:].strip()]


def separators(text: str, separator: re.Pattern[str]) -> Iterator[str]:
    """The separators at which ``split`` splits."""
    depth, begin = 0, 0
    for found in separator.finditer(text):
        for token in _BRACKETS.finditer(text, begin, found.start()):
            if token[0] != "\\\\":
                depth += 1 if token[0] in _OPENING else -1
        begin = found.start()
        if depth == 0:
            yield found[0].strip()


def unspaced(text: str) -> str:
    """``text`` without the blanks that separate nothing."""
    return _BLANK.sub("", text)


def unworded(text: str) -> str:
    r"""``text`` with its ``\text{...}`` opened."""
    return " ".join(_TEXT.sub(r"\1", text).split())


def _words(found: re.Match[str]) -> str:
    inside = found[1].strip()
    if not inside:
        return " "
    if len(inside) == 1 or not re.search(r"[A-Za-z]", inside):
        return f" {inside} "
    return r"\text{" + found[1] + "}"


def _unstopped(text: str) -> str:
    text = text.strip(" \t\n\r*")
    return text.removesuffix(".").rstrip(" \t\n\r*") if not text.endswith("..") else text
