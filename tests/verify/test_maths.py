"""Verdicts on whole responses: what is wrong, what is unknown, what takes too long, and agreement with labels."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path

import pytest

from credo.verify.extraction import Extraction, extract
from credo.verify.maths import judge_in_time, judge_maths
from credo.verify.strictness import Strictness

SAMPLES = Path(__file__).parents[3] / "shared" / "data"


def score(answer: str, gold: str) -> float:
    return judge_maths(answer, answer, gold)["score"]


def test_right_and_wrong():
    assert judge_maths("", "0.5", r"\frac{1}{2}") == {"score": 1.0, "reason": ""}
    assert score("6", "5") == 0.0
    assert score(r"\frac{1}{", "1") == 0.0
    assert score("\ud800", "1") == 0.0
    assert score("1\x00", "1") == 0.0


def test_strictness_reaches_the_comparison():
    assert judge_maths("", "5", r"5 \text{ cm}", Strictness(need_units=True))["score"] == 0.0


def test_an_unmarked_response_is_searched_from_its_end():
    assert judge_maths("Half of 14 makes 7 apples", None, "7")["score"] == 1.0
    assert judge_maths("7 " + "and so on " * 1000, None, "7")["score"] == 0.0
    assert judge_maths("no number", None, "7") == {"score": 0.0, "reason": "no answer found"}


def test_a_gold_that_cannot_be_read_is_not_the_fault_of_the_response():
    for gold in (r"\frac{1}{", " ", "1/0", "9^{9^{9^{9}}}"):
        assert "unknown" in judge_maths("", r"\sqrt{5}", gold)
    assert score(r"\frac{1}{", r"\frac{1}{") == 1.0


def test_a_gold_may_be_a_solution():
    assert score("4", r"Adding both sides, we get \boxed{4} in the end.") == 1.0
    assert score("4", "The final answer is $4$. I hope it is correct.") == 1.0
    assert score("5", r"Adding both sides, we get \boxed{4} in the end.") == 0.0


def test_an_answer_far_longer_than_the_gold_is_wrong_unread():
    long_sum = "+".join(["1"] * 1000)
    assert score(long_sum, "1000") == 0.0
    assert score(f" {long_sum}", long_sum) == 1.0


ENDLESS = r"\sum_{n=1}^{10^9} \sin(n^2)"


# An interrupt that comes while a weak reference is dropped is lost there, and said to be; the next one is not.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_answer_that_takes_too_long_is_wrong_and_such_a_gold_is_unknown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("credo.verify.maths.PROCESSOR_SECONDS", 0.2)
    monkeypatch.setattr("credo.verify.maths.MORE_SECONDS", 0.2)
    judge_maths("", r"\sqrt{3}", r"\sqrt{2}")  # imports
    assert judge_in_time("", ENDLESS, r"\sqrt{2}", Strictness())["score"] == 0.0
    assert "unknown" in judge_in_time("", r"\sqrt{2}", ENDLESS, Strictness())
    assert judge_in_time("", "2", "2", Strictness())["score"] == 1.0


def test_a_thread_judges_the_same():
    verdicts = []
    thread = threading.Thread(
        target=lambda: verdicts.append(judge_in_time("", r"2\sqrt{2}", r"\sqrt{8}", Strictness()))
    )
    thread.start()
    thread.join()
    assert verdicts == [{"score": 1.0, "reason": ""}]


def rows(name: str) -> list[dict]:
    path = SAMPLES / name
    if not path.exists():
        pytest.skip(f"the shared sample {name} is not here")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.parametrize(
    "name", ["math500", "gsm8k_test", "aime90", "amc83", "svamp1000", "minerva272", "olympiadbench675"]
)
def test_every_gold_equals_itself_in_another_dress(name: str):
    for row in random.Random(0).sample(rows(f"math/{name}.jsonl"), 40):
        gold = row["answer"][0] if isinstance(row["answer"], list) else row["answer"]
        response = f"Thus $\\boxed{{ {gold} }}$."
        verdict = judge_maths(response, extract(response, "math", Extraction()), gold)
        assert verdict == {"score": 1.0, "reason": ""}, gold


def test_agreement_with_labelled_responses():
    sample = random.Random(0).sample(rows("verifier/verifier_agreement_dev.jsonl"), 150)
    wrongly_accepted, agreed = [], 0
    for row in sample:
        response = row["response_tail"]
        verdict = judge_maths(response, extract(response, "math", Extraction()), row["gold"])
        agreed += verdict.get("score") == float(row["label"])
        if verdict.get("score") == 1.0 and not row["label"]:
            wrongly_accepted.append(row["id"])
    assert wrongly_accepted == []
    assert agreed >= 149
