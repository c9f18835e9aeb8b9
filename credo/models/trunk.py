"""The lower decoder layers that a PRM shares with its reference: run once a batch for both, without gradient.

It knows models and hidden states, and nothing of rewards.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from credo.data.batching import micro_batches, rows_of
from credo.models.causal import PACKED, Compute, packed_hidden
from credo.models.packing import Packing, pack
from credo.types import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Below:
    """What the lower layers made of some rows, and how many layers go on from there."""

    states: Float[Tensor, "N E"]
    grid: Int[Tensor, "R S"]
    """The state of each cell of the rows."""
    layers: int

    def hidden(self, model: PreTrainedModel, packing: Packing, compute: Compute) -> Float[Tensor, "T E"]:
        """``packed_hidden`` of these rows, by the last layers of ``model`` alone."""
        cells = self.grid[:, : packing.grid.shape[1]].flatten()[packing.home]
        top = _decoder(model, slice(_count(model) - self.layers, None))
        return packed_hidden(top, packing, compute, self.states[cells])


class Trunk:
    """All but the last ``layers`` decoder layers of a frozen model.

    Its hidden states of one batch are remembered: 4 bytes for each unit of the model's width and each token, those of
    a prompt counted once. They are fp32 in bf16 runs too, as they are between the layers of a whole model.
    """

    def __init__(self, model: PreTrainedModel, layers: int, *, token_budget: int, compute: Compute) -> None:
        self.model, self.layers, self.token_budget = model, layers, token_budget
        self.compute: Compute = compute
        self._last: tuple[Batch, Tensor, Tensor] | None = None

    def rows(self, batch: Batch, indices: Int[Tensor, " R"]) -> Below:
        """Of the rows ``indices`` in that order; all of a batch is computed when it is first asked for."""
        if self._last is None or self._last[0] is not batch:
            self._last = None  # two batches at once would be twice the memory
            self._last = batch, *self._run(batch)
        _, grid, states = self._last
        return Below(states=states, grid=grid[indices], layers=self.layers)

    @torch.no_grad()
    def _run(self, batch: Batch) -> tuple[Int[Tensor, "B S"], Float[Tensor, "N E"]]:
        """The state of each cell, and the states."""
        decoder = _decoder(self.model, slice(_count(self.model) - self.layers), norm=nn.Identity())
        device, width = self.model.device, self.model.config.get_text_config().hidden_size
        whole = pack(batch.tokens, batch.attention, batch.mask).to(device)
        states = torch.empty(len(whole.tokens), width, device=device)
        for rows in micro_batches(batch.attention.sum(dim=1), self.token_budget):
            part = rows_of(batch, rows)
            packing = pack(part.tokens, part.attention, part.mask).to(device)
            cells = whole.grid[rows, : part.tokens.shape[1]].flatten()[packing.home]
            states[cells] = packed_hidden(decoder, packing, self.compute)
        return whole.grid, states


def with_own_top(model: PreTrainedModel, layers: int) -> PreTrainedModel:
    """A model of which only the last ``layers`` decoder layers and the last norm are copies, and can be trained.

    The rest is that of ``model``, and is frozen. Raises ValueError if it has not so many layers, or is of a kind whose
    layers cannot be run apart.
    """
    if model.config.model_type not in PACKED:
        raise ValueError(
            f"prm.top_layers: models of the kind '{model.config.model_type}' cannot be run in two parts, only "
            f"{', '.join(sorted(PACKED))}; set prm.top_layers = 0."
        )
    if layers > _count(model):
        raise ValueError(
            f"prm.top_layers: {layers} of {_count(model)} layers cannot learn; set {_count(model)} or less, or 0 for "
            "a PRM that shares nothing."
        )
    decoder: Any = model.get_decoder()
    others = (part for name, part in decoder.named_children() if name not in ("layers", "norm"))
    shared = [model.get_output_embeddings(), *others, *decoder.layers[: _count(model) - layers]]
    for part in shared:
        part.requires_grad_(False)
    return copy.deepcopy(model, {id(part): part for part in (model.config, *shared)})


def _count(model: PreTrainedModel) -> int:
    return len(model.get_decoder().layers)  # pyright: ignore[reportArgumentType]


def _decoder(model: PreTrainedModel, layers: slice, **others: nn.Module) -> nn.Module:
    """The decoder of ``model`` with some of its layers alone; the modules are the same."""
    whole: Any = model.get_decoder()
    part = copy.copy(whole)
    part._modules = whole._modules | {"layers": whole.layers[layers]} | others
    return part
