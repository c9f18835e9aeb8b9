from __future__ import annotations

from typing import Any

import pytest
import torch

from credo.algo.advantages import (
    centre_as_released,
    centre_leave_one_out,
    centre_process,
    group_sizes,
    group_sum,
    leave_one_out_mean,
    outcome_returns,
    prime_advantages,
    prime_returns,
)
from credo.algo.masked import masked_whiten

EVERY_SEMANTICS = pytest.mark.parametrize("semantics", ["official", "paper", "verl"])
OPTIONS = {"gamma_process": 0.95, "process_coef": 0.7, "outcome_coef": 1.3}


def slow_advantages(rows, semantics, gamma_process=1.0, process_coef=1.0, outcome_coef=1.0, beta=0.05):
    """The three semantics written as loops over rows and tokens, in Python floats."""
    responses = [q[m].tolist() for q, m in zip(rows.log_ratios, rows.mask, strict=True)]
    outcomes, ids = rows.outcomes.tolist(), rows.group_ids.tolist()
    if semantics == "verl":
        responses = [[*response[:-1], 0.0] for response in responses]
    if semantics == "paper":
        responses = [[beta * q for q in response] for response in responses]
    else:
        suffixes = [abs(sum(response[t:])) for response in responses for t in range(len(response))]
        responses = [[q / (max(suffixes) + 1e-6) for q in response] for response in responses]
    advantages = []
    for i, response in enumerate(responses):
        group = [j for j in range(len(ids)) if ids[j] == ids[i]]
        others = [j for j in group if j != i]
        means = {j: sum(responses[j]) / len(responses[j]) for j in group}
        if semantics == "paper":
            centred = [r - sum(means[j] for j in others) / len(others) for r in response]
        else:
            n = len(group)
            centred = [n / (n - 1) * r - sum(means.values()) / (n - 1) for r in response]
        outcome = outcomes[i] - sum(outcomes[j] for j in others) / len(others)
        returns = [
            process_coef * sum(gamma_process ** (u - t) * centred[u] for u in range(t, len(centred)))
            + outcome_coef * outcome
            for t in range(len(centred))
        ]
        advantages.append(returns)
    flat = [value for row in advantages for value in row]
    if semantics != "paper":
        mean = sum(flat) / len(flat)
        variance = sum((value - mean) ** 2 for value in flat) / (len(flat) - 1)
        flat = [(value - mean) / (variance + 1e-8) ** 0.5 for value in flat]
    result = torch.zeros(rows.mask.shape, dtype=torch.float64)
    result[rows.mask] = torch.tensor(flat, dtype=torch.float64)
    return result


@EVERY_SEMANTICS
@pytest.mark.parametrize("seed", range(3))
def test_any_order_and_group_size_against_loops(random_rows, semantics, seed):
    rows = random_rows(seed=seed, dtype=torch.float64)
    for options in ({}, OPTIONS):
        actual = prime_advantages(*rows.astuple(), semantics=semantics, **options)
        expected = slow_advantages(rows, semantics, **options)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
        assert (actual[~rows.mask] == 0).all()


@EVERY_SEMANTICS
def test_padding_on_either_side_does_not_matter(random_rows, semantics):
    rows = random_rows()
    wide = rows.replace(
        log_ratios=torch.nn.functional.pad(rows.log_ratios, (2, 3), value=float("inf")),
        mask=torch.nn.functional.pad(rows.mask, (2, 3)),
    )
    narrow = prime_advantages(*rows.astuple(), semantics=semantics, gamma_process=0.9)
    padded = prime_advantages(*wide.astuple(), semantics=semantics, gamma_process=0.9)
    torch.testing.assert_close(padded[:, 2:-3], narrow)
    assert (padded[:, :2] == 0).all()
    assert (padded[:, -3:] == 0).all()


