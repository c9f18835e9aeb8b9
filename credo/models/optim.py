"""AdamW on fp32 master weights with warm-up, clipping, and a guard that skips a step rather than take a broken one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from credo.data.batching import micro_batches

Schedule = Callable[[int], float]


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

    def descend(self, lengths: Tensor, token_budget: int, loss_of: Callable[[Tensor], Tensor]) -> GradientStep:
        """One step on the sum of ``loss_of(rows)`` over micro-batches of rows with the given ``lengths`` (B,)."""
        total = 0.0
        for rows in micro_batches(lengths, token_budget):
            loss = loss_of(rows)
            loss.backward()
            total += loss.item()
        grad_norm = nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm).item()
        skipped = not (math.isfinite(total) and math.isfinite(grad_norm))
        if not skipped:
            for group in self.adamw.param_groups:
                group["lr"] = self.lr * self.schedule(self.steps)
            self.adamw.step()
            self.steps += 1
        self.adamw.zero_grad(set_to_none=True)
        return GradientStep(loss=total, grad_norm=grad_norm, skipped=skipped)

    def state(self) -> dict[str, object]:
        """Everything a resumed run needs, as plain values and tensors."""
        return {"steps": self.steps, "adamw": self.adamw.state_dict()}

    def restore(self, state: dict[str, object]) -> None:
        """Steps and moments as they were when ``state`` was taken; learning rate and weight decay stay this run's.

        Raises ValueError if they are of another number of weights.
        """
        self.steps = state["steps"]  # pyright: ignore[reportAttributeAccessIssue]
        try:
            self.adamw.load_state_dict(state["adamw"])  # pyright: ignore[reportArgumentType]
        except ValueError as error:
            raise ValueError(
                "The checkpoint was saved by an optimiser of other weights than this run's; resume with the same "
                "prm.top_layers and lora.targets."
            ) from error
        for group in self.adamw.param_groups:
            group["weight_decay"] = self.weight_decay


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
