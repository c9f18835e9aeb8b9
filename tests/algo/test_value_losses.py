"""Advantages and losses of a critic, by hand, against a slow loop, and what they may not depend on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from credo.algo.masked import suffix_sum, zero_off
from credo.algo.value_losses import clipped_value_loss, explained_variance, gae, value_clip_fraction

NAN, INF = float("nan"), float("inf")


def values_like(x: Tensor, mask: Tensor, seed: int = 1) -> Tensor:
    drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
    return drawn.masked_fill(~mask, NAN)


def loop_gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """The definition, a row and a token at a time, from the tokens on the mask alone."""
    advantages = torch.zeros_like(rewards)
    for row in range(len(rewards)):
        places = mask[row].nonzero().flatten().tolist()
        worth = [values[row, s].item() for s in places] + [0.0]
        deltas = [rewards[row, s].item() + gamma * worth[k + 1] - worth[k] for k, s in enumerate(places)]
        for k, s in enumerate(places):
            advantages[row, s] = sum((gamma * lam) ** (j - k) * deltas[j] for j in range(k, len(deltas)))
    return advantages


def test_gae_by_hand():
    # deltas: 0 + .5 * .5 - .25 = 0;  2 + .5 * 1 - .5 = 2;  1 + .5 * 0 - 1 = 0;  gamma * lam = .25
    rewards = torch.tensor([[NAN, 0.0, 2.0, 1.0, INF]])
    values = torch.tensor([[9.0, 0.25, 0.5, 1.0, NAN]])
    mask = torch.tensor([[False, True, True, True, False]])
    assert gae(rewards, values, mask, gamma=0.5, lam=0.5).tolist() == [[0.0, 0.5, 2.0, 0.0, 0.0]]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (1.0, 0.95), (0.9, 1.0), (0.9, 0.7), (1.0, 0.0), (0.0, 0.5)])
def test_gae_against_a_loop(random_rows, gamma: float, lam: float):
    rows = random_rows(dtype=torch.float64)
    values = values_like(rows.log_ratios, rows.mask)
    expected = loop_gae(rows.log_ratios, values, rows.mask, gamma, lam)
    torch.testing.assert_close(gae(rows.log_ratios, values, rows.mask, gamma=gamma, lam=lam), expected)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_with_lambda_one_it_is_the_return_less_the_value_to_the_last_bit(random_rows, gamma: float):
    rows = random_rows()
    values = values_like(rows.log_ratios, rows.mask)
    returns = suffix_sum(zero_off(rows.log_ratios, rows.mask), gamma)
    advantages = gae(rows.log_ratios, values, rows.mask, gamma=gamma)
    assert torch.equal(advantages, zero_off(returns - values, rows.mask))


def test_with_lambda_zero_it_looks_one_token_ahead(random_rows):
    rows = random_rows()
    values = values_like(rows.log_ratios, rows.mask)
    before = gae(rows.log_ratios, values, rows.mask, lam=0.0)
    last = rows.mask & ~torch.nn.functional.pad(rows.mask, (0, 1))[:, 1:]
    after = gae(rows.log_ratios + last, values, rows.mask, lam=0.0)
    torch.testing.assert_close(after - before, last.float())


def test_a_perfect_critic_leaves_no_advantage():
    rewards = torch.tensor([[0.0, 0.0, 0.5, -0.25, 1.0, 0.0]])
    mask = torch.tensor([[False, False, True, True, True, False]])
    assert (gae(rewards, suffix_sum(rewards), mask, lam=0.5) == 0).all()


def test_advantages_of_two_sources_add_up(random_rows):
    """GAE is linear: PRIME's sources may be estimated apart, the critic in either."""
    rows = random_rows(dtype=torch.float64)
    process, values = rows.log_ratios, values_like(rows.log_ratios, rows.mask)
    outcome, nothing = values_like(process, rows.mask, seed=2), torch.zeros_like(values)
    apart = gae(outcome, values, rows.mask, lam=0.9) + gae(process, nothing, rows.mask, lam=0.9)
    torch.testing.assert_close(apart, gae(outcome + process, values, rows.mask, lam=0.9))


@pytest.mark.parametrize("garbage", [NAN, INF, -1e30])
def test_garbage_padding_and_row_order_do_not_matter_to_gae(random_rows, garbage: float):
    rows = random_rows()
    values = values_like(rows.log_ratios, rows.mask)
    expected = gae(rows.log_ratios, values, rows.mask, gamma=0.9, lam=0.8)
    assert (expected[~rows.mask] == 0).all()
    order = torch.arange(len(values)).flip(0)
    mask = torch.nn.functional.pad(rows.mask, (2, 3))[order]
    rewards, wide = (
        torch.nn.functional.pad(x, (2, 3))[order].masked_fill(~mask, garbage) for x in (rows.log_ratios, values)
    )
    assert torch.equal(gae(rewards, wide, mask, gamma=0.9, lam=0.8)[:, 2:-3], expected[order])


def test_a_response_of_no_tokens_has_no_advantage():
    x = torch.full((2, 3), NAN)
    assert (gae(x, x, x == 0, lam=0.5) == 0).all()


