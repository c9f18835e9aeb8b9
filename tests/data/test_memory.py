"""The memory of solve rates: chances by hand and against sampling, the fading of evidence, and its state."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest

from credo.data.memory import SolveRates, chance_in_band


def memory(**options: Any) -> SolveRates:
    return SolveRates(**{"floor": 0.1, "per_prompt": 4, "low": 0.2, "high": 0.8, **options})


def chance(solved: float, failed: float, k: int, low: float, high: float, *, drop_unanimous: bool = False) -> float:
    return chance_in_band(
        float(solved),
        float(failed),
        per_prompt=k,
        low=float(low),
        high=float(high),
        drop_unanimous=drop_unanimous,
    )


def test_without_evidence_every_count_is_as_likely():
    """Beta(1, 1): each of 0 to 4 correct has the chance 1/5."""
    assert chance(0, 0, 4, 0.2, 0.8) == pytest.approx(3 / 5)
    assert chance(0, 0, 4, 0.25, 0.25) == pytest.approx(1 / 5)
    assert chance(0, 0, 4, 0, 1) == pytest.approx(1)
    assert chance(0, 0, 4, 0.3, 0.45) == 0


def test_chances_by_hand():
    """Beta(1, 5) after four failures, two responses: B(1, 7)/B(1, 5) = 5/7 for none correct, 2 B(2, 6)/B(1, 5) = 5/21
    for one, B(3, 5)/B(1, 5) = 1/21 for two.
    """
    for correct, expected in enumerate((5 / 7, 5 / 21, 1 / 21)):
        share = correct / 2
        assert chance(0, 4, 2, share, share) == pytest.approx(expected)
        assert chance(4, 0, 2, 1 - share, 1 - share) == pytest.approx(expected)


def test_unanimous_groups_do_not_count_where_they_are_dropped():
    assert chance(0, 0, 4, 0, 1, drop_unanimous=True) == pytest.approx(3 / 5)
    assert chance(0, 0, 1, 0, 1, drop_unanimous=True) == 0


@pytest.mark.parametrize(("solved", "failed"), [(0, 8), (2.5, 5.5), (7, 1), (40, 40)])
def test_it_is_the_share_of_groups_that_sampling_finds(solved: float, failed: float):
    draw = random.Random(2)
    hits = 0
    for _ in range(4000):
        rate = draw.betavariate(1 + solved, 1 + failed)
        hits += 0.2 <= sum(draw.random() < rate for _ in range(8)) / 8 <= 0.8
    assert hits / 4000 == pytest.approx(chance(solved, failed, 8, 0.2, 0.8), abs=4 * math.sqrt(0.25 / 4000))


def test_a_problem_never_seen_is_always_taken_and_none_less_than_the_floor():
    rates = memory()
    assert rates.chance("a") == 1
    rates.see("a", [])
    assert rates.chance("a") == 1, "nothing was judged"
    for _ in range(20):
        rates.see("a", [0.0] * 40)
    assert rates.chance("a") == 0.1
    rates.see("b", [1.0, 0.0, 1.0, 0.0])
    assert rates.chance("b") == chance(2, 2, 4, 0.2, 0.8) > 0.6


def test_older_evidence_counts_half_at_each_visit():
    rates = memory()
    for scores in ([1.0] * 4, [0.0] * 3, [0.5, 0.5, 1.0]):
        rates.see("a", scores)
    # 4, then 2 against 3, then 1 + 2 against 1.5 + 1
    assert rates.chance("a") == pytest.approx(chance(3, 2.5, 4, 0.2, 0.8), rel=1e-12)


def test_a_policy_that_learns_is_seen_again():
    rates = memory()
    for _ in range(10):
        rates.see("a", [0.0] * 4)
    hopeless = rates.chance("a")
    rates.see("a", [1.0, 0.0, 0.0, 0.0])
    once = rates.chance("a")
    rates.see("a", [1.0, 1.0, 0.0, 0.0])
    assert hopeless < once < rates.chance("a")


def test_shares_are_of_the_last_visits():
    rates = memory()
    assert rates.metrics() == {"filter/never_solved": 0, "filter/always_solved": 0}
    for id, scores in [("a", [0.0, 0.4]), ("b", [0.5, 1.0]), ("c", [0.4, 0.5]), ("d", [1.0])]:
        rates.see(id, scores)
    assert rates.metrics() == {"filter/never_solved": 1 / 4, "filter/always_solved": 2 / 4}
    rates.see("d", [0.0, 0.0])
    rates.see("a", [])
    assert rates.metrics() == {"filter/never_solved": 2 / 4, "filter/always_solved": 1 / 4}


def test_the_state_is_exact_sparse_and_a_copy():
    rates = memory()
    for turn, scores in enumerate(([0.1, 0.7, 1.0], [0.3] * 3, [1.0])):
        rates.see(f"p{turn % 2}", scores)
    state = rates.state()
    written = json.dumps(state)
    assert set(state) == {"p0", "p1"}
    resumed = memory()
    resumed.see("other", [1.0])
    resumed.restore(json.loads(written))
    for each in (rates, resumed):
        each.see("p0", [0.2, 0.9])
    assert resumed.state() == rates.state()
    assert [resumed.chance(id) for id in ("p0", "p1", "other")] == [rates.chance(id) for id in ("p0", "p1", "other")]
    assert json.dumps(state) == written
