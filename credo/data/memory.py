"""How well each problem was solved when it last came up, so that sampling is not spent on what teaches nothing.

Each rank remembers what it sampled itself. It knows ids and scores; it ignores responses and the order of the problems.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def chance_in_band(
    solved: float, failed: float, *, per_prompt: int, low: float, high: float, drop_unanimous: bool
) -> float:
    """The chance that the mean of ``per_prompt`` binary scores lies in [``low``, ``high``], both ends included, where
    the solve rate has the distribution Beta(1 + ``solved``, 1 + ``failed``): a sum over the beta-binomial distribution.

    With ``drop_unanimous`` the groups that are all right or all wrong do not count.
    """
    a, b, k = 1 + solved, 1 + failed, per_prompt
    counts = range(1, k) if drop_unanimous else range(k + 1)
    return math.fsum(
        math.comb(k, right) * math.exp(_log_beta(a + right, b + k - right) - _log_beta(a, b))
        for right in counts
        if low - 1e-6 <= right / k <= high + 1e-6
    )


class SolveRates:
    """For every problem seen, Beta evidence of its solve rate; the older half as heavy at each new visit, because the
    policy moves. A score between 0 and 1 counts in part as solved and for the rest as failed.
    """

    def __init__(self, *, floor: float, per_prompt: int, low: float, high: float, drop_unanimous: bool = False) -> None:
        self.floor, self.per_prompt = floor, per_prompt
        self.low, self.high, self.drop_unanimous = low, high, drop_unanimous
        # By id: solved, failed, then the lowest and the highest score of the last visit. Rows are replaced, never
        # written to, so that a copy of the mapping is a copy of the state.
        self._seen: dict[str, list[float]] = {}

    def see(self, id: str, scores: Sequence[float]) -> None:
        """Takes note of one visit; one without any score tells nothing."""
        if not scores:
            return
        solved, failed = self._seen[id][:2] if id in self._seen else (0.0, 0.0)
        right = sum(scores)
        self._seen[id] = [solved / 2 + right, failed / 2 + len(scores) - right, min(scores), max(scores)]

    def chance(self, id: str) -> float:
        """The chance with which the problem should be taken when it comes up: 1 if it was never seen, else that of a
        group in the accuracy band, and at least the floor."""
        if id not in self._seen:
            return 1.0
        solved, failed, _, _ = self._seen[id]
        band = {"low": self.low, "high": self.high, "drop_unanimous": self.drop_unanimous}
        return max(self.floor, chance_in_band(solved, failed, per_prompt=self.per_prompt, **band))

    def metrics(self) -> dict[str, float]:
        """Shares of the problems seen whose last visit had only scores below 0.5, and none below 0.5."""
        count = max(1, len(self._seen))
        return {
            "filter/never_solved": sum(highest < 0.5 for *_, highest in self._seen.values()) / count,
            "filter/always_solved": sum(lowest >= 0.5 for _, _, lowest, _ in self._seen.values()) / count,
        }

    def state(self) -> dict[str, Any]:
        """What was seen, as JSON values."""
        return dict(self._seen)

    def restore(self, state: Mapping[str, Any]) -> None:
        """The memory as it was when ``state`` was taken."""
        self._seen = dict(state)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
