"""What responses vote for: the right ones for one answer, the wrong ones for what the grader takes for one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from credo.evaluation.examination import Judge
from credo.sampler import Drawn
from credo.types import Problem, Unknown, Verdict
from credo.verify.extraction import Extraction
from credo.verify.same_answers import other_text, same_in_maths
from credo.verify.verifier import ScriptedVerifier


def graded(problem: Problem, response: str) -> Verdict | Unknown:
    """5 is right however it is written; x+1 and 1+x are one answer."""
    if "?" in response:
        return Unknown(reason="late")
    return Verdict(score=float("5" in response or (problem.answer == "x+1" and "1+x" in response)))


@pytest.mark.parametrize(
    ("kind", "votes"),
    [
        ("math", ("5", "x+1", "5", "x+1", "7", None, "7", None)),
        ("exact", ("5", "x+1", "5", "1+x", "7", None, "\\frac{14}{2}", None)),
    ],
)
def test_the_first_to_give_an_answer_names_it(kind: Any, votes: tuple[str | None, ...]):
    said = ["5", "x+1", "5.0", "1+x", "7", "?", "\\frac{14}{2}", ""]
    texts = [f"\\boxed{{{text}}}" if kind == "math" and text else text for text in said]
    problem = Problem(id="p", kind=kind, prompt="", answer="5", source="made")
    verifier = ScriptedVerifier(graded)
    same = partial(same_in_maths, verifier)
    judge = Judge(verifier=verifier, extraction=Extraction(), scorer=None, same=same)
    drawn = [[Drawn(text=text, finish="stop", length=1) for text in texts]]
    [record] = judge.records([problem], drawn)
    assert record.answers == votes
    assert record.scores == (1.0, 0.0, 1.0, 0.0, 0.0, None, 0.0, 0.0)
    [record] = replace(judge, same=other_text).records([problem], drawn)
    assert record.answers == (*votes[:3], "1+x", *votes[4:6], "\\frac{14}{2}", None), "no two wrong ones are compared"
