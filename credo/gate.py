"""The cold-start gate: how far an online PRM that has only begun to learn is listened to."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

REMEMBERED = 5
"""Steps whose pair accuracies are averaged: one batch alone is noisy."""
CHANCE = 0.5


class Gate:
    """Opens linearly as the PRM's pair accuracy rises from chance to ``full_at``. ``full_at`` 0 is always open."""

    def __init__(self, full_at: float) -> None:
        self.full_at = full_at
        self.accuracies: deque[float] = deque(maxlen=REMEMBERED)
        self.factor = 1.0
        """What ``open`` returned last."""

    def open(self, accuracy: float) -> float:
        """Takes note of the pair accuracy of a step; returns the factor, 0 to 1, on its process rewards."""
        self.accuracies.append(accuracy)
        if self.full_at > 0:
            mean = sum(self.accuracies) / len(self.accuracies)
            self.factor = min(1.0, max(0.0, (mean - CHANCE) / (self.full_at - CHANCE)))
        return self.factor

    def state(self) -> dict[str, Any]:
        """The accuracies remembered, as JSON values."""
        return {"accuracies": list(self.accuracies)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The gate as it was when ``state`` was taken."""
        self.accuracies = deque(state["accuracies"], maxlen=REMEMBERED)
