"""The faster precision, measured: what is said is what is chosen, and a run that began keeps what it has."""

from __future__ import annotations

import math

import pytest
import torch

from credo.config import SftConfig, TrainConfig
from credo.models import precision
from credo.models.precision import bf16_speedup, choose_compute, with_compute_chosen
from credo.recipe import build, flat

TRAIN = {
    "run": {"name": "x", "steps": 1, "threads": torch.get_num_threads(), "device": "cpu"},
    "model": {"path": "m", "compute": "auto"},
    "data": {"train": ["a.jsonl"]},
}


@pytest.mark.parametrize(("worth", "expected"), [(0.0, "bf16"), (math.inf, "fp32")])
def test_the_choice_is_that_of_the_measurement(worth: float, expected: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision, "WORTH", worth)
    said: list[str] = []
    assert choose_compute("cpu", said.append) == expected
    assert len(said) == 1
    assert f"Computes in {expected}" in said[0]


def test_a_measurement_leaves_torchs_generator_alone():
    before = torch.get_rng_state()
    assert 0 < bf16_speedup() < 1000
    assert torch.equal(torch.get_rng_state(), before)


def test_only_what_is_open_is_chosen():
    config, said = build(TrainConfig, TRAIN), list[str]()
    chosen = with_compute_chosen(config, {}.get, said.append)
    assert chosen.model.compute in ("fp32", "bf16")
    assert chosen.model.precision in said[0]
    assert {key: value for key, value in flat(chosen).items() if value != flat(config)[key]} == {
        "model.compute": chosen.model.compute
    }
    assert with_compute_chosen(chosen, {}.get, pytest.fail) is chosen


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_a_run_that_began_is_not_measured_again(compute: str):
    config = build(TrainConfig, TRAIN)
    assert with_compute_chosen(config, {"model.compute": compute}.get, pytest.fail).model.compute == compute


def test_a_model_made_from_scratch_has_nothing_to_choose():
    architecture = {"run": TRAIN["run"], "sft": {"sources": ["a.jsonl"]}, "architecture": {"layers": 1}}
    config = build(SftConfig, architecture)
    assert with_compute_chosen(config, pytest.fail, pytest.fail) is config
