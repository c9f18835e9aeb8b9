from __future__ import annotations

import math

import pytest
import torch

from credo.algo.prm_losses import dead_gradient_share, prm_cross_entropy


def rows_with_sums(*sums):
    """One response of two tokens each, whose log-ratios add up to the given sums; the padding is NaN."""
    log_ratios = torch.tensor([[0.25 * total, 0.75 * total, float("nan")] for total in sums])
    return log_ratios, ~log_ratios.isnan()


def test_cross_entropy_by_hand():
    log_ratios, mask = rows_with_sums(20.0, -40.0, 0.0)  # logits 1, -2, 0
    loss = prm_cross_entropy(log_ratios, torch.tensor([1.0, 0.0, 0.25]), mask, beta=0.05)
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2)) + math.log(2)) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_a_fresh_prm_is_at_ln_2():
    log_ratios, mask = rows_with_sums(0.0, 0.0)
    assert prm_cross_entropy(log_ratios, torch.tensor([1.0, 0.0]), mask).item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize(("logit", "outcome"), [(30.0, 0.0), (-30.0, 1.0), (2000.0, 0.0)])
def test_a_confident_mistake_still_has_its_gradient(logit, outcome):
    log_ratios, mask = rows_with_sums(logit / 0.05)
    log_ratios.requires_grad_()
    prm_cross_entropy(log_ratios, torch.tensor([outcome]), mask, beta=0.05).backward()
    assert log_ratios.grad is not None
    expected = torch.tensor([[0.05, 0.05, 0.0]]) * math.copysign(1.0, logit)
    torch.testing.assert_close(log_ratios.grad, expected)


@pytest.mark.parametrize("size", [1, 3, 14])
def test_losses_and_gradients_of_micro_batches_add_up(random_rows, size):
    rows = random_rows()
    whole, pieces = (rows.log_ratios.clone().requires_grad_() for _ in range(2))
    loss = prm_cross_entropy(whole, rows.outcomes, rows.mask)
    loss.backward()
    total = 0.0
    for part in torch.arange(14).split(size):
        piece = prm_cross_entropy(pieces[part], rows.outcomes[part], rows.mask[part], count=14)
        piece.backward()
        total += piece.item()
    assert total == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(pieces.grad, whole.grad)


def test_an_empty_response_has_no_gradient():
    log_ratios = torch.full((2, 3), float("nan"), requires_grad=True)
    mask = torch.tensor([[True, False, False], [False, False, False]])
    prm_cross_entropy(torch.where(mask, 0.5, log_ratios), torch.ones(2), mask).backward()
    assert log_ratios.grad is not None
    assert (log_ratios.grad[1] == 0).all()


def test_bf16_log_ratios_are_summed_in_fp32():
    log_ratios, mask = torch.full((1, 300), 1.0).bfloat16(), torch.ones(1, 300, dtype=torch.bool)
    loss = prm_cross_entropy(log_ratios, torch.tensor([1.0]), mask, beta=0.01)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-3)), rel=1e-6)


def test_dead_gradients_are_the_settled_and_the_empty():
    log_ratios, mask = rows_with_sums(400.0, -400.0, 400.0, 1.0, 1.0)  # logits 20, -20, 20, ...
    mask[4] = False
    outcomes = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0])
    assert dead_gradient_share(log_ratios, outcomes, mask, 0.05).item() == pytest.approx(3 / 5)
    assert dead_gradient_share(log_ratios, outcomes, mask, 0.05, threshold=0.5).item() == pytest.approx(4 / 5)
