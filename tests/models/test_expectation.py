"""The expected log-ratio against a sum over the vocabulary, token by token."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from credo.models.causal import batch_logprobs
from credo.models.expectation import expected_log_ratios
from credo.types import Batch

BUDGET = 1000


def expected(policy: Any, prm: Any, reference: Any, batch: Batch, **options: Any) -> Tensor:
    options = {"temperature": 1.0, "token_budget": BUDGET, "compute": "fp32"} | options
    return expected_log_ratios(policy, prm, reference, batch, **options)


def models(make_model: Any) -> tuple[Any, Any, Any]:
    return tuple(make_model(seed).model for seed in (0, 1, 2))  # pyright: ignore[reportReturnType]


@torch.no_grad()
def brute_force(policy: Any, prm: Any, reference: Any, batch: Batch, temperature: float) -> Tensor:
    """Each prefix alone, each token of the vocabulary in turn."""
    values = torch.zeros(batch.mask.shape)
    for row, s in batch.mask.nonzero().tolist():
        prefix = batch.tokens[row : row + 1, :s]
        drawn, scored, base = (model(input_ids=prefix).logits[0, -1].double() for model in (policy, prm, reference))
        total = 0.0
        for token in range(len(drawn)):
            chance = ((drawn / temperature)[token].exp() / (drawn / temperature).exp().sum()).item()
            log_ratio = scored[token] - scored.exp().sum().log() - base[token] + base.exp().sum().log()
            total += chance * log_ratio.item()
        values[row, s] = total
    return values


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
def test_it_is_the_sum_over_the_vocabulary(make_model, make_batch, temperature: float):
    batch, three = make_batch(), models(make_model)
    values = expected(*three, batch, temperature=temperature)
    torch.testing.assert_close(values, brute_force(*three, batch, temperature), atol=1e-5, rtol=1e-4)
    assert values[batch.mask].std() > 0.1
    assert (values[~batch.mask] == 0).all()


def test_the_roles_of_the_models_are_not_interchangeable(make_model, make_batch):
    batch, (one, two, three) = make_batch(), models(make_model)
    values = expected(one, two, three, batch)
    torch.testing.assert_close(expected(one, three, two, batch), -values)
    assert (expected(two, one, three, batch) - values).abs().max() > 0.01


def test_what_the_policy_draws_exceeds_it_by_nothing_on_average(make_model):
    policy, prm, reference = models(make_model)
    vocabulary = policy.config.vocab_size
    tokens = torch.tensor([[4, 9, 5, 0]]).repeat(vocabulary, 1)
    tokens[:, 3] = torch.arange(vocabulary)
    mask = torch.tensor([[False, False, False, True]]).repeat(vocabulary, 1)
    batch = Batch(
        tokens=tokens,
        attention=torch.ones_like(mask),
        mask=mask,
        outcomes=torch.zeros(vocabulary),
        group_ids=torch.zeros(vocabulary, dtype=torch.int64),
        sampling_logprobs=torch.zeros(mask.shape),
    )
    log_ratios = batch_logprobs(prm, batch, token_budget=BUDGET) - batch_logprobs(reference, batch, token_budget=BUDGET)
    chances = batch_logprobs(policy, batch, token_budget=BUDGET, temperature=0.7).exp()[:, 3]
    baseline = expected(policy, prm, reference, batch, temperature=0.7)
    assert chances.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert (chances * log_ratios[:, 3]).sum().abs() > 0.01
    assert (chances * (log_ratios - baseline)[:, 3]).sum().item() == pytest.approx(0.0, abs=1e-5)


def test_a_prm_that_is_the_reference_is_expected_to_say_nothing(make_model, make_batch):
    policy, prm, _ = models(make_model)
    assert (expected(policy, prm, prm, make_batch()) == 0).all()


def test_the_policy_can_be_the_reference(make_model, make_batch):
    batch, (policy, prm, _) = make_batch(), models(make_model)
    values = expected(policy, prm, policy, batch)
    torch.testing.assert_close(values, brute_force(policy, prm, policy, batch, 1.0), atol=1e-5, rtol=1e-4)
    assert (values[batch.mask] < 0).all(), "minus a Kullback-Leibler divergence"


@pytest.mark.parametrize("token_budget", [1, 20, 45])
def test_micro_batches_do_not_matter(make_model, make_batch, token_budget: int):
    batch, three = make_batch(9), models(make_model)
    whole = expected(*three, batch)
    torch.testing.assert_close(expected(*three, batch, token_budget=token_budget), whole, atol=1e-5, rtol=1e-4)


def test_neither_padding_nor_what_stands_on_it_matters(make_model, make_batch):
    batch, three = make_batch(), models(make_model)
    values = expected(*three, batch)
    filled = F.pad(batch.tokens, (0, 3)).masked_fill(~F.pad(batch.attention, (0, 3)), 7)
    wide = Batch(
        tokens=filled,
        attention=F.pad(batch.attention, (0, 3)),
        mask=F.pad(batch.mask, (0, 3)),
        outcomes=batch.outcomes,
        group_ids=batch.group_ids,
        sampling_logprobs=F.pad(batch.sampling_logprobs, (0, 3)),
    )
    made = expected(*three, wide)
    torch.testing.assert_close(made[:, :-3], values, atol=1e-5, rtol=1e-4)
    assert (made[:, -3:] == 0).all()


def test_blocks_of_tokens_do_not_matter(make_model, make_batch, monkeypatch: pytest.MonkeyPatch):
    batch, three = make_batch(), models(make_model)
    whole = expected(*three, batch)
    monkeypatch.setattr("credo.models.expectation.CHUNK", 3)
    torch.testing.assert_close(expected(*three, batch), whole, atol=1e-6, rtol=1e-5)


def test_output_layers_may_be_padded_to_different_widths(make_model, make_batch):
    batch, (policy, prm, reference) = make_batch(), models(make_model)
    values = expected(policy, prm, reference, batch)
    for index in range(3):
        one, two, three = (padded(x) if at == index else x for at, x in enumerate((policy, prm, reference)))
        torch.testing.assert_close(expected(one, two, three, batch), values, atol=1e-4, rtol=1e-3)


def padded(model: Any) -> Any:
    """The model with four more outputs, which it never chooses."""
    wide = copy.deepcopy(model)
    extra = torch.nn.Linear(wide.lm_head.in_features, wide.lm_head.out_features + 4)
    with torch.no_grad():
        extra.weight[:-4], extra.weight[-4:] = wide.lm_head.weight, 0.0
        extra.bias[:-4], extra.bias[-4:] = 0.0, -100.0
    wide.lm_head = extra
    return wide


def test_bf16_is_for_the_forward_pass_alone(make_model, make_batch):
    batch, three = make_batch(), models(make_model)
    whole, half = expected(*three, batch), expected(*three, batch, compute="bf16")
    assert half.dtype == torch.float32
    assert not torch.equal(whole, half)
    torch.testing.assert_close(half, whole, atol=0.1, rtol=0.1)