@EVERY_SEMANTICS
@pytest.mark.parametrize("garbage", [0.0, 9.0, float("inf"), float("nan")])
def test_what_lies_off_the_mask_does_not_matter(random_rows, semantics, garbage):
    rows = random_rows()
    dirty = rows.replace(log_ratios=rows.log_ratios.masked_fill(~rows.mask, garbage))
    before = dirty.log_ratios.clone()
    clean = rows.replace(log_ratios=rows.log_ratios.nan_to_num(-3.0))
    torch.testing.assert_close(
        prime_advantages(*dirty.astuple(), semantics=semantics), prime_advantages(*clean.astuple(), semantics=semantics)
    )
    torch.testing.assert_close(dirty.log_ratios, before, equal_nan=True, rtol=0, atol=0)


@EVERY_SEMANTICS
def test_the_order_of_rows_and_the_names_of_groups_do_not_matter(random_rows, semantics):
    rows = random_rows()
    order = torch.randperm(len(rows.mask), generator=torch.Generator().manual_seed(3))
    shuffled = rows[order]
    shuffled = shuffled.replace(group_ids=100 - shuffled.group_ids)
    torch.testing.assert_close(
        prime_advantages(*shuffled.astuple(), semantics=semantics),
        prime_advantages(*rows.astuple(), semantics=semantics)[order],
    )


@EVERY_SEMANTICS
def test_a_constant_added_to_the_outcomes_of_a_prompt_does_not_matter(random_rows, semantics):
    rows = random_rows()
    shifted = rows.replace(outcomes=rows.outcomes + 0.1 * rows.group_ids)
    torch.testing.assert_close(
        prime_advantages(*shifted.astuple(), semantics=semantics),
        prime_advantages(*rows.astuple(), semantics=semantics),
        rtol=1e-4,
        atol=1e-5,
    )


@EVERY_SEMANTICS
def test_without_a_process_signal_it_is_outcome_rloo(random_rows, semantics):
    rows = random_rows()
    by_hand = (rows.outcomes - leave_one_out_mean(rows.outcomes, rows.group_ids))[:, None] * rows.mask
    expected = by_hand if semantics == "paper" else masked_whiten(by_hand, rows.mask)
    silent = rows.replace(log_ratios=torch.zeros_like(rows.log_ratios))
    absent = (None, rows.outcomes, rows.mask, rows.group_ids)
    torch.testing.assert_close(prime_advantages(*silent.astuple(), semantics=semantics), expected)
    torch.testing.assert_close(prime_advantages(*absent, semantics=semantics), expected)
    torch.testing.assert_close(prime_advantages(*rows.astuple(), semantics=semantics, process_coef=0.0), expected)


@pytest.mark.parametrize("semantics", ["official", "verl"])
def test_the_scale_of_the_log_ratios_cancels_in_the_released_codes(random_rows, semantics):
    rows = random_rows()
    scaled = rows.replace(log_ratios=7 * rows.log_ratios)
    torch.testing.assert_close(
        prime_advantages(*scaled.astuple(), semantics=semantics),
        prime_advantages(*rows.astuple(), semantics=semantics),
        rtol=1e-4,
        atol=1e-4,
    )


def test_beta_counts_in_the_paper_and_not_in_official(random_rows):
    rows = random_rows().astuple()
    torch.testing.assert_close(prime_advantages(*rows, beta=0.5), prime_advantages(*rows), rtol=0, atol=0)
    small, large = (prime_returns(*rows, semantics="paper", beta=beta).process for beta in (0.05, 0.5))
    torch.testing.assert_close(large, 10 * small)


def test_a_common_factor_of_the_coefficients_is_whitened_away(random_rows):
    rows = random_rows().astuple()
    fives = prime_advantages(*rows, semantics="verl", process_coef=5.0, outcome_coef=5.0)
    torch.testing.assert_close(fives, prime_advantages(*rows, semantics="verl"), rtol=1e-4, atol=1e-5)


def test_the_released_baseline_is_the_papers_plus_a_term_that_sums_to_zero(random_rows):
    rows = random_rows()
    arguments = (rows.log_ratios, rows.mask, rows.group_ids)
    extra = centre_as_released(*arguments) - centre_leave_one_out(*arguments)
    torch.testing.assert_close(extra.sum(dim=1), torch.zeros(len(extra)), rtol=0, atol=1e-5)
    assert extra.abs().max() > 0.1


