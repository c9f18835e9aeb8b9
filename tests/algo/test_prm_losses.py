from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from credo.algo.prm_losses import (
    best_of_n_weights,
    ceiling_distance,
    dead_gradient_share,
    group_scores,
    opponent_logits,
    prm_cross_entropy,
    prm_loss,
    prm_preference_loss,
)

COMPARING = ["dpo", "bon_acc", "bon_rm"]


def rows_with_sums(*sums):
    """One response of two tokens each, whose log-ratios add up to the given sums; the padding is NaN."""
    log_ratios = torch.tensor([[0.25 * total, 0.75 * total, float("nan")] for total in sums])
    return log_ratios, ~log_ratios.isnan()


def test_cross_entropy_by_hand():
    log_ratios, mask = rows_with_sums(20.0, -40.0, 0.0)  # logits 1, -2, 0
    loss = prm_cross_entropy(log_ratios, torch.tensor([1.0, 0.0, 0.25]), mask, beta=0.05)
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2)) + math.log(2)) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def softplus(x):
    return math.log1p(math.exp(x))


def loss_by_loops(new, old, loss, *, beta=0.05, e=0.0):
    """Mean over the responses of ``new``, each compared with the log-ratios ``old`` of the others in its group."""
    sums, old_sums = ([float(q[m].sum()) * beta for q, m in zip(r.log_ratios, r.mask, strict=True)] for r in (new, old))
    outcomes, ids = new.outcomes.tolist(), new.group_ids.tolist()
    total = 0.0
    for b, (z, outcome) in enumerate(zip(sums, outcomes, strict=True)):
        group = [j for j in range(len(ids)) if ids[j] == ids[b]]
        rivals = [old_sums[j] for j in group if (outcomes[j] < outcome if outcome > 0 else outcomes[j] > outcome)]
        margin = (z - (sum(rivals) / len(rivals) if rivals else 0.0)) * (1 if outcome > 0 else -1)
        weight = 1.0
        if loss != "dpo":
            by_outcome = loss == "bon_acc"
            beaten = [j for j in group if j == b or (outcomes[j] <= outcome if by_outcome else old_sums[j] <= z)]
            weight = len(group) * (len(beaten) / len(group)) ** (len(group) - 1)
        total += weight * ((1 - e) * softplus(-margin) + e * softplus(margin))
    return total / len(ids)


def loss_of(rows, old, loss, chosen: Any = slice(None), **options):
    """``prm_loss`` of the chosen rows, compared within the whole batch ``old``."""
    scores = group_scores(old.log_ratios, old.outcomes, old.mask, old.group_ids, 0.05)
    part = rows[chosen]
    return prm_loss(part.log_ratios, part.outcomes, part.mask, scores[torch.arange(14)[chosen]], loss=loss, **options)


@pytest.fixture
def moved_rows(random_rows):
    """A batch as it is in the middle of an update, and as it was before."""
    old = random_rows()
    return old.replace(log_ratios=old.log_ratios + random_rows(seed=1).log_ratios.nan_to_num()), old


def test_a_fresh_prm_is_at_ln_2():
    log_ratios, mask = rows_with_sums(0.0, 0.0)
    assert prm_cross_entropy(log_ratios, torch.tensor([1.0, 0.0]), mask).item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize(("logit", "outcome"), [(30.0, 0.0), (-30.0, 1.0), (2000.0, 0.0)])
def test_a_confident_mistake_still_has_its_gradient(logit, outcome):
    log_ratios, mask = rows_with_sums(logit / 0.05)
    log_ratios.requires_grad_()
    prm_cross_entropy(log_ratios, torch.tensor([outcome]), mask, beta=0.05).backward()
    assert log_ratios.grad is not None
    expected = torch.tensor([[0.05, 0.05, 0.0]]) * math.copysign(1.0, logit)
    torch.testing.assert_close(log_ratios.grad, expected)


@pytest.mark.parametrize("size", [1, 3, 14])
def test_losses_and_gradients_of_micro_batches_add_up(random_rows, size):
    rows = random_rows()
    whole, pieces = (rows.log_ratios.clone().requires_grad_() for _ in range(2))
    loss = prm_cross_entropy(whole, rows.outcomes, rows.mask)
    loss.backward()
    total = 0.0
    for part in torch.arange(14).split(size):
        piece = prm_cross_entropy(pieces[part], rows.outcomes[part], rows.mask[part], count=14)
        piece.backward()
        total += piece.item()
    assert total == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(pieces.grad, whole.grad)


def test_an_empty_response_has_no_gradient():
    log_ratios = torch.full((2, 3), float("nan"), requires_grad=True)
    mask = torch.tensor([[True, False, False], [False, False, False]])
    prm_cross_entropy(torch.where(mask, 0.5, log_ratios), torch.ones(2), mask).backward()
    assert log_ratios.grad is not None
    assert (log_ratios.grad[1] == 0).all()