# Return 1, clip 0.5. In the column of V: within the clip; beyond it, towards the return (held at 0.5, no gradient);
# beyond it, past the return (held at 0.5, which is the farther); beyond it, away (held at -0.5, which is the nearer).
VALUES, OLD = [0.25, 0.75, 1.25, -1.0], [0.0, 0.0, 0.0, 0.0]
LOSSES, GRADIENTS = [0.28125, 0.125, 0.125, 2.0], [-0.75, 0.0, 0.0, -2.0]


def test_value_loss_and_its_gradient_by_hand():
    values = torch.tensor([[*VALUES, NAN]], requires_grad=True)
    old, returns = torch.tensor([[*OLD, INF]]), torch.tensor([[1.0, 1.0, 1.0, 1.0, NAN]])
    mask = torch.tensor([[True] * 4 + [False]])
    losses = clipped_value_loss(values, old, returns, mask, clip=0.5)
    assert losses.tolist() == [[*LOSSES, 0.0]]
    losses.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[*GRADIENTS, 0.0]]
    assert value_clip_fraction(values, old, returns, mask, clip=0.5).item() == 0.5


def test_the_clip_moves_with_the_old_value():
    """Shifting all three by the same amount changes nothing; so does turning all three round."""
    values, old, returns = torch.tensor([VALUES]), torch.tensor([OLD]), torch.ones(1, 4)
    mask = torch.ones(1, 4, dtype=torch.bool)
    assert clipped_value_loss(values + 4, old + 4, returns + 4, mask, clip=0.5).tolist() == [LOSSES]
    assert clipped_value_loss(-values, -old, -returns, mask, clip=0.5).tolist() == [LOSSES]


def test_a_wide_clip_is_half_the_squared_error(random_rows):
    rows = random_rows()
    values, old, returns = (values_like(rows.log_ratios, rows.mask, seed) for seed in range(3))
    losses = clipped_value_loss(values, old, returns, rows.mask, clip=100.0)
    torch.testing.assert_close(losses, zero_off(0.5 * (values - returns).square(), rows.mask))
    assert value_clip_fraction(values, old, returns, rows.mask, clip=100.0).item() == 0.0


def test_losses_are_in_full_precision():
    half = torch.tensor([[1.0]], dtype=torch.bfloat16)
    assert clipped_value_loss(half, half, half + 1, half > 0, clip=0.5).dtype == torch.float32
    assert gae(half, half, half > 0, lam=0.5).dtype == torch.float32


def test_explained_variance_by_hand():
    returns = torch.tensor([[0.0, 1.0, 2.0, 5.0], [NAN, NAN, 0.0, 1.0]])
    mask = torch.tensor([[True, True, True, True], [False, False, False, False]])
    # mean 2, variance (4 + 1 + 0 + 9) / 4; the errors 0, 1, 2, 1 have mean 1 and variance 2 / 4
    values = torch.tensor([[0.0, 0.0, 0.0, 4.0], [INF, 9.0, NAN, NAN]])
    assert explained_variance(values, returns, mask).item() == pytest.approx(1 - 0.5 / 3.5)


def test_explained_variance_of_a_perfect_an_ignorant_and_a_harmful_critic(random_rows):
    rows = random_rows()
    returns = rows.log_ratios
    assert explained_variance(returns, returns, rows.mask).item() == 1.0
    assert explained_variance(returns + 3, returns, rows.mask).item() == pytest.approx(1.0), "an offset is no error"
    assert explained_variance(torch.full_like(returns, 0.7), returns, rows.mask).item() == pytest.approx(0.0, abs=1e-6)
    assert explained_variance(-returns, returns, rows.mask).item() == pytest.approx(-3.0, rel=1e-5)


@pytest.mark.parametrize("constant", [0.0, 0.3, -1e6])
def test_returns_that_do_not_vary_explain_nothing(random_rows, constant: float):
    rows = random_rows((7, 7, 7))
    returns = torch.full_like(rows.log_ratios, constant)
    assert explained_variance(rows.log_ratios, returns, rows.mask).item() == 0.0
    assert explained_variance(rows.log_ratios, returns, torch.zeros_like(rows.mask)).item() == 0.0


def test_metrics_of_two_ranks_agree_with_one(random_rows, on_ranks):
    rows = random_rows()
    values, old, returns = (values_like(rows.log_ratios, rows.mask, seed) for seed in range(3))
    shares = (slice(0, 3), slice(3, None))

    def measure(rank, reduce):
        s = shares[rank]
        parts = (values[s], old[s], returns[s], rows.mask[s])
        return (
            value_clip_fraction(*parts, clip=0.5, all_reduce=reduce),
            explained_variance(old[s], returns[s], rows.mask[s], reduce),
        )

    clipped = value_clip_fraction(values, old, returns, rows.mask, clip=0.5)
    assert 0 < clipped < 1
    for both in on_ranks(measure):
        torch.testing.assert_close(both, (clipped, explained_variance(old, returns, rows.mask)))
