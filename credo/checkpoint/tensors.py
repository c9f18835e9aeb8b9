"""Named tensors in a folder through ``torch.distributed.checkpoint``: each rank writes its part, any number reads them.

The files are safetensors, so that nobody who reads them runs what they hold. Which tensors they are is not known here.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

FILE_BYTES = 2**30
"""Tensors of one file over all ranks."""


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], *, ranks: int, group: ProcessGroup | None) -> None:
    """Collective. Writes ``tensors``, of the same names on all ranks; those that are not spread are written once.

    ``group`` is what the ranks agree through, their default if None. Raises OSError or RuntimeError on all ranks if one
    cannot write.
    """
    from torch.distributed.checkpoint import CheckpointException, save

    from credo.checkpoint.streaming import StreamingWriter

    places, written = {}, 0
    for name, tensor in tensors.items():
        places[name] = 1 + written // FILE_BYTES
        written += tensor.numel() * tensor.element_size()
    writer = StreamingWriter(str(folder), fqn_to_index_mapping=places, save_distributed=True)
    _quiet()
    try:
        save(dict(tensors), storage_writer=writer, process_group=group, no_dist=ranks == 1)
    except CheckpointException as error:
        raise _first_failure(error.failures) from None


def shapes_in(folder: Path) -> dict[str, torch.Size]:
    """The whole shapes of the tensors in ``folder``."""
    from torch.distributed.checkpoint import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: entry.size for name, entry in found.items() if isinstance(entry, TensorStorageMetadata)}


def read_tensors(folder: Path, into: Mapping[str, Tensor]) -> None:
    """Writes the tensors in ``folder`` into those of the same names: each rank reads what it holds of them."""
    from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageReader, load

    _quiet()
    try:
        load(dict(into), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    except CheckpointException as error:
        raise _first_failure(error.failures) from None


def _first_failure(failures: Mapping[int, tuple[BaseException, object]]) -> BaseException:
    """What the lowest rank met that met anything."""
    return failures[min(failures)][0]


def _quiet() -> None:
    """To read and write alone is what we mean; a filter set for good, because other threads may be setting theirs."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