@pytest.mark.parametrize("semantics", ["official", "verl"])
def test_advantages_are_white(random_rows, semantics):
    rows = random_rows()
    advantages = prime_advantages(*rows.astuple(), semantics=semantics)[rows.mask]
    assert advantages.mean().abs() < 1e-6
    assert advantages.var() == pytest.approx(1.0, abs=1e-5)


def test_returns_by_hand():
    # Two responses of one prompt; official without its norm: r * 2 - (0.2 + 0.5), outcome 1 - 0 and 0 - 1.
    log_ratios = torch.tensor([[0.1, 0.3], [0.5, float("nan")]])
    mask = torch.tensor([[True, True], [True, False]])
    outcomes, group_ids = torch.tensor([1.0, 0.0]), torch.tensor([4, 4])
    returns = prime_returns(log_ratios, outcomes, mask, group_ids, normalizer="none", gamma_process=0.5)
    torch.testing.assert_close(returns.process, torch.tensor([[-0.5 - 0.05, -0.1], [0.3, 0.0]]))
    torch.testing.assert_close(returns.outcome, torch.tensor([[1.0, 1.0], [-1.0, 0.0]]))
    torch.testing.assert_close(returns.total, returns.process + returns.outcome)


def test_returns_carry_their_coefficients(random_rows):
    rows = random_rows().astuple()
    plain, weighted = prime_returns(*rows), prime_returns(*rows, process_coef=2.0, outcome_coef=3.0)
    torch.testing.assert_close(weighted.process, 2 * plain.process)
    torch.testing.assert_close(weighted.outcome, 3 * plain.outcome)


def test_the_outcome_is_discounted_from_the_last_token():
    mask = torch.tensor([[False, True, True, True, False]])
    returns = outcome_returns(torch.tensor([2.0]), mask, gamma=0.5)
    assert returns.tolist() == [[0.0, 0.5, 1.0, 2.0, 0.0]]


def test_the_paper_does_not_discount_outcomes(random_rows):
    with pytest.raises(ValueError, match="gamma_outcome"):
        prime_advantages(*random_rows().astuple(), semantics="paper", gamma_outcome=0.9)


def test_whole_granularity_credits_the_response_as_one(random_rows):
    rows = random_rows()
    returns = prime_returns(*rows.astuple(), semantics="paper", granularity="whole").process
    sums = torch.where(rows.mask, rows.log_ratios, 0.0).sum(dim=1) * 0.05
    baseline = leave_one_out_mean(sums / rows.mask.sum(dim=1), rows.group_ids)
    remaining = rows.mask.flip(1).cumsum(dim=1).flip(1)
    expected = (sums[:, None] - remaining * baseline[:, None]) * rows.mask
    torch.testing.assert_close(returns, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"granularity": "whole"},
        {"normalizer": "none"},
        {"normalizer_floor": 50.0},
        {"gamma_process": 0.5},
        {"gamma_outcome": 0.5},
        {"process_coef": 2.0},
        {"outcome_coef": 2.0},
        {"semantics": "verl"},
        {"semantics": "verl", "normalizer": "none", "beta": 0.5},
    ],
)
def test_every_option_reaches_the_advantages(random_rows, options):
    rows = random_rows().astuple()
    advantages = prime_advantages(*rows, **options)
    torch.testing.assert_close(advantages, masked_whiten(prime_returns(*rows, **options).total, rows[2]))
    assert not torch.allclose(advantages, prime_advantages(*rows), atol=1e-3)