def test_bf16_log_ratios_are_summed_in_fp32():
    log_ratios, mask = torch.full((1, 300), 1.0).bfloat16(), torch.ones(1, 300, dtype=torch.bool)
    loss = prm_cross_entropy(log_ratios, torch.tensor([1.0]), mask, beta=0.01)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-3)), rel=1e-6)


def test_dead_gradients_are_the_settled_and_the_empty():
    log_ratios, mask = rows_with_sums(400.0, -400.0, 400.0, 1.0, 1.0)  # logits 20, -20, 20, ...
    mask[4] = False
    outcomes = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0])
    assert dead_gradient_share(log_ratios, outcomes, mask, 0.05).item() == pytest.approx(3 / 5)
    assert dead_gradient_share(log_ratios, outcomes, mask, 0.05, threshold=0.5).item() == pytest.approx(4 / 5)


@pytest.mark.parametrize(("outcome", "target"), [(1.0, 0.95), (0.0, 0.05), (0.25, 0.275)])
def test_label_smoothing_moves_outcomes_towards_their_opposite(outcome, target):
    log_ratios, mask = rows_with_sums(30.0)
    smoothed = prm_cross_entropy(log_ratios, torch.tensor([outcome]), mask, label_smoothing=0.1)
    torch.testing.assert_close(smoothed, prm_cross_entropy(log_ratios, torch.tensor([target]), mask))


def test_opponents_by_hand():
    logits = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, float("nan"), 64.0])
    outcomes = torch.tensor([1.0, 0.0, 0.5, 0.0, 1.0, 0.0, 0.0])
    group_ids = torch.tensor([7, 7, 7, 7, 7, -1, 3])
    opponents = opponent_logits(logits, outcomes, group_ids)
    expected = [14 / 3, 7.0, 5.0, 7.0, 14 / 3, 0.0, 0.0]  # the last two are alone
    torch.testing.assert_close(opponents, torch.tensor(expected))
    alike = opponent_logits(torch.ones(3), torch.full((3,), 0.5), torch.zeros(3, dtype=torch.int64))
    assert (alike == 0).all()


def test_best_of_n_weights_by_hand():
    peers = torch.tensor([[False, True, True, False], [True, False, True, False], [True, True, False, False]])
    peers = torch.cat([peers, torch.zeros(1, 4, dtype=torch.bool)])
    old = torch.tensor([0.1, 0.2, 0.3, -9.0])
    torch.testing.assert_close(best_of_n_weights(old, old, peers), torch.tensor([1 / 3, 4 / 3, 3.0, 1.0]))
    fallen = best_of_n_weights(old - torch.tensor([0.01, 0.15, 0.01, 0.0]), old, peers)
    torch.testing.assert_close(fallen, torch.tensor([1 / 3, 1 / 3, 3.0, 1.0]))
    rounded = best_of_n_weights(torch.full((4,), 0.2 - 1e-7), torch.full((4,), 0.2), peers)
    torch.testing.assert_close(rounded, torch.tensor([3.0, 3.0, 3.0, 1.0]))


def test_the_preference_loss_by_hand():
    log_ratios, mask = rows_with_sums(20.0, -40.0, 0.0)  # logits 1, -2, 0
    outcomes, opponents = torch.tensor([1.0, 0.0, 0.25]), torch.tensor([-0.5, 1.0, 2.0])
    loss = prm_preference_loss(log_ratios, outcomes, mask, opponents, torch.tensor([1.0, 2.0, 0.0]))
    assert loss.item() == pytest.approx((softplus(-1.5) + 2 * softplus(-3)) / 3, rel=1e-6)
    smoothed = prm_preference_loss(log_ratios, outcomes, mask, opponents, label_smoothing=0.2)
    straight = [0.9 * softplus(-margin) + 0.1 * softplus(margin) for margin in (1.5, 3.0, -2.0)]
    assert smoothed.item() == pytest.approx(sum(straight) / 3, rel=1e-6)


@pytest.mark.parametrize("loss", COMPARING)
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_losses_between_responses_against_loops(moved_rows, loss, smoothing):
    new, old = moved_rows
    expected = loss_by_loops(new, old, loss, e=smoothing / 2)
    assert loss_of(new, old, loss, label_smoothing=smoothing).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", COMPARING)
