"""What one process and several exchange: numbers the same on all, errors and interrupts heard by all, waits bounded."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks

from credo.dist.world import World
from credo.interruption import Interrupted

RANKS = 3
LATE = 1.5
"""Seconds that a rank waits for one that does not come."""


def test_the_first_rank_writes():
    assert World().is_first
    assert not World(rank=1, size=2).is_first


def test_alone_nothing_is_exchanged():
    value = torch.tensor([1.0, -2.0])
    world = World()
    with world.stage("alone"):
        assert torch.equal(world.all_reduce(value, "sum"), torch.tensor([1.0, -2.0]))
        assert torch.equal(world.all_reduce(value, "max"), torch.tensor([1.0, -2.0]))
        assert world.gather("a") == ["a"]
        assert world.broadcast("a") == "a"
        assert world.any(True)
        assert not world.any(False)
        assert world.together(lambda: "a") == ["a"]
        assert world.everywhere(lambda: "a") == "a"
        assert world.first(lambda: "a") == "a"
        assert world.beside().gather("a") == ["a"]


def test_alone_an_error_is_its_own():
    with pytest.raises(ZeroDivisionError):
        World().together(lambda: 1 // 0)


def test_one_process_is_sharded_only_to_offload():
    assert not World(sharding="full").sharded
    assert not World(offload=True).sharded
    assert World(sharding="full", offload=True).sharded
    assert World(size=2, sharding="full").sharded
    assert not World(size=2).sharded


def test_more_ranks_cannot_pretend_to_have_reduced():
    with pytest.raises(AssertionError, match="process group"):
        World(rank=0, size=2).all_reduce(torch.ones(1), "sum")


def exchange(world: World) -> dict[str, Any]:
    """What each of the exchanges gives on this rank."""
    generator = torch.Generator().manual_seed(world.rank)
    given = torch.randn(1000, generator=generator) * 10.0 ** torch.randint(-6, 6, (1000,), generator=generator)
    before = given.clone()
    beside = world.beside()
    other: list[list[int]] = []
    talking = threading.Thread(target=lambda: other.extend(beside.gather(world.rank + n) for n in range(20)))
    talking.start()
    mine = [world.gather(10 * world.rank + n) for n in range(20)]
    talking.join()
    found = {
        "sum": world.all_reduce(given, "sum").tolist(),
        "max": world.all_reduce(given, "max").tolist(),
        "integers": world.all_reduce(torch.tensor([2**53, world.rank]), "sum").tolist(),
        "turned": world.all_reduce(torch.arange(6.0).view(2, 3).T + world.rank, "sum").tolist(),
        "given": given.tolist(),
        "kept": torch.equal(given, before),
        "gathered": world.gather({"rank": world.rank}),
        "first's": world.broadcast(f"from {world.rank}"),
        "any": [world.any(world.rank == 1), world.any(False)],
        "together": world.together(lambda: world.rank**2),
        "everywhere": world.everywhere(lambda: world.rank**2),
        "first": world.first(lambda: f"only on {world.rank}"),
        "main line": mine,
        "beside": other,
    }
    with world.stage("waiting for somebody"):
        alone: list[int] = []
        world.first(lambda: alone.append(1))
        found["worked"] = len(alone)
    return found


def test_all_ranks_hear_the_same():
    found = run_ranks(RANKS, exchange)
    given = torch.tensor([one["given"] for one in found])
    for rank, one in enumerate(found):
        assert one["sum"] == found[0]["sum"], "the same to the bit"
        assert one["sum"] == pytest.approx(given.double().sum(dim=0).tolist(), rel=1e-5, abs=1e-5)
        assert one["max"] == given.max(dim=0).values.tolist()
        assert one["integers"] == [RANKS * 2**53, 0 + 1 + 2]
        assert one["turned"] == (RANKS * torch.arange(6.0).view(2, 3).T + 3).tolist()
        assert one["kept"], "what was given is not written"
        assert one["gathered"] == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
        assert one["first's"] == "from 0"
        assert one["any"] == [True, False]
        assert one["together"] == [0, 1, 4]
        assert one["everywhere"] == rank**2
        assert one["first"] == "only on 0"
        assert one["worked"] == (rank == 0)
        assert one["main line"] == [[n, 10 + n, 20 + n] for n in range(20)]
        assert one["beside"] == [[n, 1 + n, 2 + n] for n in range(20)]


def said(work: Callable[[], Any]) -> tuple[str, str]:
    """The type and words of what ``work`` raises."""
    try:
        work()
    except (Exception, Interrupted) as error:
        return type(error).__name__, str(error)
    return "nothing", ""


def failing(world: World) -> dict[str, tuple[str, str]]:
    """What this rank hears when work fails on one or two, and that it can go on afterwards."""

    def on(ranks: dict[int, BaseException]) -> Callable[[], int]:
        def work() -> int:
            if world.rank in ranks:
                raise ranks[world.rank]
            return world.rank

        return work

    class Local(Exception):
        """One that cannot be pickled, as some are."""

    heard = {
        "together": said(lambda: world.together(on({1: ValueError("the disk is full")}))),
        "everywhere": said(lambda: world.everywhere(on({2: Local("here")}))),
        "first": said(lambda: world.first(on({0: KeyError("a"), 1: KeyError("b")}))),
        "two": said(lambda: world.together(on({1: ValueError("one"), 2: TypeError("two")}))),
        "interrupted": said(lambda: world.together(on({1: Interrupted()}))),
        "both": said(lambda: world.together(on({0: ValueError("lost"), 2: Interrupted()}))),
    }
    with world.stage("saving"):
        heard["staged"] = said(lambda: world.everywhere(on({0: ValueError("no room")})))
    assert world.gather(world.rank) == [0, 1, 2], "nobody waits for an answer that will not come"
    return heard


def test_an_error_on_one_rank_is_heard_on_all():
    zero, one, two = run_ranks(RANKS, failing)
    assert one["together"] == ("ValueError", "the disk is full")
    for other in (zero, two):
        kind, words = other["together"]
        assert kind == "RuntimeError"
        assert "Rank 1 of 3" in words
        assert "ValueError: the disk is full" in words
    assert two["everywhere"] == ("Local", "here")
    assert "Rank 2 of 3" in zero["everywhere"][1]
    assert zero["first"][0] == "KeyError"
    assert one["first"] == two["first"], "the others do not do that work"
    assert "Rank 0 of 3" in one["first"][1]
    assert [heard["two"][0] for heard in (zero, one, two)] == ["RuntimeError", "ValueError", "TypeError"]
    for heard in (zero, one, two):
        assert heard["interrupted"][0] == heard["both"][0] == "Interrupted"
    assert "'saving'" in one["staged"][1]


def own_work(world: World) -> list[list[str]]:
    """What ``alone`` has seen before, within and after the work of one rank."""
    seen: list[str] = []

    class Alone:
        def __enter__(self) -> None:
            seen.append("in")

        def __exit__(self, *raised: object) -> None:
            seen.append("out")

    world.alone = Alone
    world.gather(1)
    return [list(seen), world.everywhere(lambda: list(seen)), list(seen)]


def test_work_of_one_rank_runs_in_what_the_run_puts_around_it():
    assert run_ranks(2, own_work) == [[[], ["in"], ["in", "out"]]] * 2


def lonely(world: World, how: str, folder: Path) -> None:
    """Writes down what this rank hears if rank 1 does not come, or is gone."""
    short = World(rank=world.rank, size=world.size, timeout=LATE).beside()
    with short.stage("meeting"):
        short.gather(world.rank)
    with pytest.raises(RuntimeError) as error, short.stage("learning"):
        if how == "killed" and world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "late" and world.rank == 1:
            time.sleep(2 * LATE)
        started = time.monotonic()
        short.all_reduce(torch.ones(3), "sum")
    assert time.monotonic() - started < 5 * LATE
    (folder / f"{how}-{world.rank}").write_text(str(error.value))
    with pytest.raises(RuntimeError, match="of 3"), short.stage("saving"):
        short.gather("still here?")


@pytest.mark.parametrize("how", ["late", "killed"])
def test_nobody_waits_for_ever(tmp_path: Path, how: str):
    if how == "late":
        run_ranks(RANKS, lonely, how, tmp_path)
    else:
        with pytest.raises(AssertionError, match="rank 1 of 3: exit status -9"):
            run_ranks(RANKS, lonely, how, tmp_path)
    for rank, other in ((0, 2), (2, 0)):
        words = (tmp_path / f"{how}-{rank}").read_text()
        assert f"Rank {rank} of 3 waited" in words
        assert "'learning'" in words
        assert "launch.timeout" in words
        for absent in (1, other):
            assert f"rank {absent} in 'learning since " in words


def left_alone(world: World) -> str:
    """What a rank says when torch, asked by nobody of ours, exchanges with one that is gone."""
    import torch.distributed as dist

    with pytest.raises(RuntimeError, match=r"^ours$"), world.bounded():
        raise RuntimeError("ours")
    if world.rank == 1:
        return ""
    with pytest.raises(RuntimeError) as error, world.bounded(), world.stage("learning"):
        dist.all_reduce(torch.ones(3))
    return str(error.value)


def test_what_torch_says_of_a_lost_rank_becomes_a_sentence():
    said = run_ranks(2, left_alone)[0]
    assert said.startswith("Rank 0 of 2 waited ")
    assert "'learning'" in said
    assert "launch.timeout" in said
