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
    assert fresh.update(batch, reference)["prm/loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_one_step_is_the_formula_and_adamw_by_hand(make_model, make_batch):
    model, batch = make_model(1).model, make_batch()
    reference = reference_logprobs(make_model(2).model, batch)
    twin = copy.deepcopy(model)
    _, loss = oracle(twin, batch, reference)
    loss.backward()
    trained = prm(model, weight_decay=0.2)

    metrics = trained.update(batch, reference)

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
    assert split.update(batch, reference) == pytest.approx(whole.update(batch, reference), abs=1e-5)
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
    assert other.update(permuted, reference[order]) == pytest.approx(one.update(batch, reference), abs=1e-5)
    moved = gradients_seen(other)
    for name, gradient in gradients_seen(one).items():
        torch.testing.assert_close(moved[name], gradient, atol=1e-5, rtol=1e-4)


def test_mini_batches_are_taken_in_order(make_model, make_batch):
    model, batch = make_model(1).model, make_batch(5)
    reference = reference_logprobs(make_model(2).model, batch)
    at_once, by_hand = prm(model, minibatch=2), prm(model)
    assert at_once.update(batch, reference)["prm/optimizer_steps"] == 3
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
    assert asked.update(batch, reference) == silent.update(batch, reference)
    later = asked.score(batch, reference)
    assert torch.equal(later, silent.score(batch, reference))
    assert not torch.equal(later, first)


def test_it_learns_which_responses_were_right(make_model, make_batch):
    model, batch = make_model().model, make_batch()
    reference = reference_logprobs(model, batch)
    trained = prm(model, lr=1e-3)
    losses = [trained.update(batch, reference)["prm/loss"] for _ in range(5)]
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
    assert prm(model).update(half, reference_logprobs(model, half))["prm/grad_norm"] == pytest.approx(0.0, abs=1e-6)


def test_a_broken_reference_skips_the_step(make_model, make_batch):
    model, batch = make_model().model, make_batch(2)
    reference = reference_logprobs(model, batch)
    reference[0, batch.mask[0]] = -math.inf
    trained = prm(model, minibatch=1)
    metrics = trained.update(batch, reference)
    assert (metrics["prm/optimizer_steps"], metrics["prm/skipped_steps"]) == (1, 1)
    assert all(parameter.isfinite().all() for parameter in trained.model.parameters())
