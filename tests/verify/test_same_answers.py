"""Answers that are the same: by text, by exact value, by the verifier; never because nobody could tell."""

from __future__ import annotations

from typing import Any

from credo.types import Problem, Unknown, Verdict
from credo.verify.same_answers import LONGEST, answer_classes, other_text, same_in_maths
from credo.verify.verifier import ScriptedVerifier


def test_classes_of_answers_are_asked_for_once():
    asked: list[tuple[str, str]] = []

    def same(pairs: Any) -> list[bool]:
        asked.extend(pairs)
        return [first.strip("0.") == second.strip("0.") for first, second in pairs]

    assert answer_classes([["1", None, "1.0", "2", "1.00", "1"], [None], ["7", "7"]], same) == [
        [0, None, 0, 2, 0, 0],
        [None],
        [0, 0],
    ]
    assert len(asked) == 6


def test_only_what_values_do_not_settle_is_judged():
    asked: list[tuple[str, str]] = []

    def script(problem: Problem, response: str) -> Verdict | Unknown:
        asked.append((problem.answer, response))
        return Unknown(reason="late") if "y" in response else Verdict(score=float("2x" in response))

    verifier = ScriptedVerifier(script)
    pairs = [
        ("1/2", "\\frac{2}{4}"),
        ("1/2", "1/3"),
        ("x+x", "2x"),
        ("x+x", "3x"),
        ("x+x", "y"),
        ("0.5", "1/2"),
        ("50%", "50"),
        ("x" * (LONGEST + 1), "2x"),
    ]
    assert same_in_maths(verifier, pairs) == [True, False, True, False, False, False, False, False]
    assert asked == [(first, f"\\boxed{{{second}}}") for first, second in pairs[2:7]]
    assert same_in_maths(verifier, []) == other_text([]) == []
    assert other_text(pairs[:2]) == [False, False]
