"""The options of ``credo export``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Policy and PRM of a checkpoint as Hugging Face folders, each with a model card.

    Writes DIR/policy and DIR/prm, loads both back and compares every weight before they get these names.
    """

    run: Path
    """The folder of a run of credo train."""
    to: Path | None = None
    """The folder to make, such as release/my-model."""
    step: int | None = None
    """The step of the checkpoint; unset is the newest that is whole."""
    best: bool = False
    """In place of a step the checkpoint that checkpoint.metric calls the best."""
    adapters: Literal["merged", "kept"] = "merged"
    """With lora.rank: whole models, or the adapters alone as PEFT reads them, to be put on model.path again."""
