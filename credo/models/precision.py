"""The precision that ``model.compute = "auto"`` stands for: the faster one here, measured once a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch

from credo.config import PrmTrainingConfig, SftConfig, TrainConfig
from credo.dist.device import choose_device, set_threads
from credo.models.causal import Compute

Tree = TypeVar("Tree", TrainConfig, SftConfig, PrmTrainingConfig)

WORTH = 1.3
"""bf16 rounds, so it has to be at least so many times as fast."""
SIZES = 256, 768
"""Rows and columns of the products; the small ones tell at once where bf16 is emulated."""


def with_compute_chosen(config: Tree, recorded: Callable[[str], Any], say: Callable[[str], None]) -> Tree:
    """``config`` with "auto" replaced: by what is ``recorded`` of the run for this key, else by a choice.

    So a run that goes on computes as it did before, whatever a measurement says now.
    """
    if config.model is None or config.model.compute != "auto":
        return config
    compute = recorded("model.compute")
    if compute is None:
        set_threads(config.run.threads)
        compute = choose_compute(choose_device(config.run.device), say)
    return replace(config, model=replace(config.model, compute=compute))


def choose_compute(device: str, say: Callable[[str], None]) -> Compute:
    """bf16 where it is worth its rounding on ``device``, else fp32; ``say`` hears which and why."""
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        say("Computes in bf16, which this GPU has." if native else "Computes in fp32: this GPU has no bf16.")
        return "bf16" if native else "fp32"
    ratio = bf16_speedup()
    chosen: Compute = "bf16" if ratio >= WORTH else "fp32"
    say(f"Computes in {chosen}: products in bf16 are {ratio:.1f} times as fast as in fp32 here.")
    return chosen


def bf16_speedup() -> float:
    """Time of a product of fp32 matrices over that of bf16 ones, on the CPU with torch's present threads."""
    ratio = 1.0
    for size in SIZES:
        fp32, bf16 = (torch.ones(size, size, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
        times = [(_seconds(fp32), _seconds(bf16)) for _ in range(3)]
        ratio = min(time for time, _ in times) / min(time for _, time in times)
        if ratio < 0.5:
            break
    return ratio


def _seconds(matrix: torch.Tensor) -> float:
    started = time.perf_counter()
    torch.nn.functional.linear(matrix, matrix)
    return time.perf_counter() - started
