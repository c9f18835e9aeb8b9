"""The numbers of one training step, from what the step produced. Every key is explained in ``docs/metrics.md``."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from credo.algo.advantages import PrimeReturns
from credo.algo.masked import masked_mean, row_mean, row_sum
from credo.algo.policy_losses import approx_kl
from credo.algo.prm_losses import dead_gradient_share, prm_cross_entropy
from credo.algo.rewards import informative_pair_accuracy, pair_accuracy
from credo.types import Batch


def outcome_metrics(
    batch: Batch, advantages: Float[Tensor, "B S"], old_logprobs: Float[Tensor, "B S"]
) -> Mapping[str, float]:
    """What any RLOO run logs."""
    mean_advantage = row_mean(advantages, batch.mask)
    correct, wrong = batch.outcomes > 0.5, batch.outcomes <= 0.5
    return {
        "outcome/mean": batch.outcomes.mean().item(),
        "outcome/responses": float(len(batch)),
        "outcome/advantage_correct": _mean(mean_advantage[correct]),
        "outcome/advantage_wrong": _mean(mean_advantage[wrong]),
        "outcome/sign_flips": _mean(torch.cat([mean_advantage[correct] < 0, mean_advantage[wrong] > 0]).float()),
        "rollout/sampler_kl": approx_kl(old_logprobs, batch.sampling_logprobs, batch.mask).item(),
    }


def prm_metrics(
    batch: Batch, log_ratios: Float[Tensor, "B S"], returns: PrimeReturns, *, beta: float
) -> Mapping[str, float]:
    """What the PRM says about this batch, before it goes into the advantages."""
    sums = row_sum(log_ratios, batch.mask)
    correct, wrong = batch.outcomes > 0.5, batch.outcomes <= 0.5
    process, outcome = returns.process[batch.mask], returns.outcome[batch.mask]
    last_tokens = batch.mask & ~torch.nn.functional.pad(batch.mask, (0, 1))[:, 1:]
    return {
        "prm/pair_accuracy": pair_accuracy(log_ratios, batch.outcomes, batch.mask, batch.group_ids).item(),
        "prm/informative_pair_accuracy": informative_pair_accuracy(
            log_ratios, batch.outcomes, batch.mask, batch.group_ids
        ).item(),
        "prm/cross_entropy": prm_cross_entropy(log_ratios, batch.outcomes, batch.mask, beta=beta).item(),
        "prm/score_correct": _mean(sums[correct]),
        "prm/score_wrong": _mean(sums[wrong]),
        "prm/abs_log_ratio": masked_mean(log_ratios.abs(), batch.mask).item(),
        "prm/eos_log_ratio": _mean(log_ratios[last_tokens]),
        "prm/dead_gradient_share": float(dead_gradient_share(log_ratios, batch.outcomes, batch.mask, beta)),
        "prm/process_to_outcome": (process.std() / outcome.std().clamp(min=1e-9)).item(),
    }


def memory_metrics() -> Mapping[str, float]:
    """Peak resident memory of this process, in MiB (ru_maxrss counts KiB on Linux, bytes on macOS)."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {"mem/peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}


def _mean(values: Tensor) -> float:
    return values.float().mean().item() if values.numel() else 0.0
