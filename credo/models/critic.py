"""The critic V of ``advantage.estimator = "gae"``: what return to expect of a prefix. It ignores what a return is.

It has weights of its own: the body of the policy's start, and a linear head in place of the vocabulary's.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from credo.algo.masked import masked_mean
from credo.algo.policy_losses import loss_weights
from credo.algo.value_losses import clipped_value_loss, explained_variance, value_clip_fraction
from credo.config import CriticConfig
from credo.data.batching import rows_of
from credo.dist.shard import shard
from credo.dist.world import World
from credo.models.causal import Compute, decoder_layers
from credo.models.division import ALONE, divided_batch
from credo.models.optim import GradientStep, Optimizer, constant, step_metrics
from credo.seeds import mixed_seed
from credo.types import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ValueModel(nn.Module):
    """The body of a language model, copied, and a linear head."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.trunk: nn.Module = copy.deepcopy(model.base_model)
        width = model.config.get_text_config().hidden_size
        self.head = nn.utils.skip_init(nn.Linear, width, 1, device=model.device, dtype=torch.float32)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, tokens: Int[Tensor, "B S"], attention: Bool[Tensor, "B S"], mask: Bool[Tensor, "B S"], compute: Compute
    ) -> Float[Tensor, "N 1"]:
        """The value before each token of the mask, in its order."""
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=compute == "bf16"):
            hidden = self.trunk(input_ids=tokens, attention_mask=attention, use_cache=False).last_hidden_state
        # The head sees hidden states of predicting positions alone: garbage on the padding has no gradient to spoil.
        return self.head(hidden[:, :-1][mask[:, 1:]].float())


class Critic:
    """A language model's body with a linear head, which starts at 0 and so says V = 0 of everything."""

    def __init__(
        self,
        model: PreTrainedModel,
        config: CriticConfig,
        *,
        minibatch: int,
        max_grad_norm: float,
        token_budget: int,
        compute: Compute,
        seed: int,
        world: World = ALONE,
    ) -> None:
        """Copies the body of ``model``, which stays as it is."""
        self.model = ValueModel(model)
        if world.sharded:
            shard(self.model, decoder_layers(self.model), world, forward="forward", bf16=compute == "bf16")
        self.config, self.minibatch = config, minibatch
        self.token_budget, self.seed, self.world = token_budget, seed, world
        self.compute: Compute = compute
        self.optimizer = Optimizer(
            self.model.parameters(),
            lr=config.lr,
            schedule=constant(0),
            weight_decay=0.0,
            max_grad_norm=max_grad_norm,
        )

    @torch.no_grad()
    def values(self, batch: Batch) -> Float[Tensor, "B S"]:
        """V(y_<t) at every response token t, 0 off the mask, without gradient; on the CPU."""
        values = torch.zeros(batch.tokens.shape)
        division = divided_batch(batch, self.token_budget, self.world)
        for rows in division.parts:
            part = rows_of(batch, rows)
            values[rows, : part.tokens.shape[1]] = self._values(part.tokens, part.attention, part.mask)
        return division.together(values)

    def update(self, batch: Batch, old_values: Float[Tensor, "B S"], returns: Float[Tensor, "B S"]) -> dict[str, float]:
        """Writes the critic: one pass over the batch in shuffled mini-batches; returns metrics."""
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.optimizer.steps))
        order = torch.randperm(len(batch), generator=generator)
        clipped: list[float] = []
        steps = []
        for rows in order.split(self.minibatch):
            part = rows_of(batch, rows)
            width = part.tokens.shape[1]
            steps.append(self._step(part, old_values[rows, :width], returns[rows, :width], clipped))
        return step_metrics(steps, "critic") | {
            "critic/lr": self.optimizer.adamw.param_groups[0]["lr"],
            "critic/clip_fraction": sum(clipped) / len(clipped),
            "critic/explained_variance": explained_variance(old_values, returns, batch.mask).item(),
            "critic/value": masked_mean(old_values, batch.mask).item(),
        }

    def _step(self, batch: Batch, old_values: Tensor, returns: Tensor, clipped: list[float]) -> GradientStep:
        """One optimiser step on a mini-batch (its trailing padding already cut)."""
        weights = loss_weights(batch.mask, "token_mean")
        values = torch.zeros_like(old_values)

        def loss_of(rows: Tensor) -> Tensor:
            part = rows_of(batch, rows)
            width = part.tokens.shape[1]
            current = self._values(part.tokens, part.attention, part.mask)
            values[rows, :width] = current.detach()
            losses = clipped_value_loss(
                current, old_values[rows, :width], returns[rows, :width], part.mask, clip=self.config.clip
            )
            return (losses * weights[rows, :width]).sum()

        division = divided_batch(batch, self.token_budget, self.world)
        step = self.optimizer.descend(division, loss_of)
        values = division.together(values)
        clipped.append(value_clip_fraction(values, old_values, returns, batch.mask, clip=self.config.clip).item())
        return step

    def _values(
        self, tokens: Int[Tensor, "B S"], attention: Bool[Tensor, "B S"], mask: Bool[Tensor, "B S"]
    ) -> Float[Tensor, "B S"]:
        """V(y_<t) from the hidden state at t - 1, in fp32 on the CPU; a mask must not hold index 0."""
        device = next(self.model.parameters()).device
        known = self.model(tokens.to(device), attention.to(device), mask.to(device), self.compute)
        return torch.zeros(mask.shape).masked_scatter(mask, known.squeeze(1).cpu())
