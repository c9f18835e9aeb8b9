"""Which mathematical answers are the same: pairs with known verdicts, and agreement with labelled responses."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from credo.verify.extraction import Extraction, extract
from credo.verify.maths import by_text, judge_maths, plain, without_unit

SAMPLES = Path(__file__).parents[3] / "shared" / "data"


def score(answer: str, gold: str) -> float:
    return judge_maths(answer, answer, gold)["score"]


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("0.5", r"\frac{1}{2}"),
        (r"\frac12", "1/2"),
        ("0.333333", "1/3"),
        ("x=5", "5"),
        ("5", "x=5"),
        ("(x-1)(x+1)", "x^2-1"),
        ("2,1", "1,2"),
        (r"\{2,1\}", r"\{1,2\}"),
        (r"2\cdot 3", "6"),
        ("1,234", "1234"),
        (r"10{,}000", "10000"),
        ("007", "7"),
        ("-0", "0"),
        ("72 clips", "72"),
        ("18 dollars per day", "18"),
        (r"\$18", "18"),
        ("**5**", "5"),
        ("(C)", "C"),
        ("even", r"\text{Even}"),
        (r"4:30 \text{ p.m.}", r"\text{4:30 p.m.}"),
        (r"8\sqrt{3}", r"8\sqrt{3} \text { square inches}"),
        ("50\\%", "50%"),
        (r"\left( 3, \dfrac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
    ],
)
def test_the_same(answer: str, gold: str):
    assert score(answer, gold) == 1.0


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("6", "5"),
        ("2500", "25"),
        ("9999", r"10{,}000"),
        ("100005", "100000"),
        ("1", "0,1"),
        (r"(-\infty,0)", r"(-\infty,0]"),
        ("12", r"8+4\sqrt3"),
        ("(2,1)", "(1,2)"),
        ("ABDC", "ABCD"),
        ("Nylvee", r"\text{Evelyn}"),
        ("10_3", "10_2"),
        ("9.42", r"3\pi"),
        ("5 thousand", "5"),
        ("1/0", "1"),
        ("12", "1 2"),
        (r"\frac{1}{", "1"),
        ("\ud800", "1"),
        ("1\x00", "1"),
    ],
)
def test_not_the_same(answer: str, gold: str):
    assert score(answer, gold) == 0.0


def test_an_unmarked_response_is_searched_from_its_end():
    assert judge_maths("Half of 14 makes 7 apples", None, "7")["score"] == 1.0
    assert judge_maths("7 " + "and so on " * 1000, None, "7")["score"] == 0.0


def test_a_gold_that_cannot_be_read_is_not_the_fault_of_the_response():
    assert "unknown" in judge_maths("5", "5", r"\frac{1}{")
    assert "unknown" in judge_maths("5", "5", " ")
    assert "unknown" in judge_maths("5", "5", "1/0")
    assert score(r"\frac{1}{", r"\frac{1}{") == 1.0


def test_an_answer_far_longer_than_the_gold_is_wrong_unread():
    long_sum = "+".join(["1"] * 1000)
    assert score(long_sum, "1000") == 0.0
    assert score(f" {long_sum}", long_sum) == 1.0


def test_plain_text():
    assert plain(r" $\left( \dfrac{1}{2},\, 3 \right)$. ") == r"(\frac{1}{2},3)"
    assert plain(r"\text{4:30 p.m.}") == "4:30 p.m"
    assert plain("1 2") != plain("12")
    assert by_text("12", "012") is True
    assert by_text("12", "13") is False
    assert by_text("12", "12.0") is None


def test_units_in_words_are_dropped():
    assert without_unit("72 clips") == "72"
    assert without_unit("$1,200.50 dollars") == "$1,200.50"
    for other in ("5 million", "5 percent", "3 x", "72", "5 feet 6 inches", r"2\sqrt{3} cm"):
        assert without_unit(other) == other


def rows(name: str) -> list[dict]:
    path = SAMPLES / name
    if not path.exists():
        pytest.skip(f"the shared sample {name} is not here")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.parametrize("name", ["math500", "gsm8k_test", "aime90", "amc83", "svamp1000"])
def test_every_gold_equals_itself_in_another_dress(name: str):
    for row in random.Random(0).sample(rows(f"math/{name}.jsonl"), 40):
        gold = row["answer"]
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
    assert agreed >= 145
