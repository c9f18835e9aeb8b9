"""AdamW by hand: the schedule's numbers, clipping, steps that are skipped, and a state that goes on bit for bit."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from credo.models.optim import GradientStep, Optimizer, constant, cosine, step_metrics

LENGTHS = torch.tensor([3, 2, 4, 1])


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def optimizer(*parameters: nn.Parameter, **options: Any) -> Optimizer:
    defaults = {"lr": 0.1, "schedule": constant(0), "weight_decay": 0.0, "max_grad_norm": 1e9}
    return Optimizer(parameters, **(defaults | options))


def descend(optimizer: Optimizer, loss: Callable[[], Tensor]) -> GradientStep:
    """One step on ``loss()``, in a single micro-batch."""
    return optimizer.descend(torch.tensor([1]), 1, lambda rows: loss())


def adamw(weights: list[float], gradients: list[list[float]], factors: list[float], lr: float, decay: float):
    """AdamW with betas 0.9 and 0.999 and epsilon 1e-8, one number at a time."""
    first, second = [0.0] * len(weights), [0.0] * len(weights)
    for step, (gradient, factor) in enumerate(zip(gradients, factors, strict=True), start=1):
        for i, g in enumerate(gradient):
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.999 * second[i] + 0.001 * g * g
            direction = (first[i] / (1 - 0.9**step)) / (math.sqrt(second[i] / (1 - 0.999**step)) + 1e-8)
            weights[i] = weights[i] * (1 - lr * factor * decay) - lr * factor * direction
    return weights


def test_the_constant_schedule_by_hand():
    assert [constant(3)(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert [constant(0)(step) for step in range(2)] == [1.0, 1.0]


def test_the_cosine_schedule_by_hand():
    factor = cosine(2, 10)
    assert [factor(step) for step in (0, 1, 2)] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert [factor(step) for step in (4, 6, 8, 10)] == pytest.approx(
        [0.5 + 0.5 * 0.5**0.5, 0.5, 0.5 - 0.5 * 0.5**0.5, 0.0]
    )
    assert [cosine(0, 1)(0), cosine(1, 1)(0)] == [1.0, 0.5]


def test_steps_are_adamw_along_the_schedule():
    weights = parameter(1.0, -2.0, 0.5)
    gradients = [[1.0, -0.5, 2.0], [0.5, 0.25, -4.0], [-1.0, 0.0, 1.0], [3.0, 1.0, 1.0]]
    descending = optimizer(weights, schedule=constant(2), weight_decay=0.3)
    for gradient in gradients:
        step = descend(descending, lambda gradient=gradient: (weights * torch.tensor(gradient)).sum())
        assert step.grad_norm == pytest.approx(math.sqrt(sum(g * g for g in gradient)))
        assert not step.skipped
    expected = adamw([1.0, -2.0, 0.5], gradients, [1 / 3, 2 / 3, 1.0, 1.0], lr=0.1, decay=0.3)
    assert weights.tolist() == pytest.approx(expected, abs=1e-6)
    assert descending.steps == 4


@pytest.mark.parametrize("token_budget", [1, 4, 8, 100])
def test_micro_batches_add_up(token_budget: int):
    weights = parameter(1.0, -1.0)
    rows_seen: list[int] = []
    scale = torch.tensor([1.0, 2.0, 4.0, 8.0])

    def loss_of(rows: Tensor) -> Tensor:
        rows_seen.extend(rows.tolist())
        return (scale[rows].sum() * weights * torch.tensor([3.0, 4.0])).sum()

    descending = optimizer(weights)
    step = descending.descend(LENGTHS, token_budget, loss_of)
    assert sorted(rows_seen) == [0, 1, 2, 3]
    assert step == GradientStep(loss=-15.0, grad_norm=75.0, skipped=False)


@pytest.mark.parametrize(("limit", "expected"), [(1.0, [0.6, 0.8]), (10.0, [3.0, 4.0])])
def test_the_gradient_is_clipped_over_all_parameters_together(limit: float, expected: list[float]):
    one, other = parameter(0.0), parameter(0.0)
    clipped = optimizer(one, other, max_grad_norm=limit)
    step = descend(clipped, lambda: 3 * one.sum() + 4 * other.sum())
    assert step.grad_norm == pytest.approx(5.0), "the norm before clipping"
    first_moments = [clipped.adamw.state[weight]["exp_avg"].item() for weight in (one, other)]
    assert first_moments == pytest.approx([0.1 * gradient for gradient in expected], rel=1e-5)


BROKEN = {
    "loss nan": lambda weights: weights.sum() * math.nan,
    "loss inf": lambda weights: weights.sum() + math.inf,
    "gradient nan, loss finite": lambda weights: (weights[:1] - weights[:1].detach()).sqrt().sum(),
}


@pytest.mark.parametrize("loss", BROKEN.values(), ids=BROKEN)
def test_a_broken_step_is_not_taken_and_leaves_no_trace(loss: Callable[[nn.Parameter], Tensor]):
    weights, twin = parameter(1.0, 2.0), parameter(1.0, 2.0)
    tried, calm = optimizer(weights, schedule=constant(1)), optimizer(twin, schedule=constant(1))
    for _ in range(2):
        step = descend(tried, lambda: loss(weights))
        assert step.skipped
        assert torch.equal(weights, twin)
        assert tried.steps == calm.steps
        assert not descend(tried, lambda: weights.square().sum()).skipped
        descend(calm, lambda: twin.square().sum())
        assert torch.equal(weights, twin)
    assert not torch.equal(twin, torch.tensor([1.0, 2.0]))


def test_one_broken_micro_batch_spoils_the_step():
    weights = parameter(1.0)
    broken = optimizer(weights)
    step = broken.descend(LENGTHS, 1, lambda rows: weights.sum() * (math.inf if rows[0] == 3 else 1.0))
    assert step.skipped
    assert weights.item() == 1.0
    assert weights.grad is None


def test_a_restored_state_goes_on_bit_for_bit():
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(12, 5, generator=generator)
    start = torch.randn(5, generator=generator)

    def step(optimizer: Optimizer, weights: nn.Parameter, index: int) -> None:
        descend(optimizer, lambda: (weights * gradients[index]).sum())

    whole_weights, half_weights = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    options = {"schedule": cosine(3, 12), "weight_decay": 0.1, "max_grad_norm": 1.0}
    whole, half = optimizer(whole_weights, **options), optimizer(half_weights, **options)
    for index in range(12):
        step(whole, whole_weights, index)
    for index in range(5):
        step(half, half_weights, index)
    file = io.BytesIO()
    torch.save({"weights": half_weights.detach(), "state": half.state()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed_weights = nn.Parameter(saved["weights"])
    resumed = optimizer(resumed_weights, **options)
    resumed.restore(saved["state"])
    for index in range(5, 12):
        step(resumed, resumed_weights, index)
    assert torch.equal(resumed_weights, whole_weights)
    assert resumed.steps == whole.steps == 12


def test_learning_rate_and_weight_decay_are_those_of_the_new_run():
    old_weights, new_weights = parameter(1.0), parameter(1.0)
    old = optimizer(old_weights, lr=0.5, weight_decay=0.5)
    descend(old, lambda: old_weights.sum())
    new = optimizer(new_weights, lr=0.1, weight_decay=0.2)
    new.restore(old.state())
    descend(new, lambda: new_weights.sum())
    assert new_weights.item() == pytest.approx(1.0 * (1 - 0.1 * 0.2) - 0.1)


def test_what_is_frozen_stays_frozen():
    frozen, free = parameter(1.0), parameter(1.0)
    frozen.requires_grad_(False)
    descend(optimizer(frozen, free, weight_decay=0.5), lambda: (frozen * free).sum())
    assert frozen.item() == 1.0
    assert free.item() < 1.0


def test_master_weights_are_fp32():
    with pytest.raises(AssertionError, match="fp32"):
        optimizer(nn.Parameter(torch.zeros(2, dtype=torch.bfloat16)))


def test_metrics_are_means_over_the_steps_that_were_taken():
    steps = [
        GradientStep(loss=1.0, grad_norm=2.0, skipped=False),
        GradientStep(loss=math.nan, grad_norm=math.inf, skipped=True),
        GradientStep(loss=2.0, grad_norm=6.0, skipped=False),
    ]
    assert step_metrics(steps, "prm") == {
        "prm/loss": 1.5,
        "prm/grad_norm": 4.0,
        "prm/optimizer_steps": 2.0,
        "prm/skipped_steps": 1.0,
    }
    assert step_metrics(steps[1:2], "prm")["prm/loss"] == 0.0
