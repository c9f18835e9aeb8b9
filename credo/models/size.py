"""How large a model is, by its configuration or else its name. Weights are neither loaded nor fetched."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import nn

from credo.console import first_line
from credo.models.causal import PACKED, quiet_transformers
from credo.models.location import resolve_path

QWEN = {
    0.5: (24, 896, 4864, 14, 2, True),
    1.5: (28, 1536, 8960, 12, 2, True),
    3: (36, 2048, 11008, 16, 2, True),
    7: (28, 3584, 18944, 28, 4, False),
    14: (48, 5120, 13824, 40, 8, False),
    32: (64, 5120, 27648, 40, 8, False),
    72: (80, 8192, 29568, 64, 8, False),
}
"""The published Qwen2.5 by 10^9 parameters: layers, width, inner width, heads, cached heads, whether the embedding is
shared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """What the configuration of a model, or else its name, says about its size."""

    parameters: int | None = None
    source: str
    """Where the number comes from, for the reader."""
    critic: int | None = None
    """Parameters of a critic made from it: its body and a linear head."""
    cached: int | None = None
    """Keys and values that one token leaves in the cache, over all layers."""
    queries: int | None = None
    """Numbers that the queries of one token are, over all layers."""
    layers: int | None = None
    vocabulary: int | None = None
    positions: int | None = None
    """The longest sequence it was made for."""
    width: int | None = None
    linear: int | None = None
    """Parameters of the linear layers below the output layer, biases among them."""
    adapter: int | None = None
    """Parameters of an adapter of rank 1 on each of these layers."""
    tops: tuple[int, ...] = ()
    """Parameters of the last norm with so many of the last decoder layers, by their number."""

    @property
    def words(self) -> str:
        """For the reader: how many parameters, and how that is known."""
        known = self.parameters is not None
        return f"{self.parameters:,} parameters ({self.source})" if known else f"unknown size ({self.source})"

    def divided(self, layers: int) -> tuple[int | None, int | None]:
        """Parameters of the last ``layers`` layers with the last norm, and of the rest; 0 layers stand for all."""
        if layers == 0:
            return self.parameters, 0
        if self.parameters is None or layers >= len(self.tops):
            return None, None
        return self.tops[layers], self.parameters - self.tops[layers]


def model_size(path: str) -> ModelSize:
    """The size of the model at ``path``, exact if its configuration is on this disk, else guessed from its name.

    A local model may still have to be made, so that one is of unknown size. Raises ValueError if it cannot be read.
    """
    quiet_transformers()
    from huggingface_hub import try_to_load_from_cache
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        location, options = resolve_path(path)
    except ValueError as error:
        return ModelSize(source=str(error).rstrip("."))
    if not Path(location).is_dir():  # a hub id: what an earlier run has fetched, or nothing; a plan asks no network
        cached = try_to_load_from_cache(location, "config.json")
        if not isinstance(cached, str):
            return _guessed(path)
        location = str(Path(cached).parent)
    try:
        settings = AutoConfig.from_pretrained(location, **options)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(settings)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ValueError(f"The size of the model at '{path}' cannot be told: {first_line(error)}") from None
    return _measured(model)


def typical_size(parameters: int) -> ModelSize:
    """The size of the Qwen2.5 that is nearest to a model with so many ``parameters`` and of unknown shape."""
    quiet_transformers()
    from transformers import AutoModelForCausalLM, Qwen2Config

    billions = min(QWEN, key=lambda size: abs(math.log(parameters / size / 1e9)))
    layers, width, inner, heads, cached_heads, tied = QWEN[billions]
    settings = Qwen2Config(
        vocab_size=151_936 if tied else 152_064,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=cached_heads,
        tie_word_embeddings=tied,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings)
    return replace(_measured(model), source=f"taken to be shaped like Qwen2.5-{billions}B")


def size_text(count: int | None) -> str:
    """Bytes as people say them."""
    if count is None:
        return "unknown"
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def _measured(model: Any) -> ModelSize:
    """Architectures name their parts as they like, and some have no keys and values at all."""
    settings = model.config.get_text_config()
    heads = getattr(settings, "num_attention_heads", None)
    layers, width = getattr(settings, "num_hidden_layers", None), getattr(settings, "hidden_size", None)
    linear = [part for part in model.modules() if type(part) is nn.Linear and part is not model.get_output_embeddings()]
    cached = queries = None
    if heads and layers and width:
        cached_heads = getattr(settings, "num_key_value_heads", None) or heads
        head = getattr(settings, "head_dim", None) or width // heads
        cached, queries = 2 * layers * cached_heads * head, layers * heads * head
    return ModelSize(
        parameters=_count(model),
        source="counted",
        critic=_count(model.base_model) + width + 1 if width else None,
        cached=cached,
        queries=queries,
        layers=layers,
        vocabulary=getattr(settings, "vocab_size", None),
        positions=getattr(settings, "max_position_embeddings", None),
        width=width,
        linear=sum(_count(layer) for layer in linear),
        adapter=sum(layer.in_features + layer.out_features for layer in linear),
        tops=_tops(model),
    )


def _tops(model: Any) -> tuple[int, ...]:
    if model.config.model_type not in PACKED:
        return ()
    decoder = model.get_decoder()
    return tuple(accumulate(_count(part) for part in (decoder.norm, *reversed(decoder.layers))))


def _guessed(path: str) -> ModelSize:
    """A size such as 7B, 0.5B, 135M or 8x7B in the name of a model that is not on this disk."""
    found = re.search(r"(?<![\w.])(?:(\d+)x)?(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", path.rsplit("/", 1)[-1].lower())
    if not found:
        return ModelSize(source="not on this disk, and its name tells no size")
    experts, number, unit = found.groups()
    parameters = round(int(experts or 1) * float(number) * (10**9 if unit == "b" else 10**6))
    return ModelSize(parameters=parameters, critic=parameters, source="a guess from the name: it is not on this disk")


def _count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
