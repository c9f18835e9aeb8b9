"""The critic against plain autograd and AdamW by hand; what it may not depend on, and what it can learn."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from credo.algo.masked import zero_off
from credo.config import CriticConfig
from credo.data.batching import rows_of
from credo.models.critic import Critic
from credo.types import Batch

LR = 1e-2
CLIP = 0.5


def critic(model: Any, *, random_head: bool = False, **options: Any) -> Critic:
    """A critic on ``model``; with ``random_head`` it says something of every prefix."""
    config = CriticConfig(lr=options.pop("lr", LR), clip=options.pop("clip", CLIP))
    settings: dict[str, Any] = {"minibatch": 256, "max_grad_norm": 1e9, "token_budget": 1000, "compute": "fp32"}
    settings |= {"seed": 0} | options
    made = Critic(model, config, **settings)
    if random_head:
        generator = torch.Generator().manual_seed(5)
        for parameter in made.model.head.parameters():
            nn.init.normal_(parameter, std=0.2, generator=generator)
    return made


def weights(of: Critic) -> dict[str, Tensor]:
    return {**dict(of.model.trunk.named_parameters()), **dict(of.model.head.named_parameters(prefix="head"))}


def gradients_seen(trained: Critic) -> dict[str, Tensor]:
    """The gradients of the first optimiser step, from AdamW's first moments."""
    moments = trained.optimizer.adamw.state
    return {name: moments[parameter]["exp_avg"] / 0.1 for name, parameter in weights(trained).items()}


def signals(batch: Batch, values: Tensor) -> tuple[Tensor, Tensor]:
    """Old values so far from ``values`` that some are clipped, and random returns; garbage off the mask."""
    generator = torch.Generator().manual_seed(1)
    old = values + 0.6 * torch.randn(values.shape, generator=generator)
    returns = torch.randn(values.shape, generator=generator)
    return old.masked_fill(~batch.mask, math.nan), returns.masked_fill(~batch.mask, math.inf)


def oracle_values(judge: Critic, batch: Batch) -> Tensor:
    """Each prefix alone through trunk and head, without padding and without the tokens after it."""
    values = torch.zeros(batch.mask.shape)
    for row, s in batch.mask.nonzero().tolist():
        hidden = judge.model.trunk(input_ids=batch.tokens[row : row + 1, :s]).last_hidden_state
        values[row, s] = judge.model.head(hidden[0, -1]).squeeze()
    return values


def oracle_loss(judge: Critic, batch: Batch, old: Tensor, returns: Tensor) -> Tensor:
    """The clipped squared error, token by token."""
    values = oracle_values(judge, batch)
    losses = []
    for place in zip(*batch.mask.nonzero(as_tuple=True), strict=True):
        near = old[place] + (values[place] - old[place]).clamp(-CLIP, CLIP)
        losses.append(0.5 * torch.maximum((values[place] - returns[place]) ** 2, (near - returns[place]) ** 2))
    return torch.stack(losses).mean()


def test_it_starts_at_zero_on_weights_of_its_own(make_model, make_batch):
    model, batch = make_model().model, make_batch()
    before, randomness = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    fresh = critic(model)
    assert torch.equal(torch.get_rng_state(), randomness)
    assert (fresh.values(batch) == 0).all()
    fresh.update(batch, fresh.values(batch), torch.ones(batch.mask.shape))
    fresh.update(batch, fresh.values(batch), torch.ones(batch.mask.shape))
    assert not torch.equal(fresh.model.trunk.get_parameter("norm.weight"), before["model.norm.weight"])
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_a_value_depends_on_what_comes_before_its_token_and_on_nothing_else(make_model, make_batch):
    batch = make_batch()
    judge = critic(make_model().model, random_head=True)
    values = judge.values(batch)
    assert (values[~batch.mask] == 0).all()
    assert values[batch.mask].std() > 0.1
    with torch.no_grad():
        torch.testing.assert_close(values, oracle_values(judge, batch), atol=1e-5, rtol=1e-5)


