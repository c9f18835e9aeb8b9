"""Written numbers and what they are worth, exactly."""

from __future__ import annotations

from fractions import Fraction

import pytest

from credo.verify.numerals import agree, based, numeral


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("007", 7),
        ("-0", 0),
        ("1,234,567", 1234567),
        (".5", Fraction(1, 2)),
        ("-12.50", Fraction(-25, 2)),
        ("3/4", Fraction(3, 4)),
        (r"-\frac12", Fraction(-1, 2)),
        (r"2\frac{1}{3}", Fraction(7, 3)),
        (r"-2 \frac{1}{3}", Fraction(-7, 3)),
        ("33 1/3", Fraction(100, 3)),
        ("1e-3", Fraction(1, 1000)),
        (r"3.8 \times 10^{5}", 380000),
        (r"2 \cdot 10^{-1}", Fraction(1, 5)),
        ("5 million", 5_000_000),
        (r"1.5 \text{ thousand}", 1500),
    ],
)
def test_value(text: str, value: Fraction | int):
    found = numeral(text)
    assert found is not None
    assert found.value == value


@pytest.mark.parametrize(
    "text", ["", "-", ".", "1,2", "12,34", "1 2", "x", "1/0", r"2\frac{3}{2}", "1e99999", "1+1", "5%%", "7" * 3000]
)
def test_what_is_no_number(text: str):
    assert numeral(text) is None


def test_percent_is_noted():
    found = numeral("12.5 %")
    assert found is not None
    assert found.percent
    assert found.value == Fraction(25, 2)


@pytest.mark.parametrize(
    ("left", "right", "digits", "same"),
    [
        ("0.5", "1/2", 6, True),
        ("0.333333", "1/3", 6, True),
        ("0.666666", "2/3", 6, True),
        ("0.666668", "2/3", 6, False),
        ("0.33333", "1/3", 6, False),
        ("0.33333", "1/3", 5, True),
        ("0.000002", "0.00000177", 6, False),
        ("100000.000001", "100000", 6, False),
        ("3.14159265", "3.141593", 6, True),
        ("3.141594", "3.14159265", 6, False),
    ],
)
def test_agreement_is_exact_but_for_rounding(left: str, right: str, digits: int, same: bool):
    first, second = numeral(left), numeral(right)
    assert first is not None
    assert second is not None
    assert agree(first, second, digits) is same
    assert agree(second, first, digits) is same


def test_bases():
    assert based("0120_3") == ("120", 3)
    assert based("(2A)_{16}") == ("2A", 16)
    assert based(r"120 \text{ base 3}") == ("120", 3)
    assert based("0.011_2") == ("0.011", 2)
    assert based("x_1") is None
    assert based("120") is None
