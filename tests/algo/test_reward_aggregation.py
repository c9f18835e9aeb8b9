"""Rewards of steps and the scores made of them, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from credo.algo.reward_aggregation import Aggregation, Form, aggregated, rewards_at

TOKENS = torch.tensor([0.5, -1.0, 2.0, 0.25])
ENDS = torch.tensor([False, True, False, True])


@pytest.mark.parametrize(("form", "expected"), [("single", [-0.5, 2.25]), ("accumulated", [-0.5, 1.75])])
def test_rewards_of_steps(form: Form, expected: list[float]):
    assert rewards_at(TOKENS, ENDS, form=form).tolist() == pytest.approx(expected)
    every = torch.ones(4, dtype=torch.bool)
    whole = TOKENS if form == "single" else TOKENS.cumsum(0)
    torch.testing.assert_close(rewards_at(TOKENS, every, form=form), whole)


def test_tokens_behind_the_last_end_do_not_count():
    ends = torch.tensor([False, True, False, False])
    assert rewards_at(TOKENS, ends).tolist() == [-0.5]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("min", -0.5),
        ("sum", 1.75),
        ("mean", 0.875),
        ("last", 2.25),
        ("product", math.log(1 / (1 + math.exp(0.5))) + math.log(1 / (1 + math.exp(-2.25)))),
    ],
)
def test_scores_by_hand(how: Aggregation, expected: float):
    assert aggregated(rewards_at(TOKENS, ENDS), how).item() == pytest.approx(expected, abs=1e-6)


def test_the_last_accumulated_reward_is_the_sum_of_single_ones():
    accumulated = aggregated(rewards_at(TOKENS, ENDS, form="accumulated"), "last")
    torch.testing.assert_close(accumulated, aggregated(rewards_at(TOKENS, ENDS), "sum"))


def test_nothing_has_no_score():
    with pytest.raises(ValueError, match="no score"):
        aggregated(torch.zeros(0), "min")
