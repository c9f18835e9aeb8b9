"""The numbers of a step by hand, and the page that explains them against what real runs write."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import PAIRS, lines, tiny_config, tiny_model, tiny_problems
from torch import Tensor

from credo.algo.advantages import PrimeReturns
from credo.config import PrmTrainingConfig, SftConfig
from credo.dist.world import World
from credo.metrics import memory_metrics, outcome_metrics, pair_accuracy_change, prm_metrics, sampler_metrics
from credo.offline.training import train_prm
from credo.recipe import build
from credo.sft import sft
from credo.train import train
from credo.types import Batch

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
GROUPS = (
    "rollout",
    "verify",
    "filter",
    "outcome",
    "prm",
    "policy",
    "critic",
    "eval",
    "sft",
    "offline",
    "time",
    "perf",
    "mem",
)

EVERYTHING = {
    "filter__memory_floor": 0.5,
    "advantage__estimator": "gae",
    "advantage__gate_accuracy": 0.6,
    "policy__kl_coef": 0.1,
    "policy__importance_cap": 2.0,
    "instruments__every": 1,
    "rollout__ahead": True,
}
"""Options that write metrics of their own."""
OF_VLLM = {"rollout/probe_gap", "rollout/retries", "rollout/servers"}
"""Those of engines that tests of training do without; `rollout/test_vllm_server.py` compares them with the page."""


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
    metrics = outcome_metrics(batch, advantages)
    assert metrics == {
        "outcome/mean": 0.5,
        "outcome/responses": 4.0,
        "outcome/advantage_correct": (1.5 - 0.25) / 2,
        "outcome/advantage_wrong": (-1.0 + 0.25) / 2,
        "outcome/length_correlation_correct": 0.0,
        "outcome/length_correlation_wrong": 0.0,
        "outcome/sign_flips": 0.5,
    }


def responses(*outcomes: float, lengths: Sequence[int]) -> Batch:
    """A response of each length after one token of prompt, all in one group."""
    mask = (torch.arange(max(lengths) + 1) <= torch.tensor(lengths)[:, None]) & (torch.arange(max(lengths) + 1) > 0)
    return Batch(
        tokens=torch.zeros(mask.shape, dtype=torch.int64),
        attention=mask,
        mask=mask,
        outcomes=torch.tensor(outcomes),
        group_ids=torch.zeros(len(lengths), dtype=torch.int64),
        sampling_logprobs=torch.zeros(mask.shape),
    )


def spread(values: Sequence[float], mask: Tensor) -> Tensor:
    """Each value on every response token of its row, and NaN elsewhere."""
    return torch.where(mask, torch.tensor(values)[:, None], torch.nan)


def test_length_and_advantage_are_compared_within_each_class():
    """Right: lengths 1, 2, 3 with advantages 1, 2, 6, centred -2, -1, 3: 5 / sqrt(2 * 14). Wrong: falls evenly."""
    batch = responses(1.0, 0.0, 1.0, 0.4, 1.0, lengths=[1, 1, 2, 3, 3])
    advantages = spread([1.0, 5.0, 2.0, 4.0, 6.0], batch.mask)
    metrics = outcome_metrics(batch, advantages)
    assert metrics["outcome/length_correlation_correct"] == pytest.approx(5 / 28**0.5)
    assert metrics["outcome/length_correlation_wrong"] == pytest.approx(-1.0)


def test_the_sampler_is_compared_with_the_trainer_on_response_tokens_alone():
    batch = two_prompts()
    old = batch.sampling_logprobs - math.log(2.0) * batch.mask.float() + torch.where(batch.mask, 0.0, 7.0)
    metrics = sampler_metrics(batch, old)
    assert metrics["rollout/sampler_kl"] == pytest.approx(0.5 - 1.0 + math.log(2.0), rel=1e-5)
    assert metrics["rollout/sampler_gap_max"] == pytest.approx(math.log(2.0))
    old[2, 1] += 5.0
    assert sampler_metrics(batch, old)["rollout/sampler_gap_max"] == pytest.approx(5 - math.log(2.0))


def test_unanimous_outcomes_leave_zeros():
    batch = two_prompts()
    right = replace(batch, outcomes=torch.ones(4))
    metrics = outcome_metrics(right, torch.ones(4, 3))
    assert (metrics["outcome/advantage_correct"], metrics["outcome/advantage_wrong"]) == (1.0, 0.0)


def test_prm_metrics_by_hand():
    batch = two_prompts()
    log_ratios = torch.tensor([[0.0, 1.0, 3.0], [0.0, 2.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.5, 0.0]])
    process, outcome = 2.0 * batch.outcomes[:, None] * batch.mask, batch.outcomes[:, None] * batch.mask
    returns = PrimeReturns(process=process, outcome=outcome, rewards=process, divisor=torch.tensor(3.0))
    metrics = prm_metrics(batch, log_ratios, returns, beta=0.5)
    sums = {1.0: [4.0, -1.0], 0.0: [2.0, 0.5]}
    gaps = [1 / (1 + math.exp(-z / 2)) - outcome for outcome, group in sums.items() for z in group]
    entropy = sum(math.log1p(math.exp(-z / 2)) for z in sums[1.0]) + sum(math.log1p(math.exp(z / 2)) for z in sums[0.0])
    assert metrics == pytest.approx(
        {
            "prm/pair_accuracy": 0.5,
            "prm/informative_pair_accuracy": 0.5,
            "prm/auc": 0.5,
            "prm/auc_short": 0.5,
            "prm/auc_middle": 0.5,
            "prm/auc_long": 0.5,
            "prm/cross_entropy": entropy / 4,
            "prm/calibration_error": sum(map(abs, gaps)) / 4,
            "prm/ceiling_distance": 0.5 * math.log(2) - 0.5 * 1.5,
            "prm/score_correct": 1.5,
            "prm/score_wrong": 1.25,
            "prm/score_std_correct": 2.5,
            "prm/score_std_wrong": 0.75,
            "prm/abs_log_ratio": 7.5 / 6,
            "prm/eos_log_ratio": (3.0 + 2.0 + 0.0 + 0.5) / 4,
            "prm/dead_gradient_share": 0.0,
            "prm/process_to_outcome": 2.0,
            "prm/normalizer": 3.0,
        }
    )


def scored(batch: Batch, scores: Sequence[float]) -> Mapping[str, float]:
    """PRM metrics of responses whose q sums to ``scores``."""
    log_ratios = spread(scores, batch.mask) / batch.mask.sum(dim=1, keepdim=True)
    ones = batch.mask.float()
    returns = PrimeReturns(process=ones, outcome=ones, rewards=ones, divisor=torch.ones(()))
    return prm_metrics(batch, log_ratios, returns, beta=0.05)


def test_a_score_that_knows_length_alone_is_found_out_within_thirds():
    """Right responses are longer and score higher; within a third of the lengths the score says nothing."""
    batch = responses(0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, lengths=[1, 1, 1, 2, 2, 2, 3, 3, 3])
    metrics = scored(batch, [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0])
    assert metrics["prm/auc"] == pytest.approx((1 * 1 + 2 * 2.5 + 2 * 3.5) / 20)
    assert [metrics[f"prm/auc_{third}"] for third in ("short", "middle", "long")] == [0.5, 0.5, 0.5]


def test_each_third_has_its_own_auc():
    batch = responses(0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, lengths=[9, 9, 5, 5, 5, 1, 2])
    metrics = scored(batch, [2.0, 1.0, 5.0, 4.0, 4.0, 0.0, 1.0])
    assert [metrics[f"prm/auc_{third}"] for third in ("short", "middle", "long")] == [1.0, 0.75, 0.0]


def test_one_response_of_a_class_has_no_spread():
    metrics = scored(responses(1.0, 0.0, 0.0, lengths=[1, 2, 3]), [4.0, 1.0, 3.0])
    assert (metrics["prm/score_std_correct"], metrics["prm/score_std_wrong"]) == (0.0, 1.0)


def test_learning_changes_how_a_batch_is_ranked():
    batch = two_prompts()
    before = spread([1.0, 3.0, 1.0, 0.0], batch.mask)
    after = spread([1.0, 0.0, 1.0, 0.0], batch.mask)
    change = pair_accuracy_change(batch, before, after)
    assert change == {"prm/pair_accuracy_before": 0.5, "prm/pair_accuracy_after": 1.0}
    unanimous = replace(batch, outcomes=torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert pair_accuracy_change(unanimous, before, after)["prm/pair_accuracy_before"] == 0.0, "the first prompt alone"


def test_memory_is_counted_in_mebibytes():
    held = torch.ones(64 << 18)  # 64 MiB
    assert 64 < memory_metrics(World())["mem/peak_mib"] < 64 << 10
    del held


def explained() -> list[str]:
    """The metrics in the tables of the page, in their order."""
    rows = re.findall(r"^\| `([a-z]+/[a-zA-Z_]+)` \|(.*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert all(cells.count(" |") == 3 for _, cells in rows), "metric, meaning, unit, healthy, elsewhere"
    return [name for name, _ in rows]


def test_the_page_explains_what_runs_write_and_nothing_else(tmp_path: Path):
    held_out = tiny_problems(tmp_path / "held-out.jsonl", PAIRS[:2])
    folder = train(tiny_config(tmp_path, run__steps=1, evaluation__sources=[str(held_out)], **EVERYTHING))
    written = lines(folder / "metrics.jsonl") + lines(folder / "evaluation.jsonl")
    demonstrations = tmp_path / "demonstrations.jsonl"
    demonstrations.write_text("".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in PAIRS[:2]))
    values = {
        "run": {"name": "sft", "folder": str(tmp_path / "runs"), "steps": 1, "threads": 1, "device": "cpu"},
        "model": {"path": str(tiny_model(tmp_path / "model"))},
        "sft": {"sources": [str(demonstrations)], "batch": 1, "held_out_share": 0.5},
    }
    sft(build(SftConfig, values))
    labelled = tmp_path / "labelled.jsonl"
    rows = [{"prompt": prompt, "response": letter, "label": letter == "a"} for prompt, _ in PAIRS for letter in "ab"]
    labelled.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {**values, "run": values["run"] | {"name": "prm"}, "offline": {"sources": [str(labelled)], "batch": 4}}
    train_prm(build(PrmTrainingConfig, {name: values[name] for name in ("run", "model", "offline")}))
    for name in ("sft", "prm"):
        written += lines(tmp_path / "runs" / name / "metrics.jsonl")
    found = {key for row in written for key in row} - {"step", "scores"}
    found = {re.sub(r"_(math|code|gym|exact|regex)$", "_KIND", key) for key in found}
    assert found | OF_VLLM == set(explained())
    assert len(explained()) == len(found | OF_VLLM), "explained twice"


def test_the_page_goes_through_the_groups_in_turn():
    page = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^## ([a-z]+)/$", page, re.MULTILINE) == list(GROUPS)
    groups = [name.split("/")[0] for name in explained()]
    assert sorted(groups, key=GROUPS.index) == groups
