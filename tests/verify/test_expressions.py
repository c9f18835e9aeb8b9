"""Formulas with the same values, to the last digit."""

from __future__ import annotations

import pytest

from credo.verify.expressions import Unreadable, UnreadableGold, equal, read, same_equation


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\sqrt{12}", r"2\sqrt{3}"),
        (r"\frac{x^2-1}{x-1}", "x+1"),
        (r"\log 2", r"\ln 2"),
        (r"\log 100", "2"),
        (r"\log e", "1"),
        (r"\binom{5}{2}", "10"),
        (r"(n+1)!", r"(n+1) \cdot n!"),
        (r"\lfloor 2.5 \rfloor", "2"),
        (r"0.5x", r"\frac{x}{2}"),
        ("2.449490", r"\sqrt{6}"),
        ("3*x + 2*(y)", "2y+3x"),
        ("sqrt(8)", r"2\sqrt{2}"),
    ],
)
def test_equal(gold: str, answer: str):
    assert equal(gold, answer, 6)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("2^{300}", "2^{300}+1"),
        (r"\sqrt{2}", r"\sqrt{2} + 10^{-60}"),
        ("x", "|x|"),
        ("x^2", "2^x"),
        (r"\sqrt{x^2}", "x"),
        ("2.45", r"\sqrt{6}"),
        ("2.449491", r"\sqrt{6}"),
        (r"\lfloor x \rfloor", "x"),
        ("(-1)^n", r"1"),
        ("i", "1"),
    ],
)
def test_not_equal(gold: str, answer: str):
    assert not equal(gold, answer, 6)


def test_equations_up_to_a_factor():
    assert same_equation(("y", "2x+1"), ("2y-4x", "2"))
    assert not same_equation(("y", "2x+1"), ("y", "2x-1"))
    assert not same_equation(("x^2", "-1"), ("x^2", "-4"))
    assert not same_equation(("x", "1"), ("1", "1"))
    assert same_equation(("x", "1"), ("2x", "2"), directed=True)
    assert not same_equation(("x", "1"), ("-x", "-1"), directed=True)


@pytest.mark.parametrize(
    "text",
    [r"\frac{1}{", "9^{9^{9^9}}", "9^9^9", "10^{10^{10}}", "1234567!", "((5!)!)!", "2^{99999999}", r"\frac{1}{0}"],
)
def test_what_cannot_be_read_says_whose_fault_it_is(text: str):
    with pytest.raises(Unreadable):
        read(text)
    with pytest.raises(Unreadable):
        equal(r"\sqrt{2}", text, 6)
    with pytest.raises(UnreadableGold):
        equal(text, r"\sqrt{2}", 6)
