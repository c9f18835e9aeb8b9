"""Files written for a test, and a small tokenizer with one token per character."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Write = Callable[..., str]


@pytest.fixture
def jsonl(tmp_path: Path) -> Write:
    """``jsonl(rows, name)`` writes the rows, bytes as they are and everything else as JSON, and gives the path."""

    def write(rows: list[Any], name: str = "train.jsonl") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows))
        return str(path)

    return write
