"""Two and three ranks compute what one computes, whether models are whole on each or spread over all."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from ranks import run_ranks
from safetensors.torch import load_file
from tiny import lines, tiny_config, tiny_model, untimed

from credo.dist.join import joined
from credo.dist.world import World
from credo.train import train

STEPS = 5
RATES = {"policy__lr": 1e-3, "prm__lr": 1e-3}
VARIANTS: dict[str, dict[str, Any]] = {
    "prime": {},
    "small": {"policy__minibatch": 5, "prm__minibatch": 7, "training__tokens_per_microbatch": 16},
    "before": {"prm__update": "before", "policy__kl_coef": 0.1},
    "critic": {"advantage__estimator": "gae", "policy__entropy_coef": 0.01, "policy__minibatch": 8},
    "filtered": {"filter__accuracy_low": 0.2, "filter__accuracy_high": 0.8, "filter__max_rounds": 3},
    "average": {"prm__ema": 0.5},
    "adapters": {"prm__path": "", "lora__rank": 4, "policy__kl_coef": 0.1, "advantage__normalizer": "none"},
    "expected": {"advantage__baseline": "expected", "rollout__prompts": 3},
}


def trained(world: World, folder: Path, variant: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Metrics and rollouts of a run in ``folder``; every rank writes a recipe of its own there.

    The PRM is another model than its reference from the start: where q is near 0, and so all rounding, it is scaled up
    to a reward as large as any.
    """
    own = folder / f"rank-{world.rank}"
    prm = tiny_model(own / "prm", seed=5)
    changes = {"prm__path": str(prm), "run__folder": str(folder / "runs"), "run__steps": STEPS, **RATES}
    config = tiny_config(own, **changes | VARIANTS[variant])
    run = train(config, world=world)
    rollouts = [row for path in sorted((run / "rollouts").iterdir()) for row in lines(path)]
    return untimed(lines(run / "metrics.jsonl")), rollouts


def offloaded(world: World, folder: Path, variant: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """:func:`trained` in a process that keeps its models layer by layer out of an accelerator."""
    with joined(device="cpu", sharding="full", offload=True) as spread:
        return trained(spread, folder, variant)


@cache
def alone(variant: str) -> tuple[Path, list[dict[str, Any]], list[dict[str, Any]]]:
    folder = Path(mkdtemp())
    return folder, *trained(World(), folder, variant)


def assert_close(one: float | None, other: float | None, name: str) -> None:
    if one is None or other is None or math.isnan(one):
        assert one is other or (one is not None and other is not None and math.isnan(other)), name
    else:
        assert abs(one - other) <= 1e-5 * max(1.0, abs(one)), (name, one, other)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("ranks", "sharding"), [(2, "none"), (3, "none"), (2, "full"), (3, "full")])
def test_ranks_compute_what_one_does(tmp_path: Path, variant: str, ranks: int, sharding: Any):
    compare(run_ranks(ranks, trained, tmp_path, variant, sharding=sharding)[0], tmp_path, variant)


@pytest.mark.parametrize("variant", ["prime", "critic", "average", "adapters"])
def test_one_rank_computes_the_same_layer_by_layer(tmp_path: Path, variant: str):
    compare(run_ranks(1, offloaded, tmp_path, variant)[0], tmp_path, variant)


def compare(found: tuple[list[dict[str, Any]], list[dict[str, Any]]], place: Path, variant: str) -> None:
    (metrics, made), (folder, expected, rollouts) = found, alone(variant)
    assert [row["id"] for row in made] == [row["id"] for row in rollouts]
    largest = max(abs(advantage) for row in rollouts for advantage in row["advantages"])
    for mine, theirs in zip(made, rollouts, strict=True):
        assert (mine["response"], mine["score"]) == (theirs["response"], theirs["score"])
        assert mine["advantages"] == pytest.approx(theirs["advantages"], abs=1e-6 * largest)
    for row, other in zip(metrics, expected, strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            assert_close(value, other[name], name)
    last = f"runs/run/checkpoints/step-{STEPS:06d}"
    for role in ("policy", "prm"):
        one, several = (load_file(path / last / role / "model.safetensors") for path in (folder, place))
        assert one.keys() == several.keys()
        assert all(torch.allclose(one[name], several[name], atol=1e-5) for name in one)
