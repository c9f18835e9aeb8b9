"""AdamW by hand: the schedule's numbers, clipping, steps that are skipped, and a state that goes on bit for bit."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch import Tensor, nn

from credo.dist.world import World
from credo.models.division import divided
from credo.models.optim import GradientStep, Optimizer, constant, cosine, step_metrics

LENGTHS = torch.tensor([3, 2, 4, 1])


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def optimizer(*parameters: nn.Parameter, **options: Any) -> Optimizer:
    defaults = {"lr": 0.1, "schedule": constant(0), "weight_decay": 0.0, "max_grad_norm": 1e9}
    return Optimizer(parameters, **(defaults | options))


def descend(optimizer: Optimizer, loss: Callable[[], Tensor]) -> GradientStep:
    """One step on ``loss()``, in a single micro-batch."""
    return optimizer.descend(divided(torch.tensor([1]), 1), lambda rows: loss())


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
    step = descending.descend(divided(LENGTHS, token_budget), loss_of)
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
    step = broken.descend(divided(LENGTHS, 1), lambda rows: weights.sum() * (math.inf if rows[0] == 3 else 1.0))
    assert step.skipped
    assert weights.item() == 1.0
    assert weights.grad is None


def descended(world: World) -> list[list[float]]:
    """Loss, gradient norm and weights after each of some steps, of which one rank has no row in one, and the row that
    breaks another."""
    used, unused = parameter(1.0, 2.0, 3.0), parameter(4.0)
    descending = optimizer(used, unused, weight_decay=0.1, max_grad_norm=1.5)
    inputs = torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, 1.0], [-1.0, 0.0, 3.0], [0.5, 0.5, 0.5]])
    found = []
    for count, broken in ((4, None), (1, None), (4, 3), (3, None)):
        scale = torch.ones(4)
        if broken is not None:
            scale[broken] = math.inf
        step = descending.descend(
            divided(LENGTHS[:count], 4, world), lambda rows, by=scale: ((inputs[rows] @ used).square() * by[rows]).sum()
        )
        found.append([step.loss, step.grad_norm, float(step.skipped), *used.tolist(), *unused.tolist()])
    return found


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_descend_as_one_process_does(ranks: int):
    expected = descended(World())
    assert [step[2] for step in expected] == [0.0, 0.0, 1.0, 0.0]
    assert [step[6] for step in expected] == [4.0] * 4, "no decay of what has no gradient"
    for found in run_ranks(ranks, descended):
        for step, alone in zip(found, expected, strict=True):
            assert step == pytest.approx(alone, rel=1e-5, nan_ok=True)


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


def test_the_state_is_named_tensors_and_what_has_not_learnt_has_none():
    used, unused = parameter(1.0, 2.0), parameter(1.0)
    learning = optimizer(used, unused)
    assert set(learning.state()) == {"steps"}
    descend(learning, lambda: used.sum())
    descend(learning, lambda: used.sum())
    state = learning.state()
    assert set(state) == {"steps", "0.step", "0.exp_avg", "0.exp_avg_sq"}
    assert state["steps"].tolist() == [2, 2]
    assert state["0.step"].item() == 2
    assert state["0.exp_avg"].tolist() == pytest.approx([0.19, 0.19])
    assert state["0.exp_avg_sq"].tolist() == pytest.approx([0.001999, 0.001999])

    again = optimizer(parameter(1.0, 2.0), parameter(1.0))
    descend(again, lambda: again.parameters[1].sum())
    template = again.template({name: tensor.shape for name, tensor in state.items()})
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in template.items()} == {
        name: (tensor.dtype, tensor.shape) for name, tensor in state.items()
    }
    for name, tensor in template.items():
        tensor.copy_(state[name])
    again.restore(template)
    assert set(again.state()) == set(state), "what the other weight had learnt is gone"
    assert again.steps == 2


@pytest.mark.parametrize(
    "weights", [(parameter(1.0),), (parameter(1.0, 2.0, 3.0), parameter(1.0)), (parameter(1.0, 2.0),)], ids=len
)
def test_the_state_of_other_weights_is_refused(weights: tuple[nn.Parameter, ...]):
    used, unused = parameter(1.0, 2.0), parameter(1.0)
    learning = optimizer(used, unused)
    descend(learning, lambda: used.sum())
    with pytest.raises(ValueError, match=r"prm\.top_layers"):
        optimizer(*weights).template({name: tensor.shape for name, tensor in learning.state().items()})


def test_the_learning_rate_shown_is_that_of_the_last_step():
    weights = parameter(1.0)
    learning, restored = (optimizer(weights, schedule=constant(3)) for _ in range(2))
    for _ in range(2):
        descend(learning, lambda: weights.sum())
        restored.restore(learning.state())
        assert restored.adamw.param_groups[0]["lr"] == learning.adamw.param_groups[0]["lr"]


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
