"""The policy update against plain autograd and AdamW by hand; what it may not depend on, and which way it moves."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad as wide

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


def oracle_loss(
    model: Any, batch: Batch, advantages: Tensor, old: Tensor, config: PolicyConfig, reference: Tensor | None = None
) -> Tensor:
    """PPO's surrogate with every extra term, token by token, from all logits of each row alone."""
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
                loss = torch.maximum(-advantages[row, s] * ratio, -advantages[row, s] * clipped)
                if config.importance_cap:
                    loss = loss * (old[row, s] - batch.sampling_logprobs[row, s]).exp().clamp(max=config.importance_cap)
                if reference is not None:
                    r = (reference[row, s] - logprobs[s - 1, tokens[s]]).exp()
                    loss = loss + config.kl_coef * (r - 1 - r.log())
                entropy = -(logprobs[s - 1].exp() * logprobs[s - 1]).sum()
                losses.append(loss - config.entropy_coef * entropy)
        row_losses.append(losses)
    if config.aggregation == "token_mean":
        return torch.stack([loss for losses in row_losses for loss in losses]).mean()
    return torch.stack([torch.stack(losses).mean() for losses in row_losses]).mean()


def oracle_gradients(model: Any, *arguments: Any):
    twin = copy.deepcopy(model)
    loss = oracle_loss(twin, *arguments)
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

    metrics = trained.update(batch, advantages, old)[1]

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


EXTRAS: dict[str, dict[str, Any]] = {
    "kl": {"kl_coef": 0.7},
    "entropy": {"entropy_coef": 0.5},
    "importance": {"importance_cap": 1.5},
    "all": {"kl_coef": 0.7, "entropy_coef": 0.5, "importance_cap": 1.5},
}


def reference_for(batch: Batch, make_model) -> Tensor:
    """Log-probs of another model."""
    return policy(make_model(1).model).logprobs(batch, temperature=TEMPERATURE)


@pytest.mark.parametrize("aggregation", ["token_mean", "seq_mean_token_mean"])
@pytest.mark.parametrize("options", EXTRAS.values(), ids=EXTRAS)
def test_extra_terms_are_their_formulas(make_model, make_batch, options: dict[str, Any], aggregation: str):
    model, batch = make_model().model, make_batch()
    advantages, old = signals(model, batch)
    reference = reference_for(batch, make_model) if "kl_coef" in options else None
    trained = policy(model, aggregation=aggregation, token_budget=20, **options)
    loss, expected = oracle_gradients(model, batch, advantages, old, trained.config, reference)
    plain, _ = oracle_gradients(model, batch, advantages, old, policy(model, aggregation=aggregation).config)
    metrics = trained.update(batch, advantages, old, reference)[1]
    assert metrics["policy/loss"] == pytest.approx(loss, abs=1e-5)
    assert abs(loss - plain) > 1e-3
    norm = metrics["policy/grad_norm"]
    for name, gradient in gradients_seen(trained).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5 * norm, rtol=1e-4)


VARIANTS: dict[str, dict[str, Any]] = {
    "ppo": {},
    "token_mean": {"aggregation": "token_mean"},
    "dual_clip": {"dual_clip": 1.1},
    "pg": {"loss": "pg"},
    "gspo": {"loss": "gspo", "clip_low": 0.02, "clip_high": 0.02},
    "cispo": {"loss": "cispo"},
    "k1": {"kl_coef": 0.7, "kl": "k1"},
    "k2": {"kl_coef": 0.7, "kl": "k2"},
    "k3": {"kl_coef": 0.7, "kl": "k3"},
    "entropy": EXTRAS["entropy"],
    "importance": EXTRAS["importance"],
    "gspo with everything": {"loss": "gspo", **EXTRAS["all"]},
}


def test_every_option_changes_the_update(make_model, make_batch):
    model, batch = make_model().model, make_batch()
    advantages, old = signals(model, batch)
    reference = reference_for(batch, make_model)
    updated = []
    for options in VARIANTS.values():
        trained = policy(model, **options)
        trained.update(batch, advantages, old, reference)
        updated.append(torch.cat([gradient.flatten() for gradient in gradients_seen(trained).values()]))
    for one, first in enumerate(updated):
        for second in updated[:one]:
            assert (first - second).norm() > 1e-3 * first.norm()


