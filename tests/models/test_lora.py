"""Roles that share a backbone, against whole models with the merged weights, and against each other."""

from __future__ import annotations

import copy
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from credo.config import LoraConfig, PolicyConfig, PrmConfig
from credo.models.causal import Compute, load_model, recompute_layers, response_logprobs, save_model
from credo.models.lora import freeze, has_adapter, load_adapter, merged_state, save_adapter, with_adapter
from credo.models.policy import Policy
from credo.models.prm import Prm
from credo.models.reference import Reference
from credo.types import Batch
from tests.families import family, merged

CONFIG = LoraConfig(rank=3, alpha=6.0)


def taught(backbone: Any, seed: int, config: LoraConfig = CONFIG) -> Any:
    """A role whose adapter says something."""
    role = with_adapter(backbone, config, seed)
    generator = torch.Generator().manual_seed(seed)
    for weight in role.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.2, generator=generator)
    return role


def keep(name: str, weight: torch.Tensor) -> torch.Tensor:
    return weight


def backbone_of(model: Any, compute: Compute = "fp32") -> Any:
    freeze(model, compute)
    return model


def whole(model: Any, role: Any) -> Any:
    """A model of its own with the weights W + alpha / rank B A, by the names that PEFT gives them."""
    own = copy.deepcopy(model)
    factors = dict(role.named_parameters())
    with torch.no_grad():
        for name, weight in own.named_parameters():
            layer = name.removesuffix(".weight")
            if f"{layer}.lora_A.default.weight" in factors:
                first, second = (factors[f"{layer}.lora_{factor}.default.weight"] for factor in "AB")
                weight += CONFIG.alpha / CONFIG.rank * second @ first
    return own


def logprobs(model: Any, batch: Batch, compute: Compute = "fp32") -> torch.Tensor:
    return response_logprobs(model, batch.tokens, batch.attention, batch.mask, compute=compute).detach()


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma", "phi3"])
def test_roles_are_whole_models_with_merged_weights(name: str, make_batch):
    model, batch = copy.deepcopy(family(name)), make_batch()
    before = logprobs(model, batch)
    backbone = backbone_of(model)
    policy, prm = taught(backbone, 1), taught(backbone, 2)
    for role in (policy, prm):
        torch.testing.assert_close(logprobs(role, batch), logprobs(whole(backbone, role), batch), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            logprobs(role, batch), logprobs(merged(role, family(name)), batch), atol=1e-5, rtol=0
        )
        assert (logprobs(role, batch) - before).abs().max() > 0.01
    assert torch.equal(logprobs(backbone, batch), before)
    assert (logprobs(policy, batch) - logprobs(prm, batch)).abs().max() > 0.01


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_roles_start_as_their_backbone_which_computes_as_before(make_model, make_batch, compute: Compute):
    model, batch = make_model().model, make_batch()
    before = logprobs(model, batch, compute)
    backbone = backbone_of(model, compute)
    assert torch.equal(logprobs(backbone, batch, compute), before)
    assert torch.equal(logprobs(with_adapter(backbone, CONFIG, 1), batch, compute), before)


def test_in_bf16_linear_layers_take_half_the_memory_and_what_learns_is_fp32(make_model):
    role = with_adapter(backbone_of(make_model().model, "bf16"), CONFIG, 1)
    kinds = {(weight.dtype, weight.requires_grad, "_proj." in name) for name, weight in role.named_parameters()}
    assert kinds == {
        (torch.bfloat16, False, True),
        (torch.float32, True, True),
        (torch.float32, False, False),
    }
    assert {weight.dtype for weight in merged_state(role, keep).values()} == {torch.float32}


def test_the_weights_are_in_memory_once(make_model):
    backbone = backbone_of(make_model().model)
    policy, prm = with_adapter(backbone, CONFIG, 1), with_adapter(backbone, CONFIG, 2)
    shared = {id(weight) for weight in backbone.parameters()}
    for role in (policy, prm):
        assert shared == {id(weight) for weight in role.parameters() if not weight.requires_grad}
    learning = [{id(weight) for weight in role.parameters() if weight.requires_grad} for role in (policy, prm)]
    assert learning[0]
    assert not learning[0] & learning[1]


@pytest.mark.parametrize("recomputed", [False, True])
def test_passes_in_any_order_have_the_gradients_of_passes_alone(make_model, make_batch, recomputed: bool):
    batch = make_batch()
    backbone = backbone_of(make_model().model)
    policy, prm = taught(backbone, 1), taught(backbone, 2)

    def loss(model: Any) -> torch.Tensor:
        return response_logprobs(model, batch.tokens, batch.attention, batch.mask).square().sum()

    def gradients(model: Any) -> list[torch.Tensor]:
        found = [weight.grad.clone() for weight in model.parameters() if weight.requires_grad]
        model.zero_grad()
        return found

    alone = []
    for model in (policy, prm):
        loss(model).backward()
        alone.append(gradients(model))
        if recomputed:
            recompute_layers(model)
    first, _, second = loss(policy), logprobs(backbone, batch), loss(prm)
    first.backward()
    second.backward()
    for model, expected in zip((policy, prm), alone, strict=True):
        assert all(torch.equal(*pair) for pair in zip(gradients(model), expected, strict=True))
    assert all(weight.grad is None for weight in backbone.parameters())


