"""The test double behaves as every verifier does."""

from __future__ import annotations

from credo.types import Problem, Unknown, Verdict
from credo.verify.verifier import ScriptedVerifier, Verifier


def test_the_script_judges_in_order():
    def script(problem: Problem, response: str) -> Verdict | Unknown:
        return Verdict(score=float(response == problem.answer)) if response else Unknown(reason="silence")

    verifier: Verifier = ScriptedVerifier(script)
    problem = Problem(id="1", kind="exact", prompt="", answer="a", source="test")
    judged = verifier.verify([(problem, "b"), (problem, ""), (problem, "a")])
    assert judged == [Verdict(score=0.0), Unknown(reason="silence"), Verdict(score=1.0)]
    verifier.close()
    verifier.close()
