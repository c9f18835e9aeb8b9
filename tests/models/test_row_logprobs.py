"""Log-probs of rows: against one forward pass a row, in any order and micro-batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_model

from credo.models.causal import load_model
from credo.models.row_logprobs import row_logprobs, row_totals

ROWS = [((0, 1), (2, 3, 4)), ((1,), (1,)), ((2, 2, 2), (0, 1))]


@pytest.mark.parametrize("token_budget", [1, 6, 4096])
def test_against_one_row_at_a_time(token_budget: int, tmp_path: Path):
    start = load_model(str(tiny_model(tmp_path / "model")))
    told: list[int] = []
    found = row_logprobs(
        start.model, ROWS, start.pad_id, token_budget=token_budget, compute="fp32", progress=told.append
    )
    for (prompt, response), values in zip(ROWS, found, strict=True):
        with torch.no_grad():
            table = start.model(input_ids=torch.tensor([[*prompt, *response]])).logits[0].log_softmax(dim=-1)
        expected = [table[len(prompt) + t - 1, token].item() for t, token in enumerate(response)]
        assert values.tolist() == pytest.approx(expected, abs=1e-5)
    assert sum(told) == 3
    totals = row_totals(found)
    assert totals.dtype == torch.float64
    assert totals.tolist() == pytest.approx([values.sum().item() for values in found], abs=1e-5)
    assert row_logprobs(start.model, [], start.pad_id, token_budget=8, compute="fp32") == []
