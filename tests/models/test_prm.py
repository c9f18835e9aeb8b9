"""The implicit PRM: scores as log-ratios, learning from outcomes alone, against plain autograd."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from credo.config import PrmConfig
from credo.data.batching import rows_of
from credo.models.prm import Prm
from credo.models.reference import Reference
from credo.types import Batch

LR, BETA = 1e-2, 0.5


def prm(model: Any, *, token_budget: int = 1000, **options: Any) -> Prm:
    settings: dict[str, Any] = {"lr": LR, "beta": BETA, "max_grad_norm": 1e9}
    return Prm(copy.deepcopy(model), PrmConfig(**(settings | options)), token_budget=token_budget, compute="fp32")


def reference_logprobs(model: Any, batch: Batch) -> Tensor:
    return Reference(copy.deepcopy(model), token_budget=1000, compute="fp32").logprobs(batch)


def oracle(model: Any, batch: Batch, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Log-ratios (B, S) and the cross-entropy, from all logits of each row alone."""
    log_ratios = []
    for row in range(len(batch)):
        length = int(batch.attention[row].sum())
        tokens = batch.tokens[row, :length]
        logprobs = torch.log_softmax(model(input_ids=tokens[None]).logits[0], dim=-1)
        values = logprobs[:-1].gather(1, tokens[1:, None]).squeeze(1) - reference[row, 1:length]
        log_ratios.append(F.pad(values, (1, batch.tokens.shape[1] - length)) * batch.mask[row])
    stacked = torch.stack(log_ratios)
    chances = torch.sigmoid(BETA * stacked.sum(dim=1))
    losses = -(batch.outcomes * chances.log() + (1 - batch.outcomes) * (1 - chances).log())
    return stacked, losses.mean()


def learnt(trained: Prm, batch: Batch, reference: Tensor) -> dict[str, float]:
    """The metrics of an update without old scores."""
    _, metrics = trained.update(batch, reference)
    return metrics


def weights_of(model: Any) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def gradients_seen(trained: Prm) -> dict[str, Tensor]:
    """The gradients of the first optimiser step, from AdamW's first moments."""
    moments = trained.optimizer.adamw.state
    return {name: moments[parameter]["exp_avg"] / 0.1 for name, parameter in trained.model.named_parameters()}


def test_scores_are_log_ratios(make_model, make_batch):
    model, other, batch = make_model(1).model, make_model(2).model, make_batch()
    reference = reference_logprobs(other, batch)
    expected, _ = oracle(model, batch, reference)
    scores = prm(model).score(batch, reference)
    torch.testing.assert_close(scores, expected.detach(), atol=1e-5, rtol=1e-5)
    assert (scores[~batch.mask] == 0).all()
    assert scores.abs().max() > 0.1


