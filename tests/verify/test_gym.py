"""Scores of procedural tasks, and that no answer is ever run as a program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from credo.verify.gym import check_formula, evaluate_arithmetic, judge_gym

reasoning_gym = pytest.importorskip("reasoning_gym")


def entry_of(family: str, **config: Any) -> dict[str, Any]:
    return json.loads(json.dumps(reasoning_gym.create_dataset(family, size=1, seed=1, **config)[0]))


def score(answer: str, family: str, entry: dict[str, Any], **extra: Any) -> float:
    return judge_gym(answer, {"family": family, "entry": entry, **extra})["score"]


FAMILIES = [
    *("chain_sum", "products", "gcd", "simple_equations", "leg_counting", "letter_counting", "spell_backward", "rearc"),
    *("base_conversion", "prime_factorization", "number_sorting", "spiral_matrix", "bitwise_arithmetic", "countdown"),
    *("simple_integration", "intermediate_integration", "polynomial_multiplication", "n_queens", "syllogism"),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_right_answer_has_full_marks(family: str):
    entry = entry_of(family)
    answer = entry["metadata"]["expression"] if family == "countdown" else entry["answer"]
    assert score(answer, family, entry) == 1.0


def test_partial_marks_count_as_none():
    entry = {"question": "", "answer": "39", "metadata": {}}
    assert score("39", "chain_sum", entry) == 1.0
    assert score("The answer is 39", "chain_sum", entry) == 0.0
    assert score("39x", "chain_sum", entry, partial=True) == pytest.approx(2 / 3)
    assert score("1+1", "countdown", entry_of("countdown")) == 0.0


def test_an_answer_that_the_scorer_cannot_read_is_wrong():
    assert score("zzz", "prime_factorization", entry_of("prime_factorization")) == 0.0


def test_what_we_lack_is_unknown():
    broken = entry_of("prime_factorization") | {"answer": "no numbers"}
    assert "unknown" in judge_gym("7", {"family": "prime_factorization", "entry": broken})


ATTACKS = [
    "__import__('pathlib').Path({path!r}).touch()",
    "[].__class__.__base__.__subclasses__()",
    "[open({path!r}, 'w') for _ in (1,)]",
    "open({path!r}, 'w')",
    "lambdify(x, \"open({path!r}, 'w')\")(1)",
    "sympify(\"open({path!r}, 'w')\")",
    "exec(\"open({path!r}, 'w')\")",
]


@pytest.mark.parametrize("family", ["string_insertion", "spiral_matrix", "binary_matrix", "n_queens", "countdown"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_answer_runs(family: str, attack: str, tmp_path: Path):
    canary = tmp_path / "canary"
    assert score(attack.format(path=str(canary)), family, entry_of(family)) == 0.0
    assert not canary.exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_formula_runs(attack: str, tmp_path: Path):
    canary = tmp_path / "canary"
    for family in ("simple_integration", "polynomial_multiplication", "puzzle24"):
        assert score(attack.format(path=str(canary)), family, entry_of(family)) == 0.0
    assert not canary.exists()


def test_plain_arithmetic_is_evaluated():
    assert evaluate_arithmetic(" 0x1f + (2 << 3)") == 47
    assert evaluate_arithmetic("['a', [1, -2.5], (None, True)]") == ["a", [1, -2.5], (None, True)]
    for other in ("a", "f()", "[].append", "lambda: 1", "[x for x in (1,)]", "[1][0]"):
        with pytest.raises(ValueError, match="may not"):
            evaluate_arithmetic(other)


def test_plain_formulas_pass():
    import sympy

    names = {name: getattr(sympy, name) for name in ("Symbol", "Integer", "sin", "sqrt", "lambdify", "pi")} | {
        "open": open
    }
    check_formula("Integer (2 )*Symbol ('x' )**Integer (2 )+sin (pi )*sqrt (Integer (2 ))", names)
    for other in (
        "open ('x' )",
        "lambdify (Symbol ('x' ),'1')",
        "pi .evalf ()",
        "unknown_name",
        "Symbol ('x' ,real =True )",
    ):
        with pytest.raises(ValueError, match="may"):
            check_formula(other, names)