@EVERY_SEMANTICS
def test_a_response_without_tokens_is_silent_but_its_outcome_counts(random_rows, semantics):
    rows = random_rows()
    mask = rows.mask.clone()
    mask[0] = False
    lucky, unlucky = (
        prime_returns(
            *rows.replace(mask=mask, outcomes=torch.cat([torch.tensor([first]), rows.outcomes[1:]])).astuple(),
            semantics=semantics,
        )
        for first in (1.0, 0.0)
    )
    assert (lucky.total[0] == 0).all()
    assert lucky.total.isfinite().all()
    assert prime_advantages(*rows.replace(mask=mask).astuple(), semantics=semantics).isfinite().all()
    mates = (rows.group_ids == rows.group_ids[0]) & (torch.arange(len(mask)) > 0)
    others = mates.sum()
    expected = -(mask & mates[:, None]).float() / others
    torch.testing.assert_close(lucky.outcome - unlucky.outcome, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(lucky.process, unlucky.process)


@EVERY_SEMANTICS
def test_nobody_answered(random_rows, semantics):
    rows = random_rows()
    rows = rows.replace(mask=torch.zeros_like(rows.mask))
    assert (prime_advantages(*rows.astuple(), semantics=semantics) == 0).all()


@EVERY_SEMANTICS
def test_two_ranks_agree_with_one(random_rows, on_ranks, semantics):
    rows = random_rows(sizes=(2, 5, 3, 4))
    second = rows.group_ids > 0
    shares = (rows[~second], rows[second])
    parts = on_ranks(
        lambda rank, reduce: prime_advantages(*shares[rank].astuple(), semantics=semantics, all_reduce=reduce)
    )
    expected = prime_advantages(*rows.astuple(), semantics=semantics)
    torch.testing.assert_close(parts[0], expected[~second])
    torch.testing.assert_close(parts[1], expected[second])
    alone = prime_advantages(*shares[0].astuple(), semantics=semantics)
    assert torch.allclose(alone, expected[~second], rtol=1e-3) == (semantics == "paper")


def test_groups_by_hand():
    x, group_ids = torch.tensor([1.0, 10.0, 2.0, 30.0, 6.0]), torch.tensor([5, -1, 5, -1, 5])
    assert group_sum(x, group_ids).tolist() == [9.0, 40.0, 9.0, 40.0, 9.0]
    assert group_sizes(group_ids).tolist() == [3, 2, 3, 2, 3]
    assert leave_one_out_mean(x, group_ids).tolist() == [4.0, 30.0, 3.5, 10.0, 1.5]


@EVERY_SEMANTICS
@pytest.mark.parametrize("with_process", [True, False])
def test_a_lonely_rollout_is_refused(random_rows, semantics, with_process):
    rows = random_rows(sizes=(3, 1, 2))
    log_ratios = rows.log_ratios if with_process else None
    with pytest.raises(ValueError, match=r"rollout\.per_prompt"):
        prime_advantages(log_ratios, rows.outcomes, rows.mask, rows.group_ids, semantics=semantics)


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize("with_process", [True, False])
@pytest.mark.parametrize(("option", "choices"), [("semantics", "official, paper or verl"), ("estimator", "rloo")])
def test_an_unknown_option_is_refused_with_the_choices(random_rows, option, choices, with_process):
    rows = random_rows()
    log_ratios = rows.log_ratios if with_process else None
    nonsense: dict[str, Any] = {option: "nonsense"}
    with pytest.raises(ValueError, match=rf"nonsense.*{choices}"):
        prime_advantages(log_ratios, rows.outcomes, rows.mask, rows.group_ids, **nonsense)


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize("option", ["semantics", "estimator"])
def test_the_process_baseline_refuses_them_too(random_rows, option):
    rows = random_rows()
    nonsense: dict[str, Any] = {option: "nonsense"}
    with pytest.raises(ValueError, match=r"nonsense.*rloo.*verl"):
        centre_process(rows.log_ratios, rows.mask, rows.group_ids, **nonsense)


def test_advantages_are_fp32_without_a_gradient(random_rows):
    rows = random_rows()
    half = rows.replace(log_ratios=rows.log_ratios.bfloat16().requires_grad_())
    advantages = prime_advantages(*half.astuple())
    assert advantages.dtype == torch.float32
    assert not advantages.requires_grad
