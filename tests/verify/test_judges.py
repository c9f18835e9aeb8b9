"""From a task to a judgement: what is wrong, and what is unknown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from credo.verify.extraction import Extraction
from credo.verify.judges import judge


def task(response: str, answer: str, kind: str = "math", **extra: object) -> dict:
    return {"kind": kind, "response": response, "answer": answer, "extra": extra}


@pytest.mark.parametrize(
    ("response", "answer", "kind", "score"),
    [
        (r"so \boxed{\frac{2}{4}}", "0.5", "math", 1.0),
        ("The answer is 5.", "5", "math", 1.0),
        ("therefore 5", "5", "math", 1.0),
        (r"\boxed{6}", "5", "math", 0.0),
        ("", "5", "math", 0.0),
        ("no number at all", "5", "math", 0.0),
        (" Paris\n", "Paris", "exact", 1.0),
        ("paris", "Paris", "exact", 0.0),
        ("", "Paris", "exact", 0.0),
    ],
)
def test_scores(response: str, answer: str, kind: str, score: float):
    assert judge(task(response, answer, kind), Extraction())["score"] == score


def test_the_extraction_decides_where_to_look():
    response = r"\boxed{5} <answer>6</answer>"
    assert judge(task(response, "5"), Extraction(kind="answer_tag"))["score"] == 0.0
    assert judge(task(response, "6"), Extraction(kind="answer_tag"))["score"] == 1.0
    assert judge(task("so 5", "5"), Extraction(kind="boxed")) == {"score": 0.0, "reason": "no answer found"}


def test_a_wrong_verdict_shows_the_answer():
    assert "'6'" in judge(task(r"\boxed{6}", "5"), Extraction())["reason"]


def test_what_the_response_did_not_do_is_unknown():
    assert "unknown" in judge(task("5", "5", "gym"), Extraction())
    assert "unknown" in judge(task("5", "5", "gym", family="no such family", entry={}), Extraction())
    assert "unknown" in judge(task("5", "5", "code"), Extraction())
    assert "unknown" in judge(task(r"\boxed{5}", ""), Extraction())


def test_judging_needs_no_torch():
    program = (
        "import sys; import credo.verify.worker, credo.verify.process; from credo.verify.judges import warm_up; "
        "warm_up('math'); warm_up('gym'); print('torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    printed = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60)
    assert printed.stdout.strip() == "False", printed.stderr
