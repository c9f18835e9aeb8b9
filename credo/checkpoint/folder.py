"""The folder of a checkpoint: its name, its manifest, and what makes it whole. It does not know what is in it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST, STATE = "manifest.json", "state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint on disk that has passed its manifest."""

    folder: Path
    step: int
    state: Mapping[str, Any]


def name_of(step: int) -> str:
    """``step-000123``."""
    return f"step-{step:06d}"


def step_of(name: str) -> int | None:
    """The step of a checkpoint of this name; None for anything else, such as one that is being written."""
    digits = name.removeprefix("step-")
    return int(digits) if digits.isdecimal() and name == name_of(int(digits)) else None


def steps_in(checkpoints: Path) -> list[int]:
    """The steps of which there are checkpoints, whole or damaged, in order."""
    found = (step_of(path.name) for path in checkpoints.iterdir()) if checkpoints.is_dir() else ()
    return sorted(step for step in found if step is not None)


def newest_whole(checkpoints: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that passes its manifest, or None if there is none at all.

    Damaged ones are named through ``warn``. Raises ValueError if there are only damaged ones.
    """
    damaged = []
    for step in reversed(steps_in(checkpoints)):
        try:
            return read(checkpoints / name_of(step))
        except ValueError as error:
            warn(str(error))
            damaged.append(name_of(step))
    if damaged:
        raise ValueError(
            f"No checkpoint in {checkpoints} is whole ({', '.join(damaged)}); start again in another folder "
            "(--run.name) or remove this one."
        )
    return None


def read(folder: Path) -> Checkpoint:
    """The checkpoint in ``folder``. Raises ValueError naming the file that is missing, cut short or altered."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        for name, expected in manifest.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != expected["bytes"] or _fingerprint(path) != expected:
                raise ValueError(f"The checkpoint {folder} is damaged: {name} is not what was saved.")
        state = json.loads((folder / STATE).read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder} is not a whole checkpoint: {error}.") from None
    return Checkpoint(folder=folder, step=state["step"], state=state)


def seal(aside: Path, final: Path) -> None:
    """Makes the files of ``aside`` the checkpoint ``final``: manifest, all on the disk itself, the name last."""
    manifest = {str(path.relative_to(aside)): _fingerprint(path) for path in _files(aside)}
    (aside / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in _files(aside):
        _sync(path)
    shutil.rmtree(final, ignore_errors=True)
    aside.rename(final)
    _sync(final.parent)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
