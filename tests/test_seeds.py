"""Seeds: fixed for ever, different for every number that goes in, and draws that are uniform."""

from __future__ import annotations

from itertools import pairwise, product

import pytest

from credo.seeds import mixed_seed, uniform


def test_the_same_numbers_give_the_same_seed_on_every_machine():
    # Written down from a first run: a change here changes every rollout of every recipe.
    assert mixed_seed(0) == 7795324965117060851
    assert mixed_seed(1, 2, 3) == 6087047714123848686
    assert uniform(5, 7) == 0.17944519267774772


def test_every_part_and_the_order_matter():
    seeds = [mixed_seed(*parts) for length in range(4) for parts in product(range(-3, 12), repeat=length)]
    assert len(set(seeds)) == len(seeds)
    assert mixed_seed(1, 2) != mixed_seed(2, 1)
    assert mixed_seed(2**63) != mixed_seed(0)


def test_seeds_have_63_bits_and_use_them():
    seeds = [mixed_seed(index) for index in range(4000)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    for bit in range(63):
        assert sum(seed >> bit & 1 for seed in seeds) == pytest.approx(2000, abs=160)  # 5 standard deviations


def test_draws_are_uniform_along_positions_and_along_seeds():
    for draws in (
        [uniform(17, position) for position in range(10_000)],
        [uniform(seed, 0) for seed in range(10_000)],
        [uniform(mixed_seed(3, k), 5) for k in range(10_000)],
    ):
        assert all(0.0 <= draw < 1.0 for draw in draws)
        cells = [0] * 20
        for draw in draws:
            cells[int(draw * 20)] += 1
        assert sum((cell - 500) ** 2 / 500 for cell in cells) < 50  # chi-square, 19 degrees: p below 0.0002


def test_neighbouring_draws_are_not_related():
    draws = [uniform(9, position) - 0.5 for position in range(10_000)]
    covariance = sum(a * b for a, b in pairwise(draws)) / len(draws)
    assert abs(covariance * 12) < 0.05
