"""How the rows of a batch are divided into micro-batches, and these among the ranks. It knows lengths and prompts.

All ranks know all lengths, so they agree without asking; and all get the same number of micro-batches, because models
that are spread over them run together or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from credo.data.batching import micro_batches
from credo.dist.world import World
from credo.types import Batch

ALONE = World()
Prompts = tuple[Sequence[int], Sequence[int]]
"""How many tokens of each row are its prompt, and a number for that prompt; rows with the same number have the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """The micro-batches of one rank."""

    parts: tuple[Int[Tensor, " _"], ...]
    """Rows of each; those after the first ``worked`` are run to keep step with other ranks, and count nothing."""
    worked: int
    own: Bool[Tensor, " B"]
    """The rows that this rank answers for."""
    world: World

    def together(self, found: Float[Tensor, "B S"] | Bool[Tensor, "B S"]) -> Tensor:
        """Collective. ``found`` with each row as the rank found it that answers for it."""
        if self.world.size == 1:
            return found
        mine = torch.where(self.own.unsqueeze(1), found.float(), 0.0)
        return self.world.all_reduce(mine, "sum").to(found.dtype)


def divided(
    lengths: Int[Tensor, " B"],
    token_budget: int,
    world: World = ALONE,
    *,
    packed: bool = False,
    prompts: Prompts | None = None,
) -> Division:
    """Rows of these ``lengths`` in micro-batches of up to ``token_budget`` tokens, for this rank of ``world``.

    Padding counts as :func:`micro_batches` says. Each row, longest first, goes to the rank with the fewest tokens so
    far; rows of one prompt go together where the busiest rank then has fewer, since it computes a prompt once. Raises
    ValueError for a budget below 1.
    """
    if world.size == 1:
        parts = micro_batches(lengths, token_budget, packed=packed)
        return Division(
            parts=tuple(parts), worked=len(parts), own=torch.ones(len(lengths), dtype=torch.bool), world=world
        )
    shares = _shares(lengths.tolist(), world.size, prompts)
    counts = [len(micro_batches(lengths[share], token_budget, packed=packed)) for share in shares]
    mine = shares[world.rank]
    parts = [mine[rows] for rows in micro_batches(lengths[mine], token_budget, packed=packed)]
    worked = len(parts)
    shortest = lengths.argmin().unsqueeze(0)
    own = torch.zeros(len(lengths), dtype=torch.bool)
    own[mine] = True
    return Division(parts=(*parts, *[shortest] * (max(counts) - worked)), worked=worked, own=own, world=world)


def divided_batch(batch: Batch, token_budget: int, world: World = ALONE) -> Division:
    """The rows of ``batch``, whose groups share a prompt."""
    lengths, starts = batch.attention.sum(dim=1), batch.mask.int().argmax(dim=1)
    return divided(lengths, token_budget, world, prompts=(starts.tolist(), batch.group_ids.tolist()))


def _shares(lengths: Sequence[int], size: int, prompts: Prompts | None) -> list[Int[Tensor, " R"]]:
    """The rows of each rank."""
    starts, groups = prompts or ([0] * len(lengths), range(len(lengths)))

    def tokens(rows: Iterable[int]) -> int:
        first = {groups[row]: starts[row] for row in rows}
        return sum(first.values()) + sum(lengths[row] - starts[row] for row in rows)

    def dealt(pieces: Iterable[list[int]]) -> list[list[int]]:
        shares: list[list[int]] = [[] for _ in range(size)]
        done = [0] * size
        for piece in sorted(pieces, key=tokens, reverse=True):
            least = min(range(size), key=done.__getitem__)
            shares[least] += piece
            done[least] += max(1, tokens(piece))
        return shares

    together: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        together.setdefault(group, []).append(row)
    found = min(
        (dealt([row] for row in range(len(lengths))), dealt(together.values())),
        key=lambda shares: max(map(tokens, shares)),
    )
    return [torch.tensor(share, dtype=torch.int64) for share in found]
