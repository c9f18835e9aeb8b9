"""A random policy learns a small task by ``credo train``: with the process reward model, and from outcomes alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import lines, tiny_recipe

from credo.cli import main

PRIME = {"prm__lr": 3e-3, "advantage__process_coef": 0.3}
OUTCOME_ONLY = {"prm__enabled": False, "filter__accuracy_low": 0.05, "filter__accuracy_high": 0.95}


@pytest.mark.parametrize("method", [PRIME, OUTCOME_ONLY], ids=["prime", "outcome-only"])
def test_accuracy_rises(tmp_path: Path, method: dict[str, Any]):
    recipe = tiny_recipe(
        tmp_path,
        run__steps=50,
        rollout__prompts=16,
        rollout__per_prompt=8,
        filter__max_rounds=2,
        filter__max_empty_steps=50,
        checkpoint__every=50,
        **method,
    )
    main(["train", str(recipe)])
    rows = lines(tmp_path / "runs" / "run" / "metrics.jsonl")
    accuracies = [row["rollout/accuracy"] for row in rows]
    first, last = (sum(part) / 5 for part in (accuracies[:5], accuracies[-5:]))
    assert first < 0.3, "one character in eight is right"
    assert last > 0.6
    if "prm__lr" in method:
        assert rows[0]["prm/informative_pair_accuracy"] == 0.5, "the PRM starts as its reference"
        told_apart = [row["prm/informative_pair_accuracy"] for row in rows[5:30]]
        assert sum(told_apart) / len(told_apart) > 0.6, "and learns to tell right from wrong"
