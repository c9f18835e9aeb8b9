"""The C beside this module: compiled when it is first needed, and called without the overhead of torch.

Whatever it does there is in torch too, for machines without a compiler.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
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

    What was compiled is kept in the user's cache, under a name that says of what, how and for which processor.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return None
    try:
        kept = _cache() / f"{source}-{_identity(compiler, source, defined)}.so"
        with suppress(OSError):
            return ctypes.CDLL(str(kept))
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            objects, linked = f"{folder}/{source}.o", f"{folder}/{source}.so"
            # Linked without -fopenmp: torch has loaded an OpenMP already, and the threads of two would fight.
            made = [*FLAGS, *(f"-D{name}" for name in defined), "-c", str(SOURCES / source), "-o", objects]
            for words in made, ["-shared", objects, "-lm", "-o", linked]:
                subprocess.run(
                    [compiler, *words], check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS
                )
            loaded = ctypes.CDLL(linked)
            _keep(Path(linked), kept)
            return loaded
    except (OSError, subprocess.SubprocessError):
        return None


def _cache() -> Path:
    """The user's; without an absolute path to it, a place where nothing can be kept."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return folder / "credo" if folder.is_absolute() else Path(os.devnull) / "credo"


def _identity(compiler: str, source: str, defined: tuple[str, ...]) -> str:
    """Of the text, the options, the compiler and the processor."""
    found = os.stat(compiler)
    digest = hashlib.sha256(
        repr((FLAGS, defined, os.path.realpath(compiler), found.st_size, found.st_mtime_ns, _processor())).encode()
    )
    for path in (SOURCES / "vectors.h", SOURCES / source):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def _processor() -> list[str]:
    """What the system says that the first core is and can do, but for figures that come and go, such as its clock."""
    first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    told = ("model name", "flags", "Features", "CPU", "isa", "uarch")
    return [platform.machine(), *(line for line in first.splitlines() if line.startswith(told))]


def _keep(linked: Path, kept: Path) -> None:
    """For the next run; one that cannot write there compiles again."""
    with suppress(OSError):
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=kept.parent)
        try:
            with open(handle, "wb") as file:
                file.write(linked.read_bytes())
                file.flush()
                os.fsync(handle)  # a library that is cut off ends the process that loads it
            os.replace(unfinished, kept)
        except OSError:
            os.unlink(unfinished)


def address(tensor: Tensor, dtype: torch.dtype) -> int:
    """Where the numbers of ``tensor`` lie; raises ValueError unless they are of ``dtype``, end to end, on the CPU."""
    if tensor.dtype != dtype or tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise misread(f"{tensor.dtype} on {tensor.device}, where {dtype} should lie end to end")
    return tensor.data_ptr()


def misread(seen: str) -> ValueError:
    """The error of an argument that C would not read as it was meant."""
    return ValueError(f"The compiled steps of sampling were given {seen}; has the model changed since they were made?")