@pytest.mark.parametrize("token_budget", [1, 20, 45])
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_no_option_depends_on_micro_batches_or_padding(make_model, make_batch, options: dict[str, Any], token_budget):
    model, batch = make_model().model, make_batch(9)
    advantages, old = signals(model, batch)
    reference = reference_for(batch, make_model)
    whole, split = policy(model, **options), policy(model, **options, token_budget=token_budget)
    padding = ~wide(batch.mask, (0, 3))
    garbage = [wide(x, (0, 3)).masked_fill(padding, math.nan) for x in (old, reference)]
    expected = whole.update(batch, advantages, old, reference)[1]
    actual = split.update(batch, wide(advantages, (0, 3)), *garbage)[1]
    assert actual == pytest.approx(expected, abs=1e-5, rel=1e-5)
    cut, norm = gradients_seen(split), max(1.0, expected["policy/grad_norm"])
    for name, gradient in gradients_seen(whole).items():
        torch.testing.assert_close(cut[name], gradient, atol=1e-6 * norm, rtol=1e-5)


def test_metrics_of_the_extra_terms(make_model, make_batch):
    model, batch = make_model().model, make_batch()
    advantages, old = signals(model, batch)
    current = policy(model).logprobs(batch, temperature=TEMPERATURE)
    reference = reference_for(batch, make_model)
    plain = policy(model).update(batch, advantages, old, reference)[1]
    metrics = policy(model, **EXTRAS["all"]).update(batch, advantages, old, reference)[1]
    added = {"policy/kl_to_reference", "policy/importance_weight", "policy/importance_capped"}
    assert set(metrics) - set(plain) == added
    log_r = (reference - current)[batch.mask]
    weights = (old - batch.sampling_logprobs)[batch.mask].exp()
    assert metrics["policy/kl_to_reference"] == pytest.approx((log_r.exp() - 1 - log_r).mean().item(), rel=1e-4)
    assert metrics["policy/importance_weight"] == pytest.approx(weights.clamp(max=1.5).mean().item(), rel=1e-5)
    assert metrics["policy/importance_capped"] == pytest.approx((weights > 1.5).float().mean().item(), rel=1e-5)
    assert 0 < metrics["policy/importance_capped"] < 1
    with torch.no_grad():
        logits = model(input_ids=batch.tokens, attention_mask=batch.attention).logits[:, :-1]
    entropies = torch.distributions.Categorical(logits=logits / TEMPERATURE).entropy()
    assert metrics["policy/entropy"] == pytest.approx(entropies[batch.mask[:, 1:]].mean().item(), rel=1e-4)


