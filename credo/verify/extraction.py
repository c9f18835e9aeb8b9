"""Where the answer is in a response. Pure text work: it ignores what the right answer would be.

A user's pattern can run for ever, so the pool calls this only inside its bounded children.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

_BRACES = re.compile(r"\\+(?:boxed|fbox)\s*\{|\\[\\{}]|[{}]")
_NUMBER = re.compile(r"(?:(?:(?<![\w)}.])-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\d.])\.\d+)")
_ANSWER_IS = re.compile(
    r"(?:\banswers?\s*(?:is|are|:|=)|^(?:A|Ans):)[\s:*]*(?:[^\n.]{0,200}\b(?:is|are)\s+)?", re.IGNORECASE | re.MULTILINE
)
_JOINT = re.compile(
    r"(?:[ \t$]|\\q?quad)*|(?:[\s$]|\\[()]|\\q?quad)*"
    r"(?:\\text\s*\{\s*(?:,|for part \(\w\))?\s*(?:and|or)\s*\}|(?:[a-z]+\s)?,?\s*(?:,|and|or))"
    r"(?:[\s$]|\\[()]|\\q?quad)*(?:[A-Za-z]\w{0,2}(?:\([a-z]\))?\s*=\s*)?"
)
_WIDEST_JOINT = 80
_FORMULA = r"(?:\\\[.+?\\\]|\$\$.+?\$\$|\\\(.+?\\\)|\$[^$\n]+\$(?!\d))"
_FORMULAS = rf"{_FORMULA}(?:\s*(?:,\s*(?:and|or)?|and|or)\s*{_FORMULA})*"
_STATED = re.compile(rf"(?P<formulas>{_FORMULAS})|(?P<line>[^\n]+?)(?=\.\s|\.?\*{{0,2}}\s*$|\n)", re.DOTALL)
_CONCLUDED = re.compile(
    r"(?:\b(?i:is|are|be|equals?|gets?|have|gives?|yields?|becomes?|occurs? (?:at|when)|(?:in|de)creases? by|"
    r"thus|therefore|hence|so)\b|=)[\s:,]*"
    r"(?:(?:equal to|approximately|exactly|about|simply|thus|therefore|indeed)[\s:]*)?"
    rf"(?:(?P<formulas>{_FORMULAS})(?!\s*(?:is|are|does|do|was)\s*(?:not|n't))|\*\*(?P<bold>[^*\n]+)\*\*"
    rf"|(?P<number>\\?\$?{_NUMBER.pattern}(?:/\d+)?(?:\s?[%°]|[a-z]{{1,2}}[²³])?)"
    r"(?![\w(/]|[.,]\d|\s*[-+*/^×÷=<>]\s*\S))"
    rf"|(?P<other>{_FORMULA})",
    re.DOTALL,
)
_CONCLUSION = 600
"""Characters at the end of a response in which it may conclude without the word "answer"."""
_SHORTEST = 60
"""Characters. A response of one such line is all answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """How the answer is taken from a response."""

    kind: Literal["auto", "whole", "boxed", "answer_tag", "last_number", "regex"] = "auto"
    """``auto`` suits the problem: for maths the last box, else what follows "the answer is", else the whole response
    is searched; for gym the last ``<answer>`` tag, else the whole response; for exact the whole response."""
    pattern: str = ""
    """With ``regex``: the last match counts, its group 1 if it has one."""

    def __post_init__(self) -> None:
        if (self.kind == "regex") != bool(self.pattern):
            raise ValueError(
                f"`verify.pattern` is {self.pattern!r} with extraction {self.kind!r}: "
                "a pattern belongs to extraction 'regex' and to no other."
            )
        try:
            re.compile(self.pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"`verify.pattern` {self.pattern!r} is not a regular expression: {error}.") from error


def extract(response: str, problem_kind: str, extraction: Extraction) -> str | None:
    """The answer that ``response`` gives to a problem of this kind, or None where it gives none.

    Under ``auto`` None from maths means that nothing marks the answer.
    """
    match extraction.kind, problem_kind:
        case "boxed", _:
            answer = last_boxed(response)
        case "auto", "math":
            answer = last_boxed(response)
            answer = stated_answer(response) if answer is None else answer
            answer = concluded(response) if answer is None else answer
        case "answer_tag", _:
            answer = last_tagged(response)
        case "auto", "gym":
            answer = last_tagged(response)
            answer = response if answer is None else answer
        case "last_number", _:
            number = _last(_NUMBER.finditer(response))
            answer = number.group().replace(",", "") if number else None
        case "regex", _:
            found = _last(re.finditer(extraction.pattern, response))
            answer = found.group(min(1, found.re.groups)) if found else None
        case _:
            answer = response
    return (answer or "").strip() or None


def last_boxed(text: str) -> str | None:
    r"""The content of the last closed ``\boxed{}`` or ``\fbox{}``, innermost if nested; in linear time.

    Boxes joined by a comma, "and" or "or" are one answer with several parts, so that hedging does not pay.
    """
    boxes: list[tuple[int, int, str]] = []  # where the box begins and ends, and its content
    open_braces: list[re.Match[str]] = []
    for token in _BRACES.finditer(text):
        match token.group():
            case "}":
                opened = open_braces.pop() if open_braces else None
                if opened and opened.group() != "{" and (not boxes or opened.start() > boxes[-1][0]):
                    boxes.append((opened.start(), token.end(), text[opened.end() : token.start()]))
            case "\\\\" | "\\{" | "\\}":
                pass
            case _:
                open_braces.append(token)
    if not boxes:
        return None
    parts = [boxes[-1][2]]
    for before, after in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        if after[0] - before[1] > _WIDEST_JOINT or not _JOINT.fullmatch(text, before[1], after[0]):
            break
        parts.append(before[2])
    return ", ".join(dict.fromkeys(reversed(parts)))


def last_tagged(text: str) -> str | None:
    """What stands in the last closed ``<answer>`` tag."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    return text[start + len("<answer>") : end] if start >= 0 else None


def stated_answer(text: str) -> str | None:
    """What follows the last "answer is", "answer:" and the like: the formulas there, else the rest of the sentence,
    or the only number in it where that is a sentence of words."""
    phrase = _last(_ANSWER_IS.finditer(text))
    stated = _STATED.match(text, phrase.end()) if phrase else None
    if not stated:
        return None
    line = stated["line"]
    numbers = list(_NUMBER.finditer(line or ""))
    words = re.findall(r"[A-Za-z]{2,}", line or "")
    return numbers[0].group() if len(numbers) == 1 and len(words) >= 4 and "\\" not in line else stated.group()


def concluded(text: str) -> str | None:
    """What the end of ``text`` says that something "is": formulas, bold text or a number. A response of one short line
    without words is its own conclusion."""
    line = text.strip()
    if len(line) <= _SHORTEST and "\n" not in line and not re.search(r"(?<!\\)\b[A-Za-z]{3,}", line):
        return line
    found = _last(match for match in _CONCLUDED.finditer(text[-_CONCLUSION:]) if match.lastgroup != "other")
    return found[found.lastgroup or 0] if found else None


def _last(matches: Iterable[re.Match[str]]) -> re.Match[str] | None:
    found = deque(matches, maxlen=1)
    return found[0] if found else None