def test_groups_may_straddle_mini_batches_and_ranks(moved_rows, loss):
    new, old = moved_rows
    whole = new.replace(log_ratios=new.log_ratios.clone().requires_grad_())
    pieces = new.replace(log_ratios=new.log_ratios.clone().requires_grad_())
    loss_of(whole, old, loss).backward()
    for chosen in torch.arange(14).split(3):
        loss_of(pieces, old, loss, chosen, count=14).backward()
    torch.testing.assert_close(pieces.log_ratios.grad, whole.log_ratios.grad)
    assert whole.log_ratios.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", COMPARING)
def test_the_order_of_rows_and_the_padding_do_not_matter(moved_rows, loss):
    new, old = moved_rows
    expected = loss_of(new, old, loss)
    order = torch.randperm(14, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(loss_of(new[order], old[order], loss), expected)
    new, old = (
        rows.replace(
            log_ratios=F.pad(rows.log_ratios, (0, 4), value=float("nan")), mask=F.pad(rows.mask, (0, 4), value=False)
        )
        for rows in moved_rows
    )
    torch.testing.assert_close(loss_of(new, old, loss), expected)


@pytest.mark.parametrize("loss", COMPARING)
def test_only_a_rows_own_log_ratios_have_a_gradient_and_it_has_the_sign_of_the_outcome(moved_rows, loss):
    new, old = (rows.replace(log_ratios=rows.log_ratios.clone().requires_grad_()) for rows in moved_rows)
    loss_of(new, old, loss).backward()
    assert old.log_ratios.grad is None
    gradient = new.log_ratios.grad
    assert (gradient[~new.mask] == 0).all()
    assert (gradient[new.mask & (new.outcomes > 0)[:, None]] < 0).all()
    assert (gradient[new.mask & (new.outcomes == 0)[:, None]] > 0).all()


def test_a_broken_score_stays_in_its_group(moved_rows):
    new, old = moved_rows
    broken = old.log_ratios.clone()
    broken[0] = float("inf")
    others = (old.group_ids != old.group_ids[0]).nonzero().squeeze(1)
    for loss in COMPARING:
        hurt = loss_of(new, old.replace(log_ratios=broken), loss, others)
        torch.testing.assert_close(hurt, loss_of(new, old, loss, others))


def test_cross_entropy_needs_no_scores(random_rows):
    rows = random_rows()
    named = prm_loss(rows.log_ratios, rows.outcomes, rows.mask, beta=0.1, label_smoothing=0.2, count=7)
    direct = prm_cross_entropy(rows.log_ratios, rows.outcomes, rows.mask, beta=0.1, label_smoothing=0.2, count=7)
    assert torch.equal(named, direct)


@pytest.mark.parametrize("loss", COMPARING)
def test_losses_between_responses_need_scores(random_rows, loss):
    rows = random_rows()
    with pytest.raises(ValueError, match=rf"{loss}.*group_scores"):
        prm_loss(rows.log_ratios, rows.outcomes, rows.mask, loss=loss)


def test_unknown_loss(moved_rows, no_type_checks):
    new, old = moved_rows
    with pytest.raises(ValueError, match=r"nca.*bon_rm"):
        loss_of(new, old, "nca")


def test_ceiling_distance_by_hand():
    log_ratios, mask = rows_with_sums(4.0, -2.0, 2.0, 0.0, 9.0, 9.0, -3.0)
    outcomes = torch.tensor([1.0, 0.0, 0.75, 0.5, 1.0, 0.0, 1.0])
    group_ids = torch.tensor([2, 2, 2, 2, 5, 6, 2])
    # Group 2: three of five are right, their logits 0.4, 0.2 and -0.3; groups 5 and 6 have nothing to tell apart.
    expected = 0.1 * math.log(5 / 3) - 0.1
    assert ceiling_distance(log_ratios, outcomes, mask, group_ids, 0.1).item() == pytest.approx(expected, rel=1e-5)
    assert ceiling_distance(log_ratios[4:6], outcomes[4:6], mask[4:6], group_ids[4:6], 0.1).item() == 0


def test_ceiling_distance_is_a_mean_over_groups_on_any_number_of_ranks(random_rows, on_ranks):
    rows = random_rows((3, 6, 2, 5))
    alone = ceiling_distance(*rows.astuple(), beta=0.05)
    mixed = [rows[rows.group_ids == group] for group in rows.group_ids.unique()]
    mixed = [group for group in mixed if 0 < (group.outcomes > 0.5).sum() < len(group.outcomes)]
    assert len(mixed) > 1
    each = [ceiling_distance(*group.astuple(), beta=0.05) for group in mixed]
    torch.testing.assert_close(alone, torch.stack(each).mean())
    first = rows.group_ids <= 0
    parts = [rows[first], rows[~first]]
    for seen in on_ranks(
        lambda rank, all_reduce: ceiling_distance(*parts[rank].astuple(), beta=0.05, all_reduce=all_reduce)
    ):
        torch.testing.assert_close(seen, alone)
