from __future__ import annotations

import pytest
import torch

from credo.algo.masked import masked_mean, masked_sum, masked_whiten, row_mean, row_sum, suffix_sum, zero_off

NAN, INF = float("nan"), float("inf")
X = torch.tensor([[1.0, 2.0, NAN], [INF, 6.0, -INF], [NAN, NAN, NAN]])
MASK = torch.tensor([[True, True, False], [False, True, False], [False, False, False]])


def test_sums_and_means_by_hand():
    assert masked_sum(X, MASK).item() == 9.0
    assert masked_mean(X, MASK).item() == 3.0
    assert row_sum(X, MASK).tolist() == [3.0, 6.0, 0.0]
    assert row_mean(X, MASK).tolist() == [1.5, 6.0, 0.0]


def test_whiten_by_hand():
    # mean 3, squared deviations 4 + 1 + 9 over N - 1 = 2
    expected = torch.tensor([[-2.0, -1.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.0]]) / 7.0**0.5
    torch.testing.assert_close(masked_whiten(X, MASK), expected)


def test_whitened_tokens_have_mean_zero_and_unbiased_variance_one(random_rows):
    rows = random_rows()
    whitened = masked_whiten(rows.log_ratios * 3 + 5, rows.mask)
    assert whitened[rows.mask].mean().abs() < 1e-6
    assert whitened[rows.mask].var() == pytest.approx(1.0, abs=1e-5)
    assert (whitened[~rows.mask] == 0).all()


def test_whiten_adds_eps_under_the_root():
    x = torch.tensor([[1e-4, -1e-4]])
    torch.testing.assert_close(masked_whiten(x, x < 1), x / (3e-8) ** 0.5)


@pytest.mark.parametrize("count", [0, 1])
def test_no_token_or_a_single_one_is_whitened_to_zero(count):
    mask = torch.zeros(2, 3, dtype=torch.bool)
    mask.view(-1)[:count] = True
    assert (masked_whiten(torch.full((2, 3), 4.0), mask) == 0).all()
    assert masked_mean(torch.full((2, 3), 4.0), mask).item() == 4.0 * count


def test_garbage_off_the_mask_reaches_no_gradient():
    x = X.clone().requires_grad_()
    masked_whiten(x, MASK).square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad[~MASK] == 0).all()


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.0])
def test_suffix_sum_against_a_loop(gamma):
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    expected = torch.tensor(
        [[sum(gamma ** (t - s) * row[t] for t in range(s, 5)) for s in range(5)] for row in x.tolist()]
    )
    torch.testing.assert_close(suffix_sum(x, gamma), expected)


def test_results_are_new_and_in_full_precision():
    x, before = X.bfloat16(), X.bfloat16()
    for result in (zero_off(x, MASK), masked_whiten(x, MASK), suffix_sum(zero_off(x, MASK).bfloat16(), 0.5)):
        assert result.dtype == torch.float32
    assert masked_whiten(X.double(), MASK).dtype == torch.float64
    torch.testing.assert_close(x, before, equal_nan=True, rtol=0, atol=0)


def test_two_ranks_whiten_as_one(random_rows, on_ranks):
    rows = random_rows()
    halves = (slice(0, 5), slice(5, None))
    parts = on_ranks(lambda rank, reduce: masked_whiten(rows.log_ratios[halves[rank]], rows.mask[halves[rank]], reduce))
    torch.testing.assert_close(torch.cat(parts), masked_whiten(rows.log_ratios, rows.mask))
    means = on_ranks(lambda rank, reduce: masked_mean(rows.log_ratios[halves[rank]], rows.mask[halves[rank]], reduce))
    assert means[0] == means[1]
    torch.testing.assert_close(means[0], masked_mean(rows.log_ratios, rows.mask))
