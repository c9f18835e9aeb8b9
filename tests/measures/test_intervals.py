"""Intervals and tests by hand, and how often they cover the truth."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from credo.measures.intervals import bootstrap_interval, mean_interval, paired_gain, sign_flip_p, wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "expected"),
    [
        (8, 10, (0.49016, 0.94332)),
        (0, 10, (0.0, 0.27753)),
        (10, 10, (0.72247, 1.0)),
        (50, 100, (0.40383, 0.59617)),
        (1, 1, (0.20655, 1.0)),
    ],
)
def test_wilson_s_interval_by_hand(successes: int, trials: int, expected: tuple[float, float]):
    assert wilson_interval(successes, trials) == pytest.approx(expected, abs=5e-6)


def test_wilson_s_interval_at_another_level():
    """At 68.27 %, z = 1: the centre is (8 + 1/2) / 11 and the half width sqrt(1.6 + 1/4) / 11."""
    spread = math.sqrt(1.6 + 0.25) / 11
    expected = (8.5 / 11 - spread, 8.5 / 11 + spread)
    assert wilson_interval(8, 10, level=0.6826894921) == pytest.approx(expected, abs=1e-9)


def test_the_bootstrap_is_always_the_same_and_grows_narrower_with_more_problems():
    values = [0.0, 0.25, 1.0, 0.5, 0.75, 1.0, 0.0, 0.25]
    low, high = bootstrap_interval(values)
    assert bootstrap_interval(list(values)) == (low, high)
    assert low < statistics.fmean(values) < high
    narrow_low, narrow_high = bootstrap_interval(values * 9)
    student, few = 2.365 * math.sqrt(8 / 7), 1.994 * math.sqrt(72 / 71)  # quantiles of t with 7 and 71 degrees
    assert (narrow_high - narrow_low) == pytest.approx((high - low) / 3 * few / student, rel=0.1)
    lower, higher = bootstrap_interval(values, level=0.99)
    assert lower < low < high < higher


def test_the_bootstrap_has_the_width_of_the_normal_interval():
    generator = random.Random(0)
    values = [generator.random() for _ in range(400)]
    error = statistics.pstdev(values) / 20
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(statistics.fmean(values) - 1.96 * error, abs=error * 0.15)
    assert high == pytest.approx(statistics.fmean(values) + 1.96 * error, abs=error * 0.15)


def chances_of(kind: str, count: int, generator: random.Random) -> list[float]:
    """Solve rates of so many problems: spread evenly, mostly near 0 and 1, or a third solvable and the rest not."""
    match kind:
        case "even":
            return [generator.random() for _ in range(count)]
        case "extreme":
            return [generator.betavariate(0.5, 0.5) for _ in range(count)]
        case _:
            return [generator.random() * (generator.random() < 0.3) for _ in range(count)]


@pytest.mark.parametrize(
    ("kind", "problems", "samples", "truth"),
    [("even", 10, 4, 0.5), ("extreme", 30, 4, 0.5), ("hard", 40, 8, 0.15), ("even", 40, 1, 0.5)],
)
def test_intervals_cover_the_truth_as_often_as_they_say(kind: str, problems: int, samples: int, truth: float):
    """1,000 evaluations of new problems each time; 95 % of them cover the truth, within 2 points."""
    generator = random.Random(f"{kind}{problems}")
    covered = 0
    for _ in range(1000):
        chances = chances_of(kind, problems, generator)
        scores = [statistics.fmean(float(generator.random() < chance) for _ in range(samples)) for chance in chances]
        low, high = mean_interval(scores)
        covered += low <= truth <= high
    assert covered / 1000 == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("problems", [30, 272, 500])
def test_wilson_s_interval_covers_the_truth_as_often_as_it_says(problems: int):
    """Exactly, by summing the binomial distribution; over solve rates from 0.1 to 0.9."""
    intervals = [wilson_interval(right, problems) for right in range(problems + 1)]
    coverage = []
    for tenth in range(1, 10):
        rate = tenth / 10
        shares = [math.comb(problems, x) * rate**x * (1 - rate) ** (problems - x) for x in range(problems + 1)]
        coverage.append(sum(p for p, (low, high) in zip(shares, intervals, strict=True) if low <= rate <= high))
    assert statistics.fmean(coverage) == pytest.approx(0.95, abs=0.01)
    assert all(one == pytest.approx(0.95, abs=0.035) for one in coverage)


def test_where_every_problem_is_right_or_wrong_the_interval_is_wilson_s():
    assert mean_interval([1.0] * 10) == wilson_interval(10, 10)
    assert mean_interval([0.0] * 10) == wilson_interval(0, 10)
    assert mean_interval([1.0, 0.0, 0.0]) == wilson_interval(1, 3)
    assert mean_interval([1.0] * 9 + [0.5]) == bootstrap_interval([1.0] * 9 + [0.5])
    assert mean_interval([0.5] * 3) == (0.5, 0.5)
    assert all(math.isnan(bound) for bound in mean_interval([]))


def test_the_paired_gain_is_over_problems_judged_both_times():
    before = [0.0, 0.5, None, 0.25, 1.0]
    after = [0.5, 1.0, 1.0, None, 1.0]
    gain, low, high = paired_gain(before, after)
    assert gain == pytest.approx(1 / 3)
    assert (low, high) == bootstrap_interval([0.5, 0.5, 0.0])
    assert 0 <= low < gain < high <= 0.5


def test_pairing_sees_a_gain_that_two_intervals_would_not():
    generator = random.Random(2)
    before = [generator.choice([0.0, 0.25, 0.5, 0.75]) for _ in range(20)]
    after = [score + generator.choice([0.0, 0.25]) for score in before]
    assert bootstrap_interval(before)[1] > bootstrap_interval(after)[0]
    assert paired_gain(before, after)[1] > 0


def test_no_gain_without_pairs_and_no_pairs_without_equal_lengths():
    assert all(math.isnan(number) for number in paired_gain([None], [1.0]))
    with pytest.raises(ValueError, match="zip"):
        paired_gain([1.0], [1.0, 0.0])


def test_sign_flips_by_hand():
    assert sign_flip_p([1.0, 1.0, 1.0]) == 2 / 8, "of 8 assignments of signs two are as far from 0"
    assert sign_flip_p([1.0, 0.0, 1.0, 0.0, -1.0]) == 1.0
    assert sign_flip_p([0.5, 0.25, 0.0]) == 2 / 4
    assert sign_flip_p([]) == sign_flip_p([0.0, 0.0]) == 1.0


def test_sign_flips_of_many_problems_are_the_binomial_test():
    wins, losses = 30, 12
    tail = sum(math.comb(42, more) for more in range(wins, 43)) / 2**42
    assert sign_flip_p([1.0] * wins + [-1.0] * losses) == pytest.approx(2 * tail, abs=0.002)
    assert sign_flip_p([1.0] * 100) == pytest.approx(1 / 20_001)


def test_sign_flips_refuse_a_true_null_as_often_as_they_say():
    generator = random.Random(4)
    values = [sign_flip_p([generator.choice([-1.0, -0.5, 0.5, 1.0]) for _ in range(14)]) for _ in range(400)]
    assert sum(p <= 0.05 for p in values) / 400 == pytest.approx(0.045, abs=0.02)
