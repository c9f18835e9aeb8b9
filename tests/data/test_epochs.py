"""Units of an epoch: classes and pairs, by counting."""

from __future__ import annotations

import random
from itertools import islice

import pytest
import torch

from credo.data.epochs import balanced, batches, paired, partners

OUTCOMES = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.6])
PROBLEMS = [0, 0, 0, 1, 1, 2, 2]


def test_classes_are_of_one_size_in_each_stratum():
    seen = set()
    for seed in range(40):
        chosen = balanced(OUTCOMES, [0] * 7, random.Random(seed))
        assert sum(OUTCOMES[row] > 0.5 for row in chosen) == 3
        assert len(chosen) == len(set(chosen)) == 6
        seen.update(chosen)
        within = balanced(OUTCOMES, PROBLEMS, random.Random(seed))
        assert {0, 3, 4, 5, 6} < set(within)
        assert len(within) == 6
    assert seen == set(range(7)), "what is left out in one epoch comes in another"
    assert balanced(OUTCOMES, range(7), random.Random(0)) == []


def test_pairs_are_of_one_problem_and_better_first():
    every = [(0, 1), (0, 2), (3, 4), (6, 5)]
    assert sorted(paired(OUTCOMES, PROBLEMS, "all", random.Random(0))) == every
    matched = {tuple(sorted(paired(OUTCOMES, PROBLEMS, "matched", random.Random(seed)))) for seed in range(20)}
    assert matched == {((0, 1), (3, 4), (6, 5)), ((0, 2), (3, 4), (6, 5))}


def test_partners_are_of_other_problems():
    found = partners(PROBLEMS, random.Random(1))
    assert all(PROBLEMS[row] != PROBLEMS[other] for row, other in enumerate(found))
    assert partners([5, 5], random.Random(1)) == [0, 1]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_batches_show_every_unit_once_an_epoch(size: int):
    def epoch(number: int) -> list[tuple[int, ...]]:
        units = [(row,) for row in range(3)]
        random.Random(number).shuffle(units)
        return units

    shown = [unit for batch in batches(epoch, size, 9) for unit in batch]
    assert len(shown) == 9 * size
    for first in range(0, len(shown) - 2, 3):
        assert sorted(islice(shown, first, first + 3)) == [(0,), (1,), (2,)]


def test_an_epoch_of_nothing_ends_the_batches():
    shown = batches(lambda number: [(number,)] if number < 2 else [], 2, 2)
    assert next(shown) == [(0,), (1,)]
    with pytest.raises(ValueError, match="Epoch 2"):
        next(shown)
