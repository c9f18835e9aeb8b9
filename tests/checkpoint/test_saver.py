"""Writing checkpoints: beside the training or at once, on one rank or several, on a disk that is full."""

from __future__ import annotations

import resource
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from learners import learners, same
from ranks import run_ranks

from credo.checkpoint import Saver, newest_whole, read
from credo.config import CheckpointConfig
from credo.dist.world import World

BESIDE = CheckpointConfig(asynchronous=True, keep=0)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def learn_while_saving(world: World, folder: Path) -> tuple[bool, bool]:
    """Whether each of two checkpoints holds what was learnt when it was asked for."""
    ours, theirs = learners(0, world), learners(5, world)
    at: list[Any] = []
    with closing(Saver(folder, BESIDE, world=world)) as saver:
        for step in (1, 2):
            ours.learn()
            at.append(ours.everything())
            ours.save(saver, step)
            torch.rand(3)
        ours.learn()
        saver.wait()
    found = []
    for step in (1, 2):
        theirs.restore(folder / f"step-{step:06d}")
        found.append(same(theirs.everything(), at[step - 1]) and not same(theirs.everything(), at[step % 2]))
    return found[0], found[1]


@pytest.mark.parametrize(("ranks", "sharding"), [(1, "none"), (2, "full"), (2, "none")])
def test_a_checkpoint_written_beside_the_training_is_of_the_moment_it_was_asked_for(
    tmp_path: Path, ranks: int, sharding: Any
):
    assert run_ranks(ranks, learn_while_saving, tmp_path, sharding=sharding) == [(True, True)] * ranks


def test_buffers_are_made_once(tmp_path: Path):
    ours, saver = learners(0), Saver(tmp_path, BESIDE)
    ours.learn()
    ours.save(saver, 1)
    saver.wait()
    assert saver._buffers is not None
    places = {name: tensor.data_ptr() for name, tensor in saver._buffers._kept.items()}
    assert any(name.endswith("exp_avg") for name in places)
    assert any(name.startswith("policy/model.") for name in places)
    ours.learn()
    ours.save(saver, 2)
    saver.close()
    assert {name: tensor.data_ptr() for name, tensor in saver._buffers._kept.items()} == places


def files_up_to(size: int) -> None:
    """No file of this process may grow beyond ``size`` bytes, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def on_a_full_disk(world: World, folder: Path, config: CheckpointConfig, full: int, size: int) -> list[str]:
    """What a save says for which the rank ``full`` has no room, and what is there then and with room again."""
    ours, said = learners(0, world), []
    with closing(Saver(folder, config, world=world)) as saver:
        ours.save(saver, 1)
        saver.wait()
        if world.rank == full:
            files_up_to(size)
        try:
            ours.save(saver, 2)
            said.append("went on")
            saver.wait()
        except RuntimeError as error:
            said.append(str(error))
        world.gather(None)
        said += names(folder)
        files_up_to(resource.RLIM_INFINITY)
        ours.save(saver, 2)
        saver.wait()
    return [*said, *names(folder)]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("ranks", "full", "size"), [(1, 0, 1_000), (1, 0, 10_000), (2, 0, 10_000), (2, 1, 1_000)], ids=str
)
def test_a_full_disk_is_said_on_all_ranks_and_leaves_the_old_checkpoints(
    tmp_path: Path, asynchronous: bool, ranks: int, full: int, size: int
):
    config = CheckpointConfig(asynchronous=asynchronous)
    results = run_ranks(ranks, on_a_full_disk, tmp_path, config, full, size, sharding="full" if ranks > 1 else "none")
    for said in results:
        if asynchronous:
            assert said.pop(0) == "went on"
        assert "The checkpoint of step 2 could not be written" in said[0]
        assert "File too large" in said[0]
        assert said[1:] == ["step-000001", "step-000001", "step-000002"]
    for step in (1, 2):
        read(tmp_path / f"step-{step:06d}")


def fail_beside(world: World, folder: Path) -> tuple[str, str]:
    """What the next save says, and what the end of the run says, of one that went wrong beside the training."""
    ours, said = learners(0, world), []
    saver = Saver(folder, BESIDE, world=world)
    files_up_to(1_000)
    for asked in (lambda: ours.save(saver, 3), saver.close):
        ours.save(saver, 2)
        try:
            asked()
        except RuntimeError as error:
            said.append(str(error))
    saver.close()
    return said[0], said[1]


def test_what_went_wrong_beside_the_training_is_said_once_by_the_next_save_or_the_end(tmp_path: Path):
    for said in run_ranks(1, fail_beside, tmp_path)[0]:
        assert "step 2" in said


def lives_elsewhere(world: World, folder: Path) -> None:
    ours = learners(0, world)
    with closing(Saver(folder / str(world.rank), BESIDE, world=world)) as saver:
        with pytest.raises(RuntimeError, match="share" if world.rank == 1 else "Rank 1"):
            ours.save(saver, 1)
        saver.wait()


def test_ranks_that_do_not_see_the_same_disk_say_so(tmp_path: Path):
    run_ranks(2, lives_elsewhere, tmp_path)


def test_the_best_stay_beside_the_newest(tmp_path: Path):
    said: list[str] = []
    saver = Saver(tmp_path, CheckpointConfig(keep=1, best=1), warn=said.append)
    ours = learners(0)
    for step, worth in ((1, {}), (2, {1: 0.5}), (3, {1: 0.5, 2: 0.7}), (4, {1: 0.5, 2: 0.7, 3: 0.6})):
        ours.save(saver, step, worth=worth)
    assert names(tmp_path) == ["step-000002", "step-000004"]
    assert not said
    ours.save(saver, 5)
    assert len(said) == 1
    assert "eval/accuracy" in said[0]


def test_a_checkpoint_that_hangs_is_not_waited_for_for_ever(tmp_path: Path):
    saver = Saver(tmp_path, BESIDE, world=World(timeout=0.0))
    ours = learners(0)
    ours.save(saver, 1)
    with pytest.raises(RuntimeError, match=r"launch\.timeout"):
        saver.wait()
    saver.close()


def test_an_unwritten_checkpoint_is_not_taken_for_one(tmp_path: Path):
    saver = Saver(tmp_path, BESIDE)
    learners(0).save(saver, 1)
    (tmp_path / "step-000002.tmp").mkdir()
    saver.close()
    found = newest_whole(tmp_path, pytest.fail)
    assert found is not None
    assert (found.step, found.state["note"]) == (1, 1)
