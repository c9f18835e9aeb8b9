"""Finding the form of an answer."""

from __future__ import annotations

import time

import pytest

from credo.verify.forms import bracketed, chain, is_name, matrix, readings, region, renamed, value_of


def test_lists():
    assert readings("1, 2") == [["1", "2"]]
    assert readings(r"\{3 \pm x\}") == [["3 + x", "3 - x"]]
    assert readings("x = 1, 2") == [["1", "2"]]
    assert readings("x = 1, y = 2") == [["x = 1", "y = 2"]]
    assert readings("1,234") == [["1", "234"], ["1234"]]
    assert readings("(x, y) = (1, 2)")[1] == ["x = 1", "y = 2"]
    assert readings("(1, 2)") == [["(1, 2)"]]
    assert readings("sand") == [["sand"]]


def test_brackets():
    assert bracketed("(1, (2, 3)]") == ["1", "(2, 3)"]
    assert bracketed("(1)(2)") is None
    assert bracketed("1, 2") is None
    assert matrix(
        r"\left[\begin{array}{cc} 1 & 2 \\ 3 & 4 \end{array}\right]".replace(r"\left", "").replace(r"\right", "")
    ) == [
        ["1", "2"],
        ["3", "4"],
    ]
    assert matrix(r"\begin{pmatrix} 1 \end{pmatrix} + 1") is None


@pytest.mark.parametrize(
    ("text", "intervals", "name"),
    [
        ("x < 2", [r"(-\infty,2)"], "x"),
        (r"1 \le t < 2", ["[1,2)"], "t"),
        (r"5 \ge x", [r"(-\infty,5]"], "x"),
        (r"x < 0 \text{ or } x > 1", [r"(-\infty,0)", r"(1,\infty)"], "x"),
        (r"x \in (0, 1] \cup [4, 5)", ["(0, 1]", "[4, 5)"], "x"),
    ],
)
def test_regions(text: str, intervals: list[str], name: str):
    assert region(text) == (intervals, name)


@pytest.mark.parametrize("text", ["x < 0, y > 1", "x", "1, 2", r"x \ne 3", "x + y < 2"])
def test_no_regions(text: str):
    assert region(text) is None


def test_chains_point_one_way():
    assert chain("a > b") == (["b", "a"], ["<"])
    assert chain(r"a < b \le c") == (["a", "b", "c"], ["<", r"\le"])
    assert chain("a = b") is None


def test_names():
    for text in ("x", "f(x)", "a_1", r"\angle ABC", r"\text{Area}", "(a, b)", "|AB|", r"\frac{AB}{CD}", "S_{ABC}"):
        assert is_name(text), text
    for text in ("2x", "x + y", "7", r"\frac{x}{2}", "x^2", "a - b", ""):
        assert not is_name(text), text
    assert value_of(["x", "2", "5"]) == "5"
    assert value_of(["5", "x"]) == "5"


def test_renaming_an_argument():
    assert renamed("f(x)", "f(t)", "t^2 + at") == "x^2 + at".replace("at", "at")
    assert renamed("f(x)", "f(t)", "x + t") is None
    assert renamed("f(x)", "g(x)", "1") is None
    assert renamed("x", "x", "1") == "1"


@pytest.mark.parametrize("part", [r"\a", "_a", "a'", "(a", "{a", ":"])
def test_names_are_told_in_little_time(part: str):
    started = time.monotonic()
    assert not is_name((part * 60)[:58] + "!")
    assert time.monotonic() - started < 1.0
