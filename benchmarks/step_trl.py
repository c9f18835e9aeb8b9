"""The GRPO trainer of TRL, one training step at a time, in TRL's own Python. ``step.py`` starts it.

Its options stay at their defaults but for sizes, which contender it is, ``use_cpu`` and ``min_new_tokens``, which keeps
responses from ending early. Half of the responses to each prompt are rewarded.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from workers import Requests

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
TOLD = ("bf16", "gradient_checkpointing", "per_device_train_batch_size", "gradient_accumulation_steps", "beta")


class OneAtATime(TrainerCallback):
    """Waits for a request before each step and answers it after."""

    def __init__(self, requests: Requests, clock: Callable[[], float], tokens: dict[str, int]) -> None:
        self.requests, self.clock, self.tokens = requests, clock, tokens
        self.started = self.sampling = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.requests.wait()
        self.started, self.sampling = self.clock(), 0.0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        seconds = self.clock() - self.started
        stages = {"generate": self.sampling, "learning": seconds - self.sampling}
        self.requests.answer({"seconds": seconds, "stages": stages, "tokens": self.tokens})

    def timed(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """``generate``, its seconds added up."""

        def generating(*arguments: Any, **options: Any) -> Any:
            started = self.clock()
            written = generate(*arguments, **options)
            self.sampling += self.clock() - started
            return written

        return generating


def configured(job: dict[str, Any]) -> GRPOConfig:
    """What TRL is asked for."""
    return GRPOConfig(
        output_dir=str(Path(job["folder"]) / "trl"),
        use_cpu=True,
        max_steps=1_000_000,
        per_device_train_batch_size=job["rows"],
        gradient_accumulation_steps=job["completions"] // job["rows"],
        num_generations=job["per_prompt"],
        max_completion_length=job["tokens"],
        generation_kwargs={"min_new_tokens": job["tokens"]},
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **job["options"],
    )


def half(tokens: int) -> Callable[..., list[float]]:
    """Rewards every other completion. Raises RuntimeError if one does not have as many tokens as were asked for."""

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        if any(len(ids) != tokens for ids in completion_ids):
            raise RuntimeError(f"Completions of {sorted(map(len, completion_ids))} tokens instead of {tokens}.")
        return [float(index % 2) for index in range(len(completion_ids))]

    return reward


def main() -> None:
    """Serves until nobody asks any more."""
    requests = Requests()
    job = requests.wait()
    torch.set_num_threads(job["threads"])
    options = configured(job)
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    prompts = [json.loads(line)["prompt"] for line in Path(job["problems"]).read_text().splitlines()]
    once, response = sum(len(tokenizer(prompt).input_ids) for prompt in prompts), job["completions"] * job["tokens"]
    tokens = {"all": job["per_prompt"] * once + response, "response": response, "prompts_once": once + response}
    turns = OneAtATime(requests, CLOCKS[job["clock"]], tokens)
    trainer = GRPOTrainer(
        model=job["model"],
        reward_funcs=half(job["tokens"]),
        args=options,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=tokenizer,
        callbacks=[turns],
    )
    trainer.model.generate = turns.timed(trainer.model.generate)
    about = {name: version(name) for name in ("trl", "transformers", "torch")}
    about |= {"weights": str(next(trainer.model.parameters()).dtype), "threads": torch.get_num_threads()}
    requests.answer(about | {name: getattr(options, name) for name in TOLD})
    trainer.train()


if __name__ == "__main__":
    main()
