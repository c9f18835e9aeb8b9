"""Who else is training: rank, size, and the reductions that keep numbers independent of both.

One process is a world of size 1 in which every reduction is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The processes of one run, as seen from one of them."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """True on the rank that writes files."""
        return self.rank == 0

    def all_reduce(self, value: Tensor, operation: Literal["sum", "max"]) -> Tensor:
        """Collective. ``value`` combined over all ranks."""
        assert self.size == 1, "more than one rank needs a process group"
        return value
