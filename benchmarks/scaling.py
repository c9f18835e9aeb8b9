"""How the cost of sampling and of learning grows with prompts, response tokens and layers: the exponent of a power.

Run: ``python benchmarks/scaling.py [--compute bf16] [--threads N] [--rounds 3] [--clock cpu]``. Small Llamas with
random weights train with PRIME; one number of the base grows at a time. Responses have a fixed length, prompts two
tokens, and fewer sequences are decoded at once than there are, so that more of them are more work and no better filled
products. Points take turns within a round, the first round does not count, and a line through the logarithms of the
medians (least squares) has the exponent as its slope: 1 is a cost that grows in proportion.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from limits import CLOCKS, write
from training import Training, write_problems

from credo.config import ArchitectureConfig
from credo.models.causal import build_model, quiet_transformers, save_model

BASE = {"prompts": 8, "tokens": 64, "layers": 4}
SWEEPS = {"prompts": (4, 8, 16, 32), "tokens": (32, 64, 128, 256), "layers": (2, 4, 8, 16)}
WIDTH, HEADS, PER_PROMPT = 256, 4, 4
STAGES = ("sampling", "learning")
Point = tuple[int, int, int]
"""Prompts, response tokens and layers."""


def training(point: Point, options: argparse.Namespace, folder: Path) -> Training:
    """The run of one point."""
    prompts, tokens, layers = point
    model = folder / f"{layers} layers"
    if not model.exists():
        shape = ArchitectureConfig(layers=layers, width=WIDTH, heads=HEADS, positions=512, tokenizer="bytes")
        built = build_model(shape, seed=0)
        save_model(built.model, built.tokenizer, model)
    problems = folder / f"{prompts} prompts.jsonl"
    write_problems([f"{chr(97 + index // 26)}{chr(97 + index % 26)}" for index in range(prompts)], problems)
    values = {
        "run.threads": options.threads,
        "model.path": model,
        "model.compute": options.compute,
        "rollout.prompts": prompts,
        "rollout.per_prompt": PER_PROMPT,
        "rollout.max_tokens": tokens,
        "rollout.concurrent": options.concurrent,
        "training.tokens_per_microbatch": options.microbatch,
    }
    return Training(problems, values, options.clock)


def points(sweep: str, values: list[int]) -> list[Point]:
    """The base with one of its numbers at each of ``values``."""
    return [tuple((BASE | {sweep: value}).values()) for value in values]  # pyright: ignore[reportReturnType]


def measure(chosen: list[Point], options: argparse.Namespace) -> dict[Point, dict[str, float]]:
    """The median seconds of both stages at each point."""
    taken: dict[Point, dict[str, list[float]]] = {point: {stage: [] for stage in STAGES} for point in chosen}
    with tempfile.TemporaryDirectory() as folder:
        runs = {point: training(point, options, Path(folder)) for point in chosen}
        for number in range(options.rounds + 1):
            for point, run in runs.items():
                step = run.step()
                sampling = step["stages"]["engine.sample"]
                print(f"round {number}  {point} {step['seconds']:.2f} s", file=sys.stderr, flush=True)
                if number:
                    taken[point]["sampling"].append(sampling)
                    taken[point]["learning"].append(step["seconds"] - sampling)
    return {
        point: {stage: statistics.median(seconds) for stage, seconds in stages.items()}
        for point, stages in taken.items()
    }


def exponent(values: list[int], seconds: list[float]) -> float:
    """The power of ``values`` with which ``seconds`` grow."""
    return statistics.linear_regression([*map(math.log, values)], [*map(math.log, seconds)]).slope


def main() -> None:
    """Prints a line a sweep and stage and writes ``results/scaling.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    for sweep, values in SWEEPS.items():
        parser.add_argument(f"--{sweep}", type=int, nargs="*", default=list(values))
    parser.add_argument("--concurrent", type=int, default=16, help="sequences decoded at once")
    parser.add_argument("--microbatch", type=int, default=1024, help="training.tokens_per_microbatch")
    parser.add_argument("--compute", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    quiet_transformers()
    sweeps = {sweep: getattr(options, sweep) for sweep in SWEEPS if len(getattr(options, sweep)) > 1}
    chosen = {sweep: points(sweep, values) for sweep, values in sweeps.items()}
    seconds = measure(sorted({point for part in chosen.values() for point in part}), options)
    print(
        f"{options.threads} thread(s), {options.compute}, {options.clock} clock; base: {BASE}, "
        f"{PER_PROMPT} responses a prompt"
    )
    table: dict[str, Any] = {}
    for sweep, values in sweeps.items():
        table[sweep] = {"values": values}
        for stage in STAGES:
            found = [seconds[point][stage] for point in chosen[sweep]]
            slope = exponent(values, found)
            table[sweep][stage] = {"seconds": found, "exponent": slope}
            shown = "  ".join(f"{value}: {cost:.2f} s" for value, cost in zip(values, found, strict=True))
            print(f"{sweep:8} {stage:9} exponent {slope:5.2f}   {shown}")
    write("scaling", vars(options) | {"sweeps": table})


if __name__ == "__main__":
    main()
