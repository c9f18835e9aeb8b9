"""Writes the checkpoints of a run, at once or beside the training, and removes those that need not stay."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from credo.checkpoint.background import Background
from credo.checkpoint.folder import name_of, read, seal, steps_in
from credo.checkpoint.remote import Remote
from credo.checkpoint.retention import retained
from credo.checkpoint.snapshot import Buffers, Learner, Snapshot, as_it_is, see, take
from credo.config import CheckpointConfig
from credo.dist.world import World
from credo.models.critic import Critic
from credo.models.division import ALONE
from credo.models.prm import Prm

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from transformers import PreTrainedTokenizerFast


PATIENCE = 0.9
"""Of the time that the other ranks wait for one: it is to tell them what it waited for."""


class Saver:
    """The writing side of ``checkpoints``, which all ranks see. Each rank has one, and all call it alike."""

    def __init__(
        self,
        checkpoints: Path,
        config: CheckpointConfig,
        *,
        world: World = ALONE,
        remote: Remote | None = None,
        warn: Callable[[str], None] = print,
    ) -> None:
        """Collective. ``warn`` hears in the thread of the caller what did not stop the run."""
        self.checkpoints, self.config, self.world, self.remote = checkpoints, config, world, remote
        self._warn = warn
        self._warnings: list[str] = []
        self._writing: Background | None = None
        self._buffers = Buffers() if config.asynchronous else None
        self._group = _own_group(world) if config.asynchronous and world.size > 1 else None

    def save(
        self,
        step: int,
        *,
        policy: Learner,
        prm: Prm | None,
        critic: Critic | None = None,
        tokenizer: PreTrainedTokenizerFast,
        state: Mapping[str, Any],
        worth: Mapping[int, float] | None = None,
    ) -> Path:
        """Collective. Writes ``step-000123``, then removes all but the newest and, by ``worth``, the best.

        A whole checkpoint of that step stays: made again it would be the same, and between removing and renaming there
        would be none. If ``asynchronous``, this only copies the state, and what goes wrong is raised by the next call.
        Raises RuntimeError if a disk refuses; the checkpoints already there stay.
        """
        self.wait()
        with self.world.stage("saving a checkpoint"):
            if self.world.first(partial(self._is_whole, step)):
                return self._final(step)
            snapshot = take(
                policy=policy,
                prm=prm,
                critic=critic,
                tokenizer=tokenizer,
                state={"step": step, **state},
                world=self.world,
                hold=as_it_is if self._buffers is None else self._buffers.copied,
            )
            self.world.first(partial(self._begin, step))
            self.world.everywhere(partial(see, self._aside(step)))
            work = partial(self._write, step, snapshot, dict(worth or {}))
            if self.config.asynchronous:
                self._writing = Background(work)
            else:
                self.world.everywhere(work)
                self._say()
        return self._final(step)

    def wait(self) -> None:
        """Collective. Returns when nothing is being written. Raises RuntimeError if the last save came to nothing."""
        writing, self._writing = self._writing, None
        if writing is not None:
            with self.world.stage("waiting for a checkpoint"):
                self.world.everywhere(partial(self._finish, writing))
        self._say()

    def close(self) -> None:
        """Waits for what this rank is writing, however the run has ended. Raises as :meth:`wait`."""
        writing, self._writing = self._writing, None
        if writing is not None:
            self._finish(writing)
        self._say()

    def _finish(self, writing: Background) -> None:
        try:
            writing.wait(PATIENCE * self.world.timeout)
        except TimeoutError as error:
            raise RuntimeError(
                f"A checkpoint below {self.checkpoints} was not written in time: {error}. The last whole one is "
                "untouched; if the disk is only slow, raise launch.timeout."
            ) from None

    def _final(self, step: int) -> Path:
        return self.checkpoints / name_of(step)

    def _aside(self, step: int) -> Path:
        return self._final(step).with_suffix(".tmp")

    def _is_whole(self, step: int) -> bool:
        with suppress(ValueError):
            read(self._final(step))
            return True
        return False

    def _begin(self, step: int) -> None:
        with self._explained(step):
            shutil.rmtree(self._aside(step), ignore_errors=True)
            self._aside(step).mkdir(parents=True)

    def _write(self, step: int, snapshot: Snapshot, worth: Mapping[int, float]) -> None:
        with self._explained(step):
            snapshot.write(self._aside(step), self.world, self._group)
            if self.world.is_first:
                seal(self._aside(step), self._final(step))
        if self.world.is_first:
            self._prune(step, worth)
            if self.remote is not None:
                failure = self.remote.follow(step, worth, keep=self.config.keep, best=self.config.best)
                self._warnings += [failure] if failure else []

    def _prune(self, newest: int, worth: Mapping[int, float]) -> None:
        """One of a later step than ``newest`` is damaged and does not count."""
        steps = [step for step in steps_in(self.checkpoints) if step <= newest]
        dropped = set(steps) - retained(steps, worth, keep=self.config.keep, best=self.config.best)
        if self.config.best and dropped and not worth:
            self._warnings.append(f"No step has a {self.config.metric} yet: checkpoint.best keeps nothing.")
        for step in dropped:
            shutil.rmtree(self._final(step), ignore_errors=True)

    def _say(self) -> None:
        while self._warnings:
            self._warn(self._warnings.pop(0))

    @contextmanager
    def _explained(self, step: int) -> Iterator[None]:
        """Leaves nothing half written, and turns what a disk refuses into a sentence."""
        try:
            yield
        except Exception as error:
            if self.world.is_first:
                shutil.rmtree(self._aside(step), ignore_errors=True)
            refusal = _refusal(error)
            if refusal is None:
                raise
            raise RuntimeError(
                f"The checkpoint of step {step} could not be written below {self.checkpoints}: {refusal}. "
                "Make room there and start again with --resume auto; the last whole checkpoint is untouched."
            ) from None


def fetched(config: CheckpointConfig, run: Path, world: World, warn: Callable[[str], None]) -> Remote | None:
    """Collective. The copy of ``run`` elsewhere, if there is one, after its ``fetch``; raises what that does."""
    # Half of what the others wait for the first rank, which alone asks it.
    remote = Remote(config.remote, run, limit=world.timeout / 2) if config.remote else None
    if remote is not None:
        world.first(partial(remote.fetch, warn))
    return remote


def _own_group(world: World) -> ProcessGroup:
    """Collective. What threads that write agree through, while the training talks through the default group."""
    from torch.distributed import new_group

    return new_group(backend="gloo", timeout=timedelta(seconds=world.timeout))  # pyright: ignore[reportReturnType]


def _refusal(error: BaseException | None) -> str | None:
    """What the file system said if it is behind ``error``: torch and safetensors wrap that in errors of their own."""
    while error is not None:
        if isinstance(error, OSError) or "os error" in str(error):
            return str(error)
        error = error.__context__
    return None
