"""The filters of the paper's data (appendix E and its ``data_preprocessing/``) and some more, each a pure function of a
problem that gives the reason to drop it. They look at text and at stored solve rates; no model runs here.

Where the published code matches bare substrings ("figure", "A. B. C."), these match words and leave out what is plainly
something else, such as significant figures.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from credo.curation.entries import Entry
from credo.curation.passes import Drop
from credo.data.problems import asked
from credo.data.sources import near
from credo.types import Problem

Check = Callable[[Problem], str | None]
PAPER = ("no_figure", "no_proof", "no_underline", "no_multiple_choice", "numeric_answer")

_FIGURE = re.compile(
    r"\[asy\]|\\includegraphics|!\[[^\]]*\]\(|"
    r"(?<!significant )(?<!action )\b(?:figures?|diagrams?)\b(?! (?:out|skat))|"
    r"\b(?:picture|graph|image) (?:below|above|shown)\b",
    re.IGNORECASE,
)
_PROOF = re.compile(r"\bprove\b(?! to)|\bshow that\b|\b(?:give|write) a proof\b|\bdemonstrate that\b", re.IGNORECASE)
_UNDERLINE = re.compile(r"\\underline|_{3,}")
_MARKS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<![A-Za-z0-9\\])\(?{}\s*[).:](?!\d)",  # (A)  A)  A.  A:
        r"\\(?:text|mathrm|textbf|mathbf)\s*\{{\s*\(?{}\s*[).:]?\s*\)?\}}",  # \textbf{{(A)}}
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A filter by its name on the command line."""

    name: str
    check: Check


def parse_steps(text: str) -> tuple[Step, ...]:
    """``numeric_answer,no_proof,solve_rate=0.2..0.8`` as steps, in that order; ``paper`` stands for the paper's.

    Raises ValueError for a name that is none, a step listed twice and a range that is none.
    """
    names: list[str] = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        names += PAPER if name == "paper" else [name]
    if not names:
        raise ValueError(f"--steps names no step; choose from {', '.join([*STEPS, *RANGES, 'paper'])}.")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"--steps: '{name}' stands twice, and the second time it could drop nothing; remove one.")
    return tuple(_step(name) for name in names)


def apply_steps(entry: Entry, steps: tuple[Step, ...]) -> Drop | None:
    """The first objection of ``steps``."""
    for step in steps:
        reason = step.check(entry.problem)
        if reason is not None:
            return Drop(step=step.name, reason=reason)
    return None


def numeric_answer(problem: Problem) -> str | None:
    """The answer of a mathematical problem holds a digit: yes, no and names can be guessed."""
    if problem.kind != "math" or any(character.isdigit() for character in problem.answer):
        return None
    return f"no digit in the answer {problem.answer[:60]!r}"


def no_multiple_choice(problem: Problem) -> str | None:
    """No options A, B and C to choose from, in this order: one in four is right by chance."""
    text = asked(problem.prompt)
    for marks in _MARKS:
        position = 0
        for letter in "ABC":
            found = re.compile(marks.pattern.format(letter)).search(text, position)
            if found is None:
                break
            position = found.end()
        else:
            return "options A, B and C to choose from"
    return None


def no_proof(problem: Problem) -> str | None:
    """Nothing has to be proved: a proof has no final answer to compare."""
    return _mentions(_PROOF, problem) if problem.kind == "math" else None


def no_figure(problem: Problem) -> str | None:
    """No figure is needed that the text does not hold."""
    return _mentions(_FIGURE, problem) if problem.kind == "math" else None


def no_underline(problem: Problem) -> str | None:
    """No blanks to fill in."""
    return _mentions(_UNDERLINE, problem)


def in_solve_rate(problem: Problem, low: float, high: float) -> str | None:
    """A model's solve rate, as ``credo data difficulty`` writes it, is within bounds."""
    rate = problem.extra.get("solve_rate")
    if isinstance(rate, bool) or not isinstance(rate, (int, float)):
        return "has no solve rate; credo data difficulty measures it"
    return None if low <= rate <= high else f"solve rate {rate:.3g}, outside {low:g}..{high:g}"


def in_length(problem: Problem, low: float, high: float) -> str | None:
    """The user's words have so many characters."""
    length = len(asked(problem.prompt))
    return None if low <= length <= high else f"{length:,} characters, outside {low:g}..{high:g}"


STEPS: dict[str, Check] = {
    check.__name__: check for check in (no_figure, no_proof, no_underline, no_multiple_choice, numeric_answer)
}
RANGES: dict[str, Callable[[Problem, float, float], str | None]] = {"solve_rate": in_solve_rate, "length": in_length}


def _step(name: str) -> Step:
    key, equals, bounds = name.partition("=")
    if key in RANGES:
        low, high = _range(key, bounds)
        within = RANGES[key]
        return Step(name=name, check=lambda problem: within(problem, low, high))
    if key not in STEPS:
        raise ValueError(f"--steps: there is no step '{key}'.{near(key, [*STEPS, *RANGES, 'paper'])}")
    if equals:
        raise ValueError(f"--steps: {key} takes no value, got '{name}'.")
    return Step(name=name, check=STEPS[key])


def _range(name: str, text: str) -> tuple[float, float]:
    """``0.2..0.8`` as two numbers; a missing end is open."""
    low, dots, high = text.partition("..")
    try:
        bounds = float(low or "-inf"), float(high or "inf")
    except ValueError:
        bounds = 1.0, 0.0
    if not dots or not bounds[0] <= bounds[1]:
        raise ValueError(f"--steps: {name} needs a range such as {name}=0.2..0.8 with one end or both, got '{text}'.")
    return bounds


def _mentions(pattern: re.Pattern[str], problem: Problem) -> str | None:
    found = pattern.search(asked(problem.prompt))
    return None if found is None else f"mentions {found[0]!r}"
