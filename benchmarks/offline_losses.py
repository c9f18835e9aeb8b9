"""The four losses of an offline implicit PRM on the demo's sums: ranking, best of 16, and cost.

The model of demo-sft.toml answers sums 8 times each; each loss makes a PRM of the same judged answers. On other sums
the best of 16 answers, by the sum and by the least of its token rewards, is set against the majority and against one
answer by luck. Intervals are over problems. It takes half an hour on one thread.

    credo sft recipes/demo-sft.toml
    python benchmarks/offline_losses.py [--problems 3000 --steps 500 --judged 400] [--losses ce dpo]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from credo.measures.intervals import mean_interval, paired_gain

ROOT = Path(__file__).resolve().parents[1]
AGGREGATES = ("sum", "min")
LOSSES = ("ce", "dpo", "nca", "kto")
ANSWER = ("--extract", "regex", "--pattern", "#(-?[0-9]+)$")
SUMS = "gym:chain_sum?size={size}&seed={seed}&min_terms=6&max_terms=6&min_digits=1&max_digits=1&prompt=expression"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo-sft/model")
    parser.add_argument("--losses", nargs="+", default=LOSSES)
    parser.add_argument("--problems", type=int, default=12_000, help="answered 8 times each, to learn from")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--judged", type=int, default=1600, help="other problems, answered 16 times each")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sample(options.model, folder / "learn.jsonl", SUMS.format(size=options.problems, seed=14_000_000), 8)
        sample(options.model, folder / "choose.jsonl", SUMS.format(size=options.judged, seed=18_000_000), 16)
        rows = {loss: measured(loss, folder, options.model, options.steps) for loss in options.losses}
    baselines = rows[options.losses[0]]["choice"]
    print(f"mean@1 {baselines['mean@1']}, majority of 16 {baselines['majority']}, pass@16 {baselines['pass@N']}")
    print("| loss | pair accuracy | AUC | chosen by | best of 16 | minus majority | minus one answer | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for loss, row in rows.items():
        for way in AGGREGATES:
            choice = row["choice"]
            gains = [choice[f"{way} over {other}"] for other in ("majority", "mean@1")]
            cells = [row["pair_accuracy"], row["auc"], way, choice[way], *gains]
            print(f"| `{loss}` | {' | '.join(cells)} | {row['seconds']:.0f} |", flush=True)
    results = ROOT / "benchmarks" / "results"
    results.mkdir(exist_ok=True)
    (results / "offline_losses.json").write_text(json.dumps({"options": vars(options), "losses": rows}, indent=1))


def sample(model: str, output: Path, problems: str, samples: int) -> None:
    """Judged answers of the model to ``problems``."""
    words = ["--model", model, "--output", str(output), "--problems", problems, "--samples", str(samples)]
    credo("prm", "rollouts", *words, "--max-tokens", "64", *ANSWER)


def measured(loss: str, folder: Path, model: str, steps: int) -> dict[str, Any]:
    """The figures of a PRM made with ``loss``."""
    started = time.perf_counter()
    learning = ["--model.path", model, "--offline.sources", str(folder / "learn.jsonl"), "--offline.loss", loss]
    run = ["--run.folder", str(folder), "--run.name", loss, "--run.steps", str(steps)]
    credo("prm", "train", str(ROOT / "recipes" / "prm-demo.toml"), *learning, *run)
    seconds = time.perf_counter() - started
    prm = folder / loss / "prm"
    scores = json.loads((prm / "prm.json").read_text())["held_out"]["scores"]
    choice = {}
    for way in AGGREGATES:
        chosen = folder / f"{loss}-{way}.json"
        words = ["--prm", str(prm), "--kind", "regex", "--n", "16", "--aggregate", way, "--output", str(chosen)]
        credo("prm", "best-of-n", str(folder / "choose.jsonl"), *words, *ANSWER)
        found = {row["way"]: row["problems"] for row in json.loads(chosen.read_text())}
        best = found["best by PRM"]
        choice |= {name: shown(sum(worth) / len(worth), *mean_interval(worth)) for name, worth in found.items()}
        choice[way] = choice["best by PRM"]
        for name in ("majority", "mean@1"):
            choice[f"{way} over {name}"] = shown(*paired_gain(found[name], best), sign="+")
    ranked = {key: figure(scores["prm"][key]) for key in ("pair_accuracy", "auc")}
    length = {f"length_{key}": figure(scores["length"][key]) for key in ("pair_accuracy", "auc")}
    print(f"{loss}: {ranked} against length {length}; {choice}; {seconds:.0f} s", flush=True)
    return {**ranked, **length, "choice": choice, "seconds": seconds}


def figure(values: dict[str, float]) -> str:
    return shown(values["value"], values["low"], values["high"])


def shown(value: float, low: float, high: float, sign: str = "") -> str:
    return f"{value:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def credo(*words: str) -> None:
    """Runs a command. Raises RuntimeError with the end of what it said if it fails."""
    made = subprocess.run([sys.executable, "-m", "credo.cli", *words], capture_output=True, text=True, timeout=3600)
    if made.returncode:
        raise RuntimeError(f"credo {' '.join(words)}\n{made.stdout[-1000:]}\n{made.stderr[-3000:]}")


if __name__ == "__main__":
    main()
