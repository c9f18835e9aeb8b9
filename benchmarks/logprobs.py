"""Time and peak memory of response log-probs, forward and backward, against vocabulary and length.

Run: ``python benchmarks/logprobs.py [--vocabularies 32000 ...] [--shapes 8x256 ...] [--compute bf16] [--threads N]
[--rounds 3] [--clock cpu]`` (Linux). The model is a Llama of width 576 with ``--layers`` layers, so that the head is
most of the work; a shape is rows x tokens, all but the first of a row responses. Contenders: ``credo``
(:func:`credo.models.causal.response_logprobs`), ``naive`` (log_softmax over all logits in fp32), and ``body``, the same
model without a head, whose hidden states are summed. Each case has a fresh process, and contenders take turns in it.

Peaks are the process's resident memory over what it held before the pass, gradients included, which exist from the
start. "Over the activations" is the peak less what the body's forward pass keeps for its backward; "over the body" is
less the body's own peak, which hides what a head needs while the body's temporaries are not yet made. A naive case that
needs more memory than there is, is left out.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import re
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from limits import CLOCKS, write
from workers import Requests, Worker

from credo.models.causal import quiet_transformers, response_logprobs

WIDTH, HEADS, INNER = 576, 9, 1536
PATHS = ("credo", "naive", "body")
NAIVE_COPIES = 5
"""Tensors of the logits' size that the naive way holds at once: logits, log-probs and gradients."""


def memory(key: str, process: str = "self/status") -> int:
    """Bytes that the system counts under ``key``."""
    found = re.search(rf"^{key}:\s+(\d+) kB", Path(f"/proc/{process}").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def model(vocabulary: int, layers: int, positions: int) -> Any:
    """A Llama with tied embeddings and the gradients that a second micro-batch finds."""
    from transformers import LlamaConfig, LlamaForCausalLM

    quiet_transformers()
    torch.manual_seed(0)
    settings = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 3,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
    )
    llama = LlamaForCausalLM(settings).eval()
    for weight in llama.parameters():
        weight.grad = torch.zeros_like(weight)
    return llama


class Case:
    """One contender on one shape and vocabulary."""

    def __init__(self, job: dict[str, Any]) -> None:
        torch.set_num_threads(job["threads"])
        self.path, self.compute, self.clock = job["path"], job["compute"], CLOCKS[job["clock"]]
        self.shape, self.vocabulary = (job["rows"], job["tokens"]), job["vocabulary"]
        self.model = model(self.vocabulary, job["layers"], job["tokens"])

    def answer(self) -> dict[str, float]:
        """Seconds, bytes at the peak, and bytes that the forward pass keeps, all of one pass."""
        tokens = torch.randint(self.vocabulary, self.shape, generator=torch.Generator().manual_seed(0))
        gc.collect()
        held = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        started = self.clock()
        loss = self.loss(tokens)
        kept = memory("VmRSS") - held
        loss.backward()
        seconds = self.clock() - started
        return {"seconds": seconds, "peak": memory("VmHWM") - held, "kept": kept}

    def loss(self, tokens: torch.Tensor) -> torch.Tensor:
        """A number that every response token has a part in."""
        everywhere = torch.ones_like(tokens, dtype=torch.bool)
        match self.path:
            case "credo":
                mask = everywhere.clone()
                mask[:, 0] = False
                return response_logprobs(self.model, tokens, everywhere, mask, compute=self.compute).sum()
            case "naive":
                with torch.autocast("cpu", torch.bfloat16, enabled=self.compute == "bf16"):
                    logits = self.model(input_ids=tokens, attention_mask=everywhere, use_cache=False).logits
                logprobs = logits.float().log_softmax(dim=-1)
                return logprobs.gather(2, tokens.roll(-1, dims=1)[:, :, None])[:, :-1].sum()
            case _:
                with torch.autocast("cpu", torch.bfloat16, enabled=self.compute == "bf16"):
                    hidden = self.model.model(input_ids=tokens, attention_mask=everywhere, use_cache=False)
                return hidden.last_hidden_state.float().sum()


def work() -> None:
    """A pass for each request, after one on a few tokens that makes what is made once."""
    requests = Requests()
    job = requests.wait()
    case = Case(job)
    case.loss(torch.zeros((1, 8), dtype=torch.long)).backward()
    requests.answer({"threads": torch.get_num_threads()})
    while True:
        requests.wait()
        requests.answer(case.answer())


def measure(vocabulary: int, rows: int, tokens: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The figures of each contender: the median time, and memory of its first pass."""
    job = {name: getattr(options, name) for name in ("layers", "compute", "threads", "clock")}
    job |= {"vocabulary": vocabulary, "rows": rows, "tokens": tokens}
    needed = NAIVE_COPIES * 4 * rows * tokens * vocabulary
    paths = [path for path in PATHS if path != "naive" or needed < memory("MemAvailable", "meminfo")]
    if "naive" not in paths:
        print(
            f"{vocabulary:10,} {f'{rows}x{tokens}':>8}  naive  left out: needs about {needed / 1e9:.0f} GB", flush=True
        )
    workers: dict[str, Worker] = {}
    answers: dict[str, list[dict[str, float]]] = {path: [] for path in paths}
    try:
        for path in paths:
            workers[path] = Worker(Path(__file__), job | {"path": path}, folder / f"{path}.log")
        for number, path in itertools.product(range(options.rounds + 1), paths):
            answers[path].append(workers[path].ask())
            print(f"round {number}  {path} {answers[path][-1]}", file=sys.stderr, flush=True)
    finally:
        for worker in workers.values():
            worker.close()
    body = answers["body"][0]
    return {
        path: {
            "seconds": statistics.median(answer["seconds"] for answer in given[1:]),
            "peak_MB": given[0]["peak"] / 1e6,
            "over_activations_MB": (given[0]["peak"] - body["kept"]) / 1e6,
            "over_body_MB": (given[0]["peak"] - body["peak"]) / 1e6,
        }
        for path, given in answers.items()
    }


def main() -> None:
    """Prints a line a case and contender and writes ``results/logprobs.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabularies", type=int, nargs="*", default=[32_000, 49_152, 152_000])
    parser.add_argument("--shapes", nargs="*", default=["8x256", "8x1024"])
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--compute", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    print(f"{options.threads} thread(s), {options.compute}, {options.clock} clock; memory in MB")
    print(f"{'vocabulary':>10} {'shape':>8}  {'':6} seconds     peak  over the activations  over the body")
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for vocabulary, shape in itertools.product(options.vocabularies, options.shapes):
            figures = measure(vocabulary, *map(int, shape.split("x")), options=options, folder=Path(folder))
            cases.append({"vocabulary": vocabulary, "shape": shape, "contenders": figures})
            for path, figure in figures.items():
                print(
                    f"{vocabulary:10,} {shape:>8}  {path:6} {figure['seconds']:7.2f} {figure['peak_MB']:8,.0f} "
                    f"{figure['over_activations_MB']:21,.0f} {figure['over_body_MB']:14,.0f}",
                    flush=True,
                )
    write("logprobs", vars(options) | {"cases": cases})


if __name__ == "__main__":
    if sys.argv[1:] == ["--work"]:
        work()
    else:
        main()
