from __future__ import annotations

import json
import random

import pytest

from credo.data.generated import gym_problem, gym_rows
from credo.data.problems import load_problems
from credo.data.sources import parse_generated
from credo.types import Message

pytest.importorskip("reasoning_gym")
CHAIN = "gym:chain_sum?size=40&seed=3&min_terms=2&max_terms=4"


def evaluated(expression: str) -> int:
    """An independent reading of ``12+45--7``: the sum of its signed terms."""
    total, position = 0, 0
    sign = 1
    while position < len(expression):
        end = position + 1
        while end < len(expression) and expression[end].isdigit():
            end += 1
        total += sign * int(expression[position:end])
        if end < len(expression):
            sign = {"+": 1, "-": -1}[expression[end]]
        position = end + 1
    return total


def test_a_family_gives_problems_that_its_scorer_can_judge():
    import reasoning_gym

    problems, report = load_problems([CHAIN])
    assert report.counts == {CHAIN: 40}
    score = reasoning_gym.get_score_answer_fn("chain_sum")
    for index, problem in enumerate(problems):
        entry = problem.extra["entry"]
        assert problem.id == f"{CHAIN}:{index}"
        assert (problem.kind, problem.source, problem.extra["family"]) == ("gym", "gym:chain_sum", "chain_sum")
        assert problem.prompt == (Message(role="user", content=entry["question"]),)
        assert 2 <= entry["metadata"]["num_terms"] <= 4
        assert score(problem.answer, entry) == 1.0  # pyright: ignore
        assert json.loads(json.dumps(problem.extra)) == problem.extra


def test_the_seed_decides_and_nothing_else():
    random.seed(1)
    first = load_problems([CHAIN])
    random.seed(2)
    assert load_problems([CHAIN]) == first
    assert load_problems([CHAIN.replace("seed=3", "seed=1000")])[1].sha256 != first[1].sha256
    assert load_problems(["gym:gcd?size=3"]) == load_problems(["gym:gcd?size=3"])


@pytest.mark.parametrize("negation", ["false", "true"])
def test_expressions_are_short_and_right(negation):
    problems, _ = load_problems([f"{CHAIN}&prompt=expression&allow_negation={negation}"])
    for problem in problems:
        assert isinstance(problem.prompt, str)
        assert set(problem.prompt) <= set("0123456789+-=")
        assert evaluated(problem.prompt.removesuffix("=")) == int(problem.answer)
    negative = any("--" in str(problem.prompt) for problem in problems)
    assert negative == (negation == "true")


def test_products_as_expressions():
    problems, _ = load_problems(["gym:products?size=20&seed=1&max_terms=3&max_digits=2&prompt=expression"])
    for problem in problems:
        product = 1
        for factor in str(problem.prompt).removesuffix("=").split("*"):
            product *= int(factor)
        assert product == int(problem.answer)


def test_lists_numbers_and_names_as_parameters():
    problems, _ = load_problems(
        ["gym:basic_arithmetic?size=30&operators=+,-&allow_parentheses=false&whitespace=no_space"]
    )
    questions = " ".join(problem.extra["entry"]["question"] for problem in problems)
    assert not set(questions) & set("*/()")
    matrices, _ = load_problems(["gym:binary_matrix?size=2&p_zero=1e-9"])
    for problem in matrices:  # the generator always plants one zero
        assert sum(row.count(0) for row in problem.extra["entry"]["metadata"]["matrix"]) == 1
    words, _ = load_problems(["gym:word_sorting?size=2&transformation=uppercase"])
    assert all(problem.answer.isupper() for problem in words)
    assert load_problems(["gym:number_format?size=2&min_n=1.5&max_n=2.5"])[1].bad_rows == ()


def test_a_family_without_a_single_answer_has_an_empty_one():
    problems, _ = load_problems(["gym:propositional_logic?size=2"])
    assert [problem.answer for problem in problems] == ["", ""]


def test_items_without_an_answer_are_bad_rows():
    source = "gym:base_conversion?size=20&seed=1&min_value=0&max_value=3"
    with pytest.raises(ValueError, match=r"base_conversion.*item \d+: "):
        load_problems([source])
    problems, report = load_problems([source], max_bad_share=0.6)
    assert len(problems) + len(report.bad_rows) == 20
    assert all(problem.answer for problem in problems)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("gym:chain_summ", "Did you mean 'chain_sum'"),
        ("gym:", "no such family"),
        ("gym:chain_sum?min_term=3", "Did you mean 'min_terms'"),
        ("gym:chain_sum?min_terms=three", "no value of its parameter 'min_terms'"),
        ("gym:chain_sum?min_terms=2.5", "no value of its parameter 'min_terms'"),
        ("gym:chain_sum?allow_negation=yes", "no value of its parameter 'allow_negation'"),
        ("gym:chain_sum?size=0", "refuses its parameters"),
        ("gym:chain_sum?min_terms=5&max_terms=2", "refuses its parameters"),
        ("gym:time_intervals?min_time=3", "no value of its parameter 'min_time'"),
        ("gym:aiw?size=2&task_types=siblings", "cannot make item 0"),
        ("gym:composite?size=2", "refuses its parameters"),
        ("gym:chain_sum?prompt=expresion", "Did you mean 'expression'"),
        ("gym:gcd?prompt=expression", "only chain_sum and products"),
        ("gym:chain_sum?guess_share=0.5", "no parameter 'guess_share'"),
        ("gym:rearc?size=1", "stored as JSON"),
        ("trace:chain_sum", "use gym:chain_sum"),
    ],
)
def test_what_no_generator_can_make(source, reason):
    with pytest.raises(ValueError, match=reason):
        load_problems([source], max_bad_share=0.9)


def test_partial_scores_are_kept_where_asked():
    source = parse_generated("gym:gcd?size=1&partial=true")
    ((_, _, entry),) = gym_rows(source)
    assert isinstance(entry, dict)
    assert gym_problem(entry, source=source, id="0").extra["partial"] is True
    plain = parse_generated("gym:gcd?size=1")
    assert "partial" not in gym_problem(entry, source=plain, id="0").extra
    with pytest.raises(ValueError, match="partial is true or false"):
        list(gym_rows(parse_generated("gym:gcd?size=1&partial=some")))
