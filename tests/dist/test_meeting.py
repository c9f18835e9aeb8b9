"""Ranks that meet again where earlier ones have met and died."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore

from credo.dist.meeting import _accept, _invite


def attempt(shared: HashStore, name: str, size: int) -> set[str]:
    """The rooms in which ``size`` ranks called after ``name`` find themselves."""
    with ThreadPoolExecutor(size) as ranks:
        others = [ranks.submit(_accept, shared, f"{name}-{rank}", rank) for rank in range(1, size)]
        first = ranks.submit(_invite, shared, f"{name}-0", size, 10.0)
        return {rank.result(20) for rank in [first, *others]}


def test_each_attempt_has_a_room_of_its_own():
    shared = HashStore()
    assert attempt(shared, "first", 3) == {"first-0"}
    assert attempt(shared, "second", 3) == {"second-0"}
    assert attempt(shared, "smaller", 2) == {"smaller-0"}


def test_ranks_that_died_before_they_met_are_not_waited_for():
    shared = HashStore()
    shared.set("credo/present/1", "dead")
    shared.set("credo/invited/dead", "nowhere")
    assert attempt(shared, "living", 2) == {"living-0"}


def test_a_rank_that_does_not_come_is_named():
    shared = HashStore()
    shared.set("credo/present/1", "dead")
    with pytest.raises(RuntimeError, match="rank 1, 2"):
        _invite(shared, "room", 3, timeout=0.1)
