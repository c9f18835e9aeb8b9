"""Choices among n responses, against the brute force over all sets of k."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import combinations

import pytest

from credo.measures import voting
from credo.measures.voting import Ties, best_of_k, majority_at_k, pass_at_k


def test_by_hand():
    assert pass_at_k(1, 4, 1) == 0.25
    assert pass_at_k(1, 4, 2) == 0.5, "3 of 6 pairs hold the correct one"
    assert pass_at_k(3, 4, 2) == 1.0
    # The best of two: scores 3 > 2 > 1, the middle one is correct: of (3,2), (3,1), (2,1) only the last chooses it.
    assert best_of_k([3.0, 1.0, 2.0], [0, 0, 1], 2) == pytest.approx(1 / 3)
    # a twice, b once: (a,a) and half of each (a,b).
    assert majority_at_k(["a", "b", "a"], [1, 0, 1], 2) == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert majority_at_k(["a", "b", "a"], [1, 0, 1], 3) == 1.0


@pytest.mark.parametrize("correct", range(7))
def test_pass_at_k_is_the_share_of_sets_with_a_correct_one(correct: int):
    verdicts = [True] * correct + [False] * (6 - correct)
    for k in range(1, 7):
        sets = list(combinations(verdicts, k))
        assert pass_at_k(correct, 6, k) == pytest.approx(sum(map(any, sets)) / len(sets), abs=1e-12)


def brute_best(scores: list[float], correct: list[int], k: int, ties: Ties) -> float:
    worth = []
    for chosen in combinations(range(len(scores)), k):
        top = max(scores[i] for i in chosen)
        tied = [correct[i] for i in chosen if scores[i] == top]
        worth.append(tied[0] if ties == "first" else sum(tied) / len(tied))
    return sum(worth) / len(worth)


def brute_majority(answers: list[str | None], correct: list[int], k: int, ties: Ties) -> float:
    worth = []
    for chosen in combinations(range(len(answers)), k):
        votes = Counter(answers[i] for i in chosen if answers[i] is not None)
        tied = [answer for answer in votes if votes[answer] == max(votes.values())]
        values = [correct[answers.index(answer)] for answer in (tied[:1] if ties == "first" else tied)]
        worth.append(sum(values) / len(values) if values else 0)
    return sum(worth) / len(worth)


@pytest.mark.parametrize("ties", ["share", "first"])
@pytest.mark.parametrize("seed", range(5))
def test_against_all_sets(seed: int, ties: Ties):
    draw = random.Random(seed)
    scores = [float(draw.randrange(4)) for _ in range(7)]
    correct = [draw.randrange(2) for _ in range(7)]
    answers = [draw.choice(["a", "b", "c", None]) for _ in range(7)]
    is_right = {"a": 1, "b": 0, "c": 0, None: 0}
    of_answer = [is_right[answer] for answer in answers]
    for k in range(1, 8):
        assert best_of_k(scores, correct, k, ties=ties) == pytest.approx(brute_best(scores, correct, k, ties))
        expected = brute_majority(answers, of_answer, k, ties)
        assert majority_at_k(answers, of_answer, k, ties=ties) == pytest.approx(expected)


def test_one_response_is_the_mean_and_all_are_the_plain_choice():
    scores, correct = [0.3, -1.0, 2.0, 0.1], [1, 1, 0, 1]
    assert best_of_k(scores, correct, 1) == pytest.approx(0.75)
    assert best_of_k(scores, correct, 4) == 0.0
    assert majority_at_k(list("abca"), [1, 0, 0, 1], 1) == pytest.approx(0.5)


def test_the_order_of_responses_matters_to_the_first_alone():
    scores, correct = [1.0, 1.0, 0.0], [1, 0, 0]
    for k in (1, 2, 3):
        assert best_of_k(scores, correct, k) == best_of_k(scores[::-1], correct[::-1], k)
    assert best_of_k(scores, correct, 3, ties="first") == 1.0
    assert best_of_k([1.0, 1.0, 0.0], [0, 1, 0], 3, ties="first") == 0.0


def test_weights_outvote_numbers_and_equal_weights_are_votes():
    answers, correct = ["a", "a", "b"], [0, 0, 1]
    assert majority_at_k(answers, correct, 3) == 0.0
    assert majority_at_k(answers, correct, 3, weights=[0.2, 0.2, 0.5]) == 1.0
    assert majority_at_k(answers, correct, 3, weights=[0.2, 0.3, 0.5]) == 0.5, "0.2 + 0.3 is 0.5"
    for k in (1, 2, 3):
        assert majority_at_k(answers, correct, k, weights=[0.1] * 3) == majority_at_k(answers, correct, k)
    assert majority_at_k(answers, correct, 3, weights=[0.0] * 3) == 0.5, "nobody is ahead"


def test_no_answer_does_not_vote():
    assert majority_at_k([None, None, "a"], [0, 0, 1], 3) == 1.0
    assert majority_at_k([None, None, "a"], [0, 0, 1], 2) == pytest.approx(2 / 3)
    assert majority_at_k([None, None], [0, 0], 1) == 0.0


def test_too_many_sets_are_sampled_near_the_truth_and_the_same_each_time(monkeypatch: pytest.MonkeyPatch):
    answers, correct = list("aaaaabbbbbcc"), [1] * 5 + [0] * 7
    exact = majority_at_k(answers, correct, 5)
    monkeypatch.setattr(voting, "MOST_SETS", 700)
    sampled = majority_at_k(answers, correct, 5)
    assert sampled == majority_at_k(answers, correct, 5)
    assert 0 < abs(sampled - exact) < 4 * math.sqrt(0.25 / 700)


def test_what_cannot_be_chosen_is_refused():
    for k in (0, 4):
        with pytest.raises(ValueError, match=f"{k} of 3"):
            best_of_k([1.0, 2.0, 3.0], [1, 0, 0], k)
    with pytest.raises(ValueError, match="cannot be correct"):
        pass_at_k(5, 4, 1)
    with pytest.raises(ValueError, match="not a number"):
        best_of_k([1.0, math.nan], [1, 0], 1)
    for weight in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="weights"):
            majority_at_k(["a", "b"], [1, 0], 1, weights=[1.0, weight])
