"""Avg@k and its intervals by hand, and what is done with responses that could not be judged."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from typing import Any

import pytest

from credo.evaluation import (
    Evaluation,
    bootstrap_interval,
    evaluate_policy,
    mean_interval,
    paired_gain,
    wilson_interval,
)
from credo.rollout.engine import SamplingParams, ScriptedEngine
from credo.types import Group, Problem, Rollout, Unknown, Verdict
from credo.verify.verifier import ScriptedVerifier

EOS = 0


def problem(index: int) -> Problem:
    return Problem(id=f"p{index}", kind="exact", prompt=str(index), answer="", source="made")


def group(*scores: float, length: int = 2, truncated: bool = False) -> Group:
    finish = "length" if truncated else "stop"
    rollout = Rollout(prompt_ids=(1,), response_ids=(5,) * length, logprobs=(0.0,) * length, finish=finish)
    return Group(
        problem=problem(0),
        rollouts=(rollout,) * len(scores),
        responses=("",) * len(scores),
        verdicts=tuple(Verdict(score=score) for score in scores),
    )


def evaluate(scores: Sequence[Sequence[float | None]], seed: int = 3, **options: Any) -> Evaluation:
    """An evaluation in which response ``k`` to problem ``i`` gets ``scores[i][k]``; None is unknown."""

    def judge(problem: Problem, response: str) -> Verdict | Unknown:
        index, k = map(int, response.split()[:2])
        assert problem.id == f"p{index}"
        score = scores[index][k]
        return Unknown(reason="died") if score is None else Verdict(score=score)

    return evaluate_policy(
        [problem(index) for index in range(len(scores))],
        engine=ScriptedEngine(lambda prompt, k, seed: (*prompt, k, seed, EOS), eos_id=EOS),
        verifier=ScriptedVerifier(judge),
        encode=lambda problem: (int(str(problem.prompt)),),
        decode=lambda ids: " ".join(map(str, ids)),
        params=SamplingParams(max_tokens=8),
        samples=len(scores[0]),
        seed=seed,
        **options,
    )


def test_avg_at_k_by_hand():
    evaluation = evaluate([[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.5, 1.0, 0.0, 0.0]])
    assert evaluation.scores == [0.75, 0.0, 0.375]
    assert evaluation.accuracy == 0.375
    assert [one.problem.id for one in evaluation.groups] == ["p0", "p1", "p2"]
    summary = evaluation.summary()
    low, high = bootstrap_interval([0.75, 0.0, 0.375])
    assert summary == {
        "eval/accuracy": 0.375,
        "eval/accuracy_low": low,
        "eval/accuracy_high": high,
        "eval/problems": 3,
        "eval/samples": 4,
        "eval/unknown": 0,
        "eval/truncated_share": 0,
        "eval/mean_length": 4,
    }


def test_what_is_unknown_is_neither_right_nor_wrong():
    evaluation = evaluate([[1.0, None, 0.0], [None, None, None], [1.0, 1.0, None]])
    assert evaluation.scores == [0.5, None, 1.0]
    assert evaluation.accuracy == 0.75
    assert evaluation.unknown == 1 + 3 + 1
    assert evaluation.summary()["eval/unknown"] == 5
    assert evaluation.summary()["eval/problems"] == 3


def test_problems_weigh_alike_however_many_of_their_responses_were_judged():
    assert evaluate([[1.0, 1.0, 1.0, 1.0], [0.0, None, None, None]]).accuracy == 0.5


def test_nothing_judged_is_not_a_number():
    evaluation = evaluate([[None], [None]])
    assert evaluation.scores == [None, None]
    summary = evaluation.summary()
    assert all(math.isnan(summary[f"eval/{key}"]) for key in ("accuracy", "accuracy_low", "accuracy_high"))
    assert (summary["eval/unknown"], summary["eval/mean_length"], summary["eval/truncated_share"]) == (2, 0, 0)


def test_lengths_and_truncation_are_those_of_the_judged_responses():
    groups = (group(1.0, 0.0, length=3), group(1.0, length=9, truncated=True), group())
    summary = Evaluation(groups=groups, samples=2).summary()
    assert summary["eval/mean_length"] == 5
    assert summary["eval/truncated_share"] == pytest.approx(1 / 3)


def test_the_seed_decides_and_problems_have_different_ones():
    scores = [[1.0, 0.0]] * 3
    first, again, other = evaluate(scores), evaluate(scores), evaluate(scores, seed=4)
    assert first == again
    seeds = [[one.rollouts[0].response_ids[2] for one in each.groups] for each in (first, other)]
    assert len({*seeds[0], *seeds[1]}) == 6


def test_progress_is_passed_on():
    counts: list[int] = []
    evaluate([[1.0, 0.0]] * 3, progress=counts.append)
    assert sum(counts) == 3 * 2 * 4


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
    assert (narrow_high - narrow_low) == pytest.approx((high - low) / 3, rel=0.1)
    lower, higher = bootstrap_interval(values, level=0.99)
    assert lower < low < high < higher


def test_the_bootstrap_has_the_width_of_the_normal_interval():
    generator = random.Random(0)
    values = [generator.random() for _ in range(400)]
    error = statistics.pstdev(values) / 20
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(statistics.fmean(values) - 1.96 * error, abs=error * 0.15)
    assert high == pytest.approx(statistics.fmean(values) + 1.96 * error, abs=error * 0.15)


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says():
    """150 evaluations of 40 problems, each problem with a chance of its own, 4 samples each; the truth is 0.5."""
    generator = random.Random(1)
    covered = 0
    for _ in range(150):
        chances = [generator.random() for _ in range(40)]
        scores = [statistics.fmean(float(generator.random() < chance) for _ in range(4)) for chance in chances]
        low, high = bootstrap_interval(scores)
        covered += low <= 0.5 <= high
    assert 0.89 <= covered / 150 <= 0.99


def test_unanimous_problems_get_wilson_s_interval():
    assert mean_interval([1.0] * 10) == wilson_interval(10, 10)
    assert mean_interval([0.0] * 10) == wilson_interval(0, 10)
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
