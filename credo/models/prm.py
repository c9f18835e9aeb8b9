"""The implicit process reward model pi_phi: scores tokens by log-ratios, learns from outcomes alone.

It knows nothing of advantages; the order of scoring and learning is decided in ``train.py``.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from credo.algo.masked import zero_off
from credo.algo.prm_losses import GroupScores, group_scores, prm_loss
from credo.config import PrmConfig
from credo.data.batching import rows_of
from credo.dist.world import World
from credo.models.causal import Compute, batch_logprobs, response_logprobs, shard_model
from credo.models.division import ALONE, divided_batch
from credo.models.optim import GradientStep, Optimizer, constant, step_metrics
from credo.models.trunk import Trunk, with_own_top
from credo.types import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Prm:
    """A language model read as a reward: q = log pi_phi - log pi_ref (paper, Eq. 3).

    ``trunk``, if given, is its lower layers, which are frozen and its reference's too.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: PrmConfig,
        *,
        token_budget: int,
        compute: Compute,
        trunk: Trunk | None = None,
        world: World = ALONE,
    ) -> None:
        """Collective. ``model`` is spread over the ranks if ``world`` asks for that."""
        self.average: PreTrainedModel | None = None
        """The exponential average of the weights that ``score`` reads, where ``config.ema`` asks for one."""
        if config.ema > 0:
            average = copy.deepcopy(model) if trunk is None else with_own_top(model, trunk.layers)
            self.average = shard_model(average.requires_grad_(False), world, compute)
        self.model = shard_model(model, world, compute)
        self.config, self.trunk = config, trunk
        self.token_budget, self.world = token_budget, world
        self.compute: Compute = compute
        self.optimizer = Optimizer(
            model.parameters(),
            lr=config.lr,
            schedule=constant(config.lr_warmup),
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
        )

    @property
    def scorer(self) -> PreTrainedModel:
        """The model that scores: the average weights if there are any."""
        return self.model if self.average is None else self.average

    def score(self, batch: Batch, reference_logprobs: Float[Tensor, "B S"]) -> Float[Tensor, "B S"]:
        """The log-ratio q of every response token, 0 off the mask; by the average weights if there are any."""
        logprobs = batch_logprobs(
            self.scorer,
            batch,
            token_budget=self.token_budget,
            compute=self.compute,
            trunk=self.trunk,
            world=self.world,
        )
        return torch.where(batch.mask, logprobs - reference_logprobs, 0.0)

    def learns_at_once(self, batch: Batch) -> bool:
        """Whether the log-ratios that :meth:`update` meets are those that :meth:`score` would have given before it."""
        return len(batch) <= self.config.minibatch and self.config.loss == "ce" and self.average is None

    def update(
        self,
        batch: Batch,
        reference_logprobs: Float[Tensor, "B S"],
        old_log_ratios: Float[Tensor, "B S"] | None = None,
    ) -> tuple[Float[Tensor, "B S"], dict[str, float]]:
        """Collective. Writes phi: one pass over the batch in order. Returns log-ratios, 0 off the mask, and metrics.

        The log-ratios are those of the pass itself, each row's by the weights just before its own mini-batch's step:
        what the released code scores with. ``old_log_ratios``, the scores of the whole batch before the update, are
        what the losses between responses compare with; ``ce`` needs none.
        """
        config = self.config
        scores = None
        if config.loss != "ce":
            assert old_log_ratios is not None, f"prm.loss = '{config.loss}' compares with the scores before the update"
            scores = group_scores(old_log_ratios, batch.outcomes, batch.mask, batch.group_ids, config.beta)
        log_ratios = torch.zeros_like(reference_logprobs)
        steps = [
            self._step(batch, rows, reference_logprobs, scores, log_ratios)
            for rows in torch.arange(len(batch)).split(config.minibatch)
        ]
        return log_ratios, step_metrics(steps, "prm") | {"prm/lr": self.optimizer.adamw.param_groups[0]["lr"]}

    def _step(
        self, batch: Batch, rows: Tensor, reference_logprobs: Tensor, scores: GroupScores | None, log_ratios: Tensor
    ) -> GradientStep:
        """One optimiser step on the mini-batch of these rows; writes their ``log_ratios``."""
        config = self.config

        def loss_of(positions: Tensor) -> Tensor:
            here = rows[positions]
            part = rows_of(batch, here)
            width = part.tokens.shape[1]
            below = None if self.trunk is None else self.trunk.rows(batch, here)
            logprobs = response_logprobs(
                self.model, part.tokens, part.attention, part.mask, compute=self.compute, below=below
            ).cpu()
            ratios = logprobs - reference_logprobs[here, :width]
            log_ratios[here, :width] = zero_off(ratios.detach(), part.mask)
            return prm_loss(
                ratios,
                part.outcomes,
                part.mask,
                None if scores is None else scores[here],
                loss=config.loss,
                beta=config.beta,
                label_smoothing=config.label_smoothing,
                count=len(rows),
            )

        division = divided_batch(rows_of(batch, rows), self.token_budget, self.world)
        step = self.optimizer.descend(division, loss_of)
        log_ratios[rows] = division.together(log_ratios[rows])
        if not step.skipped:
            self._follow()
        return step

    @torch.no_grad()
    def _follow(self) -> None:
        """Moves the average weights towards the new ones; buffers do not learn, so they stay."""
        if self.average is not None:
            for average, weight in zip(self.average.parameters(), self.model.parameters(), strict=True):
                if average is not weight:
                    average.lerp_(weight, 1 - self.config.ema)
