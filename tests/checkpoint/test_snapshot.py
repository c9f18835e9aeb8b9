"""Checkpoints of several ranks: whatever number saved one, any number goes on from it, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from learners import learners, policy_of, prm_of, same, start
from ranks import run_ranks
from torch import Tensor

from credo.checkpoint import Saver, read, restore
from credo.checkpoint.snapshot import Buffers
from credo.config import CheckpointConfig
from credo.dist.world import World
from credo.models.causal import load_model

Everything = dict[str, Tensor]


def save(world: World, folder: Path) -> Everything:
    """Learns twice and saves that."""
    torch.manual_seed(7)
    ours = learners(0, world)
    ours.learn()
    ours.learn()
    ours.saved(folder, 2)
    return ours.everything()


def read_back(world: World, folder: Path, again: Path | None = None) -> Everything:
    """What roles of other weights become by that checkpoint; saved ``again`` as such."""
    ours = learners(5, world)
    ours.restore(folder)
    if again is not None:
        ours.saved(again, 2)
    return ours.everything()


SEVERAL: list[tuple[int, Any]] = [(2, "full"), (2, "none"), (3, "full")]


@pytest.mark.parametrize(("ranks", "sharding"), [(1, "none"), (2, "full"), (3, "none")])
def test_any_number_of_ranks_goes_on_from_any_other(tmp_path: Path, ranks: int, sharding: Any):
    saved = run_ranks(ranks, save, tmp_path, sharding=sharding)
    assert all(same(saved[0], other) for other in saved[1:])
    assert same(read_back(World(), tmp_path / "step-000002"), saved[0])
    for readers, spread in SEVERAL:
        for found in run_ranks(readers, read_back, tmp_path / "step-000002", sharding=spread):
            assert same(found, saved[0])


def test_a_checkpoint_can_go_from_hand_to_hand(tmp_path: Path):
    folders = [tmp_path / str(count) for count in range(4)]
    saved = run_ranks(2, save, folders[0], sharding="full")[0]
    hands: list[tuple[int, Any]] = [(1, "none"), (3, "full"), (2, "none")]
    for count, (ranks, sharding) in enumerate(hands):
        run_ranks(ranks, read_back, folders[count] / "step-000002", folders[count + 1], sharding=sharding)
    assert same(read_back(World(), folders[-1] / "step-000002"), saved)


def learn_and_part(world: World, folder: Path) -> tuple[Everything, Everything]:
    """What one that was never saved and one that was restored become by the same two steps."""
    whole, restored = learners(0, world), learners(5, world)
    whole.learn()
    restored.restore(whole.saved(folder, 1))
    for ours in (whole, restored):
        ours.learn()
        ours.learn()
    return whole.everything(), restored.everything()


@pytest.mark.parametrize(("ranks", "sharding"), [(1, "none"), (2, "full")])
def test_who_is_restored_goes_on_as_who_was_not_stopped(tmp_path: Path, ranks: int, sharding: Any):
    for whole, restored in run_ranks(ranks, learn_and_part, tmp_path, sharding=sharding):
        assert same(whole, restored)


def test_models_of_several_ranks_are_folders_like_those_of_one(tmp_path: Path):
    run_ranks(2, save, tmp_path / "two", sharding="full")
    save(World(), tmp_path / "one")
    one, two = (tmp_path / name / "step-000002" for name in ("one", "two"))
    for role in ("policy", "prm"):
        files = sorted(path.name for path in (one / role).iterdir())
        assert files == sorted(path.name for path in (two / role).iterdir())
        for name in files:
            if name != "model.safetensors":
                assert (one / role / name).read_bytes() == (two / role / name).read_bytes()
        load_model(str(two / role))
    manifest = json.loads((two / "manifest.json").read_text())
    assert sum(name.startswith("optimizers/") for name in manifest) == 2, "each rank has written its part"


def test_a_role_that_has_not_learnt_yet_is_restored_as_such(tmp_path: Path):
    ours, theirs = learners(0), learners(5)
    folder = ours.saved(tmp_path, 0)
    theirs.learn()
    theirs.restore(folder)
    assert same(ours.everything(), theirs.everything())
    assert not theirs.policy.optimizer.adamw.state


def test_a_checkpoint_of_an_earlier_version_is_refused(tmp_path: Path):
    folder = Saver(tmp_path, CheckpointConfig()).save(
        1, policy=policy_of(start()), prm=prm_of(start()), tokenizer=start().tokenizer, state={}
    )
    found = read(folder)
    (folder / "optimizers").rename(folder / "optimizers.pt")
    with pytest.raises(ValueError, match="earlier version"):
        restore(found, policy=policy_of(start()), prm=prm_of(start()))


def test_buffers_are_copies_that_are_used_again():
    buffers, live = Buffers(), torch.tensor([1.0, 2.0])
    first = buffers.copied("a", live)
    live += 1
    assert first.tolist() == [1.0, 2.0]
    assert buffers.copied("a", live).data_ptr() == first.data_ptr() != live.data_ptr()
    assert first.tolist() == [2.0, 3.0]
    other = buffers.copied("a", torch.ones(3))
    assert (other.shape, first.tolist()) == ((3,), [2.0, 3.0])