def test_one_step_is_the_formula_and_adamw_by_hand(make_model, make_batch):
    batch, twin, trained = make_batch(), *(critic(make_model().model, random_head=True) for _ in range(2))
    old, returns = signals(batch, twin.values(batch))
    loss = oracle_loss(twin, batch, old, returns)
    loss.backward()
    expected = {name: weight.grad for name, weight in weights(twin).items() if weight.grad is not None}
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in expected.values()))

    metrics = trained.update(batch, old, returns)

    assert metrics["critic/loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert metrics["critic/grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert 0 < metrics["critic/clip_fraction"] < 1
    seen = gradients_seen(trained)
    assert expected.keys() == seen.keys()
    for name, start in weights(twin).items():
        torch.testing.assert_close(seen[name], expected[name], atol=1e-6 * norm, rtol=1e-4)
        certain = expected[name].abs() > 1e-4 * norm
        first_step = start - LR * expected[name].sign()
        torch.testing.assert_close(weights(trained)[name][certain], first_step[certain], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("token_budget", [1, 20, 45])
def test_micro_batches_do_not_matter(make_model, make_batch, token_budget: int):
    model, batch = make_model().model, make_batch(9)
    whole, split = critic(model, random_head=True), critic(model, random_head=True, token_budget=token_budget)
    torch.testing.assert_close(split.values(batch), whole.values(batch), atol=1e-5, rtol=1e-5)
    old, returns = signals(batch, whole.values(batch))
    assert split.update(batch, old, returns) == pytest.approx(whole.update(batch, old, returns), abs=1e-5)
    cut = gradients_seen(split)
    for name, gradient in gradients_seen(whole).items():
        torch.testing.assert_close(cut[name], gradient, atol=1e-6, rtol=1e-5)


def test_the_order_of_rows_in_a_mini_batch_and_padding_do_not_matter(make_model, make_batch):
    model, batch = make_model().model, make_batch()
    one, other = critic(model, random_head=True), critic(model, random_head=True, seed=99)
    order = torch.tensor([3, 5, 0, 2, 4, 1])
    permuted = rows_of(batch, order)
    wide = Batch(
        tokens=nn.functional.pad(permuted.tokens, (0, 3), value=7),
        attention=nn.functional.pad(permuted.attention, (0, 3)),
        mask=nn.functional.pad(permuted.mask, (0, 3)),
        outcomes=permuted.outcomes,
        group_ids=permuted.group_ids,
        sampling_logprobs=nn.functional.pad(permuted.sampling_logprobs, (0, 3)),
    )
    values = one.values(batch)
    torch.testing.assert_close(other.values(wide)[:, :-3], values[order], atol=1e-5, rtol=1e-5)
    old, returns = signals(batch, values)
    widened = (nn.functional.pad(x[order], (0, 3), value=math.nan) for x in (old, returns))
    assert other.update(wide, *widened) == pytest.approx(one.update(batch, old, returns), abs=1e-5)
    shuffled = gradients_seen(other)
    for name, gradient in gradients_seen(one).items():
        torch.testing.assert_close(shuffled[name], gradient, atol=1e-6, rtol=1e-5)


def test_every_row_is_in_one_mini_batch_in_an_order_of_seed_and_step(make_model, make_batch):
    model, batch = make_model().model, make_batch(5)

    def losses(seed: int) -> list[float]:
        trained = critic(model, random_head=True, minibatch=2, seed=seed, lr=1e-9)
        old = trained.values(batch)
        returns = torch.arange(5.0)[:, None] * batch.mask
        steps = [trained.update(batch, old, returns) for _ in range(2)]
        assert [step["critic/optimizer_steps"] for step in steps] == [3, 3]
        return [step["critic/loss"] for step in steps]

    first = losses(0)
    assert losses(0) == first
    assert losses(1) != first
    assert first[0] != pytest.approx(first[1], abs=1e-5), "a new order for the next update"

    for row in range(5):
        trained = critic(model, minibatch=2)
        returns = torch.zeros(batch.mask.shape)
        returns[row] = 1.0
        assert trained.update(batch, torch.zeros(batch.mask.shape), returns)["critic/grad_norm"] > 0


def test_it_learns_a_constant(make_model, make_batch):
    batch = make_batch()
    trained = critic(make_model().model)
    returns = torch.where(batch.mask, 0.7, 0.0)
    for _ in range(60):
        metrics = trained.update(batch, trained.values(batch), returns)
    torch.testing.assert_close(trained.values(batch), returns, atol=0.05, rtol=0.0)
    assert metrics["critic/loss"] < 1e-3
    assert metrics["critic/explained_variance"] == 0.0, "returns that do not vary"


def test_it_learns_what_a_prefix_is_worth(make_model, make_batch):
    """The return from each token on is decided by the token before it, so only a critic that reads can tell."""
    batch = make_batch(24)
    trained = critic(make_model().model, minibatch=8, lr=3e-3, max_grad_norm=1.0)
    returns = zero_off(torch.where(batch.tokens.roll(1, dims=1) % 2 == 0, 1.0, -0.5), batch.mask)
    first = trained.update(batch, trained.values(batch), returns)
    assert first["critic/explained_variance"] == pytest.approx(0.0, abs=1e-6)
    assert first["critic/value"] == 0.0
    for _ in range(25):
        last = trained.update(batch, trained.values(batch), returns)
    assert last["critic/explained_variance"] > 0.9
    assert last["critic/value"] == pytest.approx(returns[batch.mask].mean().item(), abs=0.1)


def test_values_that_have_moved_far_enough_are_left_alone(make_model, make_batch):
    batch = make_batch()
    trained = critic(make_model().model, clip=0.5)
    nn.init.constant_(trained.model.head.get_parameter("bias"), 0.6)
    start = copy.deepcopy(weights(trained))
    old, returns = torch.zeros(batch.mask.shape), torch.full(batch.mask.shape, 5.0)
    metrics = trained.update(batch, old, returns)
    assert metrics["critic/clip_fraction"] == 1.0
    assert metrics["critic/grad_norm"] == 0.0
    assert metrics["critic/loss"] == pytest.approx(0.5 * 4.5**2)
    assert all(torch.equal(weight, start[name]) for name, weight in weights(trained).items())
    assert trained.update(batch, old, -returns)["critic/grad_norm"] > 0, "but not on the way back"


def test_the_gradient_is_clipped_to_the_norm(make_model, make_batch):
    batch = make_batch()
    trained = critic(make_model().model, random_head=True, max_grad_norm=1e-3)
    assert trained.update(batch, *signals(batch, trained.values(batch)))["critic/grad_norm"] > 1e-3
    total = sum(float(gradient.square().sum()) for gradient in gradients_seen(trained).values())
    assert math.sqrt(total) == pytest.approx(1e-3, rel=1e-3)


def test_a_broken_mini_batch_is_skipped_and_the_others_are_not(make_model, make_batch):
    batch = make_batch(3)
    trained = critic(make_model().model, minibatch=1)
    returns = torch.ones(batch.mask.shape)
    returns[1] = math.nan
    metrics = trained.update(batch, trained.values(batch), returns)
    assert (metrics["critic/optimizer_steps"], metrics["critic/skipped_steps"]) == (2, 1)
    assert math.isfinite(metrics["critic/loss"])
    assert all(weight.isfinite().all() for weight in weights(trained).values())


def test_bf16_is_for_the_trunk_alone(make_model, make_batch):
    model, batch = make_model().model, make_batch()
    exact, rough = (critic(model, random_head=True, compute=compute) for compute in ("fp32", "bf16"))
    values = rough.values(batch)
    assert values.dtype == torch.float32
    assert 0 < (values - exact.values(batch)).abs().max() < 0.1
    assert rough.update(batch, values, values + 1)["critic/loss"] == pytest.approx(0.5, rel=1e-3)
    assert all(weight.dtype == torch.float32 for weight in weights(rough).values())


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "Gemma3Text", "GPT2"])
def test_the_body_of_any_causal_model_will_do(make_batch, family: str):
    """Trunks differ in where they keep their body, and some in what they call its width."""
    import transformers

    shape = {
        "vocab_size": 16,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 32,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    if family == "GPT2":
        shape = {"vocab_size": 16, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    config = getattr(transformers, f"{family}Config")(**shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
    batch = make_batch()
    judge = critic(model, random_head=True)
    assert not any(name.startswith("lm_head") for name in weights(judge))
    values = judge.values(batch)
    with torch.no_grad():
        torch.testing.assert_close(values, oracle_values(judge, batch), atol=1e-4, rtol=1e-4)
    metrics = judge.update(batch, values, torch.ones(values.shape))
    assert metrics["critic/optimizer_steps"] == 1
    assert all(gradient.any() for name, gradient in gradients_seen(judge).items() if "embed" not in name), family
