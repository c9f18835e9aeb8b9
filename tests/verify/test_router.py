"""Every task gets to the verifier of its kind and its judgement back to its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from credo.types import Problem, Unknown, Verdict
from credo.verify.router import Router, kind_metrics, verifier_for


class Noting:
    """A verifier that remembers its calls and gives its own score."""

    def __init__(self, score: float, closes: bool = True) -> None:
        self.score, self.closes = score, closes
        self.calls: list[list[str]] = []
        self.closed = 0

    def verify(self, tasks: Sequence[tuple[Problem, str]]) -> list[Verdict | Unknown]:
        self.calls.append([response for _, response in tasks])
        return [Verdict(score=self.score, reason=response) for _, response in tasks]

    def close(self) -> None:
        self.closed += 1
        if not self.closes:
            raise RuntimeError("stuck")


def problem(kind: Any) -> Problem:
    return Problem(id="1", kind=kind, prompt="", answer="a", source="test")


def test_order_is_kept_and_each_verifier_is_asked_once():
    words, numbers = Noting(0.25), Noting(0.75)
    router = Router({"math": numbers, "exact": words, "gym": numbers})
    kinds = ["exact", "math", "gym", "exact", "math"]
    judged = router.verify([(problem(kind), str(index)) for index, kind in enumerate(kinds)])
    assert judged == [
        Verdict(score=score, reason=str(index)) for index, score in enumerate([0.25, 0.75, 0.75, 0.25, 0.75])
    ]
    assert (words.calls, numbers.calls) == ([["0", "3"]], [["1", "2", "4"]])


def test_nobody_is_asked_for_nothing():
    verifier = Noting(1.0)
    assert Router({"math": verifier}).verify([]) == []
    assert verifier.calls == []


def test_a_kind_without_verifier_is_unknown():
    verifier = Noting(1.0)
    first, second = Router({"math": verifier}).verify([(problem("gym"), "x"), (problem("math"), "y")])
    assert isinstance(first, Unknown)
    assert "gym" in first.reason
    assert "math" in first.reason
    assert second == Verdict(score=1.0, reason="y")


def test_closing_reaches_everyone_once():
    stuck, free = Noting(0.0, closes=False), Noting(0.0)
    router = Router({"math": stuck, "exact": free, "gym": free})
    with pytest.raises(RuntimeError, match="stuck"):
        router.close()
    assert (stuck.closed, free.closed) == (1, 1)


def test_counts_by_kind():
    judged = [("math", Verdict(score=1.0)), ("gym", Verdict(score=0.25)), ("math", Verdict(score=0.0))]
    judged += [("math", Unknown(reason="late")), ("code", Unknown(reason="late"))]
    assert kind_metrics(judged) == {
        "verify/accuracy_math": 0.5,
        "verify/accuracy_gym": 0.25,
        "verify/unknown_math": 1.0,
        "verify/unknown_gym": 0.0,
        "verify/unknown_code": 1.0,
    }
    assert kind_metrics([]) == {}


def test_each_kind_by_its_rules_and_a_function_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = [(replace(problem("exact"), answer="1/2"), "0.5"), (replace(problem("math"), answer="1/2"), "0.5")]
    ours = verifier_for({"math", "exact"}, workers=1)
    assert [verdict.score for verdict in ours.verify(asked) if isinstance(verdict, Verdict)] == [0.0, 1.0]
    ours.close()
    (tmp_path / "half.py").write_text("def compute_score(**given): return 0.5")
    monkeypatch.chdir(tmp_path)
    users = verifier_for({"math", "exact"}, kind="verl:half.py", workers=1)
    assert [verdict.score for verdict in users.verify(asked) if isinstance(verdict, Verdict)] == [0.5, 0.5]
    users.close()
    with pytest.raises(ValueError, match=r"verify\.kind"):
        verifier_for({"math"}, kind="maths")
    with pytest.raises(ValueError, match="sandbox server"):
        verifier_for({"code"}, sandbox_url="nowhere")
