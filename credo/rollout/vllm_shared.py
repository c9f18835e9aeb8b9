"""What sampling with vLLM takes, whether it runs inside the trainer or as a server: the options of a request, and the
check that its log-probs are the trainer's."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from credo.rollout.engine import SamplingParams

LEAST_TEMPERATURE = 0.01
"""vLLM raises lower temperatures to this one."""
PROBES, PROBE_TOKENS = 8, 32
PROBE_OPTIONS = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "detokenize": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What the engine's log-probs are compared with after every sync of weights."""

    trained: Callable[[Int[Tensor, "B S"], Bool[Tensor, "B S"], Bool[Tensor, "B S"]], Float[Tensor, "B S"]]
    """The trainer's log-probs at temperature 1, from tokens, attention and the mask of tokens to score."""
    threshold: float
    """Mean absolute difference of log-probs above which ``warn`` is called."""
    warn: Callable[[str], None]

    def of(self, tokens: Int[Tensor, "B S"]) -> Float[Tensor, "B T"]:
        """The trainer's log-prob of each token but the first of a sequence. Collective if the trainer's model is."""
        attention = torch.ones_like(tokens, dtype=torch.bool)
        mask = attention.clone()
        mask[:, 0] = False
        with torch.no_grad():
            return self.trained(tokens, attention, mask).cpu()[:, 1:]

    def gap(self, engine: Float[Tensor, "B T"], trained: Float[Tensor, "B T"]) -> float:
        """The mean absolute difference, in nats; warns above the threshold, and of one that is not a number."""
        gap = (engine - trained).abs().mean().item()
        if not gap <= self.threshold:
            self.warn(
                f"vLLM's log-probs of {engine.numel()} probe tokens differ from the trainer's by {gap:.3g} on "
                f"average, more than rollout.probe_threshold = {self.threshold}: it samples from another policy "
                "than the one that learns. Raise the threshold if that is rounding, or set rollout.engine = 'torch'."
            )
        return gap


def probe_tokens(vocabulary: int, context: int) -> Int[Tensor, "B S"]:
    """Made-up sequences, the same for every model with this vocabulary, that leave room for a token more."""
    length = min(PROBE_TOKENS, context - 1)
    return torch.randint(vocabulary, (PROBES, length), generator=torch.Generator().manual_seed(0))


def request_options(params: SamplingParams, seed: int, eos_ids: Collection[int]) -> dict[str, Any]:
    """vLLM's sampling parameters of one rollout. The engine's own end tokens replace those of the model's folder."""
    return {
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "max_tokens": params.max_tokens,
        "stop": list(params.stop),
        "detokenize": bool(params.stop),
        "stop_token_ids": sorted(eos_ids),
        "ignore_eos": True,
        "seed": seed,
        "logprobs": 0,
    }


def check_temperature(temperature: float) -> None:
    """Raises ValueError for one that vLLM would change in silence."""
    if 0 < temperature < LEAST_TEMPERATURE:
        raise ValueError(
            f"vLLM does not sample at temperature {temperature}, it would take {LEAST_TEMPERATURE} instead; choose "
            "that, or 0 for greedy decoding."
        )


def repack_output_layer(model: Any) -> None:
    """An output layer tied to the embedding has no weights of its own to load, so on the CPU vLLM 0.32 leaves it with
    a packed copy of the old ones."""
    from vllm.model_executor.layers.vocab_parallel_embedding import (  # pyright: ignore[reportMissingImports]
        ParallelLMHead,
    )

    for layer in model.modules():
        if isinstance(layer, ParallelLMHead):
            layer.quant_method.process_weights_after_loading(layer)
