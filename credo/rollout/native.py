"""The C beside this module: compiled when it is first needed, and called without the overhead of torch.

Whatever it does there is in torch too, for machines without a compiler.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

SOURCES = Path(__file__).parent
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-fopenmp")
SECONDS = 60
"""How long the compiler may take; it takes less than one."""


@functools.cache
def library(source: str, *defined: str) -> ctypes.CDLL | None:
    """The functions of the file ``source``, for this processor; None without a compiler, or where it fails.

    It takes a quarter of a second, so nothing is kept on disk that could meet another processor.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return None
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            objects, linked = f"{folder}/{source}.o", f"{folder}/{source}.so"
            # Linked without -fopenmp: torch has loaded an OpenMP already, and the threads of two would fight.
            made = [*FLAGS, *(f"-D{name}" for name in defined), "-c", str(SOURCES / source), "-o", objects]
            for words in made, ["-shared", objects, "-o", linked, "-lm"]:
                subprocess.run(
                    [compiler, *words], check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS
                )
            return ctypes.CDLL(linked)
    except (OSError, subprocess.SubprocessError):
        return None


def address(tensor: Tensor, dtype: torch.dtype) -> int:
    """Where the numbers of ``tensor`` lie; raises ValueError unless they are of ``dtype``, end to end, on the CPU."""
    if tensor.dtype != dtype or tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise misread(f"{tensor.dtype} on {tensor.device}, where {dtype} should lie end to end")
    return tensor.data_ptr()


def misread(seen: str) -> ValueError:
    """The error of an argument that C would not read as it was meant."""
    return ValueError(f"The compiled steps of sampling were given {seen}; has the model changed since they were made?")
