"""Units and words beside numbers."""

from __future__ import annotations

import pytest

from credo.verify.units import is_prose, is_words, same_unit, same_words, without_unit


@pytest.mark.parametrize(
    ("text", "bare", "unit"),
    [
        ("12 clips", "12", "clips"),
        (r"12\text{ cm}", "12", "cm"),
        (r"12\text{ cm}^2", "12", "cm^2"),
        (r"2\sqrt{3} \text{ square feet}", r"2\sqrt{3}", "square feet"),
        ("18 dollars per day", "18", "dollars per day"),
    ],
)
def test_a_unit_is_taken_off(text: str, bare: str, unit: str):
    assert without_unit(text) == (bare, unit)


@pytest.mark.parametrize(
    "text", ["5 million", "5 or more", "5 less than x", "3 x", "72", "cm", r"2\text{ if } x", "5 feet 6 inches", "3 pi"]
)
def test_what_is_no_unit_stays(text: str):
    assert without_unit(text) == (text, "")


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("cm", "centimeters", True),
        ("square feet", "ft^2", True),
        ("km/h", "kilometers per hour", True),
        ("children tickets", "tickets", True),
        ("cm", "m", False),
        ("cm", "cm^2", False),
        ("minutes", "seconds", False),
        ("cents", "dollars", False),
    ],
)
def test_units_that_can_be_the_same(left: str, right: str, same: bool):
    assert same_unit(left, right) is same
    assert same_unit(right, left) is same


def test_words():
    for text in ("Paris", r"\text{no}", "the second one", "Yes, it is.", "Euler's number"):
        assert is_words(text)
    for text in ("x", "abc", "2 apples", r"\sin x", "x = y", r"\text{cm}^2"):
        assert not is_words(text)
    assert is_prose(r"n \text{ is odd}")
    assert not is_prose(r"\begin{pmatrix} 1 \end{pmatrix} + \arctan x + sqrt(2)")


def test_same_words():
    assert same_words(r"\text{Even}", "even")
    assert same_words("Yes, it is composite.", "Yes")
    assert not same_words("Yes, it is composite.", "Yes, it is prime.")
    assert not same_words("Yes", "No")
    assert not same_words("listen", "silent")
