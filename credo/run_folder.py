"""The folder of a run: its lock, its files, and where a run that was stopped goes on.

What a run wrote after its last checkpoint belongs to steps that will be made again, so resuming cuts it off.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from credo.checkpoint import Checkpoint, newest_whole, read

METRICS, EVALUATION, CONFIG, LOG = "metrics.jsonl", "evaluation.jsonl", "config.toml", "log.txt"
MAY_CHANGE = ("run.name", "run.folder", "run.steps", "run.threads", "run.trackers", "checkpoint.", "evaluation.every")
"""Options that a resumed run may set anew: none of them changes a number of a step already made."""


class RunFolder:
    """Holds the lock on ``folder`` until its ``with`` block ends. Raises ValueError if another process holds it.

    With several ranks the first alone reads and writes; for the others it is a name.
    """

    def __init__(self, folder: Path, *, reads_only: bool = False) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self._lock = None
        if reads_only:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / ".lock").open("w")
        except OSError as error:
            raise ValueError(f"The run folder {folder} cannot be used: {error}.") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise ValueError(f"Another process is using the run folder {folder}; choose another --run.name.") from None

    def begin(
        self,
        resume: str,
        config: Mapping[str, Any],
        toml: str,
        warn: Callable[[str], None],
        *,
        may_change: tuple[str, ...] = MAY_CHANGE,
    ) -> Checkpoint | None:
        """The checkpoint to go on from, or None for a fresh start; the folder's files agree with it afterwards.

        ``resume`` is ``auto`` (go on if there is something to go on from), ``never`` (refuse a folder that has a run)
        or a checkpoint folder of any run. Raises ValueError if the configuration has changed but for ``may_change``.
        """
        checkpoint = newest_whole(self.checkpoints, warn) if self.checkpoints.is_dir() else None
        before = checkpoint.state["config"] if checkpoint else self._unsaved_config()
        if resume == "never" and before is not None:
            raise ValueError(f"{self.folder} already holds a run; choose another --run.name or use --resume auto.")
        if resume not in ("auto", "never"):
            if checkpoint is not None:
                raise ValueError(
                    f"{self.folder} already holds a run; to branch off {resume} choose another --run.name."
                )
            checkpoint = read(Path(resume))
        if before is not None:
            _refuse_changes(before, config, may_change)
        self._cut_after(checkpoint.step if checkpoint else -1)
        _replace(self.folder / CONFIG, toml)
        return checkpoint

    def recorded(self, key: str, resume: str = "auto") -> Any:
        """The option ``key`` of the run that ``resume`` goes on from (see :meth:`begin`); None for a fresh one."""
        before = read(Path(resume)).state["config"] if resume not in ("auto", "never") else self._config()
        return before.get(key)

    def append(self, name: str, values: Mapping[str, Any]) -> None:
        """One JSON line more in the file ``name``."""
        if self._lock is None:
            return
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """The JSON lines of the file ``name``; none if it is not there."""
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def write_rollouts(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """``rollouts/step-000012.jsonl``."""
        path = self.folder / "rollouts" / f"step-{step:06d}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def _unsaved_config(self) -> dict[str, Any] | None:
        """The configuration of a run that logged steps and left no checkpoint; None if there is none."""
        metrics = self.folder / METRICS
        begun = metrics.exists() and metrics.stat().st_size > 0
        return (self._config() or None) if begun else None

    def _config(self) -> dict[str, Any]:
        """The configuration that was last begun with here; empty if there is none."""
        path = self.folder / CONFIG
        sections = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return {f"{head}.{name}": value for head, values in sections.items() for name, value in values.items()}

    def _cut_after(self, step: int) -> None:
        for name in (METRICS, EVALUATION):
            path = self.folder / name
            if path.exists():
                kept = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
                _replace(path, "".join(line + "\n" for line in kept))
        for path in (self.folder / "rollouts").glob("step-*.jsonl"):
            if int(path.stem.removeprefix("step-")) > step:
                path.unlink()
        for path in self.checkpoints.glob("*.tmp"):
            shutil.rmtree(path, ignore_errors=True)


def _replace(path: Path, text: str) -> None:
    aside = path.with_suffix(".tmp")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def _step_of(line: str) -> int | float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")  # the line that was being written when the run was killed


def _refuse_changes(before: Mapping[str, Any], now: Mapping[str, Any], may_change: tuple[str, ...]) -> None:
    """Raises ValueError if a resumed run would not be the run that was stopped."""
    now = json.loads(json.dumps(now))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and not key.startswith(may_change):
            raise ValueError(
                f"{key} was {before.get(key)!r} when this run was started and is {now.get(key)!r} now; set it back or "
                "choose another --run.name (where credo train can branch off with --resume CHECKPOINT)."
            )
