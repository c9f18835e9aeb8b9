"""The policy pi_theta: its log-probs, and its update by a surrogate loss. It ignores where advantages are from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from credo.algo.masked import masked_mean, masked_sum
from credo.algo.policy_losses import approx_kl, importance_weights, kl_penalty, loss_weights, policy_losses
from credo.config import PolicyConfig
from credo.data.batching import rows_of
from credo.dist.shard import whole_weights
from credo.dist.world import World
from credo.models.causal import (
    Compute,
    batch_logprobs,
    response_logprobs,
    response_logprobs_and_entropies,
    shard_model,
)
from credo.models.division import ALONE, Division, divided_batch
from credo.models.optim import GradientStep, Optimizer, constant, step_metrics
from credo.seeds import mixed_seed
from credo.types import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """Rollouts with all that an update needs to know of them, token by token."""

    batch: Batch
    advantages: Float[Tensor, "B S"]
    old_logprobs: Float[Tensor, "B S"] | None
    """None if the weights are still those of the old policy: then the pass that learns finds them."""
    reference_logprobs: Float[Tensor, "B S"] | None

    def rows(self, indices: Tensor) -> Lesson:
        """The rows ``indices`` in that order, as :func:`rows_of` has them."""
        batch = rows_of(self.batch, indices)
        width, old, reference = batch.tokens.shape[1], self.old_logprobs, self.reference_logprobs
        return Lesson(
            batch=batch,
            advantages=self.advantages[indices, :width],
            old_logprobs=None if old is None else old[indices, :width],
            reference_logprobs=None if reference is None else reference[indices, :width],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What the forward passes of one optimiser step found at each token; 0 off the mask."""

    logprobs: Float[Tensor, "B S"]
    entropies: Float[Tensor, "B S"]
    """All 0 where there is no entropy bonus."""
    clipped: Bool[Tensor, "B S"]

    def together(self, division: Division) -> Findings:
        """Collective. What all ranks found."""
        return Findings(**{field.name: division.together(getattr(self, field.name)) for field in fields(self)})


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
        world: World = ALONE,
    ) -> None:
        """Collective. ``model`` is spread over the ranks if ``world`` asks for that."""
        self.model = shard_model(model, world, compute)
        self.config, self.temperature = config, temperature
        self.token_budget, self.seed, self.world = token_budget, seed, world
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
        """Collective. Log-probs of the response tokens, without gradient."""
        return batch_logprobs(
            self.model,
            batch,
            token_budget=self.token_budget,
            temperature=temperature,
            compute=self.compute,
            world=self.world,
        )

    def old_logprobs(self, batch: Batch) -> Float[Tensor, "B S"] | None:
        """Log-probs at the sampling temperature before :meth:`update`; None if its own pass will find the same.

        That is so where one optimiser step takes the whole batch: it is exactly on-policy.
        """
        if len(batch) <= self.config.minibatch:
            return None
        return self.logprobs(batch, temperature=self.temperature)

    def update(
        self,
        batch: Batch,
        advantages: Float[Tensor, "B S"],
        old_logprobs: Float[Tensor, "B S"] | None,
        reference_logprobs: Float[Tensor, "B S"] | None = None,
    ) -> tuple[Float[Tensor, "B S"], dict[str, float]]:
        """Collective. Writes theta in one pass over the batch in shuffled mini-batches. Returns old log-probs, metrics.

        Log-probs are at the sampling temperature, the old ones those of :meth:`old_logprobs`. Those of the reference
        are needed if ``kl_coef`` is above 0.
        """
        assert self.config.kl_coef == 0 or reference_logprobs is not None, "the KL term needs the reference"
        assert old_logprobs is not None or len(batch) <= self.config.minibatch, "later mini-batches are off-policy"
        lesson = Lesson(
            batch=batch, advantages=advantages, old_logprobs=old_logprobs, reference_logprobs=reference_logprobs
        )
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.version))
        order = torch.randperm(len(batch), generator=generator)
        metrics: list[dict[str, float]] = []
        steps, old = [], torch.zeros_like(advantages)
        for rows in order.split(self.config.minibatch):
            part = lesson.rows(rows)
            step, findings = self._step(part)
            steps.append(step)
            before = findings.logprobs if part.old_logprobs is None else part.old_logprobs
            old[rows, : before.shape[1]] = before
            metrics.append(_measures(part, before, findings, self.config))
        means = {key: sum(part[key] for part in metrics) / len(steps) for key in metrics[0]}
        rate = {"policy/lr": self.optimizer.adamw.param_groups[0]["lr"]}
        return old, step_metrics(steps, "policy") | means | rate

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Collective. The parameters by name, whole, for the rollout engine."""
        return whole_weights(self.model)

    def _step(self, lesson: Lesson) -> tuple[GradientStep, Findings]:
        """One optimiser step on a mini-batch (its trailing padding already cut)."""
        mask = lesson.batch.mask
        weights = loss_weights(mask, self.config.aggregation)
        found = Findings(
            logprobs=torch.zeros(mask.shape), entropies=torch.zeros(mask.shape), clipped=torch.zeros_like(mask)
        )

        def loss_of(rows: Tensor) -> Tensor:
            part = lesson.rows(rows)
            losses, here = self._losses(part)
            width = losses.shape[1]
            found.logprobs[rows, :width] = here.logprobs
            found.entropies[rows, :width] = here.entropies
            found.clipped[rows, :width] = here.clipped
            return masked_sum(losses * weights[rows, :width], part.batch.mask)

        division = divided_batch(lesson.batch, self.token_budget, self.world)
        step = self.optimizer.descend(division, loss_of)
        return step, found.together(division)

    def _losses(self, lesson: Lesson) -> tuple[Float[Tensor, "B S"], Findings]:
        """The whole loss of each token: surrogate, weighted by importance, plus KL, minus entropy."""
        config, mask = self.config, lesson.batch.mask
        logprobs, entropies = self._forward(lesson.batch)
        old = logprobs.detach() if lesson.old_logprobs is None else lesson.old_logprobs
        surrogate = policy_losses(
            config.loss,
            logprobs,
            old,
            lesson.advantages,
            mask,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            dual_clip=config.dual_clip,
        )
        losses = surrogate.losses
        if config.importance_cap > 0:
            losses = losses * _importance(lesson.batch, old, config)
        if lesson.reference_logprobs is not None and config.kl_coef > 0:
            losses = losses + config.kl_coef * kl_penalty(logprobs, lesson.reference_logprobs, mask, config.kl)
        if config.entropy_coef > 0:
            losses = losses - config.entropy_coef * entropies
        found = Findings(logprobs=logprobs.detach(), entropies=entropies.detach(), clipped=surrogate.clipped)
        return losses, found

    def _forward(self, batch: Batch) -> tuple[Float[Tensor, "B S"], Float[Tensor, "B S"]]:
        """Log-probs, and the entropies if there is a bonus for them."""
        inputs = (self.model, batch.tokens, batch.attention, batch.mask)
        if self.config.entropy_coef > 0:
            logprobs, entropies = response_logprobs_and_entropies(
                *inputs, temperature=self.temperature, compute=self.compute
            )
            return logprobs.cpu(), entropies.cpu()
        logprobs = response_logprobs(*inputs, temperature=self.temperature, compute=self.compute).cpu()
        return logprobs, torch.zeros_like(logprobs)


def _importance(batch: Batch, old_logprobs: Tensor, config: PolicyConfig) -> Tensor:
    return importance_weights(old_logprobs, batch.sampling_logprobs, batch.mask, config.importance_cap)


def _measures(lesson: Lesson, old_logprobs: Tensor, found: Findings, config: PolicyConfig) -> dict[str, float]:
    """What one optimiser step says of itself, as means over its response tokens."""
    mask = lesson.batch.mask
    entropies = found.entropies if config.entropy_coef > 0 else -old_logprobs
    measures = {
        "policy/clip_fraction": masked_mean(found.clipped.float(), mask).item(),
        "policy/kl_to_old": approx_kl(found.logprobs, old_logprobs, mask).item(),
        "policy/entropy": masked_mean(entropies, mask).item(),
    }
    if lesson.reference_logprobs is not None and config.kl_coef > 0:
        measures["policy/kl_to_reference"] = approx_kl(lesson.reference_logprobs, found.logprobs, mask).item()
    if config.importance_cap > 0:
        importance = _importance(lesson.batch, old_logprobs, config)
        capped = (importance >= config.importance_cap).float()
        measures["policy/importance_weight"] = masked_mean(importance, mask).item()
        measures["policy/importance_capped"] = masked_mean(capped, mask).item()
    return measures
