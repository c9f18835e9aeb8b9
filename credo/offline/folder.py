"""The folder of an offline implicit PRM: a Hugging Face folder with ``prm.json``, which says how it is to be read.

Nothing here trains or scores. A folder without ``prm.json`` is a PRM too; whoever uses it has to name its reference.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from credo.config import Template
from credo.data.prompts import render
from credo.models.causal import CausalModel, fingerprint, load_model, save_model
from credo.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RECORD, CARD = "prm.json", "REPORT.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompting:
    """How prompts are written: see :func:`credo.data.prompts.render`."""

    template: Template = "auto"
    system: str = ""
    suffix: str = ""

    def render(self, prompt: str | tuple[Message, ...], tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        """The token ids of ``prompt``."""
        return render(prompt, tokenizer, template=self.template, system=self.system, suffix=self.suffix)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrmRecord:
    """What belongs to the weights of an implicit PRM."""

    beta: float
    loss: str
    reference: str
    """Where the reference was loaded from."""
    reference_sha256: str
    """The fingerprint of its weights (:func:`credo.models.causal.fingerprint`)."""
    prompting: Prompting
    steps: int
    """Optimiser steps made."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """The data it has seen: sources, hash, counts."""
    held_out: Mapping[str, Any] = field(default_factory=dict)
    """Its figures on problems it has not seen; empty if it was stopped before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPrm:
    """A PRM to score with."""

    start: CausalModel
    """pi_phi and the tokenizer."""
    reference: PreTrainedModel | None
    """pi_ref; None scores by log pi_phi alone."""
    record: PrmRecord | None


def write_prm(folder: Path, start: CausalModel, record: PrmRecord, card: str) -> None:
    """The PRM as a folder, whole or not at all: written aside and renamed."""
    aside = folder.with_name(f"{folder.name}.tmp")
    save_model(start.model, start.tokenizer, aside)
    write_record(aside, record)
    (aside / CARD).write_text(card, encoding="utf-8")
    aside.rename(folder)


def write_record(folder: Path, record: PrmRecord) -> None:
    """Writes ``prm.json`` into ``folder``."""
    text = json.dumps(_plain({"format": 1, **asdict(record)}), indent=1)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def read_record(path: str) -> PrmRecord | None:
    """What ``prm.json`` in the folder ``path`` says; None where there is none. ValueError if it is damaged."""
    file = Path(path).expanduser() / RECORD
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values.pop("format") != 1:
            raise ValueError("another format")
        return PrmRecord(**{**values, "prompting": Prompting(**values["prompting"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is damaged or of another version ({error}); train the PRM again.") from error


def load_prm(path: str, reference: str, *, device: str, warn: Any = print) -> LoadedPrm:
    """The PRM at ``path`` with its ``reference``: a model, ``none``, or ``auto`` for the one that ``prm.json`` names.

    Raises ValueError if that one is gone or has other weights now, and for a reference with another tokenizer.
    """
    record = read_record(path)
    start = load_model(path, key="--prm", device=device)
    start.model.requires_grad_(False)
    if reference == "none":
        return LoadedPrm(start=start, reference=None, record=record)
    if reference == "auto" and record is None:
        raise ValueError(
            f"{path} has no {RECORD}, which would name its reference; give --reference MODEL, or none to score without."
        )
    chosen = cast(PrmRecord, record).reference if reference == "auto" else reference
    frozen = load_model(chosen, key="--reference", device=device)
    frozen.model.requires_grad_(False)
    if frozen.tokenizer.get_vocab() != start.tokenizer.get_vocab():
        raise ValueError(
            f"--prm {path} and its reference {chosen} have different tokenizers; log-ratios compare tokens."
        )
    if record is not None and fingerprint(frozen) != record.reference_sha256:
        if reference == "auto":
            raise ValueError(
                f"The weights of {chosen} are not those that {path} was trained against; put them back, or name its "
                "reference by --reference."
            )
        warn(f"{chosen} is not the reference that {path} was trained against.")
    return LoadedPrm(start=start, reference=frozen.model, record=record)


def _plain(value: Any) -> Any:
    """``value`` as JSON has it: what is not a number becomes null."""
    match value:
        case dict():
            return {key: _plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value
