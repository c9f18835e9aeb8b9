"""A PRM on the lower layers of its reference, against a whole PRM whose lower layers are frozen copies of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from credo.config import PrmConfig
from credo.data.batching import rows_of
from credo.models.causal import PACKED, Compute, load_model, recompute_layers, response_logprobs, save_model
from credo.models.prm import Prm
from credo.models.reference import Reference
from credo.models.trunk import Trunk, with_own_top
from credo.types import Batch

LAYERS = 3
SLIDING = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 3}
OPTIONS: dict[str, dict[str, Any]] = {
    "qwen2": SLIDING | {"use_sliding_window": True},
    "qwen3": SLIDING | {"use_sliding_window": True},
    "mistral": {"sliding_window": 3},
    "smollm3": {"no_rope_layers": [1, 0, 1]},
    "gemma": {"head_dim": 8},
}


def tiny(kind: str = "llama", *, seed: int = 0, **options: Any) -> Any:
    """A random model of three layers whose log-probs differ."""
    import transformers

    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
    ids = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "vocab_size": 16, "num_key_value_heads": 1}
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(kind, **shape, **ids, **OPTIONS.get(kind, {}), **options)
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def settings(**options: Any) -> PrmConfig:
    values: dict[str, Any] = {"lr": 1e-2, "beta": 0.5, "max_grad_norm": 1e9}
    return PrmConfig(**(values | options))


def shared(
    model: Any, layers: int, *, token_budget: int = 1000, compute: Compute = "fp32", **options: Any
) -> tuple[Prm, Reference]:
    """PRM and reference on one trunk."""
    common: dict[str, Any] = {"token_budget": token_budget, "compute": compute}
    common["trunk"] = Trunk(model, layers, **common)
    prm = Prm(with_own_top(model, layers), settings(top_layers=layers, **options), **common)
    return prm, Reference(model, **common)


def whole(model: Any, layers: int, **options: Any) -> tuple[Prm, Reference]:
    """The oracle: two whole models, of which the PRM's lower layers do not learn."""
    own = copy.deepcopy(model).requires_grad_(False)
    decoder = own.get_decoder()
    for part in (decoder.norm, *decoder.layers[LAYERS - layers :]):
        part.requires_grad_(True)
    prm = Prm(own, settings(**options), token_budget=1000, compute="fp32")
    return prm, Reference(copy.deepcopy(model), token_budget=1000, compute="fp32")


def learning(prm: Prm) -> Iterator[tuple[str, Tensor]]:
    return ((name, weight) for name, weight in prm.model.named_parameters() if weight.requires_grad)


def gradients(prm: Prm) -> dict[str, Tensor]:
    """Those of the first optimiser step, from AdamW's first moments."""
    moments = prm.optimizer.adamw.state
    return {name: moments[weight]["exp_avg"] / 0.1 for name, weight in learning(prm)}


