"""Draws in C against the same in torch; ``test_sampling.py`` tells what both have to be."""

from __future__ import annotations

import math

import pytest
import torch

from credo.rollout import drawing
from credo.rollout.sampling import draw
from tests.rollout.compiler import needs_compiler

pytestmark = needs_compiler


def rows(vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of 60 rows, some of them of tokens that cannot be drawn, and a number for each."""
    generator = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(60, vocabulary, generator=generator) * 4
    logits[::7, ::3] = -math.inf
    logits[:, -1] = 1.0
    return logits, torch.rand(60, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("vocabulary", [1, 15, 16, 300, 5000])
@pytest.mark.parametrize("temperature", [0.0, 0.01, 1.0, 3.0])
def test_torch_draws_the_same(vocabulary: int, temperature: float, monkeypatch: pytest.MonkeyPatch):
    """But for numbers within rounding of the border between two tokens, of which there are none here."""
    logits, numbers = rows(vocabulary)
    tokens, logprobs = draw(logits, numbers, temperature=temperature)
    monkeypatch.setattr(drawing, "compiled", lambda dtype: None)
    others, same = draw(logits, numbers, temperature=temperature)
    assert torch.equal(tokens, others)
    torch.testing.assert_close(logprobs, same, rtol=0, atol=1e-5)


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch):
    logits, numbers = rows(700)
    drawn = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        drawn.append(draw(logits, numbers, temperature=1.0))
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])


def test_a_row_without_any_token_breaks_no_other():
    logits, numbers = rows(40)
    tokens, logprobs = draw(logits, numbers, temperature=1.0)
    logits[3] = -math.inf
    others, broken = draw(logits, numbers, temperature=1.0)
    assert broken[3].isnan()
    assert 0 <= others[3] < 40
    assert torch.equal(others[4:], tokens[4:])
    assert torch.equal(broken[:3], logprobs[:3])


@pytest.mark.parametrize("vocabulary", [1, 15, 16, 20])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_of_nothing_but_nan_gets_a_token_that_exists(vocabulary: int, temperature: float, dtype: torch.dtype):
    logits = torch.full((2, vocabulary), math.nan, dtype=dtype)
    tokens, logprobs = draw(logits, torch.tensor([0.0, 0.99], dtype=torch.float64), temperature=temperature)
    assert ((tokens >= 0) & (tokens < vocabulary)).all()
    assert logprobs.isnan().all()
