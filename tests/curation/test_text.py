"""Spellings of one text have one key; texts that mean something else have another."""

from __future__ import annotations

import pytest

from credo.curation.text import exact_key, ngrams, tokens, words


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("How many  dogs?", "how many\ndogs"),
        (r"Solve $\dfrac{1}{2}x \leq 3$.", r"solve \(\frac{1}{2} x\le 3\)"),
        (r"$\left( a,\, b \right)$", "(a, b)"),
        ("1,000 and 10{,}000", "1000 and 10000"),
        ("Janet’s “ducks”", 'Janet\'s "ducks"'),
        ("a well-known bird", "a well known bird"),
        ("x²", "x^2"),
        ("3 × 4", r"$3 \cdot 4$"),
        (r"\displaystyle{} x", "x"),
        (r"$\textbf{Find} \ X$", r"\text{find} x".replace("x", "X")),
    ],
)
def test_the_same_text(left: str, right: str):
    assert exact_key(left) == exact_key(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("3 + 4", "3 - 4"),
        ("-5", "5"),
        ("1 2", "12"),
        ("1.5", "15"),
        ("5!", "5"),
        ("2(x+3)", "2x+3"),
        ("2^{x+1}", "2^x+1"),
        (r"\sin x", r"\cos x"),
        ("x-y", "x y"),
        ("12,34", "1234"),
    ],
)
def test_another_text(left: str, right: str):
    assert exact_key(left) != exact_key(right)


def test_words_leave_out_brackets_and_drawings_but_not_operators():
    assert tokens("f(x) = 2") == ["f", "(", "x", ")", "=", "2"]
    assert words("f(x) = 2 [asy] draw((0,0)); [/asy] now") == ["f", "x", "=", "2", "now"]


def test_ngrams_are_the_runs_of_neighbours():
    assert ngrams(["a", "b", "c", "a", "b"], 2) == {"a b", "b c", "c a"}
    assert ngrams(["a"], 2) == set()
