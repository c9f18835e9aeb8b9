"""A Llama small enough to count by hand, as a folder that holds its configuration alone."""

from __future__ import annotations

import json
from pathlib import Path

# Words V, width W, layers L, inner width I, heads H of D, cached heads C:
V, W, L, I, H, D, C = 50, 16, 3, 40, 4, 4, 2  # noqa: E741
LAYER = 2 * W * H * D + 2 * W * C * D + 3 * W * I + 2 * W  # q and o, k and v, the gated MLP, two norms
PARAMETERS = V * W + L * LAYER + W  # the output layer shares the embedding
CACHED = 2 * L * C * D


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
