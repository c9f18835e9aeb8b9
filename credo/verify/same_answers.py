"""Which answers to a problem are the same one, for votes. It knows texts and a verifier, and nothing of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from credo.types import Problem, Verdict
from credo.verify.numerals import Numeral, numeral
from credo.verify.verifier import Verifier

Pairs = Sequence[tuple[str, str]]
Same = Callable[[Pairs], list[bool]]
"""Of pairs of answers that differ as text, which are the same answer."""
LONGEST = 1000
"""Characters; longer answers are compared as text alone."""


def answer_classes(answers: Sequence[Sequence[str | None]], same: Same) -> list[list[int | None]]:
    """For each problem the number of each response's answer, equal ones for the same answer; None stays None.

    Equal texts are the same; which others are, is asked once, of all pairs within a problem.
    """
    distinct = [list(dict.fromkeys(answer for answer in group if answer is not None)) for group in answers]
    pairs = [(i, a, b) for i, texts in enumerate(distinct) for b, text in enumerate(texts) for a in range(b)]
    verdicts = same([(distinct[i][a], distinct[i][b]) for i, a, b in pairs])
    number = [list(range(len(texts))) for texts in distinct]
    for (i, a, b), equal in zip(pairs, verdicts, strict=True):
        if equal and number[i][b] == b:
            number[i][b] = number[i][a]
    of_text = [dict(zip(texts, numbers, strict=True)) for texts, numbers in zip(distinct, number, strict=True)]
    return [
        [None if answer is None else numbers[answer] for answer in group]
        for group, numbers in zip(answers, of_text, strict=True)
    ]


def same_in_maths(verifier: Verifier, pairs: Pairs) -> list[bool]:
    """By value where both are whole numbers or fractions; else as ``verifier`` takes one for the other. What it cannot
    tell is not the same."""
    found = [_by_value(numeral(first), numeral(second)) for first, second in pairs]
    asked = [at for at, pair in enumerate(pairs) if found[at] is None and max(map(len, pair)) <= LONGEST]
    tasks = [
        (Problem(id=str(at), kind="math", prompt="", answer=first, source=""), rf"\boxed{{{second}}}")
        for at, (first, second) in ((at, pairs[at]) for at in asked)
    ]
    for at, verdict in zip(asked, verifier.verify(tasks), strict=True):
        found[at] = isinstance(verdict, Verdict) and verdict.correct
    return [bool(same) for same in found]


def other_text(pairs: Pairs) -> list[bool]:
    """No two of them: answers that are the same only if their text is."""
    return [False] * len(pairs)


def _by_value(first: Numeral | None, second: Numeral | None) -> bool | None:
    """None where it takes more than exact values to tell: rounding, percent, no number at all."""
    if first is None or second is None:
        return None
    if first.percent != second.percent or first.decimals is not None or second.decimals is not None:
        return None
    return first.value == second.value