def test_training_one_role_changes_no_other(make_model, make_batch):
    batch = make_batch()
    backbone = backbone_of(make_model().model)
    models = [with_adapter(backbone, CONFIG, 1), with_adapter(backbone, CONFIG, 2), backbone]
    policy = Policy(models[0], PolicyConfig(lr=1e-2), temperature=1.0, token_budget=1000, compute="fp32", seed=0)
    prm = Prm(models[1], PrmConfig(lr=1e-2), token_budget=1000, compute="fp32")
    reference = Reference(backbone, token_budget=1000, compute="fp32").logprobs(batch)
    assert torch.equal(prm.score(batch, reference), torch.zeros_like(reference))

    def said() -> list[torch.Tensor]:
        return [logprobs(model, batch) for model in models]

    start = said()
    prm.update(batch, reference)
    after_prm = said()
    policy.update(batch, batch.mask * torch.randn(batch.mask.shape), policy.logprobs(batch))
    after_policy = said()
    assert [torch.equal(*pair) for pair in zip(start, after_prm, strict=True)] == [True, False, True]
    assert [torch.equal(*pair) for pair in zip(after_prm, after_policy, strict=True)] == [False, True, True]


def test_the_seed_fixes_the_adapter_and_nothing_else(make_model):
    backbone = backbone_of(make_model().model)
    state = torch.get_rng_state()
    one, same, other = (list(with_adapter(backbone, CONFIG, seed).parameters()) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(*pair) for pair in zip(one, same, strict=True))
    assert not all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_without_a_rank_a_role_is_its_model(make_model):
    model = make_model().model
    assert with_adapter(model, LoraConfig(), 1) is model
    state = model.state_dict()
    assert all(torch.equal(weight, state[name]) for name, weight in merged_state(model, keep).items())
    assert not has_adapter(model)
    assert has_adapter(with_adapter(model, CONFIG, 1))


def test_only_the_layers_named_have_adapters(make_model):
    role = with_adapter(make_model().model, LoraConfig(rank=2, targets=("q_proj", "down_proj")), 1)
    learning = {name.split(".lora_")[0] for name, weight in role.named_parameters() if weight.requires_grad}
    assert {name.split(".")[-1] for name in learning} == {"q_proj", "down_proj"}
    assert len(learning) == 4


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "absent"])
def test_layers_that_can_have_none_are_refused(make_model, target: str):
    with pytest.raises(ValueError, match=r"lora\.targets"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT has something to say of tied weights
        with_adapter(make_model().model, LoraConfig(rank=2, targets=("q_proj", target)), 1)


def test_peft_is_asked_for_by_the_name_of_its_extra(make_model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"credo\[lora\]"):
        with_adapter(make_model().model, CONFIG, 1)


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_an_adapter_comes_back_bit_for_bit(make_model, make_batch, tmp_path: Path, compute: Compute):
    batch, backbone = make_batch(), backbone_of(make_model().model, compute)
    role, back = taught(backbone, 1), with_adapter(backbone, CONFIG, 2)
    weights = list(back.parameters())
    save_adapter(role, tmp_path)
    load_adapter(back, tmp_path)
    assert torch.equal(logprobs(back, batch, compute), logprobs(role, batch, compute))
    assert all(one is other for one, other in zip(weights, back.parameters(), strict=True)), "an optimiser holds them"


def test_an_adapter_of_another_shape_is_refused(make_model, tmp_path: Path):
    backbone = backbone_of(make_model().model)
    save_adapter(taught(backbone, 1), tmp_path)
    for other in (LoraConfig(rank=2), LoraConfig(rank=3, targets=("q_proj",))):
        with pytest.raises(ValueError, match=r"lora\.rank"):
            load_adapter(with_adapter(backbone, other, 1), tmp_path)


def test_peft_reads_the_adapter_and_transformers_the_merged_model(make_model, make_batch, tmp_path: Path):
    from peft import PeftModel

    start, batch = make_model(), make_batch()
    role = taught(backbone_of(start.model), 1)
    save_adapter(role, tmp_path / "adapter")
    save_model(role, start.tokenizer, tmp_path / "model", weights=merged_state(role, keep))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls what transformers is about to rename
        read = PeftModel.from_pretrained(copy.deepcopy(start.model), tmp_path / "adapter").get_base_model()
    assert torch.equal(logprobs(read, batch), logprobs(role, batch))
    loaded = load_model(str(tmp_path / "model")).model
    torch.testing.assert_close(logprobs(loaded, batch), logprobs(role, batch), atol=1e-5, rtol=0)
