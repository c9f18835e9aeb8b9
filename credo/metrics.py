"""The numbers of one training step, from what the step produced. Every key is explained in ``docs/metrics.md``."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from credo.algo.advantages import PrimeReturns
from credo.algo.masked import masked_mean, row_mean, row_sum, zero_off
from credo.algo.measures import auc, calibration_error, correlation, thirds
from credo.algo.policy_losses import approx_kl
from credo.algo.prm_losses import ceiling_distance, dead_gradient_share, prm_cross_entropy
from credo.algo.rewards import informative_pair_accuracy, last_token, pair_accuracy
from credo.dist.world import World
from credo.types import Batch


def outcome_metrics(batch: Batch, advantages: Float[Tensor, "B S"]) -> Mapping[str, float]:
    """What a run logs with or without a PRM."""
    mean_advantage, lengths = row_mean(advantages, batch.mask), _lengths(batch)
    correct, wrong = _classes(batch)
    return {
        "outcome/mean": batch.outcomes.mean().item(),
        "outcome/responses": float(len(batch)),
        "outcome/advantage_correct": _mean(mean_advantage[correct]),
        "outcome/advantage_wrong": _mean(mean_advantage[wrong]),
        "outcome/length_correlation_correct": correlation(mean_advantage[correct], lengths[correct]).item(),
        "outcome/length_correlation_wrong": correlation(mean_advantage[wrong], lengths[wrong]).item(),
        "outcome/sign_flips": _mean(torch.cat([mean_advantage[correct] < 0, mean_advantage[wrong] > 0]).float()),
    }


def sampler_metrics(batch: Batch, old_logprobs: Float[Tensor, "B S"]) -> dict[str, float]:
    """How far the trainer's log-probs are from those of the engine that sampled."""
    gaps = zero_off(old_logprobs - batch.sampling_logprobs, batch.mask)
    return {
        "rollout/sampler_kl": approx_kl(old_logprobs, batch.sampling_logprobs, batch.mask).item(),
        "rollout/sampler_gap_max": gaps.abs().max().item(),
    }


def prm_metrics(
    batch: Batch, log_ratios: Float[Tensor, "B S"], returns: PrimeReturns, *, beta: float
) -> Mapping[str, float]:
    """What the PRM says about this batch, before it goes into the advantages."""
    sums = row_sum(log_ratios, batch.mask)
    correct, wrong = _classes(batch)
    rows = log_ratios, batch.outcomes, batch.mask
    process, outcome = returns.process[batch.mask], returns.outcome[batch.mask]
    return {
        "prm/pair_accuracy": pair_accuracy(*rows, batch.group_ids).item(),
        "prm/informative_pair_accuracy": informative_pair_accuracy(*rows, batch.group_ids).item(),
        **_discrimination(sums, correct, _lengths(batch)),
        "prm/cross_entropy": prm_cross_entropy(*rows, beta=beta).item(),
        "prm/calibration_error": calibration_error(torch.sigmoid(beta * sums), batch.outcomes).item(),
        "prm/ceiling_distance": float(ceiling_distance(*rows, batch.group_ids, beta)),
        "prm/score_correct": _mean(sums[correct]),
        "prm/score_wrong": _mean(sums[wrong]),
        "prm/score_std_correct": _std(sums[correct]),
        "prm/score_std_wrong": _std(sums[wrong]),
        "prm/abs_log_ratio": masked_mean(log_ratios.abs(), batch.mask).item(),
        "prm/eos_log_ratio": _mean(log_ratios[last_token(batch.mask)]),
        "prm/dead_gradient_share": float(dead_gradient_share(*rows, beta)),
        "prm/process_to_outcome": (process.std() / outcome.std().clamp(min=1e-9)).item(),
        "prm/normalizer": returns.divisor.item(),
    }


def pair_accuracy_change(
    batch: Batch, before: Float[Tensor, "B S"], after: Float[Tensor, "B S"]
) -> Mapping[str, float]:
    """How a batch is ranked by the log-ratios from before the PRM learned from it, and by those from after."""
    rows = batch.outcomes, batch.mask, batch.group_ids
    return {
        "prm/pair_accuracy_before": informative_pair_accuracy(before, *rows).item(),
        "prm/pair_accuracy_after": informative_pair_accuracy(after, *rows).item(),
    }


def memory_metrics(world: World) -> Mapping[str, float]:
    """Collective. Peak resident memory of a rank, the largest of all, in MiB (ru_maxrss is in KiB on Linux, in bytes
    on macOS)."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = torch.tensor(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, dtype=torch.float64)
    return {"mem/peak_mib": world.all_reduce(peak, "max").item()}


def _discrimination(
    sums: Float[Tensor, " B"], correct: Bool[Tensor, " B"], lengths: Float[Tensor, " B"]
) -> dict[str, float]:
    """AUC over the batch and within each third of it by length."""
    third = thirds(lengths)
    within = {name: third == index for index, name in enumerate(("short", "middle", "long"))}
    return {"prm/auc": auc(sums, correct).item()} | {
        f"prm/auc_{name}": auc(sums[rows], correct[rows]).item() for name, rows in within.items()
    }


def _classes(batch: Batch) -> tuple[Bool[Tensor, " B"], Bool[Tensor, " B"]]:
    """Which responses count as correct, and which as wrong."""
    return batch.outcomes > 0.5, batch.outcomes <= 0.5


def _lengths(batch: Batch) -> Float[Tensor, " B"]:
    return batch.mask.sum(dim=1).double()


def _mean(values: Tensor) -> float:
    return values.float().mean().item() if values.numel() else 0.0


def _std(values: Tensor) -> float:
    """The standard deviation of the sample itself: 0 for a single value, as for none."""
    return values.float().std(correction=0).item() if values.numel() else 0.0
