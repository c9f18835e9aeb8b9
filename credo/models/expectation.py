"""The log-ratio that the policy expected at each position: an exact, state-dependent baseline for process rewards.

All three models see the same tokens; their logits at the response positions are alive together, a micro-batch at a
time. What becomes of the expectation is not known here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from credo.algo.logprobs import CHUNK
from credo.algo.masked import full_precision
from credo.data.batching import rows_of
from credo.dist.world import World
from credo.models.causal import Compute, predicting_logits
from credo.models.division import ALONE, divided_batch
from credo.types import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def expected_log_ratios(
    policy: PreTrainedModel,
    prm: PreTrainedModel,
    reference: PreTrainedModel,
    batch: Batch,
    *,
    temperature: float,
    token_budget: int,
    compute: Compute,
    world: World = ALONE,
) -> Float[Tensor, "B S"]:
    """Collective. ``E[q]`` over the token that ``policy`` draws at each response position; 0 off the mask.

    PRM and reference are read at temperature 1, as in q itself. Models of one tokenizer can have output layers of
    different widths (padding of the vocabulary); tokens beyond the narrowest are never drawn and count 0.
    """
    expected = torch.zeros(batch.tokens.shape)
    division = divided_batch(batch, token_budget, world)
    for rows in division.parts:
        part = rows_of(batch, rows)
        logits = []
        for model in (policy, prm, reference):
            positions, made = predicting_logits(model, part.tokens, part.attention, part.mask, compute)
            wanted = part.mask[:, positions.cpu() + 1]
            logits.append(made[wanted.to(made.device)])
        at, token = wanted.nonzero(as_tuple=True)
        values = _expectation(*logits, temperature=temperature).cpu()
        expected[rows[at], positions.cpu()[token] + 1] = values
    return division.together(expected)


def _expectation(
    policy: Float[Tensor, "N V"], prm: Float[Tensor, "N W"], reference: Float[Tensor, "N U"], *, temperature: float
) -> Float[Tensor, " N"]:
    """The expectation row by row, in fp32, in blocks of tokens."""
    shared = min(policy.shape[1], prm.shape[1], reference.shape[1])
    values = []
    for drawn, scored, base in zip(policy.split(CHUNK), prm.split(CHUNK), reference.split(CHUNK), strict=True):
        chances = torch.softmax(full_precision(drawn) / temperature, dim=-1)[:, :shared]
        scores, bases = (torch.log_softmax(full_precision(x), dim=-1)[:, :shared] for x in (scored, base))
        values.append((chances * (scores - bases)).sum(dim=-1))
    return torch.cat(values)
