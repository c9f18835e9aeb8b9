"""The frozen reference pi_ref of the implicit reward and of the KL term.

The policy can stand in for it in the reward (`prm.reference = "policy"`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from credo.dist.world import World
from credo.models.causal import Compute, batch_logprobs, shard_model
from credo.models.division import ALONE
from credo.models.trunk import Trunk
from credo.types import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Reference:
    """A model that is never trained. ``trunk``, if given, is its own lower layers."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        token_budget: int,
        compute: Compute,
        trunk: Trunk | None = None,
        world: World = ALONE,
    ) -> None:
        """Collective. ``model`` is spread over the ranks if ``world`` asks for that."""
        self.model, self.trunk = shard_model(model.requires_grad_(False), world, compute), trunk
        self.token_budget, self.world = token_budget, world
        self.compute: Compute = compute
        self._last: tuple[Batch, float, Tensor] | None = None

    def logprobs(self, batch: Batch, *, temperature: float = 1.0) -> Float[Tensor, "B S"]:
        """Log-probs of the response tokens. Those of the last batch and temperature are remembered.

        PRM and KL term can so ask for the same numbers at the price of one forward pass.
        """
        if self._last is None or self._last[0] is not batch or self._last[1] != temperature:
            logprobs = batch_logprobs(
                self.model,
                batch,
                token_budget=self.token_budget,
                temperature=temperature,
                compute=self.compute,
                trunk=self.trunk,
                world=self.world,
            )
            self._last = batch, temperature, logprobs
        return self._last[2]
