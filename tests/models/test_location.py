"""What a model's path may be, and what it may not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from credo.models.location import resolve_path


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("./nowhere", "neither a model folder nor a hub id"),
        ("nowhere", "neither a model folder nor a hub id"),
        ("a/b/c", "neither a model folder nor a hub id"),
        (__file__, "neither a model folder nor a hub id"),
        (str(Path(__file__).parent), r"without config\.json"),
        ("nowhere.gguf", "no file"),
        ("package:no-such-package", "not installed"),
        ("package:no.such.package", "not installed"),
        ("package:", "not installed"),
        ("package:json", r"no \.gguf file"),
    ],
)
def test_paths_that_name_no_model(path: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        resolve_path(path)


def test_paths_that_name_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "config.json").write_text("{}")
    assert resolve_path(str(tmp_path)) == (str(tmp_path), {})
    assert resolve_path("owner/name") == ("owner/name", {})
    package = tmp_path / "some_weights"
    (package / "files").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "files" / "model.gguf").touch()
    expected = (str(package / "files"), {"gguf_file": "model.gguf"})
    assert resolve_path(str(package / "files" / "model.gguf")) == expected
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert resolve_path("package:some-weights") == expected
