"""The implicit process reward model pi_phi: scores tokens by log-ratios, learns from outcomes alone.

It knows nothing of advantages; the order of scoring and learning is decided in ``train.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from credo.algo.prm_losses import prm_cross_entropy
from credo.config import PrmConfig
from credo.data.batching import rows_of
from credo.models.causal import Compute, batch_logprobs, response_logprobs
from credo.models.optim import GradientStep, Optimizer, constant, step_metrics
from credo.types import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Prm:
    """A language model read as a reward: q = log pi_phi - log pi_ref (paper, Eq. 3)."""

    def __init__(self, model: PreTrainedModel, config: PrmConfig, *, token_budget: int, compute: Compute) -> None:
        self.model, self.config = model, config
        self.token_budget = token_budget
        self.compute: Compute = compute
        self.optimizer = Optimizer(
            model.parameters(),
            lr=config.lr,
            schedule=constant(config.lr_warmup),
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
        )

    def score(self, batch: Batch, reference_logprobs: Float[Tensor, "B S"]) -> Float[Tensor, "B S"]:
        """The log-ratio q of every response token, 0 off the mask."""
        logprobs = batch_logprobs(self.model, batch, token_budget=self.token_budget, compute=self.compute)
        return torch.where(batch.mask, logprobs - reference_logprobs, 0.0)

    def update(self, batch: Batch, reference_logprobs: Float[Tensor, "B S"]) -> dict[str, float]:
        """Writes phi: cross-entropy on outcomes, one pass over the batch in order; returns metrics."""
        steps = [
            self._step(rows_of(batch, rows), reference_logprobs[rows])
            for rows in torch.arange(len(batch)).split(self.config.minibatch)
        ]
        return step_metrics(steps, "prm") | {"prm/lr": self.optimizer.adamw.param_groups[0]["lr"]}

    def _step(self, batch: Batch, reference_logprobs: Tensor) -> GradientStep:
        def loss_of(rows: Tensor) -> Tensor:
            part = rows_of(batch, rows)
            logprobs = response_logprobs(self.model, part.tokens, part.attention, part.mask, compute=self.compute).cpu()
            log_ratios = logprobs - reference_logprobs[rows, : part.tokens.shape[1]]
            return prm_cross_entropy(log_ratios, part.outcomes, part.mask, beta=self.config.beta, count=len(batch))

        return self.optimizer.descend(batch.attention.sum(dim=1), self.token_budget, loss_of)
