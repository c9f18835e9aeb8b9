"""Drawing tokens: the distribution by hand and by a slow oracle, and draws by their cumulative shares."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from credo.rollout.sampling import draw, sampling_logprobs


def logits_of(*shares: float) -> torch.Tensor:
    """One row of logits, off by a constant, whose softmax is ``shares``."""
    return torch.tensor([shares]).log() + 3.0


def probabilities(logits: torch.Tensor, *, temperature: float = 1.0, top_p: float = 1.0) -> list[float]:
    return sampling_logprobs(logits, temperature=temperature, top_p=top_p).exp()[0].tolist()


def nucleus_oracle(logits: list[float], temperature: float, top_p: float) -> list[float]:
    """The nucleus as it is defined: the fewest most likely tokens whose probabilities reach ``top_p``."""
    weights = [math.exp(logit / temperature) for logit in logits]
    shares = [weight / sum(weights) for weight in weights]
    kept: list[int] = []
    for token in sorted(range(len(shares)), key=lambda token: -shares[token]):
        if sum(shares[other] for other in kept) >= top_p:
            break
        kept.append(token)
    mass = sum(shares[token] for token in kept)
    return [shares[token] / mass if token in kept else 0.0 for token in range(len(shares))]


def test_plain_sampling_is_the_softmax():
    assert probabilities(logits_of(0.5, 0.2, 0.3)) == pytest.approx([0.5, 0.2, 0.3])


def test_temperature_by_hand():
    assert probabilities(logits_of(0.1, 0.3, 0.6), temperature=0.5) == pytest.approx([1 / 46, 9 / 46, 36 / 46])
    assert probabilities(logits_of(0.04, 0.64, 0.32), temperature=2.0) == pytest.approx(
        [part / (0.2 + 0.8 + 0.32**0.5) for part in (0.2, 0.8, 0.32**0.5)]
    )


def test_greedy_keeps_the_distribution_at_temperature_one():
    assert probabilities(logits_of(0.5, 0.2, 0.3), temperature=0.0, top_p=0.1) == pytest.approx([0.5, 0.2, 0.3])


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (0.01, [0, 1, 0, 0]),
        (0.49, [0, 1, 0, 0]),
        (0.51, [0, 5 / 8, 3 / 8, 0]),
        (0.79, [0, 5 / 8, 3 / 8, 0]),
        (0.81, [0.15 / 0.95, 0.5 / 0.95, 0.3 / 0.95, 0]),
        (0.96, [0.15, 0.5, 0.3, 0.05]),
        (1.0, [0.15, 0.5, 0.3, 0.05]),
    ],
)
def test_the_nucleus_by_hand(top_p: float, expected: list[float]):
    assert probabilities(logits_of(0.15, 0.5, 0.3, 0.05), top_p=top_p) == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_the_nucleus_is_exact(temperature: float, top_p: float):
    logits = torch.randn(40, 30, generator=torch.Generator().manual_seed(0)) * 2
    actual = sampling_logprobs(logits, temperature=temperature, top_p=top_p).exp()
    expected = torch.tensor([nucleus_oracle(row, temperature, top_p) for row in logits.tolist()])
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(actual > 0, expected > 0)


def test_half_precision_logits_are_read_in_full():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1)).bfloat16()
    logprobs = sampling_logprobs(logits, temperature=0.7, top_p=0.9)
    assert logprobs.dtype == torch.float32
    assert torch.equal(logprobs, sampling_logprobs(logits.float(), temperature=0.7, top_p=0.9))


def test_draws_by_hand():
    shares = torch.tensor([[0.0, 0.25, 0.5, 0.0, 0.25, 0.0]]).log()
    uniforms = [0.0, 0.2499, 0.2501, 0.7499, 0.7501, 1 - 2**-53]
    drawn = [draw(shares, torch.tensor([number], dtype=torch.float64)).item() for number in uniforms]
    assert drawn == [1, 1, 2, 2, 4, 4], "a token of probability 0 is never drawn, not even at the ends"


def test_evenly_spread_numbers_draw_every_token_by_its_share():
    count = 10_000
    row = torch.randn(1, 12, generator=torch.Generator().manual_seed(2)) * 2
    logprobs = sampling_logprobs(row, temperature=0.8, top_p=0.95)
    numbers = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    drawn = Counter(draw(logprobs.expand(count, -1), numbers).tolist())
    for token, share in enumerate(logprobs[0].exp().tolist()):
        assert abs(drawn[token] - share * count) <= 1, token


def test_rows_do_not_see_each_other():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(50, 20, generator=generator)
    numbers = torch.rand(50, generator=generator, dtype=torch.float64)
    together = sampling_logprobs(logits, temperature=0.9, top_p=0.8)
    drawn = draw(together, numbers)
    for index in range(50):
        alone = sampling_logprobs(logits[index : index + 1], temperature=0.9, top_p=0.8)
        assert torch.equal(alone[0], together[index])
        assert draw(alone, numbers[index : index + 1]).item() == drawn[index].item()
