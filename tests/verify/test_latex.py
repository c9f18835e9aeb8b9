"""Texts that only look different, and finding the parts between brackets."""

from __future__ import annotations

import re
import time

import pytest

from credo.verify.latex import cleaned, matching, separators, split, ungrouped, unspaced, unworded

COMMA = re.compile(",")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (r" $\left( \dfrac{1}{2},\, 3 \right)$. ", r"( \frac{1}{2}, 3 )"),
        (r"\[ n = 4 \]", "n = 4"),
        ("**5**", "5"),
        (r"\$32,\!348", r"32,348\text{ dollars}"),
        (r"10\,000", "10000"),
        (r"10{,}000", "10000"),
        ("1 000", "1000"),
        ("1 00", "1 00"),
        (r"\15", "15"),
        (r"7 \text { cm}", r"7 \text{ cm}"),
        (r"7\mbox{ cm}^2", r"7\text{ cm}^2"),
        (r"\text{A,D}", "A,D"),
        (r"\text{(C)}", "(C)"),
        (r"\text{odd}", r"\text{odd}"),
        (r"{\{1, 2\}}", r"\{1, 2\}"),
        (r"{1}+{2}", r"{1}+{2}"),
        (r"40^\circ", r"40\text{ degrees}"),
        (r"17 \%", "17 %"),
        (r"-2 \\leq x \\leqslant 7", r"-2 \le x \le 7"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        ("3 − 5 × 2", r"3 - 5 \times 2"),
        ("x²", "x^{2}"),
    ],
)
def test_cleaned(text: str, clean: str):
    assert cleaned(text) == clean


def test_parts_outside_brackets():
    assert split(r"(1,2), [3,4), \{5,6\}, \frac{7,8}{9}", COMMA) == ["(1,2)", "[3,4)", r"\{5,6\}", r"\frac{7,8}{9}"]
    assert split(r"\begin{pmatrix} 1,1 \\ 2 \end{pmatrix}, 3", COMMA)[1] == "3"
    assert list(separators("a<b, f(c>d) > e", re.compile("[<>]"))) == ["<", ">"]


def test_matching_brackets():
    assert matching("(a(b)c)d", 0) == 6
    assert matching(r"\{1\}", 0) == 4
    assert matching("((", 0) == -1


def test_braces_around_all_of_it_go():
    assert ungrouped("{1}") == "1"
    assert ungrouped("{1}{2}") == "{1}{2}"
    assert unworded(r"4 \text{ p.m.}") == "4 p.m."
    assert unspaced("( 1 , 2 ) x") == "(1,2)x"
    assert unspaced("1 2") == "1 2"


@pytest.mark.parametrize("part", ["{", "(", r"\text{", r"\{", "$", "\\", "{}", r"\,", "1,", "|"])
def test_long_texts_cost_little(part: str):
    started = time.monotonic()
    text = cleaned(part * 500)
    split(text, COMMA)
    assert time.monotonic() - started < 2.0