def disturb(prm: Prm) -> None:
    """Moves what learns, the same way in every PRM, so that there are log-ratios."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, weight in learning(prm):
            weight += 0.05 * torch.randn(weight.shape, generator=generator)


def assert_alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    largest = max(float(gradient.abs().max()) for gradient in other.values())
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], atol=1e-6 * largest, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "layers"), [*((kind, 2) for kind in sorted(PACKED)), ("llama", 1), ("llama", 3), ("qwen3", 1)]
)
def test_scores_and_gradients_are_those_of_a_whole_prm(make_batch, kind: str, layers: int):
    model, batch = tiny(kind), make_batch(7)
    oracle, oracle_reference = whole(model, layers)
    prm, reference = shared(model, layers, token_budget=30)
    expected, logprobs = oracle_reference.logprobs(batch), reference.logprobs(batch)
    torch.testing.assert_close(logprobs, expected, atol=1e-6, rtol=1e-6)
    for each in (oracle, prm):
        disturb(each)
    scores = prm.score(batch, logprobs)
    torch.testing.assert_close(scores, oracle.score(batch, expected), atol=2e-6, rtol=1e-6)
    assert scores.abs().max() > 0.1
    met, metrics = prm.update(batch, logprobs)
    torch.testing.assert_close(met, scores, atol=1e-6, rtol=1e-6)
    assert metrics == pytest.approx(oracle.update(batch, expected)[1], rel=1e-5)
    assert_alike(gradients(prm), gradients(oracle))


def test_a_model_with_an_output_layer_of_its_own(make_batch):
    model, batch = tiny(tie_word_embeddings=False), make_batch()
    (prm, reference), (oracle, _) = shared(model, 1), whole(model, 1)
    logprobs = reference.logprobs(batch)
    for each in (prm, oracle):
        disturb(each)
        each.update(batch, logprobs)
    assert_alike(gradients(prm), gradients(oracle))
    assert prm.model.get_output_embeddings() is model.get_output_embeddings()


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_before_it_has_learnt_it_scores_exactly_nothing(make_batch, compute: Compute):
    batch = make_batch(9)
    prm, reference = shared(tiny(), 2, token_budget=20, compute=compute)
    assert (prm.score(batch, reference.logprobs(batch)) == 0).all()
    met, metrics = prm.update(batch, reference.logprobs(batch))
    assert (met == 0).all()
    assert metrics["prm/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert (prm.score(batch, reference.logprobs(batch))[batch.mask] != 0).any()


def test_bf16_is_that_of_whole_models(make_batch):
    model, batch = tiny(), make_batch()
    _, reference = shared(model, 1, compute="bf16")
    expected = Reference(copy.deepcopy(model), token_budget=1000, compute="bf16").logprobs(batch)
    assert torch.equal(reference.logprobs(batch), expected)


def test_only_the_top_is_copied_and_learns(make_batch):
    model, batch = tiny(), make_batch()
    prm, reference = shared(model, 2)
    frozen = {name: weight.clone() for name, weight in model.named_parameters()}
    prm.update(batch, reference.logprobs(batch))
    for name, weight in prm.model.named_parameters():
        own = name.startswith(("model.layers.1.", "model.layers.2.", "model.norm."))
        assert (weight is not model.get_parameter(name)) == weight.requires_grad == own, name
        assert torch.equal(model.get_parameter(name), frozen[name])
        assert torch.equal(weight, frozen[name]) != own, "what can learn has learnt"
        assert weight.grad is None
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_lower_layers_run_once_for_all_that_is_asked_of_a_batch(make_batch):
    batch, model = make_batch(), tiny()
    prm, reference = shared(model, 1)
    lower, upper = [], []
    layers = model.get_decoder().layers
    layers[0].register_forward_hook(lambda *_: lower.append(torch.is_grad_enabled()))
    layers[2].register_forward_hook(lambda *_: upper.append(1))
    logprobs = reference.logprobs(batch)
    reference.logprobs(batch, temperature=0.5)
    prm.update(batch, logprobs, prm.score(batch, logprobs))
    prm.score(batch, logprobs)
    assert (lower, len(upper)) == ([False], 2)
    other = replace(batch, tokens=batch.tokens.roll(1, dims=0))
    scores = prm.score(other, logprobs)
    assert len(lower) == 2, "another batch has other states"
    plain = response_logprobs(prm.model, other.tokens, other.attention, other.mask).detach()
    torch.testing.assert_close(scores, torch.where(other.mask, plain - logprobs, 0.0))


@pytest.mark.parametrize("token_budget", [1, 20, 45])
def test_micro_batches_do_not_matter(make_batch, token_budget: int):
    batch = make_batch(9)
    at_once, split = shared(tiny(), 1), shared(tiny(), 1, token_budget=token_budget)
    seen = []
    for prm, reference in (at_once, split):
        disturb(prm)
        logprobs = reference.logprobs(batch)
        seen.append((prm.score(batch, logprobs), *prm.update(batch, logprobs)))
    for one, other in zip(seen[0][:2], seen[1][:2], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert seen[0][2] == pytest.approx(seen[1][2], abs=1e-5)
    assert_alike(gradients(split[0]), gradients(at_once[0]))


def test_mini_batches_take_their_own_rows_in_order(make_batch):
    model, batch = tiny(), make_batch(7)
    (prm, reference), (oracle, _) = shared(model, 1, minibatch=3, token_budget=25), whole(model, 1, minibatch=3)
    logprobs = reference.logprobs(batch)
    _, metrics = prm.update(batch, logprobs)
    assert metrics == pytest.approx(oracle.update(batch, logprobs)[1], rel=1e-4)
    assert metrics["prm/optimizer_steps"] == 3


def test_padding_and_the_order_of_rows_do_not_matter(make_batch):
    model, batch = tiny(), make_batch()
    order = torch.tensor([3, 5, 0, 2, 4, 1])
    plain, moved = shared(model, 2), shared(tiny(), 2)
    for prm, _ in (plain, moved):
        disturb(prm)
    wide = {name: F.pad(getattr(batch, name), (0, 4)) for name in ("attention", "mask", "sampling_logprobs")}
    padded = replace(batch, **wide, tokens=F.pad(batch.tokens, (0, 4), value=7))
    permuted = replace(padded, **{name: getattr(padded, name)[order] for name in Batch.__slots__})
    expected, actual = plain[1].logprobs(batch), moved[1].logprobs(permuted)
    torch.testing.assert_close(actual[:, : batch.tokens.shape[1]], expected[order], atol=1e-6, rtol=1e-6)
    plain[0].update(batch, expected)
    moved[0].update(permuted, actual)
    assert_alike(gradients(moved[0]), gradients(plain[0]))


def test_rows_may_be_asked_for_in_any_selection(make_batch):
    model, batch = tiny(), make_batch()
    trunk = Trunk(model, 1, token_budget=20, compute="fp32")
    rows = torch.tensor([4, 1, 4])
    part = rows_of(batch, rows)
    inputs = (model, part.tokens, part.attention, part.mask)
    actual = response_logprobs(*inputs, below=trunk.rows(batch, rows))
    torch.testing.assert_close(actual, response_logprobs(*inputs), atol=1e-6, rtol=1e-6)


def test_the_average_shares_the_lower_layers_too(make_batch):
    model, batch = tiny(), make_batch(4)
    (prm, reference), (oracle, _) = (make(model, 1, ema=0.75, minibatch=2) for make in (shared, whole))
    logprobs = reference.logprobs(batch)
    for each in (prm, oracle):
        each.update(batch, logprobs)
    assert prm.average is not None
    torch.testing.assert_close(prm.score(batch, logprobs), oracle.score(batch, logprobs), atol=1e-5, rtol=1e-4)
    names = dict(learning(prm))
    for name, weight in prm.average.named_parameters():
        assert (weight is model.get_parameter(name)) == (name not in names)
        assert not weight.requires_grad
    assert all(weight.requires_grad for _, weight in learning(prm))
    assert names


def test_recomputed_layers_give_the_same_gradients(make_batch):
    batch = make_batch()
    plain, recomputed = (shared(tiny(), 2)[0] for _ in range(2))
    recompute_layers(recomputed.model)
    for prm in (plain, recomputed):
        prm.update(batch, torch.zeros(batch.tokens.shape))
    assert_alike(gradients(recomputed), gradients(plain))


def test_a_learnt_prm_is_a_whole_model_on_disk(tmp_path, make_model, make_batch):
    causal, batch = make_model(), make_batch()
    prm, reference = shared(causal.model, 1)
    logprobs = reference.logprobs(batch)
    prm.update(batch, logprobs)
    save_model(prm.model, causal.tokenizer, tmp_path)
    loaded = Prm(load_model(str(tmp_path)).model, settings(), token_budget=1000, compute="fp32")
    torch.testing.assert_close(loaded.score(batch, logprobs), prm.score(batch, logprobs), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("kind", "layers", "said"), [("llama", 4, "4 of 3 layers"), ("gpt_neox", 1, "gpt_neox")])
def test_models_that_cannot_be_divided_so_are_refused(kind: str, layers: int, said: str):
    import transformers

    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = transformers.AutoConfig.for_model(kind, vocab_size=16, **shape)
    with pytest.raises(ValueError, match=f"prm.top_layers.*{said}"):
        with_own_top(transformers.AutoModelForCausalLM.from_config(config), layers)
