"""Watches a run for what a person should know: nothing to learn from, numbers gone wrong, a PRM worse than chance."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from credo.config import TrainConfig
from credo.console import Console
from credo.filtering import DROP_REASONS

DROPPED = {f"filter/{reason}" for reason in DROP_REASONS}
DOUBTFUL_STEPS = 5
"""Steps of pair accuracy below chance before the alarm, and the window of the mean that is shown at the end."""


class Watch:
    """Counts over steps. Says warnings; stops a run that cannot go on."""

    def __init__(self, config: TrainConfig, console: Console) -> None:
        self.config, self.console = config, console
        self.empty_steps = self.nonfinite_steps = 0
        self.pair_accuracies: deque[float] = deque(maxlen=DOUBTFUL_STEPS)

    @property
    def recent_pair_accuracy(self) -> float:
        """Mean in-group pair accuracy of the last steps; NaN before the first."""
        seen = self.pair_accuracies
        return sum(seen) / len(seen) if seen else float("nan")

    def see(self, step: int, metrics: Mapping[str, float], *, empty: bool) -> None:
        """Takes note of one step. Raises RuntimeError after too many empty or non-finite ones."""
        if empty:
            self._see_empty(step, metrics)
            return
        self.empty_steps = 0
        kept, wanted = metrics["filter/kept"] + metrics["filter/reused"], self.config.rollout.prompts
        if kept < wanted:
            self.console.warn(f"step {step} trained on {kept:.0f} of {wanted} prompts; the filter let no more by.")
        self._see_nonfinite(metrics)
        self._see_pairs(metrics)

    def state(self) -> dict[str, Any]:
        """The counts as JSON values."""
        return {
            "empty_steps": self.empty_steps,
            "nonfinite_steps": self.nonfinite_steps,
            "pair_accuracies": list(self.pair_accuracies),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """The watch as it was when ``state`` was taken."""
        self.empty_steps, self.nonfinite_steps = state["empty_steps"], state["nonfinite_steps"]
        self.pair_accuracies = deque(state["pair_accuracies"], maxlen=DOUBTFUL_STEPS)

    def _see_empty(self, step: int, metrics: Mapping[str, float]) -> None:
        self.empty_steps += 1
        counts = {key.partition("/")[2]: metrics[key] for key in sorted(metrics) if key in DROPPED}
        seen = ", ".join(f"{reason} {count:.0f}" for reason, count in counts.items() if count) or "none was drawn"
        self.console.warn(
            f"step {step} kept none of {metrics['filter/drawn']:.0f} prompts ({seen}); nothing was learnt."
        )
        if self.empty_steps >= self.config.filter.max_empty_steps:
            raise RuntimeError(
                f"{self.empty_steps} steps in a row kept no prompt (the last: {seen}). Widen filter.accuracy_low and "
                "filter.accuracy_high, change the data, or warm the model up with credo sft."
            )

    def _see_nonfinite(self, metrics: Mapping[str, float]) -> None:
        self.nonfinite_steps += int(metrics.get("policy/skipped_steps", 0) + metrics.get("prm/skipped_steps", 0))
        if self.nonfinite_steps > self.config.training.max_nonfinite_steps:
            raise RuntimeError(
                f"{self.nonfinite_steps} optimiser steps met non-finite numbers, more than "
                f"training.max_nonfinite_steps = {self.config.training.max_nonfinite_steps}. "
                "Lower the learning rates; the batches are in nonfinite/."
            )

    def _see_pairs(self, metrics: Mapping[str, float]) -> None:
        if "prm/informative_pair_accuracy" not in metrics:
            return
        before = self._doubtful()
        self.pair_accuracies.append(metrics["prm/informative_pair_accuracy"])
        if self._doubtful() and not before:
            self.console.warn(
                f"for {DOUBTFUL_STEPS} steps the PRM has ranked responses worse than chance; lower "
                "advantage.process_coef or prm.lr."
            )

    def _doubtful(self) -> bool:
        return len(self.pair_accuracies) == DOUBTFUL_STEPS and max(self.pair_accuracies) < 0.5
