from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from credo.algo.masked import suffix_sum
from credo.algo.rewards import (
    informative_pair_accuracy,
    last_token,
    log_ratios_to_rewards,
    pair_accuracy,
    sequence_logits,
)

NAN = float("nan")
Q = torch.tensor([[NAN, 0.3, -0.1, 0.2], [NAN, -0.6, -0.2, NAN]])
MASK = torch.tensor([[False, True, True, True], [False, True, True, False]])


@pytest.mark.parametrize(
    ("semantics", "normalizer", "expected"),
    [
        ("official", None, [[0, 0.375, -0.125, 0.25], [0, -0.75, -0.25, 0]]),  # largest |suffix sum| 0.8
        ("official", "none", [[0, 0.3, -0.1, 0.2], [0, -0.6, -0.2, 0]]),
        ("verl", None, [[0, 0.5, -1 / 6, 0], [0, -1, 0, 0]]),  # 0.05 * 0.6, the last tokens left out
        ("verl", "none", [[0, 0.015, -0.005, 0], [0, -0.03, 0, 0]]),
        ("paper", None, [[0, 0.015, -0.005, 0.01], [0, -0.03, -0.01, 0]]),
        ("paper", "max_return", [[0, 0.375, -0.125, 0.25], [0, -0.75, -0.25, 0]]),
    ],
)
def test_scales_by_hand(semantics, normalizer, expected):
    rewards = log_ratios_to_rewards(Q, MASK, semantics=semantics, normalizer=normalizer)
    torch.testing.assert_close(rewards, torch.tensor(expected), rtol=5e-5, atol=1e-6)


@pytest.mark.parametrize(("semantics", "scale"), [("official", 1 / 0.8), ("verl", 1 / 0.8), ("paper", 0.05)])
def test_whole_granularity_puts_the_sum_on_the_last_token(semantics, scale):
    rewards = log_ratios_to_rewards(Q, MASK, semantics=semantics, granularity="whole")
    expected = torch.tensor([[0, 0, 0, 0.4], [0, 0, -0.8, 0]]) * scale
    torch.testing.assert_close(rewards, expected, rtol=5e-5, atol=1e-6)


@pytest.mark.parametrize("semantics", ["official", "verl"])
def test_noise_is_not_blown_up(semantics):
    noise = Q * 1e-7
    largest = suffix_sum(log_ratios_to_rewards(noise, MASK, semantics=semantics)).abs().max()
    assert largest < 1e-4
    unfloored = log_ratios_to_rewards(Q * 1e-3, MASK, semantics=semantics, normalizer_floor=0.0)
    assert suffix_sum(unfloored).abs().max() > 0.95


@pytest.mark.parametrize("semantics", ["official", "verl"])
def test_the_floor_is_in_units_of_q(semantics):
    q = torch.tensor([[0.004, 0.0]])
    rewards = log_ratios_to_rewards(q, q < 1, semantics=semantics, normalizer_floor=0.01)
    torch.testing.assert_close(rewards, torch.tensor([[0.4, 0.0]]), rtol=5e-3, atol=0)


def test_the_normalizer_sees_all_ranks(random_rows, on_ranks):
    rows = random_rows()
    halves = (slice(0, 5), slice(5, None))
    parts = on_ranks(
        lambda rank, reduce: log_ratios_to_rewards(
            rows.log_ratios[halves[rank]], rows.mask[halves[rank]], all_reduce=reduce
        )
    )
    torch.testing.assert_close(torch.cat(parts), log_ratios_to_rewards(rows.log_ratios, rows.mask))


def test_sequence_logits_by_hand():
    torch.testing.assert_close(sequence_logits(Q, MASK, 0.05), torch.tensor([0.02, -0.04]))


def test_last_token():
    mask = torch.tensor([[False, True, True, False], [True, False, True, True], [False, False, False, False]])
    expected = [[False, False, True, False], [False, False, False, True], [False, False, False, False]]
    assert last_token(mask).tolist() == expected


def slow_pair_accuracies(rows):
    """One accuracy for each group, None where there is nothing to rank."""
    scores = [q[m].sum().item() for q, m in zip(rows.log_ratios, rows.mask, strict=True)]
    accuracies = []
    for group in rows.group_ids.unique():
        members = (rows.group_ids == group).nonzero().flatten().tolist()
        right = total = 0.0
        for i, j in itertools.combinations(members, 2):
            gap = (rows.outcomes[i] - rows.outcomes[j]).item()
            total += abs(gap)
            right += abs(gap) * ((scores[i] > scores[j]) == (gap > 0))
        accuracies.append(right / total if total else None)
    return accuracies


@pytest.mark.parametrize("seed", range(4))
def test_pair_accuracies_against_a_loop(random_rows, seed):
    rows = random_rows(sizes=(2, 4, 3, 5, 2), seed=seed)
    rows = rows.replace(outcomes=torch.where(rows.group_ids == -3, 0.75, rows.outcomes))
    slow = slow_pair_accuracies(rows)
    assert slow[0] is None
    mean = sum(0.5 if accuracy is None else accuracy for accuracy in slow) / len(slow)
    informative = [accuracy for accuracy in slow if accuracy is not None]
    assert pair_accuracy(*rows.astuple()).item() == pytest.approx(mean, rel=1e-5)
    assert informative_pair_accuracy(*rows.astuple()).item() == pytest.approx(sum(informative) / len(informative))


def test_equal_scores_are_a_coin_toss():
    outcomes, group_ids = torch.tensor([1.0, 0.0, 0.0]), torch.zeros(3, dtype=torch.int64)
    mask = torch.ones(3, 2, dtype=torch.bool)
    assert pair_accuracy(torch.zeros(3, 2), outcomes, mask, group_ids).item() == 0.5
    assert pair_accuracy(torch.zeros(3, 2), outcomes.flip(0), mask, group_ids).item() == 0.5


def test_nothing_to_rank_is_chance():
    mask, ids = torch.ones(4, 2, dtype=torch.bool), torch.tensor([0, 0, 1, 1])
    outcomes = torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert informative_pair_accuracy(torch.randn(4, 2), outcomes, mask, ids).item() == 0.5


def test_pair_accuracy_over_two_ranks_of_unequal_share(random_rows, on_ranks):
    rows = random_rows(sizes=(2, 3, 4))
    alone = rows.group_ids == 4
    for measure in (pair_accuracy, informative_pair_accuracy):
        first, second = on_ranks(lambda rank, reduce, f=measure: f(*rows[alone if rank else ~alone].astuple(), reduce))
        assert first == second
        torch.testing.assert_close(first, measure(*rows.astuple()))


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize("option", ["semantics", "granularity", "normalizer"])
def test_an_unknown_option_is_refused_with_the_choices(option):
    choice = {"semantics": "verl", "granularity": "whole", "normalizer": "max_return"}[option]
    nonsense: dict[str, Any] = {option: "nonsense"}
    with pytest.raises(ValueError, match=rf"nonsense.*{choice}"):
        log_ratios_to_rewards(Q, MASK, **nonsense)
