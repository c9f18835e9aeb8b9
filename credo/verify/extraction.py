"""Where the answer is in a response. Pure text work: it ignores what the right answer would be.

A user's pattern can run for ever, so the pool calls this only inside its bounded children.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[\\{}]|[{}]")
_NUMBER = re.compile(r"(?:(?<![\w)}.])-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\d.])\.\d+")
_ANSWER_IS = re.compile(r"\banswers?\s*(?:is|are|:|=)[\s:*]*(?:[^\n.]{0,200}\b(?:is|are)\s+)?", re.IGNORECASE)
_JOINT = re.compile(
    r"(?:[\s$]|\\[()]|\\q?quad)*(?:,\s*)?(?:,|and|or|\\text\s*\{\s*(?:and|or)\s*\})(?:[\s$]|\\[()]|\\q?quad)*"
)
_STATED = re.compile(
    r"\\\[(?P<bracket>.+?)\\\]|\$\$(?P<display>.+?)\$\$|\\\((?P<parenthesis>.+?)\\\)|\$(?P<dollar>[^$\n]+)\$(?!\d)"
    r"|(?P<line>[^\n]+?)(?=\.\s|\.?\*{0,2}\s*$|\n)",
    re.DOTALL,
)


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
        if not _JOINT.fullmatch(text, before[1], after[0]):
            break
        parts.append(before[2])
    return ", ".join(dict.fromkeys(reversed(parts)))


def last_tagged(text: str) -> str | None:
    """What stands in the last closed ``<answer>`` tag."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    return text[start + len("<answer>") : end] if start >= 0 else None


def stated_answer(text: str) -> str | None:
    """What follows the last "answer is", "answer:" and the like: the formula there, else the rest of the sentence."""
    phrase = _last(_ANSWER_IS.finditer(text))
    stated = _STATED.match(text, phrase.end()) if phrase else None
    return stated.group(stated.lastgroup or 0) if stated else None


def _last(matches: Iterable[re.Match[str]]) -> re.Match[str] | None:
    found = deque(matches, maxlen=1)
    return found[0] if found else None
