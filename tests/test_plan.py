"""The plan of a recipe against numbers worked out by hand for models small enough to count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from credo import plan as planning
from credo.config import TrainConfig
from credo.filtering import why_dropped
from credo.plan import batch_arithmetic, doubts, kept_counts, memory, model_size, plan, size_text
from credo.recipe import build
from credo.types import Group, Problem, Rollout, Verdict

# Llama with words V, width W, layers L, inner width I, heads H of D, cached heads C:
V, W, L, I, H, D, C = 50, 16, 3, 40, 4, 4, 2  # noqa: E741
LAYER = 2 * W * H * D + 2 * W * C * D + 3 * W * I + 2 * W  # q and o, k and v, the gated MLP, two norms
PARAMETERS = V * W + L * LAYER + W  # the output layer shares the embedding
CACHED = 2 * L * C * D


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    settings = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": V,
        "hidden_size": W,
        "num_hidden_layers": L,
        "intermediate_size": I,
        "num_attention_heads": H,
        "num_key_value_heads": C,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    }
    path = tmp_path_factory.mktemp("model")
    (path / "config.json").write_text(json.dumps(settings))
    return str(path)


def config(**options: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "run": {"name": "demo", "steps": 5},
        "model": {"path": "m"},
        "data": {"train": ["a.jsonl"], "max_prompt_tokens": 100},
        "rollout": {"max_tokens": 28},
    }
    for key, value in options.items():
        section, name = key.split("__")
        values.setdefault(section, {})[name] = value
    return build(TrainConfig, values)


def sizes(settings: TrainConfig, folder: str) -> dict[str, int | None]:
    size = model_size(folder)
    return {role: count for role, _, count in memory(settings, size, size)}


def test_parameters_are_counted_without_weights(folder: str):
    size = model_size(folder)
    assert size.parameters == PARAMETERS == 800 + 3 * (512 + 256 + 1920 + 32) + 16
    assert (size.cached, size.vocabulary, size.positions) == (CACHED, V, 512)


def test_a_head_size_of_its_own_counts(folder: str, tmp_path: Path):
    settings = json.loads((Path(folder) / "config.json").read_text()) | {"head_dim": 6, "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    size = model_size(str(tmp_path))
    assert size.cached == 2 * L * C * 6
    assert size.parameters == PARAMETERS + V * W + L * (2 * W * H * 2 + 2 * W * C * 2)


def test_a_gguf_file_is_counted_from_its_header(tmp_path: Path):
    gguf = pytest.importorskip("gguf", reason="gguf files need the gguf package")
    numpy = pytest.importorskip("numpy")
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(L)
    writer.add_context_length(512)
    writer.add_embedding_length(W)
    writer.add_feed_forward_length(I)
    writer.add_head_count(H)
    writer.add_head_count_kv(C)
    writer.add_vocab_size(V)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(D)
    writer.add_tensor("token_embd.weight", numpy.zeros((V, W), dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    size = model_size(str(path))
    assert (size.parameters, size.cached, size.vocabulary) == (PARAMETERS, CACHED, V)


def test_memory_by_role(folder: str):
    found = sizes(config(rollout__concurrent=10, training__tokens_per_microbatch=1000), folder)
    assert found == {
        "policy": 16 * PARAMETERS,
        "PRM": 16 * PARAMETERS,
        "reference": 4 * PARAMETERS,
        "key-value cache": 10 * 128 * CACHED * 4,
        "logits": 2 * 1000 * V * 4,
    }


def test_memory_of_a_frozen_prm_judged_by_the_policy(folder: str):
    found = sizes(config(prm__update="none", prm__reference="policy"), folder)
    assert (found["PRM"], found["reference"]) == (4 * PARAMETERS, 0)


def test_memory_without_a_prm(folder: str):
    found = sizes(config(prm__enabled=False), folder)
    assert "PRM" not in found
    assert "reference" not in found


def test_bf16_halves_the_logits_and_adds_a_copy_of_the_weights(folder: str):
    fp32, bf16 = sizes(config(), folder), sizes(config(model__compute="bf16"), folder)
    assert bf16["logits"] == 2 * 8192 * V * 2 == (fp32["logits"] or 0) // 2
    assert bf16["bf16"] == 2 * PARAMETERS
    assert bf16["key-value cache"] == fp32["key-value cache"]


def test_bf16_leaves_the_cache_of_rotary_models_in_fp32(folder: str):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder))
    cache = transformers.DynamicCache(config=model.config)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(input_ids=torch.zeros(2, 7, dtype=torch.int64), past_key_values=cache, use_cache=True)
    total = sum(part.numel() * part.element_size() for layer in cache.layers for part in (layer.keys, layer.values))
    assert total == 2 * 7 * CACHED * planning.CACHE_BYTES


def test_a_round_of_training_does_not_fill_the_cache_but_evaluation_can(folder: str):
    few = sizes(config(rollout__prompts=2, rollout__per_prompt=3), folder)
    assert few["key-value cache"] == 6 * 128 * CACHED * 4
    evaluated = sizes(config(rollout__prompts=2, rollout__per_prompt=3, evaluation__sources=["b.jsonl"]), folder)
    assert evaluated["key-value cache"] == 256 * 128 * CACHED * 4


def test_one_long_response_can_be_more_than_the_budget(folder: str):
    assert sizes(config(training__tokens_per_microbatch=100), folder)["logits"] == 2 * 128 * V * 4


def test_batch_arithmetic_in_words():
    lines = "\n".join(batch_arithmetic(config(policy__minibatch=64, training__tokens_per_microbatch=1000)))
    assert "32 prompts x 4 rollouts = 128 responses" in lines
    assert "policy: 2 optimiser steps of 64" in lines
    assert "PRM: 1 optimiser step of 128" in lines
    assert (
        "micro-batches of at most 1,000 tokens hold 7 responses of the longest length (100 + 28 = 128 tokens)" in lines
    )
    assert "keeps groups with 1 to 3 correct of 4" in lines


@pytest.mark.parametrize(
    ("minibatch", "words"),
    [
        (1, "128 optimiser steps of 1"),
        (50, "2 optimiser steps of 50 and 1 of 28"),
        (100, "1 optimiser step of 100 and 1 of 28"),
        (128, "1 optimiser step of 128"),
        (256, "1 optimiser step of 128"),
    ],
)
def test_optimiser_steps_of_a_batch(minibatch: int, words: str):
    assert f"policy: {words}" in batch_arithmetic(config(policy__minibatch=minibatch))


def test_the_order_of_scoring_and_learning():
    def order(**options: Any) -> str:
        return "\n".join(batch_arithmetic(config(**options)))

    assert "scores the whole batch, then learns" in order()
    assert "learns from the batch, then scores" in order(prm__update="before")
    assert "never learns" in order(prm__update="none", prm__path="trained")
    assert "first 3 steps only the PRM learns" in order(prm__warmup_steps=3)
    assert "outcome is the only reward" in order(prm__enabled=False)


def group(correct: int, size: int) -> Group:
    rollout = Rollout(prompt_ids=(1,), response_ids=(2,), logprobs=(0.0,), finish="stop")
    return Group(
        problem=Problem(id="p", kind="exact", prompt="", answer="", source=""),
        rollouts=(rollout,) * size,
        responses=("",) * size,
        verdicts=tuple(Verdict(score=float(index < correct)) for index in range(size)),
    )


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8, 10])
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.8), (0.1, 0.3), (0.0, 1.0), (0.3, 0.45), (0.5, 0.5)])
def test_the_band_is_the_one_that_collection_keeps(size: int, low: float, high: float):
    settings = config(rollout__per_prompt=size, filter__accuracy_low=low, filter__accuracy_high=high)
    kept = [correct for correct in range(size + 1) if why_dropped(group(correct, size), settings.filter) is None]
    assert kept_counts(settings) == kept


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.2, 0.8, "keeps groups with 1 to 3 correct of 4"),
        (0.5, 0.5, "keeps groups with 2 correct of 4"),
        (0.0, 1.0, "keeps every group"),
        (0.3, 0.45, "keeps no group of 4"),
    ],
)
def test_the_band_in_words(low: float, high: float, words: str):
    settings = config(filter__accuracy_low=low, filter__accuracy_high=high)
    assert f"filter: {words}" in batch_arithmetic(settings)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Qwen2.5-Math-7B", 7_000_000_000),
        ("Qwen2.5-0.5B-Instruct", 500_000_000),
        ("SmolLM2-135M", 135_000_000),
        ("llama-2-7b-hf", 7_000_000_000),
        ("Mixtral-8x7B-v0.1", 56_000_000_000),
        ("Qwen3-30B-A3B", 30_000_000_000),
        ("phi-3-mini-4k-8bit", None),
        ("gpt2", None),
    ],
)
def test_a_hub_id_that_is_not_here_is_guessed_from_its_name(name: str, parameters: int | None):
    size = model_size(f"no-such-owner/{name}")
    assert size.parameters == parameters
    assert size.vocabulary is None
    text = plan(config(model__path=f"no-such-owner/{name}"))
    assert "unknown" in text
    assert ("a guess from the name" in text) == (parameters is not None)
    assert "of what is known" in text


def test_a_local_model_may_still_have_to_be_made(tmp_path: Path):
    text = plan(config(model__path=str(tmp_path / "absent")))
    assert "absent" in text
    assert "32 prompts x 4 rollouts" in text


def test_a_local_model_that_cannot_be_read_is_an_error(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(ValueError, match="no-such-model"):
        model_size(str(tmp_path))


def test_a_plan_adds_up(folder: str):
    text = plan(config(model__path=folder, rollout__concurrent=10))
    cache, logits = 10 * 128 * CACHED * 4, 2 * 8192 * V * 4
    assert f"policy: {PARAMETERS:,} parameters" in text
    assert size_text(36 * PARAMETERS + cache + logits) in text
    assert f"a checkpoint: {size_text(24 * PARAMETERS)}; the newest 2 are kept" in text
    assert "Warnings" not in text


def test_disk_of_a_frozen_prm_and_of_none(folder: str):
    frozen = plan(config(model__path=folder, prm__update="none", prm__reference="policy", checkpoint__keep=0))
    assert f"a checkpoint: {size_text(16 * PARAMETERS)}; all are kept" in frozen
    assert f"a checkpoint: {size_text(12 * PARAMETERS)};" in plan(config(model__path=folder, prm__enabled=False))


def test_a_prm_of_its_own_size(folder: str, tmp_path: Path):
    settings = json.loads((Path(folder) / "config.json").read_text()) | {"num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    text = plan(config(model__path=folder, prm__path=str(tmp_path)))
    assert f"PRM: {PARAMETERS - 2 * LAYER:,} parameters" in text


def test_sizes_as_people_say_them():
    assert size_text(None) == "unknown"
    assert size_text(0) == "0.0 MiB"
    assert size_text(2**30 - 2**20) == "1,023.0 MiB"
    assert size_text(3 * 2**29) == "1.5 GiB"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"policy__minibatch": 16}, "policy.minibatch"),
        ({"prm__minibatch": 16}, "prm.minibatch"),
        ({"rollout__prompts": 4}, "rollout.prompts"),
        ({"policy__minibatch": 60}, "the last optimiser step has 8 responses"),
        ({"prm__minibatch": 60}, "prm.minibatch that divides 128"),
        ({"filter__accuracy_low": 0.3, "filter__accuracy_high": 0.45}, "rollout.per_prompt"),
        ({"training__tokens_per_microbatch": 100}, "training.tokens_per_microbatch"),
        ({"rollout__max_tokens": 1000}, "data.max_prompt_tokens"),
    ],
)
def test_what_is_doubtful_is_said_with_what_to_change(folder: str, options: dict[str, Any], named: str):
    size = model_size(folder)
    assert not list(doubts(config(), size))
    assert named in " ".join(doubts(config(**options), size))


def test_a_large_reference_can_be_done_without():
    size = planning.ModelSize(parameters=2**28, source="")
    assert ["1.0 GiB" in doubt for doubt in doubts(config(), size)] == [True]
    assert not list(doubts(config(prm__reference="policy"), size))
    assert not list(doubts(config(prm__enabled=False), size))
