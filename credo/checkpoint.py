"""Checkpoints that are whole or absent: written aside, hashed, renamed; a damaged one is refused by name.

A checkpoint holds ``policy/``, ``prm/`` and, where there are such, ``prm-average/`` as Hugging Face folders, the
adapters ``policy-adapter/`` and ``prm-adapter/`` as PEFT has them, and ``critic.pt``; ``optimizers.pt``, ``state.json``
(step, configuration, data stream, surplus groups) and ``manifest.json`` with the size and SHA-256 of every other file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from credo.models.causal import load_weights, save_model
from credo.models.critic import Critic
from credo.models.lora import has_adapter, load_adapter, merged, save_adapter
from credo.models.policy import Policy
from credo.models.prm import Prm

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ADAPTER = "-adapter"
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint on disk that has passed its manifest."""

    folder: Path
    step: int
    state: Mapping[str, Any]


def save(
    checkpoints: Path,
    step: int,
    *,
    policy: Policy,
    prm: Prm | None,
    critic: Critic | None = None,
    tokenizer: PreTrainedTokenizerFast,
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Writes ``step-000123`` below ``checkpoints``, then removes all but the newest ``keep`` (0 keeps all).

    A whole checkpoint of that step stays: made again it would be the same, and between removing and renaming there
    would be none. Raises RuntimeError if the disk refuses; the checkpoints already there stay.
    """
    final = checkpoints / f"step-{step:06d}"
    aside = final.with_suffix(".tmp")
    with suppress(ValueError):
        return read(final).folder
    try:
        shutil.rmtree(aside, ignore_errors=True)
        _write(aside, policy, prm, critic, tokenizer, {"step": step, **state})
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        _sync(checkpoints)
    except Exception as error:
        shutil.rmtree(aside, ignore_errors=True)
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise RuntimeError(
            f"The checkpoint of step {step} could not be written below {checkpoints}: {refusal}. "
            "Make room there and start again with --resume auto; the last whole checkpoint is untouched."
        ) from None
    _prune(final, keep)
    return final


def _write(
    aside: Path,
    policy: Policy,
    prm: Prm | None,
    critic: Critic | None,
    tokenizer: PreTrainedTokenizerFast,
    state: Mapping[str, Any],
) -> None:
    """The files of a checkpoint, their manifest last, all of them on the disk itself when this returns."""
    aside.mkdir(parents=True)
    _save_role(policy.model, tokenizer, aside / "policy")
    optimizers = {"policy": policy.optimizer.state(), "random": torch.get_rng_state()}
    if prm is not None:
        _save_role(prm.model, tokenizer, aside / "prm")
        optimizers["prm"] = prm.optimizer.state()
        if prm.average is not None:
            save_model(prm.average, tokenizer, aside / "prm-average")
    if critic is not None:
        with (aside / "critic.pt").open("wb") as file:
            torch.save(critic.state(), file)
    with (aside / "optimizers.pt").open("wb") as file:
        torch.save(optimizers, file)
    (aside / "state.json").write_text(json.dumps(state))
    manifest = {str(path.relative_to(aside)): _fingerprint(path) for path in _files(aside)}
    (aside / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in _files(aside):
        _sync(path)


def newest_whole(checkpoints: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that passes its manifest, or None if there is none at all.

    Damaged ones are named through ``warn``. Raises ValueError if there are only damaged ones.
    """
    damaged = []
    for folder in sorted(checkpoints.glob("step-??????"), reverse=True):
        try:
            return read(folder)
        except ValueError as error:
            warn(str(error))
            damaged.append(folder.name)
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
        state = json.loads((folder / "state.json").read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder} is not a whole checkpoint: {error}.") from None
    return Checkpoint(folder=folder, step=state["step"], state=state)


def restore(checkpoint: Checkpoint, *, policy: Policy, prm: Prm | None, critic: Critic | None = None) -> None:
    """Writes the weights and optimisers of ``checkpoint`` into ``policy``, ``prm`` and ``critic``.

    Raises ValueError if it was saved with other models than this run has.
    """
    folder = checkpoint.folder
    optimizers = torch.load(folder / "optimizers.pt", weights_only=True)
    averaged = prm is not None and prm.average is not None
    own_adapter = (folder / f"policy{ADAPTER}").exists()
    for option, here, saved in (
        ("prm.enabled", prm is not None, "prm" in optimizers),
        ("lora.rank", has_adapter(policy.model), own_adapter),
        ("prm.ema", averaged, (folder / "prm-average").exists()),
        ("advantage.estimator", critic is not None, (folder / "critic.pt").exists()),
    ):
        if here != saved:
            raise ValueError(
                f"The checkpoint {folder} was saved with another {option} than this run's; its state does not fit. "
                "Resume with the same, or start another run."
            )
    _load_role(policy.model, folder / "policy")
    policy.optimizer.restore(optimizers["policy"])
    if prm is not None:
        _load_role(prm.model, folder / "prm")
        prm.optimizer.restore(optimizers["prm"])
        if prm.average is not None:
            load_weights(prm.average, folder / "prm-average")
    if critic is not None:
        critic.restore(torch.load(folder / "critic.pt", weights_only=True))
    torch.set_rng_state(optimizers["random"])


def _save_role(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """A whole model that everyone can read, and beside it the adapter that learns, if one does."""
    save_model(merged(model), tokenizer, folder)
    if has_adapter(model):
        save_adapter(model, folder.with_name(folder.name + ADAPTER))


def _load_role(model: PreTrainedModel, folder: Path) -> None:
    """What learns of ``model``, as it was saved by :func:`_save_role`."""
    if has_adapter(model):
        load_adapter(model, folder.with_name(folder.name + ADAPTER))
    else:
        load_weights(model, folder)


def _prune(newest: Path, keep: int) -> None:
    """Removes all but ``keep`` checkpoints up to ``newest``; one of a later step is damaged and does not count."""
    saved = sorted(folder for folder in newest.parent.glob("step-??????") if folder.name <= newest.name)
    for folder in saved[:-keep] if keep else []:
        shutil.rmtree(folder, ignore_errors=True)


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


def _refusal(error: BaseException | None) -> str | None:
    """What the file system said if it is behind ``error``: torch and safetensors wrap that in errors of their own."""
    while error is not None:
        if isinstance(error, OSError) or "os error" in str(error):
            return str(error)
        error = error.__context__
    return None
