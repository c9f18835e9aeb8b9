"""C is compiled where that can be done, and nothing breaks where it cannot."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

import pytest
import torch

from credo.rollout import native
from credo.rollout.native import address, library
from tests.rollout.compiler import needs_compiler


def compiled() -> object:
    return library.__wrapped__("drawing.c")


def program(folder: Path, text: str) -> None:
    path = folder / "gcc"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@needs_compiler
def test_a_source_is_compiled_once():
    assert library("drawing.c") is not None
    assert library("drawing.c") is library("drawing.c")
    assert library("drawing.c", "BF16") is not library("drawing.c")


@pytest.mark.parametrize("text", ["exit 1", "exit 0", "sleep 60", 'for last; do :; done; echo wrong > "$last"'])
def test_without_a_compiler_that_works_there_is_no_library(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(native, "SECONDS", 1)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    program(tmp_path, text)
    assert compiled() is None


def test_without_any_compiler_there_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiled() is None


@needs_compiler
def test_without_a_place_for_files_there_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert compiled() is None


def test_numbers_that_c_would_misread_are_refused():
    whole = torch.zeros(4, 6)
    assert address(whole, torch.float32) == whole.data_ptr()
    for wrong in (whole.T, whole.double(), whole[:, :3], whole.to("meta")):
        with pytest.raises(ValueError, match="given"):
            address(wrong, torch.float32)
