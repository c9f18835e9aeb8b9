"""The frozen reference: plain log-probs of a model that nothing trains."""

from __future__ import annotations

import pytest
import torch

from credo.config import PolicyConfig
from credo.models.causal import response_logprobs
from credo.models.policy import Policy
from credo.models.reference import Reference


@pytest.mark.parametrize("token_budget", [1, 30, 1000])
def test_it_gives_the_log_probs_of_its_model_at_temperature_one(make_model, make_batch, token_budget: int):
    model, batch = make_model().model, make_batch()
    expected = response_logprobs(model, batch.tokens, batch.attention, batch.mask).detach()
    reference = Reference(model, token_budget=token_budget, compute="fp32")
    actual = reference.logprobs(batch)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert not actual.requires_grad


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
