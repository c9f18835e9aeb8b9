"""Which checkpoints stay, number by number."""

from __future__ import annotations

import math

import pytest

from credo.checkpoint.retention import retained, worths

WORTH = {1: 0.5, 2: 0.9, 3: 0.1, 4: 0.9}


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [
        (0, 0, {1, 2, 3, 4, 5}),
        (1, 0, {5}),
        (2, 0, {4, 5}),
        (9, 0, {1, 2, 3, 4, 5}),
        (1, 1, {4, 5}),
        (1, 2, {2, 4, 5}),
        (1, 3, {1, 2, 4, 5}),
        (1, 9, {1, 2, 3, 4, 5}),
        (2, 1, {4, 5}),
    ],
)
def test_the_newest_and_the_best_stay(keep: int, best: int, left: set[int]):
    assert retained([1, 2, 3, 4, 5], WORTH, keep=keep, best=best) == left


def test_a_step_of_unknown_worth_is_not_among_the_best():
    assert retained([1, 2, 3], {2: 0.1, 7: 1.0}, keep=1, best=2) == {2, 3}
    assert retained([], {}, keep=1, best=1) == set()


def test_worth_is_read_from_the_lines_of_a_run():
    rows = [
        {"step": 0, "eval/accuracy": 0.2, "scores": [1.0]},
        {"step": 1, "prm/loss": 0.7},
        {"step": 2, "prm/loss": math.nan},
        {"step": 3, "prm/loss": None},
        {"step": 4, "eval/accuracy": 1},
        {"step": 5, "prm/loss": 0.2},
    ]
    assert worths(rows, "eval/accuracy") == {0: 0.2, 4: 1.0}
    assert worths(rows, "-prm/loss") == {1: -0.7, 5: -0.2}
