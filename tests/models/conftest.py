"""Tiny Llamas, and batches of random rollouts of different lengths."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from credo.config import ArchitectureConfig
from credo.models.causal import CausalModel, build_model
from credo.types import Batch

ARCHITECTURE = ArchitectureConfig(layers=2, width=32, heads=4, positions=64, alphabet="0123456789+=-")

MakeModel = Callable[..., CausalModel]
MakeBatch = Callable[..., Batch]


@pytest.fixture
def make_model() -> MakeModel:
    """``make_model(seed)``: a new model with weights so large that its log-probs differ."""

    def make(seed: int = 0) -> CausalModel:
        causal = build_model(ARCHITECTURE, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        for parameter in causal.model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2, generator=generator)
        return causal

    return make


@pytest.fixture
def make_batch() -> MakeBatch:
    """``make_batch(rows)``: prompts of 1 to 6 tokens, responses of 1 to 7, outcomes 0 and 1 in turn."""

    def make(rows: int = 6, seed: int = 0) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        start = torch.randint(1, 7, (rows, 1), generator=generator)
        length = torch.randint(1, 8, (rows, 1), generator=generator)
        position = torch.arange(int((start + length).max()))
        attention = position < start + length
        mask = attention & (position >= start)
        tokens = torch.randint(3, 16, mask.shape, generator=generator)
        sampling = -3 * torch.rand(mask.shape, generator=generator)
        return Batch(
            tokens=tokens.masked_fill(~attention, 0),
            attention=attention,
            mask=mask,
            outcomes=(torch.arange(rows) % 2).float(),
            group_ids=torch.arange(rows) // 2,
            sampling_logprobs=sampling.masked_fill(~mask, 0.0),
        )

    return make
