"""A world of one process, in which every reduction is the identity."""

from __future__ import annotations

import pytest
import torch

from credo.dist.world import World


def test_the_first_rank_writes():
    assert World().is_first
    assert not World(rank=1, size=2).is_first


@pytest.mark.parametrize("operation", ["sum", "max"])
def test_alone_a_reduction_changes_nothing(operation):
    value = torch.tensor([1.0, -2.0])
    assert torch.equal(World().all_reduce(value, operation), torch.tensor([1.0, -2.0]))


def test_more_ranks_cannot_pretend_to_have_reduced():
    with pytest.raises(AssertionError, match="process group"):
        World(rank=0, size=2).all_reduce(torch.ones(1), "sum")
