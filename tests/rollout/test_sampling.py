"""Drawing tokens: the distribution by hand and by a slow oracle, and draws by their cumulative shares."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch

from credo.rollout import drawing
from credo.rollout.sampling import draw, least_weights
from tests.rollout.oracle import sampling_logprobs

CUTS = [
    {},
    {"top_p": 0.05},
    {"top_p": 0.5},
    {"top_p": 0.999},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 1000},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_k": 9, "top_p": 0.7, "min_p": 0.1},
]


@pytest.fixture(params=["C", "torch"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Without cuts, draws are made in C where it can be compiled; all holds for both ways."""
    if request.param == "torch":
        monkeypatch.setattr(drawing, "compiled", lambda dtype: None)
    elif drawing.compiled(torch.float32) is None:
        pytest.skip("no C compiler here")
    return request.param


def logits_of(*shares: float) -> torch.Tensor:
    """One row of logits, off by a constant, whose softmax is ``shares``."""
    return torch.tensor([shares]).log() + 3.0


def grid(count: int) -> torch.Tensor:
    """Numbers spread evenly over [0, 1)."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def probabilities(logits: torch.Tensor, count: int = 2000, **options: Any) -> list[float]:
    """What each token says of its own probability if it is ever drawn, else 0."""
    merged: dict[str, Any] = {"temperature": 1.0} | options
    tokens, logprobs = draw(logits.expand(count, -1), grid(count), **merged)
    shares = [0.0] * logits.shape[1]
    for token, logprob in zip(tokens.tolist(), logprobs.tolist(), strict=True):
        shares[token] = math.exp(logprob)
    return shares


def test_plain_sampling_is_the_softmax():
    assert probabilities(logits_of(0.5, 0.2, 0.3)) == pytest.approx([0.5, 0.2, 0.3])


def test_temperature_by_hand():
    assert probabilities(logits_of(0.1, 0.3, 0.6), temperature=0.5) == pytest.approx([1 / 46, 9 / 46, 36 / 46])
    assert probabilities(logits_of(0.04, 0.64, 0.32), temperature=2.0) == pytest.approx(
        [part / (0.2 + 0.8 + 0.32**0.5) for part in (0.2, 0.8, 0.32**0.5)]
    )


def test_greedy_keeps_the_distribution_at_temperature_one():
    assert probabilities(logits_of(0.3, 0.5, 0.2), temperature=0.0, top_p=0.1) == pytest.approx([0, 0.5, 0])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"top_p": 0.01}, [0, 1, 0, 0]),
        ({"top_p": 0.49}, [0, 1, 0, 0]),
        ({"top_p": 0.51}, [0, 5 / 8, 3 / 8, 0]),
        ({"top_p": 0.79}, [0, 5 / 8, 3 / 8, 0]),
        ({"top_p": 0.81}, [0.15 / 0.95, 0.5 / 0.95, 0.3 / 0.95, 0]),
        ({"top_p": 0.96}, [0.15, 0.5, 0.3, 0.05]),
        ({"top_k": 2}, [0, 5 / 8, 3 / 8, 0]),
        ({"top_k": 2, "top_p": 0.62}, [0, 1, 0, 0]),
        ({"top_k": 2, "top_p": 0.63}, [0, 5 / 8, 3 / 8, 0]),
        ({"min_p": 0.31}, [0, 5 / 8, 3 / 8, 0]),
        ({"min_p": 0.29}, [0.15 / 0.95, 0.5 / 0.95, 0.3 / 0.95, 0]),
    ],
)
def test_cuts_by_hand(options: dict[str, Any], expected: list[float]):
    assert probabilities(logits_of(0.15, 0.5, 0.3, 0.05), **options) == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("cuts", CUTS, ids=str)
@pytest.mark.parametrize("spread", [2.0, 0.05])
def test_cuts_are_exact(temperature: float, cuts: dict[str, Any], spread: float):
    logits = torch.randn(40, 30, generator=torch.Generator().manual_seed(0)) * spread
    weights = (logits / temperature).softmax(dim=1)
    weights = (weights / weights.amax(dim=1, keepdim=True)).clamp(max=1.0)
    least = least_weights(weights, **({"top_k": 0, "top_p": 1.0, "min_p": 0.0} | cuts))
    expected = sampling_logprobs(logits, temperature=temperature, **cuts)
    assert torch.equal(weights >= least, expected > -torch.inf)
    tokens, logprobs = draw(logits, grid(40), temperature=temperature, **cuts)
    torch.testing.assert_close(logprobs.double(), expected.gather(1, tokens.unsqueeze(1)).squeeze(1), atol=1e-6, rtol=0)


SHARES = {
    "wide": torch.randn(6, 3000, generator=torch.Generator().manual_seed(4)).mul(8).exp(),
    "flat": torch.randn(6, 3000, generator=torch.Generator().manual_seed(5)).mul(0.01).exp(),
    "a few bits apart": 1 - torch.randint(0, 900, (6, 3000), generator=torch.Generator().manual_seed(6)) * 2.0**-24,
    "all alike": torch.full((6, 3000), 0.3),
    "mostly none": torch.randn(6, 3000, generator=torch.Generator().manual_seed(7)).mul(60).sub(250).exp(),
}
"""Rows of weights up to a factor, in the last one down to 0."""


@pytest.mark.parametrize("top_p", [1e-9, 0.3, 0.95, 1 - 2**-53])
@pytest.mark.parametrize("kind", SHARES)
def test_a_nucleus_is_that_of_the_sorted_row(kind: str, top_p: float):
    weights = SHARES[kind] / SHARES[kind].amax(dim=1, keepdim=True)
    least = least_weights(weights, top_k=0, top_p=top_p, min_p=0.0)
    for row, found in zip(weights, least, strict=True):
        heaviest = row.sort(descending=True).values
        before = heaviest.double().cumsum(dim=0) - heaviest
        needed = heaviest[before < top_p * row.double().sum()]
        assert found.item() == needed[-1].item() or (top_p > 0.99 and found <= needed[-1])


@pytest.mark.parametrize("options", [{"temperature": 1.0, "top_p": 0.9}, {"temperature": 1.0}, {"temperature": 0.0}])
@pytest.mark.parametrize("none", [math.nan, math.inf])
def test_numbers_that_are_none_break_no_row_but_their_own(options: dict[str, Any], none: float):
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(8))
    broken = logits.clone()
    broken[1, 4] = none
    tokens, _ = draw(logits, grid(3), **options)
    drawn, logprobs = draw(broken, grid(3), **options)
    assert logprobs.isnan().tolist() == [False, True, False]
    assert (drawn[0], drawn[2]) == (tokens[0], tokens[2])
    assert 0 <= drawn[1] < 20


def test_ties_with_the_last_token_kept_are_kept():
    assert probabilities(logits_of(0.1, 0.4, 0.25, 0.25), top_k=2) == pytest.approx([0, 4 / 9, 2.5 / 9, 2.5 / 9])
    assert probabilities(logits_of(0.1, 0.4, 0.25, 0.25), top_p=0.5) == pytest.approx([0, 4 / 9, 2.5 / 9, 2.5 / 9])
    tied = logits_of(0.1, 0.3, 0.2, 0.2, 0.2)
    assert probabilities(tied, top_k=2, top_p=0.34) == pytest.approx([0, 3 / 9, 2 / 9, 2 / 9, 2 / 9])
    assert probabilities(tied, top_k=2, top_p=0.33) == pytest.approx([0, 1, 0, 0, 0]), "of all that is as likely"


@pytest.mark.parametrize("cuts", [{}, {"top_p": 0.9}])
def test_half_precision_logits_are_read_in_full(cuts: dict[str, Any]):
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1)).bfloat16()
    tokens, logprobs = draw(logits, grid(3), temperature=0.7, **cuts)
    assert logprobs.dtype == torch.float32
    again, same = draw(logits.float(), grid(3), temperature=0.7, **cuts)
    assert torch.equal(tokens, again)
    assert torch.equal(logprobs, same)


@pytest.mark.parametrize("offset", [0, 254, 255, 256, 1000])
def test_draws_by_hand(offset: int):
    """Also where the tokens lie on both sides of a border between blocks."""
    shares = torch.cat([torch.zeros(1, offset), torch.tensor([[0.0, 0.25, 0.5, 0.0, 0.25, 0.0]])], dim=1)
    uniforms = [0.0, 0.2499, 0.2501, 0.7499, 0.7501, 1 - 2**-53]
    drawn = [draw(shares.log(), torch.tensor([u], dtype=torch.float64), temperature=1.0)[0].item() for u in uniforms]
    assert [token - offset for token in drawn] == [1, 1, 2, 2, 4, 4], "a token of probability 0 is never drawn"


@pytest.mark.parametrize("vocabulary", [12, 256, 257, 1500])
def test_evenly_spread_numbers_draw_every_token_by_its_share(vocabulary: int):
    count = 10_000
    row = torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(2)) * 2
    drawn = Counter(draw(row.expand(count, -1), grid(count), temperature=0.8, top_p=0.95)[0].tolist())
    shares = sampling_logprobs(row, temperature=0.8, top_p=0.95)[0].exp().tolist()
    for token, share in enumerate(shares):
        assert abs(drawn[token] - share * count) <= 1.01, token
    assert set(drawn) <= {token for token, share in enumerate(shares) if share > 0}


@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_rows_do_not_see_each_other(cuts: dict[str, Any]):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(50, 700, generator=generator) * 2
    numbers = torch.rand(50, generator=generator, dtype=torch.float64)
    tokens, logprobs = draw(logits, numbers, temperature=0.9, **cuts)
    for index in range(50):
        one = slice(index, index + 1)
        token, logprob = draw(logits[one], numbers[one], temperature=0.9, **cuts)
        assert token.item() == tokens[index].item()
        assert logprob.item() == logprobs[index].item()
