"""What is written without copies is what torch's own writer writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ranks import run_ranks
from safetensors import safe_open
from torch.distributed.checkpoint import HuggingFaceStorageWriter, save

from credo.checkpoint.streaming import StreamingWriter
from credo.checkpoint.tensors import read_tensors
from credo.dist.world import World

PLACES = {"b": 1, "whole": 2, "a": 2}


def written(world: World, folder: Path) -> None:
    """The same tensors by both writers; one of them is spread over the ranks, unevenly."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (world.size,))
    spread = torch.arange(15.0).view(5, 3)
    tensors = {"b": torch.ones(3), "a": distribute_tensor(spread, mesh, [Shard(0)]), "whole": -spread}
    for name, writer in (("torch", HuggingFaceStorageWriter), ("ours", StreamingWriter)):
        made: Any = writer(str(folder / name), fqn_to_index_mapping=PLACES, save_distributed=True)
        save(tensors, storage_writer=made)
    into = {"a": distribute_tensor(torch.zeros(5, 3), mesh, [Shard(0)]), "whole": torch.zeros(5, 3)}
    read_tensors(folder / "ours", into)
    assert torch.equal(into["a"].full_tensor(), spread)
    assert torch.equal(into["whole"], -spread)


def contents(path: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """Metadata, and tensors to the bit. (The order of the metadata changes from one file to the next.)"""
    with safe_open(path, framework="pt") as file:
        return file.metadata(), {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}  # noqa: SIM118


def test_every_rank_writes_what_the_writer_of_torch_does(tmp_path: Path):
    run_ranks(2, written, tmp_path)
    folders = (tmp_path / "torch", tmp_path / "ours")
    theirs, ours = ({path.name: contents(path) for path in folder.iterdir()} for folder in folders)
    assert ours == theirs
    assert len(ours) > 2
