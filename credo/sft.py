"""Supervised warm-up: cross-entropy on the responses of demonstrations. Writes ``runs/NAME/model``.

Every rank holds all demonstrations and a step's whole batch; only the passes through the model are divided.
"""

from __future__ import annotations

import math
import random
import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from credo.checkpoint import Remote, Saver, restore, worths
from credo.checkpoint.folder import name_of
from credo.config import DemonstrationConfig, SftConfig
from credo.console import Console, duration
from credo.data.batching import collate_demonstrations
from credo.data.demonstration_tokens import Pieces, encode, fingerprint, learnt_tokens, length
from credo.data.demonstrations import Demonstration, load_demonstrations, split_off, without
from credo.data.epochs import batches
from credo.dist.device import choose_device, set_threads
from credo.dist.world import World
from credo.interruption import Interruption
from credo.loggers import JsonlLogger, Loggers, tracker
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
from credo.models.optim import GradientStep, Optimizer, cosine
from credo.models.precision import with_compute_chosen
from credo.recipe import flat, to_toml
from credo.run_folder import CONFIG, LOG, METRICS, RunFolder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

LINE_EVERY = 5.0
"""Seconds between progress lines."""
MAY_CHANGE = ("run.name", "run.folder", "run.threads", "run.trackers", "checkpoint.", "sft.evaluate_every")
"""Options that a resumed run may set anew. Not its steps: the learning rate of each depends on their number."""


def sft(config: SftConfig, *, world: World | None = None) -> Path:
    """Collective. Tunes (or builds) the model of ``config`` on its demonstrations; returns the trained model's folder.

    A run that was stopped or killed goes on from its newest checkpoint, and a finished one of the same configuration is
    left alone. Raises ValueError for what the user can mend, RuntimeError for a run that cannot go on.
    """
    world = world or World(device=choose_device(config.run.device))
    path = Path(config.run.folder) / config.run.name
    target = path / "model"
    with (
        world.everywhere(lambda: RunFolder(path, reads_only=not world.is_first)) as folder,
        Interruption(world.any if world.size > 1 else None).listening() as interruption,
    ):
        console = Console(path / LOG, quiet=not world.is_first)
        config = world.first(lambda: with_compute_chosen(config, folder.recorded, console.say))
        if world.first(lambda: _is_finished(target, config)):
            console.say(f"{target} is there already, trained from this very recipe.")
            return target
        with closing(_Journal(config, folder, console, world)) as journal:
            _Training(config, console, world).run(journal, target, interruption)
    return target


@dataclass(frozen=True, slots=True, kw_only=True)
class _Learner:
    """What a checkpoint holds besides where the run stands."""

    model: PreTrainedModel
    optimizer: Optimizer


class _Journal:
    """The written side of a run."""

    def __init__(self, config: SftConfig, folder: RunFolder, console: Console, world: World) -> None:
        """Collective. Raises ValueError if what is in ``folder`` cannot be gone on with."""
        self.config, self.folder, self.console, self.world = config, folder, console, world
        url = config.checkpoint.remote
        remote = Remote(url, folder.folder, limit=world.timeout) if url else None
        if remote is not None:
            world.first(lambda: remote.fetch(console.warn))
        self.found = world.first(
            lambda: folder.begin("auto", flat(config), to_toml(config), console.warn, may_change=MAY_CHANGE)
        )
        self.saver = Saver(folder.checkpoints, config.checkpoint, world=world, remote=remote, warn=console.warn)
        self.logger = Loggers([])
        world.first(self._open_loggers)

    def restore(self, learner: _Learner, demonstrations: str) -> int:
        """Collective. Makes of ``learner`` what was saved last; the steps already made."""
        if self.found is None:
            return 0
        if self.found.state["demonstrations"] != demonstrations:
            raise ValueError(
                f"The demonstrations are not those with which the run of {self.found.folder} began; put them back, or "
                "choose another --run.name."
            )
        restore(self.found, policy=learner, prm=None)
        self.console.say(f"Resumed after step {self.found.step} from {self.found.folder}.")
        return self.found.step

    def save(self, step: int, learner: _Learner, tokenizer: PreTrainedTokenizerFast, demonstrations: str) -> None:
        """Collective. Writes a checkpoint of the finished ``step``."""
        best = self.config.checkpoint.best and self.world.is_first
        self.saver.save(
            step,
            policy=learner,
            prm=None,
            tokenizer=tokenizer,
            state={"config": flat(self.config), "demonstrations": demonstrations},
            worth=worths(self.folder.read_lines(METRICS), self.config.checkpoint.metric) if best else {},
        )

    def publish(self, step: int, target: Path) -> None:
        """Collective. The model of the checkpoint of ``step`` as ``target``, which is whole or absent."""
        self.saver.wait()
        self.world.first(lambda: _copy(self.folder.checkpoints / name_of(step) / "policy", target))
        self.console.say(f"The model is in {target}.")

    def close(self) -> None:
        """Writes what is held back."""
        with closing(self.logger):
            self.saver.close()

    def _open_loggers(self) -> None:
        run, folder = self.config.run, self.folder.folder
        trackers = [tracker(kind, run.name, folder, flat(self.config)) for kind in run.trackers]
        self.logger = Loggers([JsonlLogger(folder / METRICS), *trackers])


