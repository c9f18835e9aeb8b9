"""The policy update against plain autograd and AdamW by hand; what it may not depend on, and which way it moves."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from credo.config import PolicyConfig
from credo.data.batching import rows_of
from credo.models.policy import Policy
from credo.types import Batch

LR, DECAY, TEMPERATURE = 1e-2, 0.1, 0.8


def policy(model: Any, *, token_budget: int = 1000, seed: int = 0, **options: Any) -> Policy:
    settings: dict[str, Any] = {"lr": LR, "weight_decay": DECAY, "max_grad_norm": 1e9}
    return Policy(
        copy.deepcopy(model),
        PolicyConfig(**(settings | options)),
        temperature=TEMPERATURE,
        token_budget=token_budget,
        compute="fp32",
        seed=seed,
    )


def signals(model: Any, batch: Batch, *, spread: float = 0.3) -> tuple[Tensor, Tensor]:
    """Random advantages, and old log-probs so far from the model's that some ratios are clipped."""
    generator = torch.Generator().manual_seed(1)
    noise = spread * torch.randn(batch.mask.shape, generator=generator)
    advantages = torch.randn(batch.mask.shape, generator=generator)
    old = policy(model).logprobs(batch, temperature=TEMPERATURE) + noise
    return advantages * batch.mask, old * batch.mask


def oracle_loss(model: Any, batch: Batch, advantages: Tensor, old: Tensor, config: PolicyConfig) -> Tensor:
    """The clipped surrogate token by token, from all logits of each row alone."""
    row_losses: list[list[Tensor]] = []
    for row in range(len(batch)):
        length = int(batch.attention[row].sum())
        tokens = batch.tokens[row, :length]
        logprobs = torch.log_softmax(model(input_ids=tokens[None]).logits[0] / TEMPERATURE, dim=-1)
        losses = []
        for s in range(1, length):
            if batch.mask[row, s]:
                ratio = (logprobs[s - 1, tokens[s]] - old[row, s]).exp()
                clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
                losses.append(torch.maximum(-advantages[row, s] * ratio, -advantages[row, s] * clipped))
        row_losses.append(losses)
    if config.aggregation == "token_mean":
        return torch.stack([loss for losses in row_losses for loss in losses]).mean()
    return torch.stack([torch.stack(losses).mean() for losses in row_losses]).mean()


def oracle_gradients(model: Any, batch: Batch, advantages: Tensor, old: Tensor, config: PolicyConfig):
    twin = copy.deepcopy(model)
    loss = oracle_loss(twin, batch, advantages, old, config)
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in twin.named_parameters()}


def gradients_seen(trained: Policy) -> dict[str, Tensor]:
    """The gradients of the first optimiser step, from AdamW's first moments."""
    moments = trained.optimizer.adamw.state
    return {name: moments[parameter]["exp_avg"] / 0.1 for name, parameter in trained.model.named_parameters()}


