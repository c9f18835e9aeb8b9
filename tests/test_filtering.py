"""The filter: the accuracy band by hand, unanimous and truncated groups, and length matching against brute force."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from credo.config import FilterConfig
from credo.data.memory import chance_in_band
from credo.filtering import length_matched, sift, why_dropped, without_truncated
from credo.types import Group, Problem, Rollout, Verdict


def group(*scores: float, truncated: int = 0, lengths: Sequence[int] = ()) -> Group:
    """A response for each score; the first ``truncated`` ran into the limit. Response ``k`` has the text ``k``."""
    ends: list[Any] = ["length"] * truncated + ["stop"] * (len(scores) - truncated)
    return Group(
        problem=Problem(id="p", kind="exact", prompt="", answer="", source="made"),
        rollouts=tuple(
            Rollout(prompt_ids=(1,), response_ids=(5,) * length, logprobs=(-0.5,) * length, finish=end)
            for length, end in zip(lengths or [1] * len(scores), ends, strict=True)
        ),
        responses=tuple(str(index) for index in range(len(scores))),
        verdicts=tuple(Verdict(score=float(score)) for score in scores),
    )


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ((0, 0, 0, 0), "too_hard"),
        ((1, 0, 0, 0), None),
        ((1, 1, 1, 0), None),
        ((1, 1, 1, 1), "too_easy"),
        ((0.5, 0.5, 0, 0), None),
        ((0.5, 0.25, 0, 0), "too_hard"),
        ((1, 0.75, 1, 0.5), "too_easy"),
    ],
)
def test_a_quarter_to_three_quarters_of_four_is_inclusive(scores: tuple[float, ...], reason: str | None):
    assert why_dropped(group(*scores), FilterConfig(accuracy_low=0.25, accuracy_high=0.75)) == reason


@pytest.mark.parametrize(("right", "reason"), [(0, "too_hard"), (1, None), (4, None), (5, "too_easy")])
def test_a_fifth_to_four_fifths_of_five_is_inclusive(right: int, reason: str | None):
    scores = [1.0] * right + [0.0] * (5 - right)
    assert why_dropped(group(*scores), FilterConfig(accuracy_low=0.2, accuracy_high=0.8)) == reason


def test_the_band_is_inclusive_although_sums_are_rounded():
    config = FilterConfig(accuracy_low=1 / 3, accuracy_high=2 / 3)
    assert [why_dropped(group(*([1.0] * n + [0.0] * (3 - n))), config) for n in range(4)] == [
        "too_hard",
        None,
        None,
        "too_easy",
    ]
    assert sum([0.7] * 3) / 3 < 0.7
    assert why_dropped(group(*[0.7] * 3), FilterConfig(accuracy_low=0.7, accuracy_high=0.8)) is None
    assert sum([0.1] * 3) / 3 > 0.1
    assert why_dropped(group(*[0.1] * 3), FilterConfig(accuracy_low=0.0, accuracy_high=0.1)) is None


@pytest.mark.parametrize("drop_unanimous", [False, True])
@pytest.mark.parametrize(
    ("low", "high"), [(1 / 3, 2 / 3), (0.33333334, 0.66666666), (0.2, 0.8), (0.0, 1.0), (0.7, 0.7)]
)
@pytest.mark.parametrize("k", [2, 3, 5, 10])
def test_the_memory_foresees_this_filter(k: int, low: float, high: float, drop_unanimous: bool):
    """Of a problem never seen it expects each count of correct responses alike."""
    config = FilterConfig(accuracy_low=low, accuracy_high=high, drop_unanimous=drop_unanimous)
    passing = [why_dropped(group(*[1] * right, *[0] * (k - right)), config) for right in range(k + 1)].count(None)
    foreseen = chance_in_band(0.0, 0.0, per_prompt=k, low=low, high=high, drop_unanimous=drop_unanimous)
    assert foreseen == pytest.approx(passing / (k + 1))


def test_truncated_groups_are_dropped_on_request_only():
    assert why_dropped(group(1, 0, truncated=1), FilterConfig(truncated="drop_group")) == "truncated"
    assert why_dropped(group(1, 0, truncated=1), FilterConfig()) is None
    assert why_dropped(group(1, 0), FilterConfig(truncated="drop_group")) is None


def test_one_judged_response_has_nothing_to_be_compared_with():
    wide = FilterConfig(accuracy_low=0.0, accuracy_high=1.0, truncated="drop_group")
    assert why_dropped(group(), wide) == "unjudged"
    assert why_dropped(group(1.0, truncated=1), wide) == "unjudged"
    assert why_dropped(group(1.0, 1.0), wide) is None


def test_how_many_responses_must_be_judged_is_the_baselines_choice():
    wide = FilterConfig(accuracy_low=0.0, accuracy_high=1.0)
    assert why_dropped(group(1.0), wide, least_judged=1) is None
    assert why_dropped(group(), wide, least_judged=1) == "unjudged"
    assert why_dropped(group(1.0, 0.0), wide, least_judged=3) == "unjudged"
    assert sift(group(1.0), wide, least_judged=1)[1] is None
    assert sift(group(1.0), wide, least_judged=2)[1] == "unjudged"


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ((0.5, 0.5, 0.5), "unanimous"),
        ((0.5, 0.5, 0.25), None),
        ((1, 0, 0), None),
        ((1, 1, 1), "too_easy"),
        ((0, 0, 0), "too_hard"),
    ],
)
def test_unanimous_groups_are_dropped_on_request_only(scores: tuple[float, ...], reason: str | None):
    assert why_dropped(group(*scores), FilterConfig(drop_unanimous=True)) == reason
    assert why_dropped(group(*scores), FilterConfig()) == (None if reason == "unanimous" else reason)
    wide = FilterConfig(accuracy_low=0.0, accuracy_high=1.0, drop_unanimous=True)
    assert why_dropped(group(*scores), wide) == (None if reason is None else "unanimous")


def test_truncated_responses_leave_the_group_on_request():
    cut = group(1, 0, 0, 1, truncated=2)
    left = without_truncated(cut)
    assert (left.responses, left.rollouts, left.verdicts) == (("2", "3"), cut.rollouts[2:], cut.verdicts[2:])
    assert sift(cut, FilterConfig(truncated="drop_response"), least_judged=2) == (left, None)
    assert sift(cut, FilterConfig(truncated="keep"), least_judged=2) == (cut, None)
    assert sift(cut, FilterConfig(truncated="drop_group"), least_judged=2) == (cut, "truncated")


@pytest.mark.parametrize(
    ("scores", "reason"), [((1, 0, 1, 1), "too_easy"), ((1, 1, 0, 0), "too_hard"), ((1, 1, 1, 0), None)]
)
def test_accuracy_is_that_of_the_responses_left(scores: tuple[float, ...], reason: str | None):
    assert group(*scores).accuracy in (0.5, 0.75)
    cut = group(*scores, truncated=2)
    assert sift(cut, FilterConfig(truncated="drop_response"), least_judged=2)[1] == reason
    assert sift(cut, FilterConfig(truncated="drop_response"), least_judged=3)[1] == "unjudged"


def test_pairs_by_hand():
    """Right 10, 20, 30 and wrong 9, 24, 33: 9 and 10 fit, 20 and 24 do not, 30 and 33 fit."""
    made = group(1, 0, 1, 0, 1, 0, lengths=(20, 33, 10, 24, 30, 9))
    matched = length_matched(made)
    assert matched is not None
    assert matched.responses == ("1", "2", "4", "5"), "in their old order"
    assert [len(rollout.response_ids) for rollout in matched.rollouts] == [33, 10, 30, 9]
    assert [verdict.score for verdict in matched.verdicts] == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("lengths", "fit"),
    [((10, 9), True), ((9, 10), True), ((100, 90), True), ((100, 89), False), ((11, 10), True), ((9, 8), False)],
)
def test_a_tenth_of_the_longer_is_allowed(lengths: tuple[int, int], fit: bool):
    assert (length_matched(group(1, 0, lengths=lengths)) is not None) == fit


def test_a_response_is_correct_above_one_half():
    assert length_matched(group(0.5, 0.0)) is None
    assert length_matched(group(0.6, 0.5)) == group(0.6, 0.5)
    assert length_matched(group(1, 1)) is None


def most_pairs(correct: Sequence[int], wrong: Sequence[int]) -> int:
    """By trying everything: the first correct one with each wrong one that fits, or with none."""
    if not correct:
        return 0
    first, rest = correct[0], correct[1:]
    best = most_pairs(rest, wrong)
    for index, other in enumerate(wrong):
        if abs(first - other) <= max(first, other) / 10 + 1e-9:
            best = max(best, 1 + most_pairs(rest, [*wrong[:index], *wrong[index + 1 :]]))
    return best


def test_no_other_matching_has_more_pairs():
    draw = random.Random(0)
    found = set()
    for _ in range(400):
        size = draw.randint(2, 9)
        lengths = [draw.randint(8, 24) for _ in range(size)]
        scores = [float(draw.random() < 0.5) for _ in range(size)]
        matched = length_matched(group(*scores, lengths=lengths))
        kept = [] if matched is None else [int(text) for text in matched.responses]
        of_score = [[lengths[index] for index in range(size) if scores[index] == score] for score in (1, 0)]
        pairs = most_pairs(*of_score)
        right = sorted(lengths[index] for index in kept if scores[index] == 1)
        wrong = sorted(lengths[index] for index in kept if scores[index] == 0)
        assert len(right) == len(wrong) == pairs
        assert all(10 * abs(a - b) <= max(a, b) for a, b in zip(right, wrong, strict=True))
        found.add(pairs)
    assert found >= {0, 1, 2, 3, 4}


def test_the_order_of_responses_does_not_matter_to_matching():
    draw = random.Random(1)
    pairs = []
    for _ in range(50):
        lengths = draw.sample(range(20, 60), 8)
        scores = [float(index % 2) for index in range(8)]
        order = draw.sample(range(8), 8)
        matched = length_matched(group(*scores, lengths=lengths))
        turned = length_matched(group(*[scores[i] for i in order], lengths=[lengths[i] for i in order]))
        kept = [] if matched is None else [int(text) for text in matched.responses]
        same = [] if turned is None else [order[int(text)] for text in turned.responses]
        assert sorted(same) == kept
        pairs.append(len(kept) // 2)
    assert len(set(pairs)) > 2


def test_matching_comes_after_the_rest_of_the_filter():
    config = FilterConfig(length_matched=True)
    unlike, alike = group(1, 0, 0, lengths=(10, 20, 30)), group(1, 0, 0, lengths=(10, 20, 11))
    assert sift(unlike, config, least_judged=2) == (unlike, "unmatched")
    assert sift(alike, config, least_judged=2) == (length_matched(alike), None)
    assert sift(alike, FilterConfig(), least_judged=2) == (alike, None)
    assert sift(group(0, 0), config, least_judged=2)[1] == "too_hard"
    cut = replace(config, truncated="drop_response")
    assert sift(group(1, 0, 0, truncated=1, lengths=(10, 10, 10)), cut, least_judged=2)[1] == "too_hard"
