"""Packed rows against each row alone: hidden states, log-probs and gradients of every family that is packed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from credo.data.batching import collate_demonstrations
from credo.models.causal import PACKED, packed_hidden, response_logprobs, response_logprobs_and_entropies
from credo.models.packing import attend, pack
from tests.families import FAMILIES, PAD, family

ROWS = [
    ((3, 4, 5, 6, 7), (8, 9, 10)),
    ((3, 4, 5, 6, 7), (11,)),
    ((12,), (13, 3, 4, 4, 5, 6)),
    ((3, 4, 5, 6, 7), (8, 2, 2, 9)),
    ((12,), (9, 9)),
]
KINDS = [name for name in FAMILIES if family(name).config.model_type in PACKED]


def alone(model: Any, rows: Any, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies from the model's own forward pass, row by row."""
    width = max(len(prompt) + len(response) for prompt, response in rows)
    logprobs, entropies = torch.zeros(len(rows), width), torch.zeros(len(rows), width)
    for index, (prompt, response) in enumerate(rows):
        logits = model(input_ids=torch.tensor([[*prompt, *response]]), use_cache=False).logits[0] / temperature
        every = torch.log_softmax(logits.float(), dim=-1)
        for place, token in enumerate(response, start=len(prompt)):
            logprobs[index, place] = every[place - 1, token]
            entropies[index, place] = -(every[place - 1].exp() * every[place - 1]).sum()
    return logprobs, entropies


def test_a_prompt_is_packed_once():
    packing = pack(*collate_demonstrations(ROWS, PAD))
    assert len(packing.tokens) == 5 + 3 + 1 + 1 + 6 + 4 + 2
    tokens, attention, _ = collate_demonstrations(ROWS, PAD)
    assert torch.equal(packing.tokens[packing.grid][attention], tokens[attention])
    places = torch.arange(tokens.shape[1]).expand_as(tokens)
    assert torch.equal(packing.positions[packing.grid][attention], places[attention])


@pytest.mark.parametrize("name", KINDS)
def test_log_probs_entropies_and_gradients_are_those_of_each_row_alone(name: str):
    model = copy.deepcopy(family(name)).requires_grad_(True)
    weights = torch.randn(2, len(ROWS), 9, generator=torch.Generator().manual_seed(0))
    found, gradients = [], []
    for both in (
        lambda: alone(model, ROWS, 0.7),
        lambda: response_logprobs_and_entropies(model, *collate_demonstrations(ROWS, PAD), temperature=0.7),
    ):
        model.zero_grad(set_to_none=True)
        values = torch.stack(both())
        (values * weights[:, :, : values.shape[2]]).sum().backward()
        found.append(values.detach())
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    torch.testing.assert_close(found[1], found[0], atol=2e-5, rtol=1e-5)
    assert len(gradients[0]) == len(gradients[1])
    for packed, plain in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(packed, plain, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("name", KINDS)
def test_in_bf16_they_differ_by_rounding(name: str):
    model = family(name)
    inputs = collate_demonstrations(ROWS, PAD)
    with torch.no_grad():
        exact, rounded = (response_logprobs(model, *inputs, compute=compute) for compute in ("fp32", "bf16"))
    assert 0 < (exact - rounded).abs().max() < 0.25


@pytest.mark.parametrize("window", [None, 3])
def test_short_rows_in_bf16_attend_as_the_fused_kernel_does(window: int | None):
    packing = pack(*collate_demonstrations(ROWS, PAD))
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(len(packing.tokens), 4, 8, generator=generator)
    key, value = (torch.randn(len(packing.tokens), 2, 8, generator=generator) for _ in range(2))
    exact = attend(query, key, value, packing, scaling=0.3, window=window)
    short = attend(query.bfloat16(), key.bfloat16(), value.bfloat16(), packing, scaling=0.3, window=window)
    torch.testing.assert_close(short.float(), exact, atol=0.03, rtol=0.03)


def test_the_model_is_as_before_after_a_packed_pass():
    model = family("llama")
    before = model.config._attn_implementation
    packed_hidden(model.get_decoder(), pack(*collate_demonstrations(ROWS, PAD)), "fp32")
    assert model.config._attn_implementation == before


def test_gradients_are_the_same_bits_again_on_several_threads():
    """A prompt's end predicts the first token of each of its responses: their gradients have one sum, in one order."""
    threads, made = torch.get_num_threads(), []
    rows = [((3, 4, 5, prompt), (6 + k % 7, 7, 8)) for k in range(300) for prompt in range(6, 14)]
    tokens, attention, mask = collate_demonstrations(rows, PAD)
    model = family("llama")
    try:
        torch.set_num_threads(4)
        for _ in range(6):
            model.zero_grad()
            response_logprobs(model, tokens, attention, mask, temperature=1.0).sum().backward()
            made.append([parameter.grad.clone() for parameter in model.parameters()])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for again in made for one, other in zip(again, made[0], strict=True))
