"""The demo over seeds, with the PRM and without: does it hold, and what does the PRM add?

Run: ``python benchmarks/demo_seeds.py [SEED ...]`` (default 1 2 3) from a checkout; runs go to ``runs/seeds``. Prints a
row a run: accuracy before and after, the gain with its interval over problems, and the run's wall-clock seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from credo.measures.intervals import paired_gain

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "runs" / "seeds"


def credo(*words: str) -> float:
    """Runs a credo command; returns its seconds."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "credo.cli", *words], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """One warm-up and two trainings a seed."""
    print("| seed | arm | before | after | gain, points (95 %) | PRM pairs, last 5 | warm-up s | training s |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for seed in sys.argv[1:] or ["1", "2", "3"]:
        common = ["--run.folder", str(FOLDER), "--run.seed", seed]
        warm_up = credo("sft", "recipes/demo-sft.toml", *common, "--run.name", f"sft-{seed}")
        for arm, enabled in (("PRIME", "true"), ("outcome only", "false")):
            name = f"{seed}-prm-{enabled}"
            options = ["--run.name", name, "--prm.enabled", enabled, "--model.path", f"{FOLDER}/sft-{seed}/model"]
            seconds = credo("train", "recipes/demo.toml", *common, *options)
            print(row(seed, arm, FOLDER / name, warm_up, seconds), flush=True)


def row(seed: str, arm: str, run: Path, warm_up: float, seconds: float) -> str:
    """A line of the table."""
    evaluations = [json.loads(line) for line in (run / "evaluation.jsonl").read_text().splitlines()]
    before, after = evaluations[0], evaluations[-1]
    gain, low, high = paired_gain(before["scores"], after["scores"])
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-5:]
    pairs = [step["prm/informative_pair_accuracy"] for step in steps if "prm/informative_pair_accuracy" in step]
    return (
        f"| {seed} | {arm} | {before['eval/accuracy']:.3f} | {after['eval/accuracy']:.3f} "
        f"| {100 * gain:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) "
        f"| {sum(pairs) / len(pairs) if pairs else float('nan'):.2f} | {warm_up:.0f} | {seconds:.0f} |"
    )


if __name__ == "__main__":
    main()
