"""Supervised warm-up: cross-entropy on the responses of demonstrations. Writes ``runs/NAME/model``.

Every rank holds all demonstrations and a step's whole batch; only the passes through the model are divided.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from credo.config import DemonstrationConfig, SftConfig
from credo.console import Console
from credo.data.batching import collate_demonstrations
from credo.data.demonstration_tokens import Pieces, encode, fingerprint, learnt_tokens, length
from credo.data.demonstrations import Demonstration, load_demonstrations, split_off, without
from credo.data.epochs import batches
from credo.dist.device import choose_device, set_threads
from credo.dist.world import World
from credo.models.causal import (
    PACKED,
    CausalModel,
    Compute,
    build_model,
    load_model,
    recompute_layers,
    response_logprobs,
    shard_model,
)
from credo.models.division import Division, divided
from credo.models.optim import Optimizer, cosine
from credo.tuning import Learner, Progress, tune


def sft(config: SftConfig, *, world: World | None = None) -> Path:
    """Collective. Tunes (or builds) the model of ``config`` on its demonstrations; returns the trained model's folder.

    It goes on, and raises, as :func:`credo.tuning.tune` says.
    """
    world = world or World(device=choose_device(config.run.device))
    return tune(config, "model", lambda config, journal: _Sft(config, journal.console, world), world=world)


class _Sft:
    """Model, demonstrations and optimiser of a run."""

    def __init__(self, config: SftConfig, console: Console, world: World) -> None:
        """Collective. Raises ValueError for a model or demonstrations that cannot be used."""
        set_threads(config.run.threads)
        self.config, self.console, self.world = config, console, world
        self.compute: Compute = config.model.precision if config.model else "fp32"
        self.start = world.everywhere(lambda: _start(config, world))
        self.rows, self.held_out = world.everywhere(lambda: _encoded(config, self.start, console))
        self.tokenizer, self.learnt_from = self.start.tokenizer, fingerprint(self.rows)
        self.evaluate_every = config.sft.evaluate_every
        self.steps = config.run.steps or math.ceil(config.sft.epochs * len(self.rows) / config.sft.batch)
        parameters = self.start.model.num_parameters()
        console.say(f"{len(self.rows):,} demonstrations, {parameters:,} parameters, {self.steps:,} steps.")
        model = shard_model(self.start.model, world, self.compute)
        optimizer = Optimizer(
            model.parameters(),
            lr=config.sft.lr,
            schedule=cosine(round(config.sft.lr_warmup * self.steps), self.steps),
            weight_decay=config.sft.weight_decay,
            max_grad_norm=config.sft.max_grad_norm,
        )
        self.learner = Learner(model=model, optimizer=optimizer)
        self.progress = Progress(console, self.steps)

    def batches(self) -> Iterator[list[Pieces]]:
        """The demonstrations of each step."""
        for chosen in batches(self._shuffled, self.config.sft.batch, self.steps):
            yield [self.rows[row] for row in chosen]

    def _shuffled(self, epoch: int) -> list[int]:
        """The numbers of all rows in the order of this epoch."""
        order = list(range(len(self.rows)))
        random.Random(f"{self.config.run.seed}:{epoch}").shuffle(order)
        return order

    def step(self, done: int, rows: Sequence[Pieces]) -> dict[str, float]:
        """Collective. One optimiser step on ``rows``; its metrics."""
        started = time.perf_counter()
        optimizer, count = self.learner.optimizer, learnt_tokens(rows)

        def loss_of(part: Tensor) -> Tensor:
            return -self._logprobs(rows, part).sum() / count

        result = optimizer.descend(self._divided(rows), loss_of)
        if result.skipped:
            raise RuntimeError(f"Step {done + 1} gave a non-finite loss or gradient; lower sft.lr.")
        seconds, tokens = time.perf_counter() - started, sum(map(length, rows))
        self.progress.see(done + 1, result, tokens, seconds)
        return {
            "sft/loss": result.loss,
            "sft/grad_norm": result.grad_norm,
            "sft/lr": optimizer.lr * optimizer.schedule(done),
            "sft/epoch": (done + 1) * self.config.sft.batch / len(self.rows),
            "sft/tokens": float(tokens),
            "time/step": seconds,
        }

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """Collective. Cross-entropy of the held-out response tokens, also said; nothing where none are held out."""
        if not self.held_out:
            return {}
        division, total = self._divided(self.held_out), torch.zeros((), dtype=torch.float64)
        with self.console.stage("held out", "demonstrations", len(self.held_out)) as advance:
            for turn, part in enumerate(division.parts):
                logprobs = self._logprobs(self.held_out, part)
                if turn < division.worked:
                    total -= logprobs.double().sum().cpu()
                advance(len(part) * self.world.size)
        loss = self.world.all_reduce(total, "sum").item() / learnt_tokens(self.held_out)
        self.console.say(f"after step {step}: held-out loss {loss:.4f} on {len(self.held_out):,} demonstrations")
        return {"sft/held_out_loss": loss}

    def complete(self, folder: Path) -> None:
        """The model is all."""

    def _logprobs(self, rows: Sequence[Pieces], part: Tensor) -> Float[Tensor, "B S"]:
        tokens, attention, mask = collate_demonstrations([rows[row] for row in part.tolist()], self.start.pad_id)
        return response_logprobs(self.learner.model, tokens, attention, mask, compute=self.compute)

    def _divided(self, rows: Sequence[Pieces]) -> Division:
        """Micro-batches of ``rows``, by their real tokens where the model needs no padding."""
        budget, packed = self.config.training.tokens_per_microbatch, self.start.model.config.model_type in PACKED
        return divided(torch.tensor([length(row) for row in rows]), budget, self.world, packed=packed)


def _start(config: SftConfig, world: World) -> CausalModel:
    device = "cpu" if world.sharded else world.device
    if config.model is not None:
        start = load_model(config.model.path, device=device)
    else:
        assert config.architecture is not None
        start = build_model(config.architecture, seed=config.run.seed, device=device)
    if config.training.gradient_checkpointing:
        recompute_layers(start.model)
    return start


def _encoded(config: SftConfig, start: CausalModel, console: Console) -> tuple[list[Pieces], list[Pieces]]:
    """What is learnt and what is held out, in tokens. Raises ValueError if nothing is left of either."""
    settings = config.sft
    made: list[list[Pieces]] = []
    for name, demonstrations in zip(("sources", "held_out"), _split(settings, config.run.seed, console), strict=True):
        with console.stage("reading", "demonstrations", len(demonstrations)) as advance:
            rows, truncated = encode(demonstrations, settings, start.tokenizer, ends=start.eos_ids, advance=advance)
        dropped = len(demonstrations) - len(rows)
        if truncated or dropped:
            console.warn(
                f"{truncated + dropped:,} of {len(demonstrations):,} demonstrations of sft.{name} are longer than "
                f"sft.max_tokens = {settings.max_tokens:,}: {truncated:,} truncated, {dropped:,} dropped."
            )
        if demonstrations and not rows:
            raise ValueError(f"No demonstration of sft.{name} is within sft.max_tokens = {settings.max_tokens:,}.")
        made.append(rows)
    return made[0], made[1]


def _split(
    settings: DemonstrationConfig, seed: int, console: Console
) -> tuple[list[Demonstration], list[Demonstration]]:
    """What is learnt and what is held out, which have no prompt in common."""
    load = partial(load_demonstrations, max_bad_share=settings.max_bad_share, warn=console.warn)
    demonstrations = load(settings.sources)
    if not settings.holds_out:
        return demonstrations, []
    if settings.held_out:
        held_out = load(settings.held_out)
        training = without(demonstrations, held_out)
    else:
        training, held_out = split_off(demonstrations, settings.held_out_share, seed)
    console.say(f"{len(demonstrations) - len(training):,} of {len(demonstrations):,} demonstrations are held out.")
    return training, held_out
