"""Weights on their way to servers: a folder of safetensors files, whole or absent, that both sides can see."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

BACKEND = "folder"
"""The name of this road in vLLM's weight transfer; its other end is :mod:`credo.rollout.vllm_worker`."""
FILE_BYTES = 2 * 2**30
"""About the size of a file, and the memory that writing takes."""


def write_weights(
    weights: Iterable[tuple[str, Tensor]], folder: Path, dtype: torch.dtype, *, file_bytes: int = FILE_BYTES
) -> None:
    """Writes ``weights`` in ``dtype`` aside and renames them to ``folder``.

    Goes through ``weights`` to the end whatever happens, since each may be an exchange between ranks; then raises
    RuntimeError if the disk did not take them.
    """
    from safetensors import SafetensorError

    aside = folder.with_name(f"{folder.name}.part")
    failure: OSError | SafetensorError | None = None
    pending: dict[str, Tensor] = {}
    files = size = 0
    try:
        aside.mkdir(parents=True)
    except OSError as error:
        failure = error
    for name, tensor in _with_end(weights):
        if failure is not None:
            continue
        if tensor is not None:
            pending[name] = tensor.detach().to("cpu", dtype).contiguous()
            size += pending[name].nbytes
        if pending and (tensor is None or size >= file_bytes):
            try:
                _save(pending, aside / f"{files:05d}.safetensors")
            except (OSError, SafetensorError) as error:
                failure = error
            files, size, pending = files + 1, 0, {}
    if failure is None:
        aside.rename(folder)
        return
    shutil.rmtree(aside, ignore_errors=True)
    raise RuntimeError(
        f"The weights for the servers could not be written to {folder} ({failure}); make room there, or set run.folder "
        "to a place that has some."
    ) from failure


def read_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in ``folder`` by name, one at a time. Raises ValueError if there is none."""
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"There are no weights in {folder}.")
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # it is no mapping
                yield name, opened.get_tensor(name)


def _with_end(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor | None]]:
    yield from weights
    yield "", None


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file(tensors, path)