@pytest.mark.parametrize("aggregation", ["token_mean", "seq_mean_token_mean"])
def test_one_step_is_the_formula_and_adamw_by_hand(make_model, make_batch, aggregation):
    model, batch = make_model().model, make_batch()
    advantages, old = signals(model, batch)
    trained = policy(model, aggregation=aggregation, clip_low=0.1, clip_high=0.25)
    loss, expected = oracle_gradients(model, batch, advantages, old, trained.config)
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in expected.values()))

    metrics = trained.update(batch, advantages, old)

    assert metrics["policy/loss"] == pytest.approx(loss, abs=1e-5)
    assert metrics["policy/grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert 0 < metrics["policy/clip_fraction"] < 1
    assert metrics["policy/lr"] == LR
    seen = gradients_seen(trained)
    for name, start in model.named_parameters():
        torch.testing.assert_close(seen[name], expected[name], atol=1e-6 * norm, rtol=1e-4)
        certain = expected[name].abs() > 1e-4 * norm
        first_step = start * (1 - LR * DECAY) - LR * expected[name] / (expected[name].abs() + 1e-8)
        weights = trained.model.get_parameter(name)
        torch.testing.assert_close(weights[certain], first_step[certain], atol=1e-6, rtol=1e-6)


def test_the_gradient_is_clipped_to_the_norm(make_model, make_batch):
    model, batch = make_model().model, make_batch()
    advantages, old = signals(model, batch)
    trained = policy(model, max_grad_norm=1e-3)
    assert trained.update(batch, advantages, old)["policy/grad_norm"] > 1e-3
    total = sum(float(gradient.square().sum()) for gradient in gradients_seen(trained).values())
    assert math.sqrt(total) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("aggregation", ["token_mean", "seq_mean_token_mean"])
@pytest.mark.parametrize("token_budget", [1, 20, 45])
def test_micro_batches_do_not_matter(make_model, make_batch, aggregation, token_budget: int):
    model, batch = make_model().model, make_batch(9)
    advantages, old = signals(model, batch)
    whole = policy(model, aggregation=aggregation)
    split = policy(model, aggregation=aggregation, token_budget=token_budget)
    expected, actual = whole.update(batch, advantages, old), split.update(batch, advantages, old)
    assert actual == pytest.approx(expected, abs=1e-5)
    cut = gradients_seen(split)
    for name, gradient in gradients_seen(whole).items():
        torch.testing.assert_close(cut[name], gradient, atol=1e-6, rtol=1e-5)


def test_the_order_of_rows_in_a_mini_batch_and_padding_do_not_matter(make_model, make_batch):
    model, batch = make_model().model, make_batch()
    advantages, old = signals(model, batch)
    order = torch.tensor([3, 5, 0, 2, 4, 1])
    one, other = policy(model), policy(model, seed=99)
    first = one.update(batch, advantages, old)
    wide = torch.nn.functional.pad
    second = other.update(rows_of(batch, order), wide(advantages[order], (0, 3)), wide(old[order], (0, 3)))
    assert second == pytest.approx(first, abs=1e-5)
    permuted = gradients_seen(other)
    for name, gradient in gradients_seen(one).items():
        torch.testing.assert_close(permuted[name], gradient, atol=1e-6, rtol=1e-5)


def test_every_row_is_in_one_mini_batch(make_model, make_batch):
    """Five rows by two are three steps; advantages on one row alone show in one of them, whichever row it is."""
    model, batch = make_model().model, make_batch(5)
    _, old = signals(model, batch)
    for row in range(5):
        advantages = torch.zeros(batch.mask.shape)
        advantages[row] = 0.5 * batch.mask[row]
        trained = policy(model, minibatch=2)
        assert trained.version == 0
        metrics = trained.update(batch, advantages, old)
        assert metrics["policy/grad_norm"] > 0
        assert metrics["policy/optimizer_steps"] == trained.version == 3


def test_the_order_of_mini_batches_comes_from_the_seed_and_the_version(make_model, make_batch):
    model, batch = make_model().model, make_batch(9)
    advantages, old = signals(model, batch)

    def losses(seed: int) -> list[float]:
        trained = policy(model, minibatch=2, seed=seed, lr=1e-9)
        return [trained.update(batch, advantages, old)["policy/loss"] for _ in range(2)]

    first = losses(0)
    assert losses(0) == first
    assert losses(1) != first
    assert first[0] != pytest.approx(first[1], abs=1e-5), "a new order for the next update"


def test_without_advantages_only_weight_decay_is_left(make_model, make_batch):
    model, batch = make_model().model, make_batch(4)
    _, old = signals(model, batch)
    trained = policy(model, minibatch=1, weight_decay=0.5)
    metrics = trained.update(batch, torch.zeros(batch.mask.shape), old)
    assert metrics["policy/loss"] == metrics["policy/grad_norm"] == 0.0
    for name, start in model.named_parameters():
        torch.testing.assert_close(trained.model.get_parameter(name), start * (1 - LR * 0.5) ** 4)


def test_good_responses_become_likelier_and_bad_ones_less_likely(make_model, make_batch):
    model, batch = make_model().model, make_batch()
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    advantages = signs[:, None] * batch.mask
    trained = policy(model, lr=1e-3)
    before = trained.logprobs(batch, temperature=TEMPERATURE)
    for _ in range(3):
        trained.update(batch, advantages, before)
    gained = (trained.logprobs(batch, temperature=TEMPERATURE) - before).sum(dim=1)
    assert (gained * signs > 0).all()


def test_clipped_tokens_have_no_gradient(make_model, make_batch):
    model, batch = make_model().model, make_batch()
    trained = policy(model, weight_decay=0.0, clip_low=0.2, clip_high=0.2)
    current = trained.logprobs(batch, temperature=TEMPERATURE)
    advantages = torch.where(torch.arange(current.shape[1]) % 2 == 0, 1.0, -1.0) * batch.mask
    beyond = current - math.log(1.3) * advantages  # ratio 1.3 where it is pushed up, 1/1.3 where it is pushed down
    metrics = trained.update(batch, advantages, beyond)
    assert metrics["policy/clip_fraction"] == 1.0
    assert metrics["policy/grad_norm"] == 0.0
    assert all(torch.equal(trained.model.get_parameter(name), start) for name, start in model.named_parameters())


def test_metrics_on_the_policy_that_sampled(make_model, make_batch):
    model, batch = make_model().model, make_batch()
    advantages, _ = signals(model, batch)
    trained = policy(model)
    old = trained.logprobs(batch, temperature=TEMPERATURE)
    metrics = trained.update(batch, advantages, old)
    assert metrics["policy/clip_fraction"] == 0.0
    assert metrics["policy/kl_to_old"] == pytest.approx(0.0, abs=1e-9)
    assert metrics["policy/entropy"] == pytest.approx(-old[batch.mask].mean().item(), rel=1e-6)
    assert trained.update(batch, advantages, old)["policy/kl_to_old"] > 1e-6


def test_a_broken_mini_batch_is_skipped_and_the_others_are_not(make_model, make_batch):
    model, batch = make_model().model, make_batch(3)
    advantages, old = signals(model, batch)
    advantages[1, batch.mask[1]] = math.nan
    trained = policy(model, minibatch=1)
    metrics = trained.update(batch, advantages, old)
    assert (metrics["policy/optimizer_steps"], metrics["policy/skipped_steps"]) == (2, 1)
    assert trained.version == 2
    assert math.isfinite(metrics["policy/loss"])
    assert all(parameter.isfinite().all() for parameter in trained.model.parameters())


def test_the_learning_rate_warms_up(make_model, make_batch):
    model, batch = make_model().model, make_batch(2)
    advantages, old = signals(model, batch)
    trained = policy(model, lr_warmup=3)
    rates = [trained.update(batch, advantages, old)["policy/lr"] for _ in range(5)]
    assert rates == pytest.approx([LR / 4, LR / 2, LR * 3 / 4, LR, LR])


def test_weights_are_the_model_s_own(make_model):
    trained = policy(make_model().model)
    assert all(weight is trained.model.get_parameter(name) for name, weight in trained.weights())