def test_the_entropy_bonus_raises_entropy_and_the_kl_term_pulls_to_the_reference(make_model, make_batch):
    model, batch = make_model().model, make_batch()
    nothing, reference = torch.zeros(batch.mask.shape), reference_for(batch, make_model)
    old = policy(model).logprobs(batch, temperature=TEMPERATURE)
    free = policy(model, entropy_coef=1.0, lr=1e-3)
    entropies = [free.update(batch, nothing, old)[1]["policy/entropy"] for _ in range(3)]
    assert entropies == sorted(entropies)
    assert entropies[0] < entropies[-1]
    held = policy(model, kl_coef=1.0, lr=1e-3)
    distances = [held.update(batch, nothing, old, reference)[1]["policy/kl_to_reference"] for _ in range(3)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > distances[-1]


def test_the_kl_term_needs_its_reference(make_model, make_batch):
    model, batch = make_model().model, make_batch()
    with pytest.raises(AssertionError, match="reference"):
        policy(model, kl_coef=0.1).update(batch, *signals(model, batch))


def test_the_gradient_is_clipped_to_the_norm(make_model, make_batch):
    model, batch = make_model().model, make_batch()
    advantages, old = signals(model, batch)
    trained = policy(model, max_grad_norm=1e-3)
    assert trained.update(batch, advantages, old)[1]["policy/grad_norm"] > 1e-3
    total = sum(float(gradient.square().sum()) for gradient in gradients_seen(trained).values())
    assert math.sqrt(total) == pytest.approx(1e-3, rel=1e-3)


def test_the_order_of_rows_in_a_mini_batch_and_padding_do_not_matter(make_model, make_batch):
    model, batch = make_model().model, make_batch()
    advantages, old = signals(model, batch)
    order = torch.tensor([3, 5, 0, 2, 4, 1])
    one, other = policy(model), policy(model, seed=99)
    first = one.update(batch, advantages, old)[1]
    second = other.update(rows_of(batch, order), wide(advantages[order], (0, 3)), wide(old[order], (0, 3)))[1]
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
        metrics = trained.update(batch, advantages, old)[1]
        assert metrics["policy/grad_norm"] > 0
        assert metrics["policy/optimizer_steps"] == trained.version == 3


def test_the_order_of_mini_batches_comes_from_the_seed_and_the_version(make_model, make_batch):
    model, batch = make_model().model, make_batch(9)
    advantages, old = signals(model, batch)

    def losses(seed: int) -> list[float]:
        trained = policy(model, minibatch=2, seed=seed, lr=1e-9)
        return [trained.update(batch, advantages, old)[1]["policy/loss"] for _ in range(2)]

    first = losses(0)
    assert losses(0) == first
    assert losses(1) != first
    assert first[0] != pytest.approx(first[1], abs=1e-5), "a new order for the next update"


def test_without_advantages_only_weight_decay_is_left(make_model, make_batch):
    model, batch = make_model().model, make_batch(4)
    _, old = signals(model, batch)
    trained = policy(model, minibatch=1, weight_decay=0.5)
    metrics = trained.update(batch, torch.zeros(batch.mask.shape), old)[1]
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
    metrics = trained.update(batch, advantages, beyond)[1]
    assert metrics["policy/clip_fraction"] == 1.0
    assert metrics["policy/grad_norm"] == 0.0
    assert all(torch.equal(trained.model.get_parameter(name), start) for name, start in model.named_parameters())


def test_metrics_on_the_policy_that_sampled(make_model, make_batch):
    model, batch = make_model().model, make_batch()
    advantages, _ = signals(model, batch)
    trained = policy(model)
    old = trained.logprobs(batch, temperature=TEMPERATURE)
    metrics = trained.update(batch, advantages, old)[1]
    assert metrics["policy/clip_fraction"] == 0.0
    assert metrics["policy/kl_to_old"] == pytest.approx(0.0, abs=1e-9)
    assert metrics["policy/entropy"] == pytest.approx(-old[batch.mask].mean().item(), rel=1e-6)
    assert trained.update(batch, advantages, old)[1]["policy/kl_to_old"] > 1e-6


def test_a_broken_mini_batch_is_skipped_and_the_others_are_not(make_model, make_batch):
    model, batch = make_model().model, make_batch(3)
    advantages, old = signals(model, batch)
    advantages[1, batch.mask[1]] = math.nan
    trained = policy(model, minibatch=1)
    metrics = trained.update(batch, advantages, old)[1]
    assert (metrics["policy/optimizer_steps"], metrics["policy/skipped_steps"]) == (2, 1)
    assert trained.version == 2
    assert math.isfinite(metrics["policy/loss"])
    assert all(parameter.isfinite().all() for parameter in trained.model.parameters())


def test_the_learning_rate_warms_up(make_model, make_batch):
    model, batch = make_model().model, make_batch(2)
    advantages, old = signals(model, batch)
    trained = policy(model, lr_warmup=3)
    rates = [trained.update(batch, advantages, old)[1]["policy/lr"] for _ in range(5)]
    assert rates == pytest.approx([LR / 4, LR / 2, LR * 3 / 4, LR, LR])


def test_weights_are_the_model_s_own(make_model):
    trained = policy(make_model().model)
    assert all(weight is trained.model.get_parameter(name) for name, weight in trained.weights())
