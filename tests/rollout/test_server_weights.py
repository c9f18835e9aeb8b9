"""Weights written for servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from credo.rollout.server_weights import read_weights, write_weights


def weights() -> dict[str, Tensor]:
    return {name: torch.randn(16, 16) for name in ("a", "b.c", "d")}


@pytest.mark.parametrize(("file_bytes", "files"), [(1, 3), (1024, 3), (1025, 2), (10**9, 1)])
def test_what_is_written_is_read(file_bytes: int, files: int, tmp_path: Path):
    written = weights()
    write_weights(written.items(), tmp_path / "one", torch.float32, file_bytes=file_bytes)
    read = dict(read_weights(tmp_path / "one"))
    assert list(read) == list(written)
    assert all(torch.equal(read[name], written[name]) for name in written)
    assert len(list((tmp_path / "one").iterdir())) == files
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_they_have_the_precision_asked_for(tmp_path: Path):
    written = {"a": torch.nn.Parameter(torch.tensor([[1.0, 1 / 3]]).T)}
    write_weights(written.items(), tmp_path / "one", torch.bfloat16)
    ((_, read),) = read_weights(tmp_path / "one")
    assert torch.equal(read, written["a"].detach().bfloat16())


def test_a_disk_that_fails_is_named_after_all_weights_were_asked_for(tmp_path: Path):
    asked: list[str] = []

    def asking() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in weights().items():
            asked.append(name)
            if name == "b.c":
                (tmp_path / "one.part").rmdir()
            yield name, tensor

    with pytest.raises(RuntimeError, match=r"could not be written to .*one"):
        write_weights(asking(), tmp_path / "one", torch.float32, file_bytes=2000)
    assert asked == ["a", "b.c", "d"]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_weights_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="no weights"):
        next(read_weights(tmp_path))
