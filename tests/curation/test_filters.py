"""What each filter of the paper drops, what it must leave alone, and how steps are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from credo.curation.entries import Entry, read_entries
from credo.curation.filters import PAPER, RANGES, STEPS, apply_steps, parse_steps
from credo.types import Message, Problem

SHARED = Path(__file__).parents[3] / "shared" / "data" / "math"


def problem(text: str = "How many?", answer: str = "1", **changes: Any) -> Problem:
    values: dict[str, Any] = {"id": "1", "kind": "math", "prompt": text, "answer": answer, "source": "s"}
    return Problem(**values | changes)


@pytest.mark.parametrize(
    ("step", "dropped", "kept"),
    [
        ("no_figure", "In the figure, find x.", "Give your answer to three significant figures."),
        ("no_figure", "Find x. [asy] draw((0,0)); [/asy]", "She figured it out and bought action figures."),
        ("no_figure", r"See \includegraphics{a.png}", "Graph the function."),
        ("no_proof", "Prove that x = 1.", "This improves the proven record."),
        ("no_proof", "Show that there are none.", "The show starts; he shows that he can."),
        ("no_underline", r"The number \underline{a}3", r"The number \overline{ab}"),
        ("no_underline", "Fill in: ____", "the name a_b"),
        ("no_multiple_choice", "Choose: (A) 1 (B) 2 (C) 3", "Triangle $ABC$ has $A = 3$, $B = 4$."),
        ("no_multiple_choice", "Choose:\nA. one\nB. two\nC. three", "Points A and B. C is between them."),
        (
            "no_multiple_choice",
            r"\textbf{(A)}\ 1 \textbf{(B)}\ 2 \textbf{(C)}\ 3",
            r"the points A(1,2), B(3,4), C(5,6)",
        ),
        ("no_multiple_choice", "A: 1, B: 2, C: 3", "(C) comes before (B) and (A)"),
    ],
)
def test_filters_of_the_prompt(step: str, dropped: str, kept: str):
    assert STEPS[step](problem(dropped)) is not None
    assert STEPS[step](problem(kept)) is None


@pytest.mark.parametrize(("answer", "kept"), [("12", True), (r"\frac{1}{x}", True), ("yes", False), (r"\pi", False)])
def test_an_answer_without_a_digit_is_dropped_from_mathematics_only(answer: str, kept: bool):
    assert (STEPS["numeric_answer"](problem(answer=answer)) is None) == kept
    assert STEPS["numeric_answer"](problem(answer=answer, kind="exact")) is None


def test_only_the_users_words_are_searched():
    turns = (Message(role="system", content="Never prove."), Message(role="user", content="What is 1+1?"))
    assert STEPS["no_proof"](problem(prompt=turns)) is None


@pytest.mark.parametrize(
    ("rate", "step", "kept"),
    [
        (0.2, "solve_rate=0.2..0.8", True),
        (0.8, "solve_rate=0.2..0.8", True),
        (0.81, "solve_rate=0.2..0.8", False),
        (0, "solve_rate=0.1..", False),
        (1, "solve_rate=..0.9", False),
        (1, "solve_rate=0.1..", True),
        (None, "solve_rate=0..1", False),
        ("0.5", "solve_rate=0..1", False),
        (True, "solve_rate=0..1", False),
    ],
)
def test_solve_rates_within_bounds(rate: object, step: str, kept: bool):
    (parsed,) = parse_steps(step)
    assert (parsed.check(problem(extra={"solve_rate": rate})) is None) == kept


def test_length_counts_the_users_characters():
    (step,) = parse_steps("length=2..3")
    assert [step.check(problem("x" * length)) is None for length in (1, 2, 3, 4)] == [False, True, True, False]


def test_steps_come_in_the_order_given_and_the_first_objection_counts():
    entry = Entry(source="s", line=1, problem=problem("Prove it with a figure.", "no"), response=None, row={})
    for text, first in (("no_figure,no_proof", "no_figure"), (" no_proof , no_figure", "no_proof")):
        drop = apply_steps(entry, parse_steps(text))
        assert drop is not None
        assert drop.step == first
    assert [step.name for step in parse_steps("length=1..,paper")] == ["length=1..", *PAPER]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no_figur", "Did you mean 'no_figure'"),
        ("", "names no step"),
        ("no_proof,no_proof", "twice"),
        ("paper,no_proof", "twice"),
        ("no_proof=3", "takes no value"),
        ("solve_rate", "range"),
        ("solve_rate=0.5", "range"),
        ("solve_rate=0.8..0.2", "range"),
        ("length=a..b", "range"),
        ("length=nan..1", "range"),
    ],
)
def test_names_that_are_no_step(text: str, said: str):
    with pytest.raises(ValueError, match=said):
        parse_steps(text)


def test_every_step_stands_in_the_help():
    from credo.options.curation import FilterOptions

    assert all(name in str(FilterOptions.__doc__) for name in (*STEPS, *RANGES))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here")
def test_on_real_problems(tmp_path: Path):
    steps = parse_steps("paper")

    def dropped(name: str) -> dict[str, int]:
        entries = [e for e in read_entries([str(SHARED / name)], kind="math") if isinstance(e, Entry)]
        found = [drop.step for entry in entries if (drop := apply_steps(entry, steps))]
        return {step: found.count(step) for step in found} | {"rows": len(entries)}

    gsm8k, math = dropped("gsm8k_train.jsonl"), dropped("math_test_5000.jsonl")
    assert sum(gsm8k.values()) - gsm8k["rows"] < 0.005 * gsm8k["rows"]
    drawn = sum("[asy]" in line for line in (SHARED / "math_test_5000.jsonl").read_text().split("\n"))
    assert drawn <= math["no_figure"] < drawn + 100
    assert 40 < math["numeric_answer"] < 80
    lines = (SHARED / "math_test_5000.jsonl").read_text().split("\n")
    choices = [row for row in map(json.loads, filter(None, lines)) if r"\text{(A)}" in row["problem"]]
    assert choices
    assert all(STEPS["no_multiple_choice"](problem(row["problem"])) for row in choices)
