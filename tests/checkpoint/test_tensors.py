"""Tensors in a folder: every kind of number to the bit, in files of bounded size that run nothing when read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from credo.checkpoint import tensors as module
from credo.checkpoint.tensors import read_tensors, shapes_in, write_tensors

TENSORS = {
    "scalar": torch.tensor(1 / 3),
    "whole": torch.tensor([2**53 + 1, -1]),
    "bytes": torch.arange(256, dtype=torch.uint8),
    "moments": torch.tensor([[1e-45, float("inf")], [-0.0, float("nan")]]),
    "half": torch.tensor([1.5], dtype=torch.bfloat16),
    "nothing": torch.empty(0, 3),
}


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.numpy(force=True).tobytes() == other.numpy(force=True).tobytes()


def test_what_is_read_is_what_was_written(tmp_path: Path):
    write_tensors(tmp_path, TENSORS, ranks=1, group=None)
    assert shapes_in(tmp_path) == {name: tensor.shape for name, tensor in TENSORS.items()}
    into = {name: torch.zeros_like(tensor) for name, tensor in TENSORS.items()}
    read_tensors(tmp_path, into)
    numbers = [name for name in TENSORS if name != "half"]
    assert all(same_bits(into[name], TENSORS[name]) for name in numbers)
    assert torch.equal(into["half"], TENSORS["half"])


def test_some_of_them_can_be_read_alone(tmp_path: Path):
    write_tensors(tmp_path, TENSORS, ranks=1, group=None)
    into = {"whole": torch.zeros(2, dtype=torch.int64)}
    read_tensors(tmp_path, into)
    assert into["whole"].tolist() == [2**53 + 1, -1]


def test_files_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "FILE_BYTES", 100)
    many = {str(count): torch.full((10,), float(count)) for count in range(10)}
    write_tensors(tmp_path, many, ranks=1, group=None)
    files = [load_file(path) for path in tmp_path.iterdir()]
    assert sorted(sum(tensor.nbytes for tensor in file.values()) for file in files) == [80, 80, 120, 120]
    into = {name: torch.zeros(10) for name in many}
    read_tensors(tmp_path, into)
    assert all(torch.equal(into[name], many[name]) for name in many)


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path):
    write_tensors(tmp_path, TENSORS, ranks=1, group=None)
    with pytest.raises(ValueError, match=r"(?i)size"):
        read_tensors(tmp_path, {"whole": torch.zeros(3, dtype=torch.int64)})


def test_a_file_in_the_way_is_the_file_systems_to_refuse(tmp_path: Path):
    (tmp_path / "there").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="there"):
        write_tensors(tmp_path / "there", TENSORS, ranks=1, group=None)
