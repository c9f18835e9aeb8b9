"""Intervals and tests by hand, and how often they cover the truth."""

from __future__ import annotations

import math
import random
import statistics

import numpy
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


def solve_rates(kind: str, shape: tuple[int, int], generator: numpy.random.Generator) -> numpy.ndarray:
    """Spread evenly, mostly near 0 and 1, mostly near 0, all the same, or even for the share that is solvable."""
    match kind:
        case "even":
            return generator.random(shape)
        case "extreme":
            return generator.beta(0.5, 0.5, shape)
        case "low":
            return generator.beta(0.2, 2.0, shape)
        case "same":
            return numpy.full(shape, 0.5)
        case share:
            return generator.random(shape) * (generator.random(shape) < float(share))


@pytest.mark.parametrize(
    ("kind", "problems", "samples", "truth"),
    [
        ("0.1", 30, 16, 0.05),
        ("0.3", 10, 16, 0.15),
        ("low", 30, 8, 1 / 11),
        ("0.3", 10, 4, 0.15),
        ("0.1", 10, 16, 0.05),
        ("0.05", 100, 16, 0.025),
        ("0.3", 40, 8, 0.15),
        ("even", 10, 4, 0.5),
        ("even", 40, 8, 0.5),
        ("extreme", 30, 4, 0.5),
        ("0.6", 100, 4, 0.3),
        ("even", 20, 1, 0.5),
        ("same", 500, 1, 0.5),
    ],
)
def test_intervals_cover_the_truth_as_often_as_they_say(kind: str, problems: int, samples: int, truth: float):
    """1,500 evaluations of new problems each time; 95 % of them cover the truth, within 2.5 points."""
    generator = numpy.random.default_rng(7)
    rates = solve_rates(kind, (1500, problems), generator)
    scores = (generator.binomial(samples, rates) / samples).tolist()
    covered = [low <= truth <= high for low, high in map(mean_interval, scores)]
    assert statistics.fmean(covered) == pytest.approx(0.95, abs=0.025)


def test_few_problems_that_are_all_equally_hard_have_an_interval_that_is_too_wide():
    """Ten problems cannot say that one in ten is not much easier, so that each end leaves room for it."""
    generator = numpy.random.default_rng(3)
    scores = (generator.binomial(64, 0.3, (300, 10)) / 64).tolist()
    intervals = [mean_interval(row) for row in scores]
    assert all(low <= 0.3 <= high for low, high in intervals)
    wide = statistics.fmean(high - low for low, high in intervals)
    assert wide > 2 * statistics.fmean(high - low for low, high in map(bootstrap_interval, scores))


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
    assert all(math.isnan(bound) for bound in mean_interval([]))


def test_scores_in_between_have_jeffreys_interval():
    """With 8 of 10 problems all but solved: the quantiles of Beta(8.5, 2.5)."""
    low, high = mean_interval([1.0 - 1e-9] * 8 + [0.0] * 2)
    assert (low, high) == pytest.approx((0.4970, 0.9559), abs=0.01)
    wrong_low, wrong_high = mean_interval([1e-9] * 8 + [1.0] * 2)
    assert (wrong_low, wrong_high) == pytest.approx((1 - high, 1 - low), abs=0.01)
    lower, higher = mean_interval([1.0 - 1e-9] * 8 + [0.0] * 2, level=0.99)
    assert lower < low < high < higher


def test_the_interval_holds_the_mean_and_grows_narrower_with_more_problems():
    scores = [0.0, 0.25, 1.0, 0.5, 0.75, 1.0, 0.0, 0.25]
    low, high = mean_interval(scores)
    assert mean_interval(list(scores)) == (low, high)
    assert 0 < low < statistics.fmean(scores) < high < 1
    narrow_low, narrow_high = mean_interval(scores * 9)
    assert narrow_high - narrow_low == pytest.approx((high - low) / 3, rel=0.1)
    near_low, near_high = mean_interval([0.999999] * 30)
    assert near_low < 0.999999 <= near_high


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
