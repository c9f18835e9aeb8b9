"""C is compiled where that can be done, and nothing breaks where it cannot."""

from __future__ import annotations

import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch

from credo.rollout import native
from credo.rollout.native import address, library
from tests.rollout.compiler import needs_compiler


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing was compiled before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "credo"


def compiled(*defined: str) -> object:
    return library.__wrapped__("drawing.c", "BLOCK=256", *defined)


def program(folder: Path, text: str) -> None:
    path = folder / "gcc"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@needs_compiler
def test_a_source_is_compiled_once(cache: Path, monkeypatch: pytest.MonkeyPatch):
    assert compiled() is not None
    assert compiled("BF16") is not None
    assert len(list(cache.iterdir())) == 2
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert compiled() is not None


@needs_compiler
@pytest.mark.parametrize("changed", ["text", "processor", "compiler", "damage"])
def test_what_was_kept_of_something_else_is_not_used(
    changed: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert compiled() is not None
    (kept,) = cache.iterdir()
    if changed == "text":
        shutil.copytree(
            native.SOURCES, tmp_path / "sources", ignore=lambda _, names: [n for n in names if n[-1] not in "ch"]
        )
        with (tmp_path / "sources" / "vectors.h").open("a") as text:
            text.write("/* and more */\n")
        monkeypatch.setattr(native, "SOURCES", tmp_path / "sources")
    if changed == "processor":
        monkeypatch.setattr(native, "_processor", lambda: ["another"])
    if changed == "compiler":
        monkeypatch.setattr(native.os.path, "realpath", lambda _: "another")
    if changed == "damage":
        kept.write_bytes(b"no library")
    assert compiled() is not None
    assert len(list(cache.iterdir())) == (1 if changed == "damage" else 2)
    assert kept.read_bytes() != b"no library"


@needs_compiler
def test_without_an_absolute_place_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert compiled() is not None
    assert not list(tmp_path.iterdir())


@needs_compiler
def test_what_cannot_be_finished_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(native.os, "fsync", full)
    assert compiled() is not None
    assert not list(cache.iterdir())


@needs_compiler
def test_where_nothing_can_be_kept_it_is_compiled_each_time(cache: Path):
    cache.parent.write_text("no folder")
    assert compiled() is not None
    assert compiled() is not None


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
