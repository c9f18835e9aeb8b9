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
    spans = [len(response) for _, response in rows]
    values = torch.zeros(sum(spans))  # one piece: small ones that stay would pin the memory of large ones that go
    found = values.split(spans)
    lengths = torch.tensor([len(prompt) + len(response) for prompt, response in rows], dtype=torch.int64)
    division = divided(lengths, token_budget, world)
    for turn, part in enumerate(division.parts):
        tokens, attention, mask = collate_demonstrations([rows[row] for row in part.tolist()], pad_id)
        logprobs = response_logprobs(model, tokens, attention, mask, compute=compute).cpu()
        if turn < division.worked:
            for here, row in enumerate(part.tolist()):
                found[row].copy_(logprobs[here][mask[here]])
            progress(len(part) * world.size)
    return list(world.all_reduce(values, "sum").split(spans))


def row_totals(logprobs: Sequence[Float[Tensor, " _"]]) -> Float[Tensor, " N"]:
    """The log-prob of each whole response, summed in fp64."""
    return torch.tensor([values.double().sum().item() for values in logprobs], dtype=torch.float64)
