"""Offline PRM losses by hand, by their gradients, and in parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from credo.algo.offline_prm_losses import dpo_loss, kto_baseline, kto_loss, nca_loss


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_by_hand():
    better, worse = torch.tensor([0.7, -1.0]), torch.tensor([0.2, 2.0])
    dpo = -(math.log(sigmoid(0.5)) + math.log(sigmoid(-3.0))) / 2
    assert dpo_loss(better, worse).item() == pytest.approx(dpo, abs=1e-6)
    nca = [
        -math.log(sigmoid(w)) - 0.5 * math.log(sigmoid(-w)) - 0.5 * math.log(sigmoid(-v))
        for w, v in ((0.7, 0.2), (-1.0, 2.0))
    ]
    assert nca_loss(better, worse).item() == pytest.approx(sum(nca) / 2, abs=1e-6)
    logits, outcomes, baseline = torch.tensor([0.7, 0.2]), torch.tensor([1.0, 0.0]), torch.tensor(0.5)
    kto = 1.5 * (1 - sigmoid(0.2)) + 0.5 * (1 - sigmoid(0.3))
    found = kto_loss(logits, outcomes, baseline, correct_weight=1.5, wrong_weight=0.5)
    assert found.item() == pytest.approx(kto / 2, abs=1e-6)


def test_a_prm_equal_to_its_reference():
    zero = torch.zeros(3)
    assert dpo_loss(zero, zero).item() == pytest.approx(math.log(2))
    assert nca_loss(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert kto_loss(zero, torch.tensor([1.0, 0.0, 0.3]), torch.tensor(0.0)).item() == pytest.approx(0.5)


def test_the_baseline_of_kto():
    assert kto_baseline(torch.tensor([1.0, -0.5])).item() == pytest.approx(0.25)
    assert kto_baseline(torch.tensor([-1.0, 0.5])).item() == 0.0
    assert kto_baseline(torch.zeros(0)).item() == 0.0
    assert not kto_baseline(torch.ones(2, requires_grad=True)).requires_grad


@pytest.mark.parametrize("loss", [dpo_loss, nca_loss])
def test_pairs_push_correct_responses_up_and_wrong_ones_down(loss: Callable[..., Tensor]):
    better, worse = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    loss(better, worse).backward()
    assert better.grad is not None
    assert worse.grad is not None
    assert (better.grad < 0).all()
    assert (worse.grad > 0).all()


def test_nca_holds_a_certain_response_back_and_dpo_does_not():
    signs = {}
    for loss in (dpo_loss, nca_loss):
        better = torch.tensor([3.0], requires_grad=True)
        loss(better, torch.tensor([0.0])).backward()
        assert better.grad is not None
        signs[loss] = better.grad.item() > 0
    assert signs == {dpo_loss: False, nca_loss: True}


def test_kto_s_gradient():
    """d/dz of w (1 - sigmoid(z - z0)) is -w s (1 - s)."""
    logits = torch.tensor([0.4, 0.4], requires_grad=True)
    kto_loss(logits, torch.tensor([1.0, 0.0]), torch.tensor(0.1), correct_weight=2.0).backward()
    slope = sigmoid(0.3) * (1 - sigmoid(0.3))
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx([-2.0 * slope / 2, slope / 2])


def test_partial_credit_is_between():
    one = partial(kto_loss, torch.tensor([0.8]), baseline=torch.tensor(0.0))
    half = one(torch.tensor([0.5])).item()
    assert half == pytest.approx((one(torch.tensor([1.0])).item() + one(torch.tensor([0.0])).item()) / 2)


@pytest.mark.parametrize("name", ["dpo", "nca", "kto"])
def test_parts_add_up(name: str):
    z = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    whole: Callable[..., Tensor] = {"dpo": dpo_loss, "nca": nca_loss}.get(name) or partial(
        kto_loss, baseline=torch.tensor(0.2)
    )
    second = z[1].sigmoid() if name == "kto" else z[1]
    parts = [whole(z[0, rows], second[rows], count=6) for rows in (slice(0, 2), slice(2, 6))]
    assert sum(part.item() for part in parts) == pytest.approx(whole(z[0], second).item(), abs=1e-6)
