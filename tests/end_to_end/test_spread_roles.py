"""Roles where models are spread over ranks: what shares layers is refused, the rest starts from one model."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from tiny import tiny_config, tiny_model

from benchmarks.ranks import held
from credo.config import ArchitectureConfig
from credo.console import Console
from credo.dist.shard import is_spread, whole_state
from credo.dist.world import World
from credo.models.causal import build_model, load_model
from credo.roles import Roles, build_roles


def roles(folder: Path, world: World, **changes: Any) -> Roles:
    config = tiny_config(folder, **changes)
    return build_roles(config, load_model(config.model.path), world, Console(quiet=True))


def test_roles_that_share_layers_cannot_be_spread(tmp_path: Path):
    with pytest.raises(ValueError, match=r"launch\.sharding .*prm\.top_layers"):
        roles(tmp_path, World(size=2, sharding="full"), prm__top_layers=1)
    roles(tmp_path, World(size=2), prm__top_layers=1)
    roles(tmp_path, World(sharding="full"), prm__top_layers=1)


def spread(world: World, folder: Path) -> list[str]:
    """The roles whose parameters lie on all ranks, each of which has the weights that it starts from."""
    changes = {"advantage__estimator": "gae", "policy__kl_coef": 0.1, "training__gradient_checkpointing": True}
    found = roles(folder / str(world.rank), world, **changes)
    start = load_model(str(folder / str(world.rank) / "model")).model.state_dict()
    assert found.prm is not None
    assert found.reference is not None
    assert found.anchor is not None
    assert found.critic is not None
    models = {
        "policy": found.policy.model,
        "prm": found.prm.model,
        "reference": found.reference.model,
        "anchor": found.anchor.model,
    }
    for model in models.values():
        assert all(torch.equal(value, start[name]) for name, value in whole_state(model).items())
    assert not any(weight.requires_grad for weight in found.reference.model.parameters())
    assert all(weight.requires_grad for weight in found.policy.model.parameters())
    parts: dict[str, Any] = models | {"critic": found.critic.model}
    return [name for name, model in parts.items() if all(is_spread(weight) for weight in model.parameters())]


def spread_around(world: World, folder: Path) -> None:
    """Adapters and averages beside weights of which each role has its own."""
    found = roles(folder / str(world.rank), world, lora__rank=2, policy__kl_coef=0.1)
    averaged = roles(folder / str(world.rank), world, prm__ema=0.5).prm
    assert found.prm is not None
    assert found.reference is not None
    assert found.reference is found.anchor
    learners = [found.policy.model, found.prm.model]
    for model in learners:
        assert {is_spread(weight) for weight in model.parameters() if not weight.requires_grad} == {True}
        assert {is_spread(weight) for weight in model.parameters() if weight.requires_grad} == {False}
    assert averaged is not None
    assert averaged.average is not None
    start, average = (whole_state(model) for model in (averaged.model, averaged.average))
    assert all(torch.equal(value, start[name]) for name, value in average.items())
    assert all(is_spread(weight) and not weight.requires_grad for weight in averaged.average.parameters())


def test_adapters_are_whole_and_averages_spread(tmp_path: Path):
    for rank in range(2):
        tiny_config(tmp_path / str(rank))
    run_ranks(2, spread_around, tmp_path, sharding="full")


def test_every_role_is_spread_and_whole(tmp_path: Path):
    for rank in range(2):
        tiny_config(tmp_path / str(rank))
    names = ["policy", "prm", "reference", "anchor", "critic"]
    assert run_ranks(2, spread, tmp_path, sharding="full") == [names, names]


def weights_gradients_and_moments(world: World, model: Path, sharding: Any) -> int:
    return held(str(model), sharding)["bytes"]


def test_two_spread_ranks_hold_little_more_than_half_of_what_learns_each(tmp_path: Path):
    model = tiny_model(tmp_path / "model", width=64, alphabet="".join(map(chr, range(200, 300))))
    (alone,) = run_ranks(1, weights_gradients_and_moments, model, "none")
    parameters = load_model(str(model)).model.num_parameters()
    assert alone == pytest.approx(4 * 4 * parameters, rel=0.01), "weight, gradient and two moments in fp32"
    assert max(run_ranks(2, weights_gradients_and_moments, model, "full")) <= 0.62 * alone


MMAP_THRESHOLD = -3


def most_held(world: World, folder: Path) -> float:
    """What this process held at most while all roles were made and spread, in sizes of the model they start from."""
    ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 1 << 16)  # what is let go goes back to the system, as large tensors do
    shape = ArchitectureConfig(layers=8, width=512, heads=2, positions=16, alphabet="abcd=")
    start, config = build_model(shape, seed=0), tiny_config(folder / str(world.rank))
    size = sum(4 * weight.numel() for weight in start.model.parameters())
    Path("/proc/self/clear_refs").write_text("5")
    before = kilobytes("VmRSS")
    build_roles(config, start, world, Console(quiet=True))
    return 1 + 1024 * (kilobytes("VmHWM") - before) / size


def kilobytes(name: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1])


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the memory of a process")
def test_no_more_than_one_whole_model_is_held_beside_the_one_that_roles_start_from(tmp_path: Path):
    """1 + 1 and half of the reference, which is spread before the PRM's model is copied."""
    assert max(run_ranks(2, most_held, tmp_path, sharding="full")) < 2.75
