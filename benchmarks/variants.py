"""The demo under every variant of the algorithm: does it train without instability, and what does it gain?

Run: ``python benchmarks/variants.py [SET ...]`` (estimators tamed credit prm cheap policy controls; default all) from a
checkout; ``--threads N`` sets the CPU threads of each run, ``--seed N`` the seed. Runs go to ``runs/variants``, where
those that are finished are not made again. Prints a row a run: accuracy before and after, the gain with its interval
over problems, the PRM's informative pair accuracy and the share of sign flips over the last five steps, the entropy of
the first and the last step, and how many optimiser steps were skipped for numbers that were not finite.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from credo.measures.intervals import paired_gain

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "runs" / "variants"

OUTCOME_ONLY = {"prm.enabled": "false"}
TOKEN_MEAN = {"policy.aggregation": "token_mean"}
CRITIC = {"advantage.estimator": "gae", "critic.lr": "3e-5", "critic.warmup_steps": "5"}
IMMEDIATE = {"advantage.gamma_process": "0"}
ESTIMATORS = {
    name: {"advantage.estimator": name} for name in ("rloo", "grpo", "reinforce", "reinforce_pp", "remax")
} | {"gae": CRITIC}
SETS: dict[str, dict[str, dict[str, str]]] = {
    "estimators": {f"{name} with PRM": options for name, options in ESTIMATORS.items()}
    | {f"{name} outcome only": options | OUTCOME_ONLY for name, options in ESTIMATORS.items()}
    | {name: {"advantage.estimator": name} for name in ("implicit_value", "calibrated_value")},
    "tamed": {
        "grpo with PRM, process_coef 0.02": ESTIMATORS["grpo"] | {"advantage.process_coef": "0.02"},
        "reinforce with PRM, whitened by group": ESTIMATORS["reinforce"] | {"advantage.whitening": "group"},
        "reinforce with PRM, token_mean": ESTIMATORS["reinforce"] | TOKEN_MEAN,
        "reinforce outcome only, token_mean": ESTIMATORS["reinforce"] | TOKEN_MEAN | OUTCOME_ONLY,
    },
    "credit": {
        "return to go, process_coef 1": {"advantage.process_coef": "1"},
        "immediate": IMMEDIATE,
        "immediate, expected baseline": IMMEDIATE | {"advantage.baseline": "expected"},
        "expected baseline": {"advantage.baseline": "expected"},
        "negative part only, process_coef 1": {"advantage.negative_only": "true", "advantage.process_coef": "1"},
        "lowest reward only": {"advantage.credit": "min"},
        "sequence baseline": {"advantage.baseline": "sequence"},
        "position baseline": {"advantage.baseline": "position"},
        "gate at 0.8": {"advantage.gate_accuracy": "0.8"},
    },
    "prm": {f"prm.loss {name}": {"prm.loss": name} for name in ("dpo", "bon_acc", "bon_rm")}
    | {"prm.ema 0.9": {"prm.ema": "0.9"}},
    "cheap": {"all weights": {}}
    | {f"prm.top_layers {count}": {"prm.top_layers": str(count)} for count in (1, 2)}
    | {"lora.rank 16, rates times ten": {"lora.rank": "16", "policy.lr": "3e-4", "prm.lr": "3e-4"}},
    "policy": {
        "pg": {"policy.loss": "pg"},
        "gspo": {"policy.loss": "gspo", "policy.clip_low": "3e-4", "policy.clip_high": "4e-4"},
        "cispo": {"policy.loss": "cispo"},
    },
    "controls": {
        "shuffled q": {"advantage.control": "shuffled"},
        "random q": {"advantage.control": "random"},
        "length-matched groups": {"filter.length_matched": "true"},
    },
}


def credo(*words: str) -> tuple[int, float]:
    """Runs a credo command; returns its exit status and its seconds."""
    started = time.perf_counter()
    run = subprocess.run([sys.executable, "-m", "credo.cli", *words], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    return run.returncode, time.perf_counter() - started


def main() -> None:
    """One warm-up, then one training for each variant."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sets", nargs="*", help=", ".join(SETS))
    parser.add_argument("--threads", default="2")
    parser.add_argument("--seed", default="1")
    arguments = parser.parse_args()
    folder = FOLDER / f"seed-{arguments.seed}"
    common = ["--run.folder", str(folder), "--run.seed", arguments.seed, "--run.threads", arguments.threads]
    start = folder / "sft" / "model"
    if not start.exists():
        credo("sft", "recipes/demo-sft.toml", *common, "--run.name", "sft")
    print("| set | variant | before | after | gain, points (95 %) | PRM pairs | sign flips | entropy | skipped | s |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in arguments.sets or SETS:
        for variant, options in SETS[name].items():
            run = folder / variant.replace(" ", "-").replace(",", "")
            words = [word for key, value in options.items() for word in (f"--{key}", value)]
            status, seconds = credo(
                "train", "recipes/demo.toml", *common, "--run.name", run.name, "--model.path", str(start), *words
            )
            print(row(name, variant, run, status, seconds), flush=True)


def row(name: str, variant: str, run: Path, status: int, seconds: float) -> str:
    """A line of the table."""
    if status:
        return f"| {name} | {variant} | stopped with exit status {status} |"
    evaluations = [json.loads(line) for line in (run / "evaluation.jsonl").read_text().splitlines()]
    before, after = evaluations[0], evaluations[-1]
    gain, low, high = paired_gain(before["scores"], after["scores"])
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    entropies = [step["policy/entropy"] for step in steps if "policy/entropy" in step]
    skipped = sum(step.get(f"{model}/skipped_steps", 0) for step in steps for model in ("policy", "prm", "critic"))
    return (
        f"| {name} | {variant} | {before['eval/accuracy']:.3f} | {after['eval/accuracy']:.3f} "
        f"| {100 * gain:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) "
        f"| {mean(steps[-5:], 'prm/informative_pair_accuracy')} | {mean(steps[-5:], 'outcome/sign_flips')} "
        f"| {entropies[0]:.3f} to {entropies[-1]:.3f} | {skipped:.0f} | {seconds:.0f} |"
    )


def mean(steps: list[dict[str, float]], key: str) -> str:
    """The mean of a metric over the steps that have it."""
    values = [step[key] for step in steps if key in step]
    return f"{sum(values) / len(values):.2f}" if values else "-"


if __name__ == "__main__":
    main()
