"""The measures of records by hand, and what a response votes for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from credo.evaluation.records import Record
from credo.evaluation.summary import counts, measures, vote_of
from credo.measures.intervals import mean_interval
from credo.types import Problem
from credo.verify.extraction import Extraction


def record(scores: Sequence[float | None], **changes: Any) -> Record:
    """A record with these scores, and responses "0", "1" .. that vote for nothing."""
    values: dict[str, Any] = {
        "id": "p",
        "responses": tuple(map(str, range(len(scores)))),
        "finish": ("stop",) * len(scores),
        "lengths": (2,) * len(scores),
        "scores": tuple(scores),
        "reasons": ("",) * len(scores),
        "answers": (None,) * len(scores),
    }
    return Record(**values | changes)


def test_measures_by_hand():
    records = [
        record([1.0, 0.0, 0.0], answers=("a", "b", "b"), rewards=(0.1, 3.0, 0.2)),
        record([0.0, 1.0, 1.0], answers=("a", "b", "b"), rewards=(0.1, 3.0, 0.2)),
    ]
    values = {name: measure["value"] for name, measure in measures(records, 3).items()}
    assert values == pytest.approx(
        {
            "avg@3": (1 / 3 + 2 / 3) / 2,
            "pass@1": (1 / 3 + 2 / 3) / 2,
            "pass@2": (2 / 3 + 1) / 2,  # of the pairs with the only right one: 2 of 3
            "pass@3": 1.0,
            "maj@2": ((1 / 2 + 1 / 2 + 0) / 3 + (1 / 2 + 1 / 2 + 1) / 3) / 2,
            "maj@3": 0.5,
            "best@2": ((0 + 0 + 0) / 3 + (1 + 1 + 1) / 3) / 2,
            "best@3": 0.5,
        }
    )
    assert measures(records, 3)["avg@3"]["low"] == mean_interval([1 / 3, 2 / 3])[0]


def test_measures_leave_out_what_is_unknown():
    records = [record([1.0, None, None, None]), record([0.0, 1.0, None, 1.0]), record([None] * 4)]
    found = measures(records, 4)
    assert found["avg@4"]["value"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["pass@2"] == {
        "value": 1.0,
        "low": found["pass@2"]["low"],
        "high": found["pass@2"]["high"],
        "problems": 1,
    }
    assert found["pass@1"]["problems"] == 2
    assert math.isnan(found["pass@4"]["value"])
    assert found.keys() == {"avg@4", "pass@1", "pass@2", "pass@4"}, "neither votes nor rewards"


def test_one_response_has_one_measure_and_partial_credit_is_no_pass():
    assert measures([record([1.0]), record([0.0])], 1).keys() == {"avg@1"}
    found = measures([record([0.5, 0.98])], 2)
    assert (found["avg@2"]["value"], found["pass@2"]["value"]) == (pytest.approx(0.74), 0.0)


def test_counts():
    records = [record([1.0, None], finish=("stop", "length"), lengths=(3, 9)), record([0.0, 0.0])]
    assert counts(records) == {"problems": 2, "unknown": 1, "truncated_share": 0.25, "mean_length": 4.0}
    assert counts([]) == {"problems": 0, "unknown": 0, "truncated_share": 0.0, "mean_length": 0.0}


@pytest.mark.parametrize(
    ("kind", "response", "vote"),
    [
        ("math", "So it is \\boxed{1{,}234}.", "1234"),
        ("math", "\\boxed{ \\dfrac{1}{2} }", "\\frac{1}{2}"),
        ("math", "The answer is 0.50.", "0.50"),
        ("math", "\\boxed{50\\%}", "50%"),
        ("math", "\\boxed{x + 1}", "x+1"),
        ("math", "No idea at all, sorry about that.", None),
        ("exact", " a ", "a"),
        ("exact", "  ", None),
        ("gym", "Hm. <answer>7 8</answer>", "7 8"),
        ("code", "```python\nprint(1)\n```", None),
    ],
)
def test_what_a_response_votes_for(kind: Any, response: str, vote: str | None):
    asked = Problem(id="p", kind=kind, prompt="", answer="1", source="made")
    assert vote_of(asked, response, Extraction()) == vote
