"""The frozen reference: plain log-probs of a model that nothing trains."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from credo.config import PolicyConfig
from credo.models.causal import response_logprobs
from credo.models.policy import Policy
from credo.models.reference import Reference


@pytest.mark.parametrize("token_budget", [1, 30, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_it_gives_the_log_probs_of_its_model(make_model, make_batch, token_budget: int, temperature: float):
    model, batch = make_model().model, make_batch()
    expected = response_logprobs(model, batch.tokens, batch.attention, batch.mask, temperature=temperature).detach()
    reference = Reference(model, token_budget=token_budget, compute="fp32")
    actual = reference.logprobs(batch, temperature=temperature)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert not actual.requires_grad


def test_the_last_batch_costs_one_forward_pass_however_often_it_is_asked_for(make_model, make_batch):
    model, batch = make_model().model, make_batch()
    reference = Reference(model, token_budget=1000, compute="fp32")
    passes = []
    with model.get_decoder().register_forward_hook(lambda *_: passes.append(1)):
        first = reference.logprobs(batch)
        assert torch.equal(reference.logprobs(batch, temperature=1.0), first)
        assert len(passes) == 1
        assert not torch.equal(reference.logprobs(batch, temperature=0.7), first)
        other = reference.logprobs(replace(batch, tokens=batch.tokens.roll(1, dims=0)), temperature=0.7)
        assert not torch.equal(other, first)
        assert torch.equal(reference.logprobs(batch), first)
    assert len(passes) == 4


def test_it_cannot_be_trained(make_model):
    reference = Reference(make_model().model, token_budget=1000, compute="fp32")
    assert not any(parameter.requires_grad for parameter in reference.model.parameters())


def test_the_policy_can_stand_in_for_it(make_model, make_batch):
    batch = make_batch()
    reference = Reference(make_model().model, token_budget=30, compute="fp32")
    policy = Policy(make_model().model, PolicyConfig(lr=1e-2), temperature=0.7, token_budget=30, compute="fp32", seed=0)
    assert torch.equal(policy.logprobs(batch), reference.logprobs(batch)), "at temperature 1, whatever the rollouts'"
    policy.update(batch, batch.mask.float(), policy.logprobs(batch, temperature=0.7))
    assert not torch.equal(policy.logprobs(batch), reference.logprobs(batch))
