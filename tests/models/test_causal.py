"""Log-probs against the full softmax, models to disk and back bit for bit, and everything that cannot be loaded."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from credo.config import ArchitectureConfig
from credo.data.batching import rows_of
from credo.models.causal import (
    batch_logprobs,
    build_model,
    load_model,
    load_weights,
    recompute_layers,
    response_logprobs,
    response_logprobs_and_entropies,
    save_model,
)
from credo.types import Batch

SMALL = ArchitectureConfig(layers=1, width=16, heads=2, alphabet="0123456789+=-")


@torch.no_grad()
def oracle(model: Any, batch: Batch, temperature: float = 1.0) -> Tensor:
    """Row by row, without padding, from all logits."""
    result = torch.zeros(batch.tokens.shape)
    for row in range(len(batch)):
        length = int(batch.attention[row].sum())
        tokens = batch.tokens[row, :length]
        logprobs = torch.log_softmax(model(input_ids=tokens[None]).logits[0].double() / temperature, dim=-1)
        for s in range(1, length):
            if batch.mask[row, s]:
                result[row, s] = logprobs[s - 1, tokens[s]]
    return result


def same_weights(one: Any, other: Any) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == twin and torch.equal(value, copied) for (name, value), (twin, copied) in pairs)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_the_full_softmax(make_model, make_batch, temperature: float):
    model, batch = make_model().model, make_batch()
    expected = oracle(model, batch, temperature)
    actual = response_logprobs(model, batch.tokens, batch.attention, batch.mask, temperature=temperature)
    torch.testing.assert_close(actual.detach(), expected, atol=1e-5, rtol=1e-5)
    assert (actual[~batch.mask] == 0).all()
    assert actual.dtype == torch.float32
    assert actual.requires_grad


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_entropies_come_with_the_log_probs_of_one_forward_pass(make_model, make_batch, temperature: float):
    model, batch = make_model().model, make_batch()
    passes = []
    with model.get_decoder().register_forward_hook(lambda *_: passes.append(1)):
        logprobs, entropies = response_logprobs_and_entropies(
            model, batch.tokens, batch.attention, batch.mask, temperature=temperature
        )
    assert len(passes) == 1
    torch.testing.assert_close(logprobs.detach(), oracle(model, batch, temperature), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        logits = model(input_ids=batch.tokens, attention_mask=batch.attention).logits
    every = torch.distributions.Categorical(logits=logits / temperature).entropy()
    expected = F.pad(every[:, :-1], (1, 0)) * batch.mask
    torch.testing.assert_close(entropies.detach(), expected, atol=1e-5, rtol=1e-5)
    assert entropies.requires_grad


def test_padding_and_what_stands_on_it_do_not_matter(make_model, make_batch):
    model, batch = make_model().model, make_batch()
    plain = batch_logprobs(model, batch, token_budget=1000)
    garbage = torch.where(batch.attention, batch.tokens, 7)
    wide = [F.pad(part, (0, 5)) for part in (garbage, batch.attention, batch.mask)]
    with torch.no_grad():
        padded = response_logprobs(model, *wide)
    torch.testing.assert_close(padded[:, : plain.shape[1]], plain, atol=1e-6, rtol=1e-6)
    assert (padded[:, plain.shape[1] :] == 0).all()


@pytest.mark.parametrize("token_budget", [1, 13, 30, 1000])
def test_the_token_budget_does_not_matter(make_model, make_batch, token_budget: int):
    model, batch = make_model().model, make_batch(9)
    actual = batch_logprobs(model, batch, token_budget=token_budget, temperature=0.8)
    torch.testing.assert_close(actual, oracle(model, batch, 0.8), atol=1e-5, rtol=1e-5)
    assert not actual.requires_grad


def test_rows_do_not_see_each_other(make_model, make_batch):
    model, batch = make_model().model, make_batch()
    order = torch.tensor([4, 1, 5, 0])
    together = batch_logprobs(model, batch, token_budget=1000)
    chosen = batch_logprobs(model, rows_of(batch, order), token_budget=1000)
    torch.testing.assert_close(chosen, together[order, : chosen.shape[1]], atol=1e-6, rtol=1e-6)


def test_bf16_is_close_and_comes_back_in_fp32(make_model, make_batch):
    model, batch = make_model().model, make_batch()
    exact = batch_logprobs(model, batch, token_budget=1000)
    rough = batch_logprobs(model, batch, token_budget=1000, compute="bf16")
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.1


def test_a_built_model_depends_on_its_seed_and_on_nothing_else():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = build_model(SMALL, seed=1)
    assert torch.equal(torch.get_rng_state(), before), "the generator of torch belongs to others"
    torch.manual_seed(4)
    assert same_weights(first.model, build_model(SMALL, seed=1).model)
    assert not same_weights(first.model, build_model(SMALL, seed=2).model)


def test_a_built_model_has_the_shape_that_was_asked_for():
    architecture = ArchitectureConfig(layers=3, width=16, heads=2, positions=40, tokenizer="bytes")
    causal = build_model(architecture, seed=0)
    config = causal.model.config
    assert (config.num_hidden_layers, config.hidden_size, config.max_position_embeddings) == (3, 16, 40)
    assert config.vocab_size == len(causal.tokenizer) == 3 + 256
    assert list(causal.eos_ids) == [causal.tokenizer.eos_token_id]
    assert causal.pad_id == causal.tokenizer.pad_token_id
    assert not causal.model.training
    assert all(parameter.dtype == torch.float32 for parameter in causal.model.parameters())


def test_a_saved_model_comes_back_bit_for_bit(tmp_path: Path, make_model):
    causal = make_model()
    save_model(causal.model, causal.tokenizer, tmp_path)
    loaded = load_model(str(tmp_path))
    assert same_weights(loaded.model, causal.model)
    assert (loaded.eos_ids, loaded.pad_id) == (causal.eos_ids, causal.pad_id)
    assert loaded.tokenizer("12+3=").input_ids == causal.tokenizer("12+3=").input_ids
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight
    assert not loaded.model.training


def other(name: str, seed: int, **options: Any) -> Any:
    """A model that is not one of ours: without tied weights, of any family."""
    import transformers

    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    config = getattr(transformers, f"{name}Config")(vocab_size=16, tie_word_embeddings=False, **shape, **ids, **options)
    return getattr(transformers, f"{name}ForCausalLM")(config)


EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8, "num_key_value_heads": 2}
MODELS: dict[str, Callable[[int], Any]] = {
    "tied": lambda seed: build_model(SMALL, seed=seed).model,
    "untied": lambda seed: other("Llama", seed),
    "experts, which have other names on disk": lambda seed: other("Qwen3Moe", seed, **EXPERTS),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_weights_are_written_into_the_module_bit_for_bit(tmp_path: Path, make: Callable[[int], Any]):
    source, target = make(1), make(2)
    save_model(source, build_model(SMALL, seed=0).tokenizer, tmp_path)
    places = {name: parameter.data_ptr() for name, parameter in target.named_parameters()}
    assert not same_weights(target, source)
    load_weights(target, tmp_path)
    assert same_weights(target, source)
    assert {name: parameter.data_ptr() for name, parameter in target.named_parameters()} == places


@pytest.mark.parametrize("options", [{"layers": 2}, {"width": 32}, {"alphabet": "01"}])
def test_weights_of_another_model_are_refused(tmp_path: Path, options: dict[str, Any]):
    saved = build_model(replace(SMALL, **options), seed=0)
    save_model(saved.model, saved.tokenizer, tmp_path / "one")
    mine = build_model(SMALL, seed=0)
    save_model(mine.model, mine.tokenizer, tmp_path / "two")
    with pytest.raises(ValueError, match="another model"):
        load_weights(mine.model, tmp_path / "one")
    with pytest.raises(ValueError, match="another model"):
        load_weights(saved.model, tmp_path / "two")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model on disk."""
    causal = build_model(SMALL, seed=0)
    save_model(causal.model, causal.tokenizer, tmp_path / "model")
    return tmp_path / "model"


