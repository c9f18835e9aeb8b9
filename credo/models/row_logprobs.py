"""Log-probs of the responses of rows that were not sampled here: of any number, without a gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from credo.data.batching import collate_demonstrations
from credo.dist.world import World
from credo.models.causal import Compute, response_logprobs
from credo.models.division import ALONE, divided

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Tokens = tuple[tuple[int, ...], tuple[int, ...]]
"""Prompt and response of one row."""


@torch.no_grad()
def row_logprobs(
    model: PreTrainedModel,
    rows: Sequence[Tokens],
    pad_id: int,
    *,
    token_budget: int,
    compute: Compute,
    progress: Callable[[int], None] = lambda rows: None,
    world: World = ALONE,
) -> list[Float[Tensor, " _"]]:
    """Collective. The log-prob of every response token of each row, on the CPU; ``progress`` is told of rows done."""
    own: dict[int, Tensor] = {}
    lengths = torch.tensor([len(prompt) + len(response) for prompt, response in rows], dtype=torch.int64)
    division = divided(lengths, token_budget, world)
    for turn, part in enumerate(division.parts):
        tokens, attention, mask = collate_demonstrations([rows[row] for row in part.tolist()], pad_id)
        logprobs = response_logprobs(model, tokens, attention, mask, compute=compute).cpu()
        if turn < division.worked:
            own |= {row: logprobs[here][mask[here]] for here, row in enumerate(part.tolist())}
            progress(len(part) * world.size)
    found = {row: values for share in world.gather(own) for row, values in share.items()}
    return [found[row] for row in range(len(rows))]


def row_totals(logprobs: Sequence[Float[Tensor, " _"]]) -> Float[Tensor, " N"]:
    """The log-prob of each whole response, summed in fp64."""
    return torch.tensor([values.double().sum().item() for values in logprobs], dtype=torch.float64)
