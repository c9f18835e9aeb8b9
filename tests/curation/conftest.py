"""Rows written for a test, and entries without a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Rows = Callable[..., Path]


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    """``rows(*contents, name=)`` writes a JSONL file; text stands in it as it is, all else as JSON."""

    def write(*contents: Any, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        lines = (content if isinstance(content, str) else json.dumps(content) for content in contents)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write
