"""Sizes against numbers worked out by hand for a model small enough to count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from counted import CACHED, LAYER, PARAMETERS, C, D, H, I, L, V, W, counted_llama

from credo.models.size import model_size, size_text, typical_size


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return counted_llama(tmp_path_factory.mktemp("model"))


def test_parameters_are_counted_without_weights(folder: str):
    size = model_size(folder)
    assert size.parameters == PARAMETERS == 800 + 3 * (512 + 256 + 1920 + 32) + 16
    assert (size.cached, size.vocabulary, size.positions) == (CACHED, V, 512)
    assert (size.layers, size.queries) == (L, L * H * D)


@pytest.mark.parametrize(
    ("parameters", "published", "cached"),
    [
        (500_000_000, "0.49", 24 * 2 * 2 * 64),
        (1_700_000_000, "1.54", 28 * 2 * 2 * 128),
        (3_000_000_000, "3.09", 36 * 2 * 2 * 128),
        (8_000_000_000, "7.62", 28 * 2 * 4 * 128),
        (14_000_000_000, "14.77", 48 * 2 * 8 * 128),
        (30_000_000_000, "32.76", 64 * 2 * 8 * 128),
        (400_000_000_000, "72.71", 80 * 2 * 8 * 128),
    ],
)
def test_a_size_alone_stands_for_the_nearest_qwen(parameters: int, published: str, cached: int):
    size = typical_size(parameters)
    assert size.parameters is not None
    assert f"{size.parameters / 1e9:.2f}" == published
    assert size.cached == cached
    assert "shaped like Qwen2.5" in size.words


def test_an_adapter_of_rank_1_has_the_inputs_and_outputs_of_each_layer_below_the_last(folder: str):
    size = model_size(folder)
    assert size.linear == L * (2 * W * H * D + 2 * W * C * D + 3 * W * I)
    assert size.adapter == L * (2 * (W + H * D) + 2 * (W + C * D) + 3 * (W + I))


def test_a_model_is_divided_above_any_of_its_layers(folder: str):
    size = model_size(folder)
    assert size.width == W
    assert size.divided(0) == (PARAMETERS, 0)
    for layers in range(1, L + 1):
        assert size.divided(layers) == (W + layers * LAYER, PARAMETERS - W - layers * LAYER)
    assert size.divided(L + 1) == (None, None)
    assert model_size("owner/some-7B").divided(1) == (None, None)


def test_a_critic_has_a_head_in_place_of_the_vocabulary_s(folder: str, tmp_path: Path):
    assert model_size(folder).critic == PARAMETERS + W + 1  # the shared embedding stays
    settings = json.loads((Path(folder) / "config.json").read_text()) | {"tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    untied = model_size(str(tmp_path))
    assert (untied.parameters, untied.critic) == (PARAMETERS + V * W, PARAMETERS + W + 1)


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


def test_a_local_model_that_cannot_be_read_is_an_error(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(ValueError, match="no-such-model"):
        model_size(str(tmp_path))


def test_sizes_as_people_say_them():
    assert size_text(None) == "unknown"
    assert size_text(0) == "0.0 MiB"
    assert size_text(2**30 - 2**20) == "1,023.0 MiB"
    assert size_text(3 * 2**29) == "1.5 GiB"
