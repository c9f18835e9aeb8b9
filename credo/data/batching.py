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
    rows: Sequence[Sequence[TokenIds]], pad_id: int
) -> tuple[Int[Tensor, "B S"], Bool[Tensor, "B S"], Bool[Tensor, "B S"]]:
    """Tokens, attention and mask of (prompt ids, response ids) rows, padded on the right with ``pad_id``.

    A conversation is a row of more pieces, every other of which is a response. Raises ValueError if there are no rows,
    or a row without a response: nothing could be learnt from it.
    """
    if not rows or not all(any(len(response) for response in row[1::2]) for row in rows):
        raise ValueError(
            "A batch needs at least one row, and every row a response; there is nothing to learn otherwise."
        )
    width = max(sum(map(len, row)) for row in rows)
    tokens = torch.full((len(rows), width), pad_id, dtype=torch.int64)
    attention = torch.zeros(tokens.shape, dtype=torch.bool)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    for index, row in enumerate(rows):
        end = 0
        for place, piece in enumerate(row):
            start, end = end, end + len(piece)
            tokens[index, start:end] = torch.tensor(piece)
            mask[index, start:end] = place % 2 == 1
        attention[index, :end] = True
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


def micro_batches(lengths: Int[Tensor, " B"], token_budget: int, *, packed: bool = False) -> list[Int[Tensor, " R"]]:
    """Row indices in parts whose padded size, rows times the longest, fits ``token_budget``; a row over the budget
    stands alone. Longest rows first, so that a budget too large for the memory fails in the first part.

    If ``packed``, padding does not count up to as much again: then attention alone, which sees rows side by side, has
    it. Raises ValueError for a budget below 1.
    """
    if token_budget < 1:
        raise ValueError(f"The token budget of a micro-batch must be 1 or more, got {token_budget}.")
    ordered, order = torch.sort(lengths, descending=True, stable=True)
    sizes = ordered.clamp(min=1).tolist()
    widest = 2 * token_budget if packed else token_budget
    starts, used = [0], 0
    for row, size in enumerate(sizes):
        first = starts[-1]
        if row > first and (used + size > token_budget or (row - first + 1) * sizes[first] > widest):
            starts.append(row)
            used = 0
        used += size
    return [part for part in order.tensor_split(starts[1:]) if len(part)]
