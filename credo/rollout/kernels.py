"""The C of ``kernels.c``, compiled for one model where there is a compiler, and called without the overhead of torch.

Between its products a decode step is hundreds of small operations, whose start costs more than their work. Without a
compiler :class:`credo.rollout.llama_body.LlamaBody` computes the same in torch.
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
from jaxtyping import Float, Int
from torch import Tensor

SOURCE = Path(__file__).with_suffix(".c")
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-fopenmp")
SECONDS = 60
"""How long the compiler may take; it takes less than one."""
LANES = (16, 8, 4)

_ARRAY, _COUNT, _NUMBER = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_FP32 = torch.float32


class Kernels:
    """The functions of ``kernels.c`` for heads of ``width``, of which ``group`` share keys, on the CPU.

    Products, keys and values are of ``dtype``, all else is fp32. Where C would not read and write just its tensors,
    ValueError is raised: for other types, sizes or devices, or tensors that are not contiguous.
    """

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype, *, width: int, group: int, lanes: int) -> None:
        self.dtype, self.width, self.group, self.lanes = dtype, width, group, lanes
        self._add_and_norm, self._attend_slots = library.add_and_norm, library.attend_slots
        self._add_and_norm.restype = self._attend_slots.restype = None
        self._add_and_norm.argtypes = [*[_ARRAY] * 3, _NUMBER, _ARRAY, *[_COUNT] * 2, ctypes.c_int]
        sizes = [*[_COUNT] * 4, _NUMBER]
        self._attend_slots.argtypes = [*[_ARRAY] * 5, _NUMBER, *[_ARRAY] * 3, *sizes, _ARRAY, ctypes.c_int]

    def add_and_norm(
        self,
        hidden: Float[Tensor, "N E"],
        added: Float[Tensor, "N E"] | None,
        weight: Float[Tensor, " E"],
        floor: float,
    ) -> Float[Tensor, "N E"]:
        """``hidden += added``, in place, and the root-mean-square norm of that in ``dtype``."""
        rows, width = hidden.shape
        if width % self.lanes:
            raise _misread(f"hidden states of {width} numbers, in parts of {self.lanes}")
        normed = torch.empty_like(hidden, dtype=self.dtype)
        pointers = _at(hidden, _FP32), None if added is None else _at(added, self.dtype), _at(weight, _FP32)
        self._add_and_norm(*pointers, floor, _at(normed, self.dtype), rows, width, torch.get_num_threads())
        return normed

    def attend_slots(
        self,
        heads: Float[Tensor, "N P D"],
        cos: Float[Tensor, "N D"],
        sin: Float[Tensor, "N D"],
        stored: Float[Tensor, "2 slots K T D"],
        positions: Int[Tensor, " N"],
        *,
        norms: tuple[Float[Tensor, " D"], Float[Tensor, " D"], float] | None,
        scaling: float,
        window: int | None,
    ) -> Float[Tensor, "N A"]:
        """Attention of the next token of each slot, whose keys and values are stored on the way.

        ``heads`` are its queries, keys and values end to end, without rotation, and without their norms (weights of
        queries and of keys, and floor), if there are any. Keys are stored as (T / lanes, D, lanes), values as (T, D).
        That each of ``positions`` is less than T is for the caller to see to.
        """
        keys, values = stored
        count, (slots, sets, capacity, width) = len(heads), keys.shape
        parts = (self.group + 2) * sets
        if heads.shape[1:] != (parts, self.width) or width != self.width or count > slots or capacity % self.lanes:
            raise _misread(f"heads {tuple(heads.shape)} for slots {tuple(stored.shape)}")
        out = heads.new_empty(count, self.group * sets * width)
        weights = (None, None, 0.0) if norms is None else (_at(norms[0], _FP32), _at(norms[1], _FP32), norms[2])
        own = [_at(part, self.dtype) for part in (heads, keys, values, out)]
        self._attend_slots(
            own[0],
            _at(cos, _FP32),
            _at(sin, _FP32),
            *weights,
            *own[1:3],
            _at(positions, torch.long),
            count,
            sets,
            capacity,
            window or 0,
            scaling,
            own[3],
            torch.get_num_threads(),
        )
        return out


@functools.cache
def compiled(dtype: torch.dtype, *, width: int, group: int, hidden: int) -> Kernels | None:
    """Kernels for hidden states of ``hidden``; None without a compiler, or where it or the processor cannot do it.

    It takes a third of a second, so nothing is kept on disk that could meet another processor.
    """
    lanes = next((count for count in LANES if width % (2 * count) == hidden % count == 0), None)
    compiler = shutil.which("gcc") or shutil.which("cc")
    if lanes is None or compiler is None or sys.platform != "linux" or dtype not in (torch.float32, torch.bfloat16):
        return None
    sizes = [f"-DWIDTH={width}", f"-DGROUP={group}", f"-DLANES={lanes}", *["-DBF16"] * (dtype == torch.bfloat16)]
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            objects, library = f"{folder}/kernels.o", f"{folder}/kernels.so"
            # Linked without -fopenmp: torch has loaded an OpenMP already, and the threads of two would fight.
            commands = [*FLAGS, *sizes, "-c", str(SOURCE), "-o", objects], ["-shared", objects, "-o", library]
            for words in commands:
                subprocess.run(
                    [compiler, *words], check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS
                )
            return Kernels(ctypes.CDLL(library), dtype, width=width, group=group, lanes=lanes)
    except (OSError, subprocess.SubprocessError):
        return None


def _at(tensor: Tensor, dtype: torch.dtype) -> int:
    if tensor.dtype != dtype or tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise _misread(f"{tensor.dtype} on {tensor.device}, where {dtype} should lie end to end")
    return tensor.data_ptr()


def _misread(seen: str) -> ValueError:
    return ValueError(f"The compiled steps of sampling were given {seen}; has the model changed since they were made?")
