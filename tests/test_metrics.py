"""The numbers of a step by hand, and the page that explains them against what real runs write."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from tiny import PAIRS, lines, tiny_config, tiny_model, tiny_problems

from credo.algo.advantages import PrimeReturns
from credo.config import SftConfig
from credo.metrics import memory_metrics, outcome_metrics, prm_metrics
from credo.recipe import build
from credo.sft import sft
from credo.train import train
from credo.types import Batch

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
GROUPS = ("rollout", "verify", "filter", "outcome", "prm", "policy", "eval", "sft", "time", "perf", "mem")


def two_prompts() -> Batch:
    """Four responses: to prompt 0 a right one of 2 tokens and a wrong one of 1, to prompt 1 the same."""
    mask = torch.tensor([[False, True, True], [False, True, False]] * 2)
    return Batch(
        tokens=torch.zeros(4, 3, dtype=torch.int64),
        attention=torch.ones(4, 3, dtype=torch.bool),
        mask=mask,
        outcomes=torch.tensor([1.0, 0.0, 1.0, 0.0]),
        group_ids=torch.tensor([0, 0, 1, 1]),
        sampling_logprobs=torch.where(mask, -1.0, 0.0),
    )


def test_outcome_metrics_by_hand():
    batch = two_prompts()
    advantages = torch.tensor([[0.0, 1.0, 2.0], [0.0, -1.0, 9.0], [0.0, -1.0, 0.5], [0.0, 0.25, 0.0]])
    metrics = outcome_metrics(batch, advantages, batch.sampling_logprobs)
    assert metrics == {
        "outcome/mean": 0.5,
        "outcome/responses": 4.0,
        "outcome/advantage_correct": (1.5 - 0.25) / 2,
        "outcome/advantage_wrong": (-1.0 + 0.25) / 2,
        "outcome/sign_flips": 0.5,
        "rollout/sampler_kl": 0.0,
    }


def test_the_sampler_is_compared_with_the_trainer_on_response_tokens_alone():
    batch = two_prompts()
    old = batch.sampling_logprobs - math.log(2.0) * batch.mask.float() + torch.where(batch.mask, 0.0, 7.0)
    metrics = outcome_metrics(batch, torch.zeros(4, 3), old)
    assert metrics["rollout/sampler_kl"] == pytest.approx(0.5 - 1.0 + math.log(2.0), rel=1e-5)


def test_unanimous_outcomes_leave_zeros():
    batch = two_prompts()
    right = Batch(**{name: getattr(batch, name) for name in Batch.__slots__} | {"outcomes": torch.ones(4)})
    metrics = outcome_metrics(right, torch.ones(4, 3), batch.sampling_logprobs)
    assert (metrics["outcome/advantage_correct"], metrics["outcome/advantage_wrong"]) == (1.0, 0.0)


def test_prm_metrics_by_hand():
    batch = two_prompts()
    log_ratios = torch.tensor([[0.0, 1.0, 3.0], [0.0, 2.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.5, 0.0]])
    process, outcome = 2.0 * batch.outcomes[:, None] * batch.mask, batch.outcomes[:, None] * batch.mask
    metrics = prm_metrics(batch, log_ratios, PrimeReturns(process=process, outcome=outcome), beta=0.5)
    sums = {1.0: [4.0, -1.0], 0.0: [2.0, 0.5]}
    entropy = sum(math.log1p(math.exp(-z / 2)) for z in sums[1.0]) + sum(math.log1p(math.exp(z / 2)) for z in sums[0.0])
    assert metrics == pytest.approx(
        {
            "prm/pair_accuracy": 0.5,
            "prm/informative_pair_accuracy": 0.5,
            "prm/cross_entropy": entropy / 4,
            "prm/score_correct": 1.5,
            "prm/score_wrong": 1.25,
            "prm/abs_log_ratio": 7.5 / 6,
            "prm/eos_log_ratio": (3.0 + 2.0 + 0.0 + 0.5) / 4,
            "prm/dead_gradient_share": 0.0,
            "prm/process_to_outcome": 2.0,
        }
    )


def test_memory_is_counted_in_mebibytes():
    held = torch.ones(64 << 18)  # 64 MiB
    assert 64 < memory_metrics()["mem/peak_mib"] < 64 << 10
    del held


def explained() -> list[str]:
    """The metrics in the tables of the page, in their order."""
    rows = re.findall(r"^\| `([a-z]+/[a-z_]+)` \|(.*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert all(cells.count(" |") == 3 for _, cells in rows), "metric, meaning, unit, healthy, elsewhere"
    return [name for name, _ in rows]


def test_the_page_explains_what_runs_write_and_nothing_else(tmp_path: Path):
    held_out = tiny_problems(tmp_path / "held-out.jsonl", PAIRS[:2])
    folder = train(tiny_config(tmp_path, run__steps=1, evaluation__sources=[str(held_out)]))
    written = lines(folder / "metrics.jsonl") + lines(folder / "evaluation.jsonl")
    demonstrations = tmp_path / "demonstrations.jsonl"
    demonstrations.write_text(json.dumps({"prompt": "ab=", "response": "a"}) + "\n")
    values = {
        "run": {"name": "sft", "folder": str(tmp_path / "runs"), "steps": 1, "threads": 1, "device": "cpu"},
        "model": {"path": str(tiny_model(tmp_path / "model"))},
        "sft": {"sources": [str(demonstrations)], "batch": 1},
    }
    sft(build(SftConfig, values))
    written += lines(tmp_path / "runs" / "sft" / "metrics.jsonl")
    found = {key for row in written for key in row} - {"step", "scores"}
    assert found == set(explained())
    assert len(explained()) == len(found), "explained twice"


def test_the_page_goes_through_the_groups_in_turn():
    page = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^## ([a-z]+)/$", page, re.MULTILINE) == list(GROUPS)
    groups = [name.split("/")[0] for name in explained()]
    assert sorted(groups, key=GROUPS.index) == groups
