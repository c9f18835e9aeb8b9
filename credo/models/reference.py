"""The frozen reference pi_ref of the implicit reward. The policy can stand in for it (`prm.reference = "policy"`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from credo.models.causal import Compute, batch_logprobs
from credo.types import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Reference:
    """A model that is never trained."""

    def __init__(self, model: PreTrainedModel, *, token_budget: int, compute: Compute) -> None:
        self.model = model.requires_grad_(False)
        self.token_budget = token_budget
        self.compute: Compute = compute

    def logprobs(self, batch: Batch) -> Float[Tensor, "B S"]:
        """Log-probs of the response tokens at temperature 1."""
        return batch_logprobs(self.model, batch, token_budget=self.token_budget, compute=self.compute)
