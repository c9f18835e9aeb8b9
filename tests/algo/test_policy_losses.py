from __future__ import annotations

import math

import pytest
import torch

from credo.algo.masked import masked_sum
from credo.algo.policy_losses import (
    KlEstimate,
    approx_kl,
    cispo,
    clipped_surrogate,
    gspo,
    importance_weights,
    kl_penalty,
    loss_weights,
    policy_gradient,
    policy_losses,
    ppo,
)

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


OLD = torch.full((1, 7), -3.0)
EVERYWHERE = torch.ones(1, 7, dtype=torch.bool)


def surrogate(**clips):
    logprobs = (RATIOS.log() - 3).requires_grad_()
    return logprobs, ppo(logprobs, OLD, ADVANTAGES, **clips)


def gradient_of(losses, logprobs):
    (gradient,) = torch.autograd.grad(losses.sum(), logprobs, retain_graph=True)
    return gradient


def test_clipped_surrogate_and_its_gradient_by_hand():
    logprobs, found = surrogate()
    torch.testing.assert_close(found.losses, torch.tensor([[-2.0, -2.4, 3.0, -1.0, 1.6, -2.2, 1.8]]))
    torch.testing.assert_close(gradient_of(found.losses, logprobs), torch.tensor([[-2.0, 0, 3.0, -1.0, 0, -2.2, 1.8]]))
    assert found.clipped.tolist() == [[False, True, False, False, True, False, False]]


def test_the_public_surrogate_is_the_loss_alone():
    logprobs = RATIOS.log() - 3
    torch.testing.assert_close(
        clipped_surrogate(logprobs, OLD, ADVANTAGES, clip_high=0.1),
        ppo(logprobs, OLD, ADVANTAGES, clip_high=0.1).losses,
    )


def test_the_two_clips_are_apart():
    _, found = surrogate(clip_low=0.6, clip_high=0.3)
    torch.testing.assert_close(found.losses, torch.tensor([[-2.0, -2.6, 3.0, -1.0, 1.0, -2.2, 1.8]]))
    assert found.clipped.tolist() == [[False, True, False, False, False, False, False]]


def test_the_dual_clip_bounds_the_loss_of_negative_advantages_alone():
    ratios, advantages = torch.tensor([[2.9, 3.1, 1000.0, 1000.0]]), torch.tensor([[-2.0, -2.0, -0.5, 2.0]])
    logprobs = ratios.log().requires_grad_()
    found = ppo(logprobs, torch.zeros(1, 4), advantages, dual_clip=3.0)
    torch.testing.assert_close(found.losses, torch.tensor([[5.8, 6.0, 1.5, -2.4]]))
    torch.testing.assert_close(gradient_of(found.losses, logprobs), torch.tensor([[5.8, 0.0, 0.0, 0.0]]))
    assert found.clipped.tolist() == [[False, True, True, True]]


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_an_infinite_ratio_that_is_clipped_has_no_gradient(advantage):
    logprobs = torch.tensor([[200.0]], requires_grad=True)
    found = ppo(logprobs, torch.zeros(1, 1), torch.tensor([[advantage]]), dual_clip=3.0)
    assert found.losses.isfinite().all()
    assert gradient_of(found.losses, logprobs).tolist() == [[0.0]]


def test_policy_gradient_by_hand():
    logprobs = torch.tensor([[-1.0, -2.0, -3.0]], requires_grad=True)
    pg = policy_gradient(logprobs, torch.tensor([[2.0, -0.5, 0.0]]))
    torch.testing.assert_close(pg.losses, torch.tensor([[2.0, -1.0, 0.0]]))
    torch.testing.assert_close(gradient_of(pg.losses, logprobs), torch.tensor([[-2.0, 0.5, 0.0]]))
    assert not pg.clipped.any()


def test_gspo_by_hand():
    """Ratios 2 and 1/2 make a response of ratio 1; 2 and 2 one of ratio 2, which the clip bounds where A > 0."""
    logprobs = torch.tensor([[2.0, 0.5, 9.0], [2.0, 2.0, 9.0]]).log().requires_grad_()
    advantages = torch.tensor([[3.0, -1.0, 0.0], [1.0, -1.0, 0.0]])
    mask = torch.tensor([[True, True, False]] * 2)
    losses = gspo(logprobs, torch.zeros(2, 3), advantages, mask)
    torch.testing.assert_close(losses.losses, torch.tensor([[-3.0, 1.0, 0.0], [-1.2, 2.0, 0.0]]))
    expected = torch.tensor([[-3.0, 1.0, 0.0], [0.0, 2.0, 0.0]])
    torch.testing.assert_close(gradient_of(losses.losses, logprobs), expected)
    assert losses.clipped.tolist() == [[False] * 3, [True, False, False]]


