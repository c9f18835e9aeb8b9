"""Tiny models of many families, whose vocabulary is of 16 tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from credo.config import ArchitectureConfig
from credo.models.causal import build_model
from credo.models.lora import merged_state

EOS, PAD = 1, 0


def spread(model: Any) -> Any:
    """``model`` with weights so large that tokens differ in probability."""
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model.eval()


def llama() -> Any:
    architecture = ArchitectureConfig(layers=2, width=32, heads=4, positions=64, alphabet="0123456789+=-")
    return build_model(architecture, seed=0).model


def foreign(name: str, **options: Any) -> Any:
    """A model of another family, of the same size."""
    import transformers

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "max_position_embeddings": 64}
    ids = {"vocab_size": 16, "bos_token_id": 2, "eos_token_id": EOS, "pad_token_id": PAD}
    config = getattr(transformers, f"{name}Config")(**(shape | ids | options))
    kind = {"GPT2": "GPT2LMHeadModel", "Gemma3Text": "Gemma3ForCausalLM"}.get(name, f"{name}ForCausalLM")
    return getattr(transformers, kind)(config)


FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": llama,
    "qwen2": lambda: foreign("Qwen2"),
    "qwen2 with a window above": lambda: foreign(
        "Qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=1
    ),
    "qwen3": lambda: foreign("Qwen3", head_dim=16),
    "smollm3, a layer without positions": lambda: foreign("SmolLM3", no_rope_layers=[1, 0]),
    "gemma": lambda: foreign("Gemma", head_dim=16),
    "gemma3": lambda: foreign(
        "Gemma3Text", head_dim=8, sliding_window=4, layer_types=["sliding_attention", "full_attention"]
    ),
    "phi3": lambda: foreign("Phi3"),
    "olmo2": lambda: foreign("Olmo2"),
    "granite": lambda: foreign("Granite", logits_scaling=2.0),
    "gemma2": lambda: foreign(
        "Gemma2", head_dim=8, sliding_window=4, attn_logit_softcapping=2.0, final_logit_softcapping=3.0
    ),
    "mistral with a window": lambda: foreign("Mistral", sliding_window=4),
    "gpt2, learnt positions": lambda: foreign("GPT2", n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "lfm2, convolutions": lambda: foreign("Lfm2", layer_types=["conv", "full_attention"]),
}


@cache
def family(name: str) -> Any:
    return spread(FAMILIES[name]())


def merged(role: Any, like: Any) -> Any:
    """A model of the kind of ``like`` with the weights of ``role``, its adapter in them."""
    own = copy.deepcopy(like).float()
    own.load_state_dict(merged_state(role, lambda name, weight: weight))
    return own
