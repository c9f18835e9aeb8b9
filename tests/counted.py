"""A Llama small enough to count by hand, as a folder that holds its configuration alone, and recipes for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from credo.config import TrainConfig
from credo.models.size import ModelSize, model_size
from credo.planning.plan import Sizes
from credo.recipe import build

# Words V, width W, layers L, inner width I, heads H of D, cached heads C:
V, W, L, I, H, D, C = 50, 16, 3, 40, 4, 4, 2  # noqa: E741
LAYER = 2 * W * H * D + 2 * W * C * D + 3 * W * I + 2 * W  # q and o, k and v, the gated MLP, two norms
PARAMETERS = V * W + L * LAYER + W  # the output layer shares the embedding
CACHED = 2 * L * C * D
LINEAR = L * (LAYER - 2 * W)
QUERIES = L * H * D
KEPT = L * (2 * (W + H * D) + 2 * (W + C * D) + 3 * (W + I))
"""Inputs and outputs of the linear layers."""


def counted_llama(folder: Path) -> str:
    """The path of the model, written into ``folder``."""
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
    (folder / "config.json").write_text(json.dumps(settings))
    return str(folder)


def counted_sizes(folder: Path) -> Sizes:
    """All roles are :func:`counted_llama`."""
    return alike(model_size(counted_llama(folder)))


def alike(size: ModelSize) -> Sizes:
    return Sizes(policy=size, prm=size, reference=size)


def config(**options: Any) -> TrainConfig:
    """128 responses a step, in one optimiser step each of policy and PRM."""
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
