"""Sections about the run itself: its models, how it computes, what it evaluates and keeps."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from credo.config.checks import above_zero, at_least, require, unread

Tracker = Literal["tensorboard", "wandb", "trackio"]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The run as a whole."""

    name: str
    """Folder of the run inside `run.folder`."""
    folder: str = "runs"
    """Where run folders live."""
    steps: int
    """Training steps; one step is one batch of rollouts (in SFT: one optimiser step)."""
    seed: int = 0
    """Fixes the data order, every rollout and the mini-batch order."""
    threads: int = 0
    """CPU threads for torch; 0 takes every core this process may use."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the models live; auto takes the GPU if torch sees one."""
    trackers: tuple[Tracker, ...] = ()
    """Where metrics go besides metrics.jsonl and the terminal; each needs the extra of the same name."""

    least_steps = 1

    def __post_init__(self) -> None:
        plain = self.name not in ("", ".", "..") and "/" not in self.name
        require(plain, f"run.name: expected a plain folder name, got '{self.name}'.")
        at_least(self.least_steps, self, "run", "steps")
        at_least(0, self, "run", "seed", "threads")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model that training starts from."""

    path: str
    """A Hugging Face folder or hub id, a .gguf file, or `package:NAME` for the .gguf file inside a Python package."""
    compute: Literal["fp32", "bf16", "auto"] = "fp32"
    """Precision of the forward and backward passes; weights, losses and advantages stay fp32. auto takes bf16 where it
    is measured to be faster, once: the run's own `config.toml` says which, and a resumed run keeps to it."""

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """`compute`, after the choice that auto stands for."""
        assert self.compute != "auto", "chosen before a run is assembled"
        return self.compute


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Policy and PRM as low-rank adapters on the frozen start of the policy, which is the reference; needs the extra
    `lora`. Their learning rates are usually ten times those of full fine-tuning."""

    rank: int = 0
    """Rank of the adapters; 0 trains all weights."""
    alpha: float = 32.0
    """What an adapter adds is scaled by alpha / rank."""
    targets: tuple[str, ...] = ("all-linear",)
    """Linear layers that have adapters, as PEFT names them: `q_proj`, `v_proj` ..; all-linear takes every one but the
    output layer."""

    def __post_init__(self) -> None:
        at_least(0, self, "lora", "rank")
        above_zero(self, "lora", "alpha")
        require(len(self.targets) > 0, "lora.targets: no layer given; name some or all-linear.")
        if self.rank == 0:
            unread(self, "lora", "alpha", "targets", cause="with lora.rank = 0")


@dataclass(frozen=True, kw_only=True)
class ArchitectureConfig:
    """A small Llama with random weights, for `credo sft` from scratch."""

    layers: int = 4
    """Decoder layers."""
    width: int = 128
    """Hidden size; a multiple of 2 x heads."""
    heads: int = 4
    """Attention heads."""
    positions: int = 128
    """Longest sequence, prompt and response together, in tokens."""
    tokenizer: Literal["characters", "bytes"] = "characters"
    """One token per character of `alphabet`, or one per byte."""
    alphabet: str = "0123456789+-*/=;#() "
    """The characters a character tokenizer knows."""

    def __post_init__(self) -> None:
        at_least(1, self, "architecture", "layers", "width", "heads", "positions")
        require(
            self.width % (2 * self.heads) == 0,
            f"architecture.width: rotary positions need an even head size, got {self.width} / {self.heads} heads.",
        )
        if self.tokenizer == "bytes":
            unread(self, "architecture", "alphabet", cause="with architecture.tokenizer = 'bytes'")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How tensors are cut, and when a step is given up. No number depends on `tokens_per_microbatch`."""

    tokens_per_microbatch: int = 8192
    """Tokens, padding included, of one forward and backward pass; `credo sft` leaves padding out where a kind of model
    needs none. The gradients of the passes of a step are added up (gradient accumulation)."""
    gradient_checkpointing: bool = False
    """Policy and PRM keep the inputs of layers alone and compute the rest again in the backward pass: less memory, more
    time."""
    max_nonfinite_steps: int = 3
    """Optimiser steps skipped for a non-finite loss, log-ratio or gradient before the run stops."""

    def __post_init__(self) -> None:
        at_least(1, self, "training", "tokens_per_microbatch")
        at_least(0, self, "training", "max_nonfinite_steps")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Held-out problems, before and after training and every few steps."""

    sources: tuple[str, ...] = ()
    """Problems held out; those that also stand in `data.train` are taken out of training."""
    samples: int = 4
    """Responses to each problem (k of avg@k)."""
    temperature: float = 1.0
    """Sampling temperature; 0 is greedy."""
    every: int = 0
    """Also evaluate after every so many steps; 0 only before and after."""
    limit: int = 0
    """Use the first so many problems; 0 uses all."""

    def __post_init__(self) -> None:
        at_least(1, self, "evaluation", "samples")
        at_least(0, self, "evaluation", "temperature", "every", "limit")
        require(
            not (self.temperature == 0 and self.samples > 1),
            "evaluation.samples: greedy decoding gives the same response each time; set samples = 1 or a temperature.",
        )
        if not self.sources:
            options = ("samples", "temperature", "every", "limit")
            unread(self, "evaluation", *options, cause="without evaluation.sources")


@dataclass(frozen=True, kw_only=True)
class InstrumentsConfig:
    """Measurements of the PRM that cost sampling or a forward pass of their own."""

    every: int = 0
    """Take them after every so many steps; 0 never."""
    prefixes: int = 32
    """Stretches of responses of which the prefix check asks whether they changed the chance of success."""
    completions: int = 8
    """Completions sampled before and after each stretch."""

    def __post_init__(self) -> None:
        at_least(0, self, "instruments", "every")
        at_least(3, self, "instruments", "prefixes")
        at_least(1, self, "instruments", "completions")
        if self.every == 0:
            unread(self, "instruments", "prefixes", "completions", cause="with instruments.every = 0")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is kept on disk."""

    every: int = 10
    """Save after every so many steps (and always at the end and when stopped)."""
    keep: int = 2
    """Newest checkpoints kept; 0 keeps all."""
    best: int = 0
    """Besides these, as many of the best by `metric`; 0 keeps none for that."""
    metric: str = "eval/accuracy"
    """What a checkpoint is judged by: a number of evaluation.jsonl or metrics.jsonl at its step, the larger the better,
    or with a leading `-` the smaller, as in `-prm/loss`."""
    asynchronous: bool = False
    """Copy the state in memory and write it while training goes on: costs as much memory again as is written."""
    remote: str = ""
    """URL of a folder that fsspec reaches (`s3://bucket/runs`, `file:///mnt/runs`). There the run has a folder with a
    copy of its checkpoints, from which a new machine goes on; a copy that fails is made up for with the next one."""
    rollouts_every: int = 1
    """Write rollouts with their token rewards every so many steps; 0 never."""

    def __post_init__(self) -> None:
        at_least(1, self, "checkpoint", "every")
        at_least(0, self, "checkpoint", "keep", "best", "rollouts_every")
        named = re.fullmatch(r"-?[a-z]+/[^/\s]+", self.metric) is not None
        require(named, f"checkpoint.metric: expected a metric such as 'eval/accuracy', got '{self.metric}'.")
        require(
            not self.remote or "://" in self.remote,
            f"checkpoint.remote: expected a URL such as 's3://bucket/runs', got '{self.remote}'.",
        )
        if self.keep == 0:
            unread(self, "checkpoint", "best", cause="with checkpoint.keep = 0, which keeps all")
        if self.best == 0:
            unread(self, "checkpoint", "metric", cause="with checkpoint.best = 0")


@dataclass(frozen=True, kw_only=True)
class TuningCheckpointConfig(CheckpointConfig):
    """What is kept on disk, to go on from. `policy/` in a checkpoint is the model so far."""

    every: int = 500
    """Save after every so many steps (and always at the end and when stopped)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unread(self, "checkpoint", "rollouts_every", cause="in this command, which samples none")

    def check_best(self, prefix: str, validated: Collection[str], every: int) -> None:
        """Raises ValueError if no checkpoint would know its metric: one of ``prefix``, of which those of ``validated``
        are known after every so many steps alone."""
        metric = self.metric.removeprefix("-")
        if self.best == 0:
            return
        require(
            metric.startswith(f"{prefix}/"),
            f"checkpoint.metric: no {metric} is written here; choose one of {', '.join(sorted(validated))}, after a - "
            "where less is better.",
        )
        require(
            metric not in validated or (every > 0 and self.every % every == 0),
            f"checkpoint.best: no checkpoint would know its {metric}; hold something out, and let checkpoint.every be "
            f"a multiple of {prefix}.evaluate_every.",
        )