def test_cispo_by_hand():
    logprobs = (RATIOS.log() - 3).requires_grad_()
    losses = cispo(logprobs, OLD, ADVANTAGES, clip_low=0.3)
    bounded = torch.tensor([[1.0, 1.2, 1.2, 0.7, 0.7, 1.1, 0.9]])
    torch.testing.assert_close(losses.losses, -bounded * ADVANTAGES * logprobs)
    torch.testing.assert_close(gradient_of(losses.losses, logprobs), -bounded * ADVANTAGES)
    assert losses.clipped.tolist() == [[False, True, True, True, True, False, False]]


def oracle(kind, logprobs, old, advantages, mask, *, low, high, dual):
    """Token by token, as the papers write it; losses and clipped tokens."""
    losses, clipped = torch.zeros_like(logprobs), torch.zeros_like(mask)
    for b, s in mask.nonzero().tolist():
        a, log_rho = advantages[b, s], (logprobs - old)[b]
        rho = log_rho[s].exp()
        if kind == "pg":
            losses[b, s] = -a * logprobs[b, s]
        elif kind == "cispo":
            losses[b, s] = -rho.clamp(1 - low, 1 + high).detach() * a * logprobs[b, s]
            clipped[b, s] = not 1 - low <= rho.item() <= 1 + high
        else:
            if kind == "gspo":
                rho = log_rho[mask[b]].mean().exp().detach() * (logprobs[b, s] - logprobs[b, s].detach()).exp()
            objective = torch.minimum(a * rho, a * rho.clamp(1 - low, 1 + high))
            if dual and a < 0:
                objective = torch.maximum(objective, dual * a)
            losses[b, s] = -objective
            clipped[b, s] = gradient_of(objective, logprobs)[b, s] == 0
    return losses, clipped


@pytest.mark.parametrize(("kind", "dual"), [("ppo", 0.0), ("ppo", 1.5), ("pg", 0.0), ("gspo", 0.0), ("cispo", 0.0)])
def test_losses_gradients_and_clipped_tokens_are_those_of_the_formula(random_rows, kind, dual):
    rows, generator = random_rows(), torch.Generator().manual_seed(3)
    mask, old = rows.mask, torch.randn(rows.mask.shape, generator=generator) - 3
    advantages = torch.randn(mask.shape, generator=generator) * mask
    values = torch.where(mask, old + rows.log_ratios, 0.0)
    garbage = values.masked_fill(~mask, math.nan).requires_grad_()
    actual = policy_losses(kind, garbage, old, advantages, mask, clip_low=0.3, clip_high=0.4, dual_clip=dual)
    clean = values.requires_grad_()
    losses, clipped = oracle(kind, clean, old, advantages, mask, low=0.3, high=0.4, dual=dual)
    torch.testing.assert_close(actual.losses, losses)
    assert torch.equal(actual.clipped, clipped)
    assert kind == "pg" or 0 < clipped.sum() < mask.sum()
    torch.testing.assert_close(gradient_of(actual.losses, garbage), gradient_of(losses, clean))


KINDS = pytest.mark.parametrize("kind", ["ppo", "pg", "gspo", "cispo"])


@KINDS
def test_on_the_policy_that_sampled_every_loss_has_the_policy_gradient(random_rows, kind):
    mask = random_rows().mask
    logprobs = (-3 * torch.rand(mask.shape, generator=torch.Generator().manual_seed(1))).requires_grad_()
    advantages = torch.randn(mask.shape, generator=torch.Generator().manual_seed(2)) * mask
    losses = policy_losses(kind, logprobs, logprobs.detach(), advantages, mask, dual_clip=3.0 * (kind == "ppo"))
    assert not losses.clipped.any()
    torch.testing.assert_close(gradient_of(losses.losses, logprobs), -advantages)


@KINDS
def test_a_loss_depends_neither_on_padding_nor_on_other_rows(random_rows, kind):
    rows = random_rows()
    old, advantages = torch.full(rows.mask.shape, -3.0), torch.where(rows.mask, rows.log_ratios.nan_to_num(), 0.0)
    inputs = (rows.log_ratios - 3, old, advantages, rows.mask)
    whole = policy_losses(kind, *inputs)
    end = int(rows.mask[4].nonzero().max()) + 1
    alone = policy_losses(kind, *(tensor[4:5, :end] for tensor in inputs))
    torch.testing.assert_close(alone.losses, whole.losses[4:5, :end])
    assert torch.equal(alone.clipped, whole.clipped[4:5, :end])


