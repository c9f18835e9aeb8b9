"""A copy of a run's checkpoints wherever fsspec reaches, for machines that come without a disk of their own.

It holds what the folder of the run holds: ``checkpoints/``, configuration, and the files of JSON lines as they were by
then. A checkpoint's manifest comes last and goes first, so that half a copy is never a whole one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from credo.checkpoint.background import Background
from credo.checkpoint.folder import MANIFEST, name_of, read, step_of, steps_in
from credo.checkpoint.retention import retained
from credo.console import first_line

FETCHED = "fetched"
"""Beside the checkpoints: what has come of one so far, until all of it is here."""
RECORDS = ("*.jsonl", "*.toml")
"""Files beside the checkpoints without which the run could not go on as itself."""


class Remote:
    """The copy of the run in ``run`` below ``url``; nothing takes longer than ``limit`` seconds."""

    def __init__(self, url: str, run: Path, *, limit: float) -> None:
        """Raises ValueError for a URL that fsspec does not know or whose package is missing."""
        from fsspec.core import url_to_fs

        self.url, self.run, self.limit = f"{url.rstrip('/')}/{run.name}", run, limit
        try:
            self._files: Any
            self._files, self._root = url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ValueError(f"checkpoint.remote = '{url}' cannot be reached: {error}.") from error

    def fetch(self, warn: Callable[[str], None]) -> None:
        """Brings the newest whole checkpoint here, with the records of the run so far, if it is newer than those here.

        Damaged ones are named through ``warn``, and so is a remote that cannot be asked where the run can go on from
        its own. Raises ValueError if there are only damaged ones, or if it cannot be found out whether there are any.
        """
        newest, aside = max(steps_in(self.run / "checkpoints"), default=-1), self.run / "checkpoints" / FETCHED
        try:
            step = Background(partial(self._fetch, aside, warn, newest)).wait(self.limit)
        except ValueError:
            raise
        except Exception as error:
            said = f"Whether {self.url} holds a checkpoint to go on from could not be found out: {_said(error)}."
            if newest < 0:
                raise ValueError(
                    f"{said} What has come here so far is not sent again if you start again, with a longer "
                    "launch.timeout if it is only slow; leave checkpoint.remote empty to start anew."
                ) from error
            warn(f"{said} The run goes on from its own.")
            return
        if step is not None:
            for path in (aside / "records").iterdir():
                path.replace(self.run / path.name)
            (aside / "checkpoint").rename(aside.parent / name_of(step))
        shutil.rmtree(aside, ignore_errors=True)

    def follow(self, newest: int, worth: Mapping[int, float], *, keep: int, best: int) -> str:
        """Brings the copy up to date after the checkpoint of step ``newest``; returns what has prevented it, or "".

        What is left undone is done by the next call: all checkpoints here that are not there are copied.
        """
        try:
            Background(partial(self._follow, newest, worth, keep, best)).wait(self.limit)
        except Exception as error:
            return (
                f"The checkpoint of step {newest} could not be copied to {self.url}: {_said(error)}. It is tried again "
                "with the next one."
            )
        return ""

    def _fetch(self, aside: Path, warn: Callable[[str], None], newest: int) -> int | None:
        """The newest whole step after ``newest``, if there is one, which then lies in ``aside``. It writes there alone:
        whoever waits for it may have given it up, and the run may go on."""
        damaged, checkpoint, records = [], aside / "checkpoint", aside / "records"
        for step in reversed(self._steps()):
            if step <= newest:
                return None
            if not self._files.exists(self._at(step, MANIFEST)):
                continue
            manifest = self._files.cat_file(self._at(step, MANIFEST))
            if not (checkpoint / MANIFEST).exists() or (checkpoint / MANIFEST).read_bytes() != manifest:
                shutil.rmtree(checkpoint, ignore_errors=True)
                checkpoint.mkdir(parents=True)
                (checkpoint / MANIFEST).write_bytes(manifest)
            for path in self._files.find(self._at(step)):
                own = checkpoint / path.removeprefix(self._at(step)).lstrip("/")
                own.parent.mkdir(parents=True, exist_ok=True)
                if not own.exists() or own.stat().st_size != self._files.size(path):
                    self._files.get_file(path, str(own))
            try:
                read(checkpoint)
            except ValueError as error:
                warn(f"{error} It was fetched from {self.url}/checkpoints/{name_of(step)}.")
                damaged.append(name_of(step))
                shutil.rmtree(checkpoint)
                continue
            records.mkdir(exist_ok=True)
            for path in [path for kind in RECORDS for path in self._files.glob(f"{self._root}/{kind}")]:
                self._files.get_file(path, str(records / Path(path).name))
            return step
        if damaged:
            raise ValueError(
                f"No checkpoint in {self.url} is whole ({', '.join(damaged)}); start again with another run.name or "
                "remove this one."
            )
        return None

    def _follow(self, newest: int, worth: Mapping[int, float], keep: int, best: int) -> None:
        checkpoints = self.run / "checkpoints"
        here = [step for step in steps_in(checkpoints) if step <= newest]
        for step in reversed(here):
            self._send(checkpoints / name_of(step), step)
        there = [step for step in self._steps() if step <= newest]
        for step in set(there) - retained(there, worth, keep=keep, best=best) - set(here):
            self._remove(step)

    def _send(self, folder: Path, step: int) -> None:
        """Copies one checkpoint, unless it is there."""
        manifest = (folder / MANIFEST).read_bytes()
        there = self._at(step, MANIFEST)
        if self._files.exists(there) and self._files.cat_file(there) == manifest:
            return
        self._remove(step)
        files = {self._at(step, str(path.relative_to(folder))): path for path in folder.rglob("*") if path.is_file()}
        last = files.pop(there)
        files |= {f"{self._root}/{path.name}": path for kind in RECORDS for path in self.run.glob(kind)}
        for place, path in [*files.items(), (there, last)]:
            self._files.makedirs(place.rpartition("/")[0], exist_ok=True)
            self._files.put_file(str(path), place)

    def _remove(self, step: int) -> None:
        if self._files.exists(self._at(step, MANIFEST)):
            self._files.rm_file(self._at(step, MANIFEST))
        if self._files.exists(self._at(step)):
            self._files.rm(self._at(step), recursive=True)

    def _steps(self) -> list[int]:
        self._files.invalidate_cache()
        root = f"{self._root}/checkpoints"
        names = self._files.ls(root, detail=False) if self._files.exists(root) else []
        found = (step_of(name.rstrip("/").rpartition("/")[2]) for name in names)
        return sorted(step for step in found if step is not None)

    def _at(self, step: int, name: str = "") -> str:
        return f"{self._root}/checkpoints/{name_of(step)}" + (f"/{name}" if name else "")


def _said(error: BaseException) -> str:
    return first_line(error).rstrip(".")
