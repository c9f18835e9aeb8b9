"""Runs that tune one model by one optimiser: what they write, where they go on, and the folder of the model they leave.

Every rank holds all that is learnt from and a step's whole batch; only the passes through the model are divided.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from credo.checkpoint import Saver, fetched, restore, worths
from credo.checkpoint.folder import name_of, steps_in
from credo.config import PrmTrainingConfig, SftConfig
from credo.console import Console, duration
from credo.dist.world import World
from credo.interruption import Interrupted, Interruption
from credo.loggers import Loggers
from credo.models.optim import GradientStep, Optimizer
from credo.models.precision import with_compute_chosen
from credo.recipe import flat, to_toml
from credo.run_folder import CONFIG, LOG, METRICS, RunFolder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

LINE_EVERY = 5.0
"""Seconds between progress lines."""
MAY_CHANGE = ("run.name", "run.folder", "run.threads", "run.trackers", "checkpoint.")
MAY_CHANGE += ("sft.evaluate_every", "offline.evaluate_every")
"""Options that a resumed run may set anew. Not its steps: the learning rate of each depends on their number."""
Config = TypeVar("Config", SftConfig, PrmTrainingConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """What a checkpoint holds besides where the run stands."""

    model: PreTrainedModel
    optimizer: Optimizer


@runtime_checkable
class Tuning(Protocol):
    """What is tuned, and how."""

    learner: Learner
    tokenizer: PreTrainedTokenizerFast
    steps: int
    evaluate_every: int
    """Steps between two validations on the way; 0 for none."""
    learnt_from: str
    """The fingerprint of what it learns from."""

    def batches(self) -> Iterator[Any]:
        """What each step learns from."""
        ...

    def step(self, done: int, batch: Any, /) -> dict[str, float]:
        """Collective. One optimiser step after ``done`` others; its metrics."""
        ...

    def validate(self, step: int) -> dict[str, float]:
        """Collective. Metrics of the model after ``step`` steps on what it does not learn from; maybe none."""
        ...

    def complete(self, folder: Path) -> None:
        """Writes into the ``folder`` of the finished model what belongs to it, on the first rank."""
        ...


def tune(config: Config, name: str, make: Callable[[Config, Journal], Tuning], *, world: World) -> Path:
    """Collective. Runs what ``make`` makes of ``config``; returns the model's folder, which is ``name`` in the run's.

    A run that was stopped or killed goes on from its newest checkpoint, and a finished one of the same configuration is
    left alone. Raises ValueError for what the user can mend, RuntimeError for a run that cannot go on.
    """
    path = Path(config.run.folder) / config.run.name
    target = path / name
    with (
        world.bounded(),
        world.everywhere(lambda: RunFolder(path, reads_only=not world.is_first)) as folder,
        Interruption(world.any if world.size > 1 else None).listening() as interruption,
    ):
        console = Console(path / LOG, quiet=not world.is_first)
        config = world.first(lambda: with_compute_chosen(config, folder.recorded, console.say))
        if world.first(lambda: _is_finished(target, config)):
            console.say(f"{target} is there already, trained from this very recipe.")
            return target
        with closing(Journal(config, folder, console, world)) as journal:
            try:
                with interruption.allowed():
                    tuning = make(config, journal)
            except Interrupted:
                console.say("Stopped before it came to a step; start again with the same command.")
                return target
            if learn(tuning, journal, interruption):
                journal.publish(target, tuning.complete)
                console.say(f"The model is in {target}.")
    return target


def learn(tuning: Tuning, journal: Journal, interruption: Interruption) -> bool:
    """Collective. The steps from where the run stands to the last. False if it was interrupted before that; a
    checkpoint is written then."""
    step, steps, world = journal.restore(tuning), tuning.steps, journal.world
    if step == 0 and (found := tuning.validate(0)):
        world.first(partial(journal.logger.log, 0, found))
    if step == steps:
        tuning.validate(steps)  # it was killed with all steps made; the model's folder wants the figures
    for batch in islice(tuning.batches(), step, None):
        with world.stage("learning"):
            metrics = tuning.step(step, batch)
            step += 1
            if step % (tuning.evaluate_every or steps) == 0 or step == steps:
                metrics |= tuning.validate(step)
            world.first(partial(journal.logger.log, step, metrics))
        stopping = world.any(interruption.requested)
        if stopping or step % journal.config.checkpoint.every == 0 or step == steps:
            journal.save(step, tuning)
        if stopping and step < steps:
            journal.console.say(f"Stopped after step {step}; go on with the same command.")
            return False
    return True


class Journal:
    """The written side of a run."""

    def __init__(self, config: SftConfig | PrmTrainingConfig, folder: RunFolder, console: Console, world: World):
        """Collective. Raises ValueError if what is in ``folder`` cannot be gone on with."""
        self.config, self.folder, self.console, self.world = config, folder, console, world
        remote = fetched(config.checkpoint, folder.folder, world, console.warn)
        self.found = world.first(
            lambda: folder.begin("auto", flat(config), to_toml(config), console.warn, may_change=MAY_CHANGE)
        )
        self.saver = Saver(folder.checkpoints, config.checkpoint, world=world, remote=remote, warn=console.warn)
        self.logger = Loggers([])
        world.first(lambda: self.logger.begin(folder.folder / METRICS, config.run, flat(config)))

    def restore(self, tuning: Tuning) -> int:
        """Collective. Makes of the learner what was saved last; the steps already made.

        Raises ValueError if it learns from something else than it did then.
        """
        if self.found is None:
            return 0
        if self.found.state.get("learnt_from") != tuning.learnt_from:
            raise ValueError(
                f"What is learnt from is not what the run of {self.found.folder} began with; put it back, or choose "
                "another --run.name."
            )
        self.world.everywhere(partial(restore, self.found, policy=tuning.learner, prm=None))
        self.console.say(f"Resumed after step {self.found.step} from {self.found.folder}.")
        return self.found.step

    def save(self, step: int, tuning: Tuning) -> None:
        """Collective. Writes a checkpoint of the finished ``step``."""
        best = self.config.checkpoint.best and self.world.is_first
        self.saver.save(
            step,
            policy=tuning.learner,
            prm=None,
            tokenizer=tuning.tokenizer,
            state={"config": flat(self.config), "learnt_from": tuning.learnt_from},
            worth=worths(self.folder.read_lines(METRICS), self.config.checkpoint.metric) if best else {},
        )

    def publish(self, target: Path, complete: Callable[[Path], None]) -> None:
        """Collective. The model of the newest checkpoint as ``target``, which is whole or absent."""
        self.saver.wait()
        self.world.first(lambda: _copy(self.folder.checkpoints, target, complete))

    def close(self) -> None:
        """Writes what is held back."""
        with closing(self.logger):
            self.saver.close()


class Progress:
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


def _copy(checkpoints: Path, target: Path, complete: Callable[[Path], None]) -> None:
    newest, aside = max(steps_in(checkpoints)), target.with_suffix(".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(checkpoints / name_of(newest) / "policy", aside)
    complete(aside)
    aside.rename(target)


def _is_finished(target: Path, config: SftConfig | PrmTrainingConfig) -> bool:
    """Whether the run is over. Raises ValueError if it was another."""
    if not target.exists():
        return False
    recorded = target.parent / CONFIG
    if not recorded.exists() or recorded.read_text(encoding="utf-8") != to_toml(config):
        raise ValueError(f"{target} holds a model of another recipe; choose another --run.name.")
    return True
