"""Which checkpoints stay: the newest, and those of the steps that a metric calls the best."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any


def worths(rows: Iterable[Mapping[str, Any]], metric: str) -> dict[int, float]:
    """By step, what ``metric`` says of it in the lines of a run's files: the larger, the better.

    ``-prm/loss`` is the negative of ``prm/loss``. Steps of which it says nothing finite are left out.
    """
    key, sign = metric.removeprefix("-"), -1.0 if metric.startswith("-") else 1.0
    known = {row["step"]: row[key] for row in rows if isinstance(row.get(key), int | float)}
    return {step: sign * value for step, value in known.items() if math.isfinite(value)}


def retained(steps: Collection[int], worth: Mapping[int, float], *, keep: int, best: int) -> set[int]:
    """The newest ``keep`` of ``steps`` (0: all) and the ``best`` of highest ``worth``, of equals the later."""
    ranked = sorted((step for step in steps if step in worth), key=lambda step: (worth[step], step))
    return {*sorted(steps)[-keep:], *ranked[max(0, len(ranked) - best) :]}
