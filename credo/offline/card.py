"""The report card of an offline PRM: its held-out figures beside what needs no PRM, as values and as a page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from jaxtyping import Float
from torch import Tensor

from credo.config import PrmTrainingConfig
from credo.data.prm_record import PrmRecord
from credo.measures.ranking import Figure, Judged, calibration_figure, ranking_figures
from credo.recipe import to_toml

Figures = dict[str, Any]
"""Figures as JSON has them, each {"value", "low", "high"}."""
NAMES = {
    "prm": "the PRM",
    "length": "length alone",
    "reference_logprob": "log-probability under the reference",
    "reference_mean_logprob": "the same for a token",
}


def held_out_figures(
    judged: Judged,
    log_ratios: Float[Tensor, " N"],
    *,
    beta: float,
    reference: Float[Tensor, " N"],
    lengths: Float[Tensor, " N"],
    longer_is_right: bool,
) -> Figures:
    """Pair accuracy and AUC of the PRM and of three scores that need none, and the PRM's calibration.

    ``longer_is_right`` is which direction of length goes with right responses where the PRM has learnt.
    """
    scores = {
        "prm": log_ratios,
        "length": lengths if longer_is_right else -lengths,
        "reference_logprob": reference,
        "reference_mean_logprob": reference / lengths,
    }
    calibration = calibration_figure(judged, beta * log_ratios)
    ranked = ranking_figures(judged, scores, "prm")
    return {
        "scores": {name: {key: asdict(one) for key, one in found.items()} for name, found in ranked.items()},
        "calibration_error": asdict(calibration),
        "responses": len(judged.outcomes),
        "problems": len(judged.problems.unique()),
        "correct_share": judged.outcomes.mean().item(),
    }


def summary(figures: Figures) -> dict[str, float]:
    """The figures of the PRM as metrics."""
    prm = figures["scores"]["prm"]
    return {
        "offline/pair_accuracy": prm["pair_accuracy"]["value"],
        "offline/auc": prm["auc"]["value"],
        "offline/calibration_error": figures["calibration_error"]["value"],
    }


def in_words(figures: Figures) -> str:
    """The figures with their intervals and those of the baselines, in lines."""
    lines = [f"{figures['responses']:,} held-out responses to {figures['problems']:,} problems, 95 % intervals"]
    for name, found in figures["scores"].items():
        lines.append(f"  {NAMES[name]:<36} pair accuracy {_shown(found['pair_accuracy'])}  AUC {_shown(found['auc'])}")
    return "\n".join([*lines, f"  calibration error of the PRM {_shown(figures['calibration_error'])}"])


def card(record: PrmRecord, config: PrmTrainingConfig) -> str:
    """The page ``REPORT.md``."""
    training = record.training
    parts = [
        "# An implicit process reward model\n",
        f"Trained from `{config.model.path}` by `credo prm train`: loss `{record.loss}`, beta {record.beta:g}, "
        f"{record.steps:,} optimiser steps on {training['responses']:,} labelled responses to {training['problems']:,} "
        f"problems. Its reference is `{record.reference}`, SHA-256 of the weights `{record.reference_sha256}`.\n",
        "The reward of a token is beta times its log-probability under this model minus that under the reference. "
        "Without the reference it is another reward. A good reward model is not a good policy.\n",
        f"{training['unknown_labels']:,} responses were left out for an unknown label, {training['too_long']:,} for "
        f"their length. SHA-256 of the data: `{training['sha256']}`.\n",
        "## On problems it has not seen\n",
        _table(record.held_out) if record.held_out else "Not measured: training was stopped before its end.\n",
        "## Recipe\n",
        f"```toml\n{to_toml(config)}```\n",
    ]
    return "\n".join(parts)


def _table(figures: Mapping[str, Any]) -> str:
    lines = [
        f"{figures['responses']:,} responses to {figures['problems']:,} problems, "
        f"{100 * figures['correct_share']:.1f} % correct. In brackets 95 % intervals over problems. Pair accuracy is "
        "over the problems with both right and wrong responses.\n",
        "| score | pair accuracy | AUC | the PRM's gain in pairs | in AUC |",
        "|---|---|---|---|---|",
    ]
    for name, found in figures["scores"].items():
        cells = [NAMES[name], *(_shown(found.get(key)) for key in ("pair_accuracy", "auc"))]
        cells += [_shown(found.get(key)) for key in ("pair_accuracy_gain", "auc_gain")]
        lines.append(f"| {' | '.join(cells)} |")
    error = _shown(figures["calibration_error"])
    return "\n".join([*lines, f"\nCalibration error of the PRM's probabilities: {error}.\n"])


def _shown(figure: dict[str, float] | None) -> str:
    if figure is None:
        return ""
    return "none" if math.isnan(figure["value"]) else str(Figure(**figure))
