from __future__ import annotations

import pytest
import torch

from credo.algo.baselines import (
    centre_as_released,
    centre_by_greedy,
    centre_by_group,
    centre_by_position,
    centre_by_totals,
    centre_leave_one_out,
    group_sizes,
    group_spread,
    group_sum,
    leave_one_out_mean,
    whiten_groups,
)

NAN = float("nan")
REWARDS = torch.tensor([[0.1, 0.3, NAN], [NAN, 0.5, NAN], [0.2, 0.0, -0.8]])
MASK = torch.tensor([[True, True, False], [False, True, False], [True, True, True]])
ONE_GROUP = torch.tensor([7, 7, 7])
"""Token means 0.2, 0.5, -0.2; totals 0.4, 0.5, -0.6."""


def test_the_mean_of_the_others_by_hand():
    expected = [[0.1 - 0.15, 0.3 - 0.15, 0.0], [0.0, 0.5, 0.0], [0.2 - 0.35, -0.35, -1.15]]
    torch.testing.assert_close(centre_leave_one_out(REWARDS, MASK, ONE_GROUP), torch.tensor(expected))


def test_the_released_baseline_by_hand():
    expected = [[0.15 - 0.25, 0.45 - 0.25, 0.0], [0.0, 0.75 - 0.25, 0.0], [0.3 - 0.25, -0.25, -1.2 - 0.25]]
    torch.testing.assert_close(centre_as_released(REWARDS, MASK, ONE_GROUP), torch.tensor(expected))


def test_totals_of_the_others_by_hand():
    expected = [[0.1 + 0.025, 0.3 + 0.025, 0.0], [0.0, 0.5 + 0.1, 0.0], [0.2 - 0.15, -0.15, -0.95]]
    torch.testing.assert_close(centre_by_totals(REWARDS, MASK, ONE_GROUP), torch.tensor(expected))


def test_the_spread_of_the_group_by_hand():
    mean, spread = 0.5 / 3, ((0.2 - 0.5 / 3) ** 2 + (0.5 - 0.5 / 3) ** 2 + (-0.2 - 0.5 / 3) ** 2) ** 0.5 / 2**0.5
    expected = torch.tensor([[0.1, 0.3, mean], [mean, 0.5, mean], [0.2, 0.0, -0.8]]) - mean
    torch.testing.assert_close(centre_by_group(REWARDS, MASK, ONE_GROUP, floor=1e-6), expected / spread)
    torch.testing.assert_close(centre_by_group(REWARDS, MASK, ONE_GROUP, floor=10.0), expected / 10.0)


def test_the_greedy_response_by_hand():
    expected = [[0.0, 0.2, 0.0], [0.0, 0.4, 0.0], [0.1, -0.1, -0.9]]
    torch.testing.assert_close(centre_by_greedy(REWARDS, MASK, torch.full((3,), 0.1)), torch.tensor(expected))


def test_the_same_fraction_of_the_others_by_hand():
    # Row 0 has 2 tokens, row 1 one, row 2 three: token 1 of row 0 stands where token 1 of row 2 does.
    expected = [
        [0.1 - (0.5 + 0.2) / 2, 0.3 - (0.5 + 0.0) / 2, 0.0],
        [0.0, 0.5 - (0.1 + 0.2) / 2, 0.0],
        [0.2 - (0.1 + 0.5) / 2, 0.0 - (0.1 + 0.5) / 2, -0.8 - (0.3 + 0.5) / 2],
    ]
    torch.testing.assert_close(centre_by_position(REWARDS, MASK, ONE_GROUP), torch.tensor(expected))


def test_an_empty_response_counts_zero_everywhere():
    mask = MASK.clone()
    mask[1] = False
    torch.testing.assert_close(centre_by_position(REWARDS, mask, ONE_GROUP)[0], torch.tensor([0.0, 0.3, 0.0]))
    for centre in (centre_leave_one_out, centre_as_released, centre_by_totals, centre_by_position):
        assert centre(REWARDS, mask, ONE_GROUP).isfinite().all()


def test_spread_over_n_minus_one():
    mean, spread = group_spread(torch.tensor([1.0, 5.0, 3.0, 2.0, 2.0]), torch.tensor([0, 1, 0, 1, 1]))
    assert mean.tolist() == [2.0, 3.0, 2.0, 3.0, 3.0]
    torch.testing.assert_close(spread, torch.tensor([2.0, 3.0, 2.0, 3.0, 3.0]).sqrt())


def test_groups_are_whitened_apart(random_rows):
    rows = random_rows()
    x = rows.log_ratios * (1 + rows.group_ids.abs())[:, None] + rows.group_ids[:, None]
    white = whiten_groups(x, rows.mask, rows.group_ids)
    for group in rows.group_ids.unique():
        tokens = white[rows.group_ids == group][rows.mask[rows.group_ids == group]]
        assert tokens.mean().abs() < 1e-5
        assert tokens.var() == pytest.approx(1.0, abs=1e-3)
    assert (white[~rows.mask] == 0).all()


def test_the_released_baseline_is_the_papers_plus_a_term_that_sums_to_zero(random_rows):
    rows = random_rows()
    arguments = (rows.log_ratios, rows.mask, rows.group_ids)
    extra = centre_as_released(*arguments) - centre_leave_one_out(*arguments)
    torch.testing.assert_close(extra.sum(dim=1), torch.zeros(len(extra)), rtol=0, atol=1e-5)
    assert extra.abs().max() > 0.1


def test_groups_by_hand():
    x, group_ids = torch.tensor([1.0, 10.0, 2.0, 30.0, 6.0]), torch.tensor([5, -1, 5, -1, 5])
    assert group_sum(x, group_ids).tolist() == [9.0, 40.0, 9.0, 40.0, 9.0]
    assert group_sizes(group_ids).tolist() == [3, 2, 3, 2, 3]
    assert leave_one_out_mean(x, group_ids).tolist() == [4.0, 30.0, 3.5, 10.0, 1.5]
