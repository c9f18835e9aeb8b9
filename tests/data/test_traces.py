from __future__ import annotations

import operator
import re

import pytest

from credo.data.demonstrations import load_demonstrations
from credo.data.problems import load_problems
from credo.data.traces import worked_trace

STEP = re.compile(r"(-?\d+)([-+*])(-?\d+)=(-?\d+)")
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
SETTINGS = "size=200&seed=5&min_terms=1&max_terms=4&max_digits=2&prompt=expression&allow_negation=true"


def checked_answer(prompt: str, response: str) -> int:
    """The answer of a trace whose every step is right, starts where the last ended, and uses up the prompt."""
    working, answer = response.split("#")
    used, total = None, None
    for step in working.split(";") if working else []:
        left, sign, right, result = STEP.fullmatch(step).groups()  # pyright: ignore
        assert OPERATIONS[sign](int(left), int(right)) == int(result)
        assert used is None or total == int(left)
        used, total = (left if used is None else used) + sign + right, int(result)
    assert total is None or total == int(answer)
    assert (used or answer) == prompt.removesuffix("=")
    return int(answer)


def test_a_trace_by_hand():
    assert worked_trace("12 + 45 - 7") == "12+45=57;57-7=50#50"
    assert worked_trace("3 * 4 * 5") == "3*4=12;12*5=60#60"
    assert worked_trace("5 - -3 - 9") == "5--3=8;8-9=-1#-1"
    assert worked_trace("7") == "#7"


@pytest.mark.parametrize("family", ["chain_sum", "products"])
def test_every_step_is_right(family):
    pytest.importorskip("reasoning_gym")
    demonstrations = load_demonstrations([f"trace:{family}?{SETTINGS}"])
    problems, _ = load_problems([f"gym:{family}?{SETTINGS}"])
    assert len(demonstrations) == 200
    for demonstration, problem in zip(demonstrations, problems, strict=True):
        assert demonstration.prompt == problem.prompt
        assert demonstration.source == f"trace:{family}"
        assert checked_answer(str(problem.prompt), demonstration.response) == int(problem.answer)


def test_guesses_are_right_answers_without_working_as_often_as_asked():
    pytest.importorskip("reasoning_gym")
    base = "trace:chain_sum?size=1000&seed=5&min_terms=2&max_terms=3&prompt=expression"
    worked = load_demonstrations([base])
    mixed = load_demonstrations([f"{base}&guess_share=0.6"])
    guesses = 0
    for full, some in zip(worked, mixed, strict=True):
        assert some.prompt == full.prompt
        assert some.response in (full.response, "#" + full.response.split("#")[1])
        guesses += some.response != full.response
    assert 540 <= guesses <= 660  # four standard deviations of a binomial are 62
    assert load_demonstrations([f"{base}&guess_share=0.6"]) == mixed
    assert load_demonstrations([f"{base}&guess_share=0.6".replace("1000", "100")]) == mixed[:100]
    assert all(guess.response.startswith("#") for guess in load_demonstrations([f"{base}&guess_share=1"]))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("trace:gcd", "traces for chain_sum and products only"),
        ("trace:chain_sum?guess_share=1.5", "probability"),
        ("trace:chain_sum?guess_share=often", "probability"),
        ("trace:chain_sum?guess_share=nan", "probability"),
        ("trace:chain_sum?guess_shar=1", "Did you mean 'guess_share'"),
        ("gym:chain_sum", "use trace:chain_sum"),
    ],
)
def test_what_no_trace_can_be_made_of(source, reason):
    pytest.importorskip("reasoning_gym")
    with pytest.raises(ValueError, match=reason):
        load_demonstrations([source])
