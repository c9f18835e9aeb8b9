"""Sampling with adapters, and without packed weights: the same as the models themselves say."""

from __future__ import annotations

import copy
from typing import Any, Literal

import pytest
import torch
from torch import nn

from credo.config import LoraConfig
from credo.data.batching import collate_demonstrations
from credo.models.causal import response_logprobs
from credo.models.lora import freeze, with_adapter
from credo.rollout.engine import SamplingParams
from credo.rollout.packed import OwnBody, PackedLinear
from credo.rollout.torch_engine import TorchEngine
from credo.types import Rollout
from tests.families import EOS, PAD, family, merged

PROMPTS = ((3, 4, 5), (6,), (3, 7, 8, 9))
PARAMS = SamplingParams(max_tokens=8)


def adapted(name: str, compute: Literal["fp32", "bf16"] = "fp32") -> Any:
    """A member of the family with an adapter that says something."""
    backbone = copy.deepcopy(family(name))
    freeze(backbone, compute)
    role = with_adapter(backbone, LoraConfig(rank=3, alpha=6.0), 1)
    teach(role, 1)
    return role


def teach(role: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in role.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.2, generator=generator)


class Projection(nn.Module):
    """Nothing but linear layers."""

    name_or_path = ""

    def __init__(self, *layers: nn.Linear) -> None:
        super().__init__()
        for index, layer in enumerate(layers):
            self.add_module(f"layer{index}", layer)

    def get_output_embeddings(self) -> None:
        """It has none."""


def engine(model: Any, **options: Any) -> TorchEngine:
    return TorchEngine(model, eos_ids=frozenset([EOS]), pad_id=PAD, concurrent=8, **options)


def sampled(engine: TorchEngine) -> list[Rollout]:
    return [rollout for group in engine.sample(PROMPTS, 3, PARAMS, (1, 2, 3)) for rollout in group]


def gap(rollouts: list[Rollout], model: Any, compute: Literal["fp32", "bf16"] = "fp32") -> float:
    """The largest difference between the log-probs of ``rollouts`` and those of ``model``."""
    pairs = [(rollout.prompt_ids, rollout.response_ids) for rollout in rollouts]
    tokens, attention, mask = collate_demonstrations(pairs, PAD)
    with torch.no_grad():
        expected = response_logprobs(model, tokens, attention, mask, compute=compute)[mask]
    return (torch.tensor([value for rollout in rollouts for value in rollout.logprobs]) - expected).abs().max().item()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "phi3", "gemma", "lfm2, convolutions"])
def test_adapters_are_sampled_from_as_they_are_trained(name: str, packed: bool):
    role = adapted(name)
    rollouts = sampled(engine(role, packed=packed))
    assert gap(rollouts, role) < 1e-5
    assert gap(rollouts, family(name)) > 0.1
    assert [rollout.response_ids for rollout in rollouts] == [
        rollout.response_ids for rollout in sampled(engine(merged(role, family(name)), packed=packed))
    ]


@pytest.mark.parametrize("packed", [True, False])
def test_in_bf16_they_differ_by_rounding(packed: bool):
    role = adapted("llama", "bf16")
    rollouts = sampled(engine(role, compute="bf16", packed=packed))
    assert 0 < gap(rollouts, role, "bf16") < 0.15


@pytest.mark.parametrize("packed", [True, False])
def test_sampling_follows_the_adapter(packed: bool):
    role = adapted("llama")
    sampler = engine(role, packed=packed)
    before = sampled(sampler)
    teach(role, 2)
    sampler.load_weights(role.named_parameters())
    after = sampled(sampler)
    assert gap(after, role) < 1e-5
    assert gap(before, role) > 0.1


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "gemma3"])
def test_without_packing_the_policy_s_own_modules_sample(name: str):
    model = copy.deepcopy(family(name))
    sampler = engine(model, packed=False)
    first = sampled(sampler)
    assert [r.response_ids for r in first] == [r.response_ids for r in sampled(engine(model))]
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.9)
    sampler.load_weights(model.named_parameters())
    assert gap(sampled(sampler), model) < 1e-5
    assert gap(first, model) > 1e-3


def test_without_packing_there_is_no_copy():
    model = family("qwen2")
    body = OwnBody(model, torch.bfloat16, packed=False)
    assert {id(weight) for weight in body.parameters()} == {id(weight) for weight in model.parameters()}
    assert not any(isinstance(module, PackedLinear) for module in body.modules())
    assert any(isinstance(module, PackedLinear) for module in OwnBody(model, torch.bfloat16).modules())


def test_what_is_said_of_it():
    assert engine(family("llama")).summary != engine(family("llama"), packed=False).summary


def test_a_small_change_is_not_rounded_away():
    """1 + 2^-10 is 1 in bf16, so a merged weight would not have changed."""
    layer = nn.Linear(64, 2, bias=False)
    layer.weight.data = torch.tensor([1.0, -1.0]).repeat(2, 32)
    bare: Any = Projection(layer)
    role: Any = with_adapter(bare, LoraConfig(rank=1, alpha=1.0, targets=("layer0",)), 1)
    for factor in (role.layer0.lora_A, role.layer0.lora_B):
        factor["default"].weight.data.fill_(2**-5)
    packed = PackedLinear(torch.bfloat16, role.layer0)
    with torch.no_grad():
        packed.refresh()
        assert packed(torch.ones(3, 64)).tolist() == [[64 * 2**-10] * 2] * 3


def test_layers_side_by_side_keep_their_adapters_apart():
    torch.manual_seed(0)
    model: Any = Projection(*(nn.Linear(8, width) for width in (4, 2, 3)))
    role: Any = with_adapter(model, LoraConfig(rank=2, targets=("layer0", "layer2")), 1)
    teach(role, 1)
    sources = role.layer0, role.layer1, role.layer2
    packed = PackedLinear(torch.float32, *sources)
    inputs = torch.randn(5, 8)
    with torch.no_grad():
        packed.refresh()
        expected = torch.cat([source(inputs) for source in sources], dim=-1)
        torch.testing.assert_close(packed(inputs), expected)
        torch.testing.assert_close(packed.swish(inputs), nn.functional.silu(expected))
        torch.testing.assert_close(packed.times(inputs, expected), expected**2)
