"""The policy pi_theta: its log-probs, and its update by the clipped surrogate. It ignores where advantages are from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from credo.algo.masked import masked_mean
from credo.algo.policy_losses import approx_kl, clip_fraction, clipped_surrogate, loss_weights
from credo.config import PolicyConfig
from credo.data.batching import rows_of
from credo.models.causal import Compute, batch_logprobs, named_weights, response_logprobs
from credo.models.optim import GradientStep, Optimizer, constant, step_metrics
from credo.seeds import mixed_seed
from credo.types import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Policy:
    """The model being trained."""

    def __init__(
        self,
        model: PreTrainedModel,
        config: PolicyConfig,
        *,
        temperature: float,
        token_budget: int,
        compute: Compute,
        seed: int,
    ) -> None:
        self.model, self.config, self.temperature = model, config, temperature
        self.token_budget, self.seed = token_budget, seed
        self.compute: Compute = compute
        self.optimizer = Optimizer(
            model.parameters(),
            lr=config.lr,
            schedule=constant(config.lr_warmup),
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
        )

    @property
    def version(self) -> int:
        """Changes whenever the weights do."""
        return self.optimizer.steps

    def logprobs(self, batch: Batch, *, temperature: float = 1.0) -> Float[Tensor, "B S"]:
        """Log-probs of the response tokens, without gradient."""
        return batch_logprobs(
            self.model, batch, token_budget=self.token_budget, temperature=temperature, compute=self.compute
        )

    def update(
        self, batch: Batch, advantages: Float[Tensor, "B S"], old_logprobs: Float[Tensor, "B S"]
    ) -> dict[str, float]:
        """Writes theta: one pass over the batch in shuffled mini-batches; returns metrics."""
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.version))
        order = torch.randperm(len(batch), generator=generator)
        metrics: list[dict[str, float]] = []
        steps = []
        for rows in order.split(self.config.minibatch):
            part = rows_of(batch, rows)
            width = part.tokens.shape[1]
            steps.append(self._step(part, advantages[rows, :width], old_logprobs[rows, :width], metrics))
        means = {key: sum(part[key] for part in metrics) / len(steps) for key in metrics[0]}
        return step_metrics(steps, "policy") | means | {"policy/lr": self.optimizer.adamw.param_groups[0]["lr"]}

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters by name, for the rollout engine."""
        return named_weights(self.model)

    def _step(
        self, batch: Batch, advantages: Tensor, old_logprobs: Tensor, metrics: list[dict[str, float]]
    ) -> GradientStep:
        """One optimiser step on a mini-batch (its trailing padding already cut)."""
        config = self.config
        weights = loss_weights(batch.mask, config.aggregation)
        logprobs = torch.zeros_like(old_logprobs)

        def loss_of(rows: Tensor) -> Tensor:
            part = rows_of(batch, rows)
            width = part.tokens.shape[1]
            values = response_logprobs(
                self.model, part.tokens, part.attention, part.mask, temperature=self.temperature, compute=self.compute
            ).cpu()
            logprobs[rows, :width] = values.detach()
            losses = clipped_surrogate(
                values,
                old_logprobs[rows, :width],
                advantages[rows, :width],
                clip_low=config.clip_low,
                clip_high=config.clip_high,
            )
            return torch.where(part.mask, losses * weights[rows, :width], 0.0).sum()

        step = self.optimizer.descend(batch.attention.sum(dim=1), self.token_budget, loss_of)
        clipped = clip_fraction(
            logprobs, old_logprobs, advantages, batch.mask, clip_low=config.clip_low, clip_high=config.clip_high
        )
        metrics.append(
            {
                "policy/clip_fraction": clipped.item(),
                "policy/kl_to_old": approx_kl(logprobs, old_logprobs, batch.mask).item(),
                "policy/entropy": -masked_mean(old_logprobs, batch.mask).item(),
            }
        )
        return step
