"""Checkpoints that are whole or absent: written aside, hashed, renamed; a damaged one is refused by name.

A checkpoint ``step-000123`` holds ``policy/``, ``prm/`` and, where there are such, ``prm-average/`` as Hugging Face
folders, the adapters ``policy-adapter/`` and ``prm-adapter/`` as PEFT has them; ``optimizers/``, the moments and the
critic as ``torch.distributed.checkpoint`` writes them, each rank its part; ``state.json`` (step, configuration, data
stream, surplus groups) and ``manifest.json`` with the size and SHA-256 of every other file.
"""

from __future__ import annotations

from credo.checkpoint.folder import MANIFEST, Checkpoint, newest_whole, read
from credo.checkpoint.remote import Remote
from credo.checkpoint.retention import worths
from credo.checkpoint.saver import Saver, fetched
from credo.checkpoint.snapshot import restore

__all__ = ["MANIFEST", "Checkpoint", "Remote", "Saver", "fetched", "newest_whole", "read", "restore", "worths"]
