"""``prm.json``: what belongs to the weights of an offline implicit PRM, and says how they are to be read.

A folder without it is a PRM too; whoever uses it has to name its reference.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from credo.config import Template
from credo.data.prompts import render
from credo.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RECORD = "prm.json"


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


def found_anywhere(path: str) -> str:
    """The model ``path`` so named that it is found from any folder: a local one by its whole path."""
    return str(local.resolve()) if (local := Path(path).expanduser()).exists() else path


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