class _Training:
    """Model, demonstrations and optimiser of a run, and the loop over its steps."""

    def __init__(self, config: SftConfig, console: Console, world: World) -> None:
        """Collective. Raises ValueError for a model or demonstrations that cannot be used."""
        set_threads(config.run.threads)
        self.config, self.console, self.world = config, console, world
        self.compute: Compute = config.model.precision if config.model else "fp32"
        self.start = world.everywhere(lambda: _start(config, world))
        self.rows, self.held_out = world.everywhere(lambda: _encoded(config, self.start, console))
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
        self.learner = _Learner(model=model, optimizer=optimizer)
        self.progress = _Progress(console, self.steps)

    def run(self, journal: _Journal, target: Path, interruption: Interruption) -> None:
        """Collective. The steps from where the run stands to the last, and the model in ``target``; if it is
        interrupted, up to the next checkpoint alone."""
        settings, learnt_from = self.config.sft, fingerprint(self.rows)
        step = journal.restore(self.learner, learnt_from)
        if step == 0 and self.held_out:
            journal.logger.log(0, {"sft/held_out_loss": self._held_out_loss(0)})
        order = batches(self._shuffled, settings.batch, self.steps)
        for chosen in islice(order, step, None):
            metrics = self._step(step, [self.rows[row] for row in chosen])
            step += 1
            if self.held_out and (step % (settings.evaluate_every or self.steps) == 0 or step == self.steps):
                metrics["sft/held_out_loss"] = self._held_out_loss(step)
            journal.logger.log(step, metrics)
            stopping = self.world.any(interruption.requested)
            if stopping or step % self.config.checkpoint.every == 0 or step == self.steps:
                journal.save(step, self.learner, self.start.tokenizer, learnt_from)
            if stopping and step < self.steps:
                self.console.say(f"Stopped after step {step}; go on with the same command.")
                return
        journal.publish(step, target)

    def _shuffled(self, epoch: int) -> list[int]:
        """The numbers of all rows in the order of this epoch."""
        order = list(range(len(self.rows)))
        random.Random(f"{self.config.run.seed}:{epoch}").shuffle(order)
        return order

    def _step(self, done: int, rows: Sequence[Pieces]) -> dict[str, float]:
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
    def _held_out_loss(self, step: int) -> float:
        """Collective. Cross-entropy of the held-out response tokens, also said."""
        division, total = self._divided(self.held_out), torch.zeros((), dtype=torch.float64)
        with self.console.stage("held out", "demonstrations", len(self.held_out)) as advance:
            for turn, part in enumerate(division.parts):
                logprobs = self._logprobs(self.held_out, part)
                if turn < division.worked:
                    total -= logprobs.double().sum().cpu()
                advance(len(part) * self.world.size)
        loss = self.world.all_reduce(total, "sum").item() / learnt_tokens(self.held_out)
        self.console.say(f"after step {step}: held-out loss {loss:.4f} on {len(self.held_out):,} demonstrations")
        return loss

    def _logprobs(self, rows: Sequence[Pieces], part: Tensor) -> Float[Tensor, "B S"]:
        tokens, attention, mask = collate_demonstrations([rows[row] for row in part.tolist()], self.start.pad_id)
        return response_logprobs(self.learner.model, tokens, attention, mask, compute=self.compute)

    def _divided(self, rows: Sequence[Pieces]) -> Division:
        """Micro-batches of ``rows``, by their real tokens where the model needs no padding."""
        budget, packed = self.config.training.tokens_per_microbatch, self.start.model.config.model_type in PACKED
        return divided(torch.tensor([length(row) for row in rows]), budget, self.world, packed=packed)


class _Progress:
    """Lines that say how far the training is, how fast, and how long it will take."""

    def __init__(self, console: Console, steps: int) -> None:
        self.console, self.steps = console, steps
        self.made, self.tokens, self.seconds, self.said = 0, 0, 0.0, -math.inf

    def see(self, step: int, result: GradientStep, tokens: int, seconds: float) -> None:
        """Takes ``step`` down, and says so if it is time."""
        self.made, self.tokens, self.seconds = self.made + 1, self.tokens + tokens, self.seconds + seconds
        now = time.perf_counter()
        if now - self.said > LINE_EVERY or step == self.steps:
            self.said = now
            left = duration((self.steps - step) * self.seconds / self.made)
            speed = self.tokens / self.seconds
            self.console.say(f"step {step}/{self.steps}  loss {result.loss:.4f}  {speed:,.0f} tokens/s  {left} left")


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


def _copy(source: Path, target: Path) -> None:
    aside = target.with_suffix(".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source, aside)
    aside.rename(target)


def _is_finished(target: Path, config: SftConfig) -> bool:
    """Whether the run is over. Raises ValueError if it was another."""
    if not target.exists():
        return False
    recorded = target.parent / CONFIG
    if not recorded.exists() or recorded.read_text(encoding="utf-8") != to_toml(config):
        raise ValueError(f"{target} holds a model of another recipe; choose another --run.name.")
    return True
