"""What this machine can do at most: matrix products a second and bytes a second, which other figures are shares of.

Run: ``python benchmarks/limits.py [--threads N] [--clock cpu]``. The peak is of square products of 2,048; the products
of a decode step are those of SmolLM2-135M's linear layers on 64 rows, with the weights packed and read from memory.
``--clock cpu`` counts processor time, which other work on the machine disturbs less; use it with one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from credo.rollout.packed import PackedLinear

RESULTS = Path(__file__).parent / "results"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
SMOLLM2 = [(576, 576), (576, 192), (576, 192), (576, 576), (576, 1536), (576, 1536), (1536, 576)]
"""Inputs and outputs of the linear layers of each of its 30 blocks."""
HEAD, BLOCKS = (576, 49_152), 30


def seconds(run: Callable[[], object], clock: str, rounds: int = 5) -> float:
    """The median over ``rounds`` of one ``run``, after a first one that is not counted."""
    run()
    taken = []
    for _ in range(rounds):
        started = CLOCKS[clock]()
        run()
        taken.append(CLOCKS[clock]() - started)
    return statistics.median(taken)


def gemm_peak(dtype: torch.dtype, clock: str, size: int = 2048) -> float:
    """Floating-point operations a second of a square product."""
    left, right = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    return 2 * size**3 / seconds(lambda: left @ right, clock)


def bandwidth(clock: str, mebibytes: int = 256) -> float:
    """Bytes a second read from memory."""
    numbers = torch.ones(mebibytes * 2**20 // 4)
    return 4 * numbers.numel() / seconds(numbers.sum, clock)


@torch.no_grad()
def decode_products(dtype: torch.dtype, clock: str, rows: int = 64) -> float:
    """Seconds of all linear layers of one decode step."""
    shapes = SMOLLM2 * BLOCKS + [HEAD]
    layers = [PackedLinear(dtype, nn.Linear(inputs, outputs, bias=False)) for inputs, outputs in shapes]
    for layer in layers:
        layer.refresh()
    inputs = {width: torch.randn(rows, width).to(dtype) for width in (576, 1536)}
    return seconds(lambda: [layer(inputs[width]) for layer, (width, _) in zip(layers, shapes, strict=True)], clock)


def limits(clock: str) -> dict[str, float]:
    """All figures of this page, on the threads that torch has now."""
    figures = {"threads": torch.get_num_threads(), "read_GBps": bandwidth(clock) / 1e9}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        figures[f"{name}_peak_GFLOPs"] = gemm_peak(dtype, clock) / 1e9
        figures[f"{name}_decode64_products_ms"] = decode_products(dtype, clock) * 1e3
    return figures


def write(name: str, figures: object) -> None:
    """``benchmarks/results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n")


def main() -> None:
    """Prints a line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures = limits(options.clock)
    for name, value in figures.items():
        print(f"{name:28} {value:8.1f}")
    write("limits", vars(options) | figures)


if __name__ == "__main__":
    main()