def edit(path: Path, **changes: Any) -> None:
    """Sets keys of a JSON file; None takes them away."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def test_every_end_token_of_the_generation_config_counts(folder: Path):
    edit(folder / "generation_config.json", eos_token_id=[5, 8])
    assert load_model(str(folder)).eos_ids == {1, 5, 8}
    edit(folder / "generation_config.json", eos_token_id=6)
    assert load_model(str(folder)).eos_ids == {1, 6}
    (folder / "generation_config.json").unlink()
    assert load_model(str(folder)).eos_ids == {1}


def test_padding_is_the_end_token_where_the_tokenizer_has_none(folder: Path):
    edit(folder / "tokenizer_config.json", pad_token=None)
    assert load_model(str(folder)).pad_id == 1


def test_a_tokenizer_without_an_end_token_is_refused(folder: Path):
    edit(folder / "tokenizer_config.json", eos_token=None)
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        load_model(str(folder))


@pytest.mark.parametrize("options", [{"num_hidden_layers": 2}, {"tie_word_embeddings": False}])
def test_weights_are_never_made_up(folder: Path, options: dict[str, Any]):
    edit(folder / "config.json", **options)
    with pytest.raises(ValueError, match="left at random"):
        load_model(str(folder))


def test_a_tuned_bf16_model_is_read_in_fp32(folder: Path):
    causal = load_model(str(folder))
    expected = copy.deepcopy(causal.model).bfloat16()
    save_model(expected, causal.tokenizer, folder)
    loaded = load_model(str(folder)).model
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    assert same_weights(loaded, copy.deepcopy(expected).float())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", None),
        ("model.safetensors", b""),
        ("model.safetensors", b"\x40\0\0\0\0\0\0\0{"),
        ("tokenizer.json", None),
        ("tokenizer.json", b"{"),
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "unheard of"}'),
        ("config.json", b'{"model_type": "t5"}'),
    ],
)
def test_damaged_folders_are_refused_by_name(folder: Path, name: str, content: bytes | None):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"could be loaded from '{folder}'"):
        load_model(str(folder))


def test_weights_that_do_not_fit_the_config_are_refused(folder: Path):
    edit(folder / "config.json", hidden_size=32)
    with pytest.raises(ValueError, match="could be loaded"):
        load_model(str(folder))


def test_a_broken_gguf_file_is_refused(tmp_path: Path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF and no more")
    with pytest.raises(ValueError, match="could be loaded"):
        load_model(str(tmp_path / "model.gguf"))


def test_recomputed_layers_have_the_same_gradients(make_model, make_batch):
    """``training.gradient_checkpointing``: the gradients of a model that keeps all, by one more pass of its layers."""
    model, batch = make_model().model, make_batch()
    passes: list[int] = []
    model.get_decoder().layers[0].self_attn.register_forward_hook(lambda *_: passes.append(1))
    gradients = []
    for again in (False, True):
        if again:
            recompute_layers(model)
        model.zero_grad(set_to_none=True)
        response_logprobs(model, batch.tokens, batch.attention, batch.mask).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        assert len(passes) == (3 if again else 1)
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    attention = model.get_decoder().layers[0].self_attn
    assert not attention.training, "dropout stays off"
