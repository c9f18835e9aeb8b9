"""Rollouts and demonstrations as padded tensors, and their division under a token budget. It knows no model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from credo.types import Batch, Group

TokenIds = Sequence[int]


def collate(groups: Sequence[Group], pad_id: int) -> Batch:
    """One row per rollout, prompt and response together, padded on the right with ``pad_id``; group ``g`` has id ``g``.

    Raises ValueError if there is no rollout at all.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    rows = [(rollout.prompt_ids, rollout.response_ids) for rollout in rollouts]
    tokens, attention, mask = collate_demonstrations(rows, pad_id)
    sampling_logprobs = torch.zeros(tokens.shape, dtype=torch.float32)
    sampling_logprobs[mask] = torch.tensor([value for rollout in rollouts for value in rollout.logprobs])
    verdicts = [(index, verdict.score) for index, group in enumerate(groups) for verdict in group.verdicts]
    return Batch(
        tokens=tokens,
        attention=attention,
        mask=mask,
        outcomes=torch.tensor([score for _, score in verdicts], dtype=torch.float32),
        group_ids=torch.tensor([index for index, _ in verdicts], dtype=torch.int64),
        sampling_logprobs=sampling_logprobs,
    )


def collate_demonstrations(
    rows: Sequence[tuple[TokenIds, TokenIds]], pad_id: int
) -> tuple[Int[Tensor, "B S"], Bool[Tensor, "B S"], Bool[Tensor, "B S"]]:
    """Tokens, attention and mask of (prompt ids, response ids) rows, padded on the right with ``pad_id``.

    Raises ValueError if there are no rows, or a row without a response: nothing could be learnt from it.
    """
    if not rows or not all(response for _, response in rows):
        raise ValueError(
            "A batch needs at least one row, and every row a response; there is nothing to learn otherwise."
        )
    width = max(len(prompt) + len(response) for prompt, response in rows)
    tokens = torch.full((len(rows), width), pad_id, dtype=torch.int64)
    attention = torch.zeros(tokens.shape, dtype=torch.bool)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    for index, (prompt, response) in enumerate(rows):
        end = len(prompt) + len(response)
        tokens[index, :end] = torch.tensor([*prompt, *response])
        attention[index, :end] = True
        mask[index, len(prompt) : end] = True
    return tokens, attention, mask


def rows_of(batch: Batch, indices: Int[Tensor, " R"]) -> Batch:
    """The rows ``indices`` of the batch in that order, without the trailing columns that are padding in all of them."""
    attention = batch.attention[indices]
    width = int(attention.any(dim=0).nonzero().max()) + 1
    return Batch(
        tokens=batch.tokens[indices, :width],
        attention=attention[:, :width],
        mask=batch.mask[indices, :width],
        outcomes=batch.outcomes[indices],
        group_ids=batch.group_ids[indices],
        sampling_logprobs=batch.sampling_logprobs[indices, :width],
    )


def micro_batches(lengths: Int[Tensor, " B"], token_budget: int) -> list[Int[Tensor, " R"]]:
    """Row indices in parts whose padded size, rows times the longest, fits ``token_budget``; a row over the budget
    stands alone. Longest rows first, so that a budget too large for the memory fails in the first part.

    Raises ValueError for a budget below 1.
    """
    if token_budget < 1:
        raise ValueError(f"The token budget of a micro-batch must be 1 or more, got {token_budget}.")
    order = torch.sort(lengths, descending=True, stable=True).indices
    parts: list[Tensor] = []
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        rows = max(1, token_budget // longest)
        parts.append(order[start : start + rows])
        start += rows
    return parts
