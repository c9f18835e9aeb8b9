"""AdamW on fp32 master weights with warm-up, clipping, and a guard that skips a step rather than take a broken one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from credo.dist.shard import sum_gradients, whole
from credo.models.division import Division

Schedule = Callable[[int], float]
STEPS, MOMENTS = "steps", ("step", "exp_avg", "exp_avg_sq")
"""What is kept of an optimiser, and of each weight that has learnt, as AdamW names it."""


def constant(warmup: int) -> Schedule:
    """Factor of the learning rate at each optimiser step: linear over ``warmup`` steps, then 1."""
    return lambda step: min(1.0, (step + 1) / (warmup + 1))


def cosine(warmup: int, total: int) -> Schedule:
    """Linear over ``warmup`` steps, then half a cosine that would reach 0 at step ``total``."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return factor


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientStep:
    """What one optimiser step saw."""

    loss: float
    grad_norm: float
    skipped: bool
    """True if the loss or the gradient was not finite, so that the weights stayed as they were."""


class Optimizer:
    """AdamW with a learning-rate schedule; counts its steps and writes the weights it was given."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        schedule: Schedule,
        weight_decay: float,
        max_grad_norm: float,
    ) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        assert all(parameter.dtype == torch.float32 for parameter in self.parameters), "master weights are fp32"
        self.adamw = torch.optim.AdamW(self.parameters, lr=lr, weight_decay=weight_decay, fused=True)
        self.lr, self.schedule, self.weight_decay, self.max_grad_norm = lr, schedule, weight_decay, max_grad_norm
        self.steps: int = 0

    def descend(self, division: Division, loss_of: Callable[[Tensor], Tensor]) -> GradientStep:
        """Collective. One step on the sum of ``loss_of(rows)`` over the micro-batches of all ranks."""
        total = torch.zeros((), dtype=torch.float64)
        for turn, rows in enumerate(division.parts):
            loss = loss_of(rows)
            if turn >= division.worked:
                loss = 0.0 * loss
            loss.backward()
            total += loss.detach().cpu()
        total = division.world.all_reduce(total, "sum").item()
        sum_gradients(self.parameters, division.world)
        grad_norm = whole(nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)).item()
        skipped = not (math.isfinite(total) and math.isfinite(grad_norm))
        if not skipped:
            for group in self.adamw.param_groups:
                group["lr"] = self.lr * self.schedule(self.steps)
            self.adamw.step()
            self.steps += 1
        self.adamw.zero_grad(set_to_none=True)
        return GradientStep(loss=total, grad_norm=grad_norm, skipped=skipped)

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs: the steps, once for each weight, and the moments by the weight's index.

        Moments are the live tensors, spread as their weights are; a weight that has not learnt yet has none.
        """
        moments = {
            f"{index}.{name}": value
            for index, weight in enumerate(self.parameters)
            for name, value in self.adamw.state.get(weight, {}).items()
        }
        return {STEPS: torch.full((len(self.parameters),), self.steps), **moments}

    def template(self, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """Tensors to be written by whoever reads a :meth:`state` of these names and whole shapes, then restored.

        Raises ValueError if they are of other weights than this optimiser's.
        """
        made: dict[str, Tensor] = {STEPS: torch.zeros(len(self.parameters), dtype=torch.int64)}
        for index, weight in enumerate(self.parameters):
            for moment in MOMENTS:
                if f"{index}.{moment}" in shapes:
                    scalar = moment == "step"
                    zeros = torch.zeros((), device=weight.device) if scalar else torch.zeros_like(weight)
                    made[f"{index}.{moment}"] = zeros
        if {name: tensor.shape for name, tensor in made.items()} != shapes:
            raise ValueError(
                "The checkpoint was saved by an optimiser of other weights than this run's; resume with the same "
                "prm.top_layers and lora.targets."
            )
        return made

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Steps and moments as they were when ``state`` was taken, of a fit that :meth:`template` has made sure of.

        Its tensors become the optimiser's own. Learning rate and weight decay stay this run's.
        """
        self.steps = int(state[STEPS].max())
        self.adamw.state.clear()
        for name, value in state.items():
            if name != STEPS:
                index, moment = name.split(".")
                self.adamw.state[self.parameters[int(index)]][moment] = value
        for group in self.adamw.param_groups:
            group["lr"] = self.lr * self.schedule(self.steps - 1) if self.steps else self.lr


def step_metrics(steps: list[GradientStep], prefix: str) -> dict[str, float]:
    """Means over the optimiser steps of one training step, as metrics of ``prefix``."""
    taken = [step for step in steps if not step.skipped]
    count = max(1, len(taken))
    return {
        f"{prefix}/loss": sum(step.loss for step in taken) / count,
        f"{prefix}/grad_norm": sum(step.grad_norm for step in taken) / count,
        f"{prefix}/optimizer_steps": float(len(taken)),
        f"{prefix}/skipped_steps": float(len(steps) - len(taken)),
    }
