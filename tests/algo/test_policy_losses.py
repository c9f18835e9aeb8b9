from __future__ import annotations

import math

import pytest
import torch

from credo.algo.masked import masked_sum
from credo.algo.policy_losses import approx_kl, clip_fraction, clipped_surrogate, loss_weights

AGGREGATIONS = pytest.mark.parametrize("aggregation", ["token_mean", "seq_mean_token_mean"])
MASK = torch.tensor([[True, True, True, False], [True, False, False, False], [False, False, False, False]])


def test_weights_by_hand():
    quarter, half, sixth = 1 / 4, 1 / 2, 1 / 6
    tokens = loss_weights(MASK, "token_mean")
    rows = loss_weights(MASK, "seq_mean_token_mean")
    torch.testing.assert_close(tokens, torch.tensor([[quarter] * 3 + [0], [quarter, 0, 0, 0], [0] * 4]))
    torch.testing.assert_close(rows, torch.tensor([[sixth] * 3 + [0], [half, 0, 0, 0], [0] * 4]))


@AGGREGATIONS
@pytest.mark.parametrize("size", [1, 4, 14])
def test_the_loss_does_not_depend_on_the_micro_batch(random_rows, aggregation, size):
    rows = random_rows()
    losses, mask = rows.log_ratios, rows.mask
    count = int(mask.sum()) if aggregation == "token_mean" else len(mask)
    parts = torch.arange(len(mask)).split(size)
    counted = sum(masked_sum(losses[p] * loss_weights(mask[p], aggregation, count=count), mask[p]) for p in parts)
    weights = loss_weights(mask, aggregation)
    sliced = sum(masked_sum(losses[p] * weights[p], mask[p]) for p in parts)
    means = torch.stack([row[m].mean() for row, m in zip(losses, mask, strict=True)])
    expected = losses[mask].mean() if aggregation == "token_mean" else means.mean()
    torch.testing.assert_close(counted, expected)
    torch.testing.assert_close(sliced, expected)


@AGGREGATIONS
def test_weights_of_two_ranks_sum_to_one_together(random_rows, on_ranks, aggregation):
    mask = random_rows().mask
    shares = (mask[:3], mask[3:])
    parts = on_ranks(lambda rank, reduce: loss_weights(shares[rank], aggregation, all_reduce=reduce))
    torch.testing.assert_close(torch.cat(parts), loss_weights(mask, aggregation))
    assert torch.cat(parts).sum().item() == pytest.approx(1.0, rel=1e-6)


@AGGREGATIONS
def test_weights_of_nothing_are_zero(aggregation):
    assert (loss_weights(torch.zeros(2, 3, dtype=torch.bool), aggregation) == 0).all()


@pytest.mark.usefixtures("no_type_checks")
def test_an_unknown_aggregation_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"nonsense.*seq_mean_token_mean"):
        loss_weights(MASK, "nonsense")  # pyright: ignore[reportArgumentType]


RATIOS = torch.tensor([[1.0, 1.5, 1.5, 0.5, 0.5, 1.1, 0.9]])
ADVANTAGES = torch.tensor([[2.0, 2.0, -2.0, 2.0, -2.0, 2.0, -2.0]])


def surrogate(**clips):
    logprobs = (RATIOS.log() - 3).requires_grad_()
    return logprobs, clipped_surrogate(logprobs, torch.full((1, 7), -3.0), ADVANTAGES, **clips)


def test_clipped_surrogate_and_its_gradient_by_hand():
    logprobs, losses = surrogate()
    torch.testing.assert_close(losses, torch.tensor([[-2.0, -2.4, 3.0, -1.0, 1.6, -2.2, 1.8]]))
    losses.sum().backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([[-2.0, 0.0, 3.0, -1.0, 0.0, -2.2, 1.8]]))


def test_the_two_clips_are_apart():
    _, losses = surrogate(clip_low=0.6, clip_high=0.3)
    torch.testing.assert_close(losses, torch.tensor([[-2.0, -2.6, 3.0, -1.0, 1.0, -2.2, 1.8]]))


def test_clip_fraction_counts_the_tokens_without_gradient():
    old, mask = torch.full((1, 7), -3.0), torch.ones(1, 7, dtype=torch.bool)
    arguments = (RATIOS.log() - 3, old, ADVANTAGES)
    assert clip_fraction(*arguments, mask).item() == pytest.approx(2 / 7)
    mask[0, 4:] = False
    assert clip_fraction(*arguments, mask).item() == pytest.approx(1 / 4)
    assert clip_fraction(*arguments, mask, clip_high=0.6).item() == 0.0
    mask[0] = True
    assert clip_fraction(*arguments, mask, clip_low=0.6).item() == pytest.approx(1 / 7)


def test_approx_kl_by_hand():
    logprobs = torch.tensor([[math.log(0.5), 0.0, float("nan")]])
    old = torch.tensor([[math.log(0.25), 0.0, 1.0]])
    mask = torch.tensor([[True, True, False]])
    assert approx_kl(logprobs, old, mask).item() == pytest.approx((2 - 1 - math.log(2)) / 2, rel=1e-6)


def test_approx_kl_is_unbiased():
    old, new = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.4, 0.4, 0.2])
    terms = [approx_kl(new[None, [w]].log(), old[None, [w]].log(), torch.tensor([[True]])) for w in range(3)]
    expected = (old * (old / new).log()).sum()
    torch.testing.assert_close((old * torch.stack(terms)).sum(), expected)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e4])
def test_garbage_off_the_mask_reaches_neither_loss_nor_gradient(garbage):
    mask = torch.tensor([[True, False, True]])
    logprobs = torch.tensor([[-1.0, garbage, -2.0]], requires_grad=True)
    old = torch.tensor([[-1.1, -garbage, -2.0]])
    advantages = torch.tensor([[1.0, 0.0, -1.0]])
    losses = clipped_surrogate(logprobs, old, advantages)
    assert (losses[~mask] == 0).all()
    (losses * loss_weights(mask, "token_mean")).sum().backward()
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, torch.tensor([[-0.5 * math.exp(0.1), 0.0, 0.5]]))
    assert clip_fraction(logprobs, old, advantages, mask).item() == 0.0
    assert approx_kl(logprobs, old, mask).isfinite()


def test_metrics_of_two_ranks_agree_with_one(random_rows, on_ranks):
    rows = random_rows()
    old = torch.zeros_like(rows.log_ratios)
    advantages = torch.where(rows.mask, 1.0, 0.0)
    shares = (slice(0, 3), slice(3, None))

    def measure(rank, reduce):
        s = shares[rank]
        mask = rows.mask[s]
        clipped = clip_fraction(rows.log_ratios[s], old[s], advantages[s], mask, all_reduce=reduce)
        return clipped, approx_kl(rows.log_ratios[s], old[s], mask, all_reduce=reduce)

    clipped = clip_fraction(rows.log_ratios, old, advantages, rows.mask)
    assert 0 < clipped < 1
    for both in on_ranks(measure):
        torch.testing.assert_close(both, (clipped, approx_kl(rows.log_ratios, old, rows.mask)))
