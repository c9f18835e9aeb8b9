"""Roles where models are spread over ranks: what shares layers is refused, the rest starts from one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from tiny import tiny_config

from credo.console import Console
from credo.dist.shard import is_spread, whole_state
from credo.dist.world import World
from credo.models.causal import load_model
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
