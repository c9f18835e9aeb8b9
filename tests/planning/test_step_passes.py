"""What a step does with the models of a recipe, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest
from counted import KEPT, LAYER, LINEAR, QUERIES, L, W, config, counted_sizes

from credo.planning.plan import Sizes
from credo.planning.step_passes import passes


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Sizes:
    return counted_sizes(tmp_path_factory.mktemp("model"))


def stages(sizes: Sizes, **options: Any) -> list[tuple[str, int, int]]:
    """Stage, cost and times of each pass."""
    return [(made.stage, made.cost, made.times) for made in passes(config(**options), sizes)]


POLICY, PRM, SCORE = ("policy", 6, 1), ("prm", 6, 1), ("scoring", 2, 1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [SCORE, PRM, POLICY]),
        ({"prm__enabled": False}, [POLICY]),
        ({"policy__minibatch": 50}, [SCORE, SCORE, PRM, ("policy", 6, 3)]),
        ({"prm__minibatch": 32}, [SCORE, SCORE, ("prm", 6, 4), POLICY]),
        ({"prm__update": "before"}, [SCORE, SCORE, PRM, POLICY]),
        ({"prm__update": "before", "prm__loss": "dpo"}, [SCORE, SCORE, SCORE, PRM, POLICY]),
        ({"prm__update": "none", "prm__path": "p"}, [SCORE, SCORE, POLICY]),
        ({"prm__ema": 0.9}, [SCORE, SCORE, PRM, POLICY]),
        ({"advantage__estimator": "gae"}, [SCORE, PRM, SCORE, ("critic", 6, 1), POLICY]),
        ({"advantage__baseline": "expected"}, [SCORE, SCORE, PRM, SCORE, SCORE, SCORE, POLICY]),
        ({"policy__kl_coef": 0.1}, [SCORE, PRM, POLICY]),
        ({"policy__kl_coef": 0.1, "rollout__temperature": 0.5}, [SCORE, PRM, SCORE, POLICY]),
        ({"lora__rank": 2}, [SCORE, ("prm", 4, 1), ("policy", 4, 1)]),
    ],
)
def test_what_goes_through_the_models(sizes: Sizes, options: dict[str, Any], expected: list[tuple[str, int, int]]):
    assert stages(sizes, **options) == expected


def test_a_prm_of_few_layers_works_and_travels_as_such(sizes: Sizes):
    top = next(made for made in passes(config(prm__top_layers=1), sizes) if made.stage == "prm")
    assert (top.size.linear, top.size.queries) == (LINEAR // L, QUERIES // L)
    assert top.trained == LAYER + W
    adapter = next(made for made in passes(config(lora__rank=2), sizes) if made.stage == "policy")
    assert adapter.trained == 2 * KEPT