def test_a_prm_that_is_its_reference_scores_exactly_nothing_and_its_loss_starts_at_ln_2(make_model, make_batch):
    model, batch = make_model().model, make_batch()
    reference = reference_logprobs(model, batch)
    fresh = prm(model)
    assert (fresh.score(batch, reference) == 0).all()
    assert learnt(fresh, batch, reference)["prm/loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_one_step_is_the_formula_and_adamw_by_hand(make_model, make_batch):
    model, batch = make_model(1).model, make_batch()
    reference = reference_logprobs(make_model(2).model, batch)
    twin = copy.deepcopy(model)
    _, loss = oracle(twin, batch, reference)
    loss.backward()
    trained = prm(model, weight_decay=0.2)

    metrics = learnt(trained, batch, reference)

    assert metrics["prm/loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert (metrics["prm/lr"], metrics["prm/optimizer_steps"], metrics["prm/skipped_steps"]) == (LR, 1, 0)
    norm = metrics["prm/grad_norm"]
    seen = gradients_seen(trained)
    for name, start in model.named_parameters():
        expected = twin.get_parameter(name).grad
        assert expected is not None
        torch.testing.assert_close(seen[name], expected, atol=1e-6 * norm, rtol=1e-4)
        certain = expected.abs() > 1e-4 * norm
        first_step = start * (1 - LR * 0.2) - LR * expected / (expected.abs() + 1e-8)
        torch.testing.assert_close(
            trained.model.get_parameter(name)[certain], first_step[certain], atol=1e-6, rtol=1e-6
        )


@pytest.mark.parametrize("token_budget", [1, 20, 45])
def test_micro_batches_do_not_matter(make_model, make_batch, token_budget: int):
    model, batch = make_model(1).model, make_batch(9)
    reference = reference_logprobs(make_model(2).model, batch)
    whole, split = prm(model), prm(model, token_budget=token_budget)
    torch.testing.assert_close(split.score(batch, reference), whole.score(batch, reference), atol=1e-5, rtol=1e-5)
    assert learnt(split, batch, reference) == pytest.approx(learnt(whole, batch, reference), abs=1e-5)
    cut = gradients_seen(split)
    for name, gradient in gradients_seen(whole).items():
        torch.testing.assert_close(cut[name], gradient, atol=1e-5, rtol=1e-4)


def test_the_order_of_rows_in_a_mini_batch_does_not_matter(make_model, make_batch):
    model, batch = make_model(1).model, make_batch()
    reference = reference_logprobs(make_model(2).model, batch)
    order = torch.tensor([3, 5, 0, 2, 4, 1])
    one, other = prm(model), prm(model)
    scores = one.score(batch, reference)
    permuted = rows_of(batch, order)
    torch.testing.assert_close(other.score(permuted, reference[order]), scores[order], atol=1e-5, rtol=1e-5)
    assert learnt(other, permuted, reference[order]) == pytest.approx(learnt(one, batch, reference), abs=1e-5)
    moved = gradients_seen(other)
    for name, gradient in gradients_seen(one).items():
        torch.testing.assert_close(moved[name], gradient, atol=1e-5, rtol=1e-4)


def test_mini_batches_are_taken_in_order(make_model, make_batch):
    model, batch = make_model(1).model, make_batch(5)
    reference = reference_logprobs(make_model(2).model, batch)
    at_once, by_hand = prm(model, minibatch=2), prm(model)
    assert learnt(at_once, batch, reference)["prm/optimizer_steps"] == 3
    for rows in (torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([4])):
        by_hand.update(rows_of(batch, rows), reference[rows])
    pairs = zip(at_once.model.parameters(), by_hand.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_scoring_writes_nothing(make_model, make_batch):
    model, batch = make_model(1).model, make_batch()
    reference = reference_logprobs(make_model(2).model, batch)
    asked, silent = prm(model), prm(model)
    first = asked.score(batch, reference)
    assert torch.equal(asked.score(batch, reference), first)
    assert learnt(asked, batch, reference) == learnt(silent, batch, reference)
    later = asked.score(batch, reference)
    assert torch.equal(later, silent.score(batch, reference))
    assert not torch.equal(later, first)


def test_it_learns_which_responses_were_right(make_model, make_batch):
    model, batch = make_model().model, make_batch()
    reference = reference_logprobs(model, batch)
    trained = prm(model, lr=1e-3)
    losses = [learnt(trained, batch, reference)["prm/loss"] for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    sums = trained.score(batch, reference).sum(dim=1)
    assert (sums[batch.outcomes == 1] > 0).all()
    assert (sums[batch.outcomes == 0] < 0).all()


def test_partial_credit_pulls_towards_its_share(make_model, make_batch):
    """At q = 0 an outcome of one half is what the PRM says already: no gradient at all."""
    model, batch = make_model().model, make_batch(1)
    half = Batch(
        **{name: getattr(batch, name) for name in Batch.__dataclass_fields__} | {"outcomes": torch.tensor([0.5])}
    )
    assert learnt(prm(model), half, reference_logprobs(model, half))["prm/grad_norm"] == pytest.approx(0.0, abs=1e-6)


def test_a_broken_reference_skips_the_step(make_model, make_batch):
    model, batch = make_model().model, make_batch(2)
    reference = reference_logprobs(model, batch)
    reference[0, batch.mask[0]] = -math.inf
    trained = prm(model, minibatch=1)
    metrics = learnt(trained, batch, reference)
    assert (metrics["prm/optimizer_steps"], metrics["prm/skipped_steps"]) == (1, 1)
    assert all(parameter.isfinite().all() for parameter in trained.model.parameters())


def test_an_update_returns_the_scores_of_its_own_pass(make_model, make_batch):
    """Each mini-batch is scored by the weights that the mini-batches before it left behind."""
    model, batch = make_model(1).model, make_batch(5)
    reference = reference_logprobs(make_model(2).model, batch)
    at_once, by_hand = prm(model, minibatch=2, token_budget=12), prm(model)
    before = by_hand.score(batch, reference)
    seen, _ = at_once.update(batch, reference.masked_fill(~batch.mask, math.nan))
    for rows in (torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([4])):
        part = rows_of(batch, rows)
        width = part.tokens.shape[1]
        expected = by_hand.score(part, reference[rows, :width])
        torch.testing.assert_close(seen[rows, :width], expected, atol=1e-4, rtol=1e-4)
        by_hand.update(part, reference[rows, :width])
    assert not seen.requires_grad
    assert (seen[~batch.mask] == 0).all()
    torch.testing.assert_close(seen[:2], before[:2], atol=1e-5, rtol=1e-5)
    assert (seen[2:] - before[2:]).abs().max() > 0.01


@pytest.mark.parametrize("loss", ["dpo", "bon_acc", "bon_rm"])
def test_losses_between_responses_take_the_others_from_the_old_scores(make_model, make_batch, loss: Any):
    """Mini-batches of three cut the second group of two, micro-batches hold one row; against plain autograd."""
    model, batch = make_model(1).model, make_batch(6)
    reference = reference_logprobs(make_model(2).model, batch)
    old = prm(model).score(batch, reference) + torch.linspace(-1, 1, 6)[:, None] * batch.mask
    twin = copy.deepcopy(model)
    log_ratios, _ = oracle(twin, batch, reference)
    logits, other = BETA * log_ratios.sum(dim=1), BETA * old[[1, 0, 3, 2, 5, 4]].sum(dim=1)
    margins = (logits - other) * (2 * batch.outcomes - 1)
    beaten = batch.outcomes == 1 if loss == "bon_acc" else other <= logits.detach()
    weights = torch.ones(6) if loss == "dpo" else torch.where(beaten, 2.0, 1.0)
    losses = -weights * (0.9 * F.logsigmoid(margins) + 0.1 * F.logsigmoid(-margins))

    slow = prm(model, loss=loss, label_smoothing=0.2, minibatch=3, token_budget=1, lr=1e-12)
    _, metrics = slow.update(batch, reference, old)
    assert metrics["prm/loss"] == pytest.approx(losses.mean().item(), rel=1e-5)

    whole = prm(model, loss=loss, label_smoothing=0.2, token_budget=1)
    _, metrics = whole.update(batch, reference, old)
    losses.mean().backward()
    for name, gradient in gradients_seen(whole).items():
        expected = twin.get_parameter(name).grad
        assert expected is not None
        torch.testing.assert_close(gradient, expected, atol=1e-6 * metrics["prm/grad_norm"], rtol=1e-4)


def test_losses_between_responses_need_old_scores(make_model, make_batch):
    model, batch = make_model().model, make_batch()
    with pytest.raises(AssertionError, match="dpo"):
        prm(model, loss="dpo").update(batch, reference_logprobs(model, batch))


def test_the_average_follows_the_weights(make_model, make_batch):
    model, batch = make_model(1).model, make_batch(4)
    reference = reference_logprobs(make_model(2).model, batch)
    averaged, newest = prm(model, ema=0.75, minibatch=2), prm(model, minibatch=2)
    expected = weights_of(model)
    for rows in torch.arange(4).split(2):
        newest.update(rows_of(batch, rows), reference[rows])
        expected = [0.75 * old + 0.25 * new for old, new in zip(expected, weights_of(newest.model), strict=True)]
    averaged.update(batch, reference)
    assert averaged.average is not None
    for average, by_hand in zip(averaged.average.parameters(), expected, strict=True):
        assert average.dtype == torch.float32
        torch.testing.assert_close(average, by_hand, atol=1e-6, rtol=1e-6)


def test_the_average_scores_and_leaves_learning_alone(make_model, make_batch):
    model, batch = make_model(1).model, make_batch()
    reference = reference_logprobs(make_model(2).model, batch)
    averaged, newest = prm(model, ema=0.9, minibatch=2), prm(model, minibatch=2)
    assert newest.average is None
    assert torch.equal(averaged.score(batch, reference), newest.score(batch, reference))
    assert learnt(averaged, batch, reference) == learnt(newest, batch, reference)
    pairs = zip(averaged.model.parameters(), newest.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    scores = averaged.score(batch, reference)
    assert not torch.equal(scores, newest.score(batch, reference))
    assert averaged.average is not None
    newest.model.load_state_dict(averaged.average.state_dict())
    assert torch.equal(scores, newest.score(batch, reference))


def test_a_skipped_step_does_not_move_the_average(make_model, make_batch):
    model, batch = make_model().model, make_batch(2)
    reference = reference_logprobs(make_model(2).model, batch)
    trained = prm(model, ema=0.5)
    trained.update(batch, reference)
    before = weights_of(trained.average)
    _, metrics = trained.update(batch, torch.full_like(reference, -math.inf))
    assert metrics["prm/skipped_steps"] == 1
    assert all(torch.equal(old, new) for old, new in zip(before, weights_of(trained.average), strict=True))