@KINDS
@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e4])
def test_garbage_off_the_mask_reaches_neither_loss_nor_gradient(kind, garbage):
    mask = torch.tensor([[True, False, True], [False, False, False]])
    logprobs = torch.tensor([[-1.0, garbage, -2.0], [garbage] * 3], requires_grad=True)
    old = torch.tensor([[-1.0, -garbage, -2.0], [0.0, garbage, 0.0]])
    advantages = torch.tensor([[1.0, 0.0, -1.0], [0.0] * 3])
    losses = policy_losses(kind, logprobs, old, advantages, mask)
    assert (losses.losses[~mask] == 0).all()
    assert not losses.clipped.any()
    gradient = gradient_of(losses.losses * loss_weights(mask, "token_mean"), logprobs)
    torch.testing.assert_close(gradient, torch.tensor([[-0.5, 0.0, 0.5], [0.0] * 3]))
    assert approx_kl(logprobs, old, mask).isfinite()


@pytest.mark.usefixtures("no_type_checks")
def test_unknown_kinds_are_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"nonsense.*cispo"):
        policy_losses("nonsense", OLD, OLD, ADVANTAGES, EVERYWHERE)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"nonsense.*k3"):
        kl_penalty(OLD, OLD, EVERYWHERE, "nonsense")  # pyright: ignore[reportArgumentType]


def test_importance_weights_by_hand():
    old = torch.tensor([[0.5, 0.2, 0.9, math.nan]]).log().requires_grad_()
    sampling = torch.tensor([[0.25, 0.4, 0.1, 0.5]]).log()
    weights = importance_weights(old, sampling, torch.tensor([[True, True, True, False]]), 3.0)
    torch.testing.assert_close(weights, torch.tensor([[2.0, 0.5, 3.0, 1.0]]))
    assert not weights.requires_grad
    overflow = importance_weights(torch.zeros(1, 1), torch.full((1, 1), -1e4), torch.tensor([[True]]), 3.0)
    assert overflow.tolist() == [[3.0]]


def test_kl_penalties_and_their_gradients_by_hand():
    logprobs = torch.tensor([[math.log(0.5), math.log(0.25), math.nan]], requires_grad=True)
    reference = torch.tensor([[math.log(0.25), math.log(0.5), math.inf]])
    mask = torch.tensor([[True, True, False]])
    ln2 = math.log(2)
    expected: dict[KlEstimate, tuple[list[float], list[float]]] = {
        "k1": ([ln2, -ln2, 0.0], [1.0, 1.0, 0.0]),
        "k2": ([ln2**2 / 2, ln2**2 / 2, 0.0], [ln2, -ln2, 0.0]),
        "k3": ([ln2 - 0.5, 1 - ln2, 0.0], [0.5, -1.0, 0.0]),
    }
    for kind, (values, gradient) in expected.items():
        penalties = kl_penalty(logprobs, reference, mask, kind)
        torch.testing.assert_close(penalties, torch.tensor([values]))
        torch.testing.assert_close(gradient_of(penalties, logprobs), torch.tensor([gradient]))


def test_kl_penalties_on_average():
    """Over all words of a small vocabulary: what each estimates, and whose gradient it has."""
    logits = torch.randn(1, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    logprobs = torch.log_softmax(logits, dim=-1)
    reference = torch.randn(1, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).log_softmax(-1)
    probabilities, mask = logprobs.exp().detach(), torch.ones(1, 6, dtype=torch.bool)
    penalties = {kind: probabilities * kl_penalty(logprobs, reference, mask, kind) for kind in ("k1", "k2", "k3")}
    reverse = (logprobs.exp() * (logprobs - reference)).sum()
    forward = (reference.exp() * (reference - logprobs)).sum()
    for unbiased in ("k1", "k3"):
        torch.testing.assert_close(penalties[unbiased].sum(), reverse)
    whose = {"k1": reverse * 0, "k2": reverse, "k3": forward}
    for kind, divergence in whose.items():
        actual, expected = (
            torch.autograd.grad(x.sum(), logits, retain_graph=True) for x in (penalties[kind], divergence)
        )
        torch.testing.assert_close(actual, expected)


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


def test_approx_kl_of_two_ranks_agrees_with_one(random_rows, on_ranks):
    rows = random_rows()
    old = torch.zeros_like(rows.log_ratios)
    shares = (slice(0, 3), slice(3, None))

    def measure(rank, reduce):
        s = shares[rank]
        return approx_kl(rows.log_ratios[s], old[s], rows.mask[s], all_reduce=reduce)

    for kl in on_ranks(measure):
        torch.testing.assert_close(kl, approx_kl(rows.log_ratios, old, rows.mask))
