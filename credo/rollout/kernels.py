"""What a decode step does between its products: the functions of ``kernels.c``, compiled for one model.

Between its products a decode step is hundreds of small operations, whose start costs more than their work. Without
them :class:`credo.rollout.llama_body.LlamaBody` computes the same in torch.
"""

from __future__ import annotations

import ctypes

import torch
from jaxtyping import Float, Int
from torch import Tensor

from credo.rollout.native import address, library, misread

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
            raise misread(f"hidden states of {width} numbers, in parts of {self.lanes}")
        normed = torch.empty_like(hidden, dtype=self.dtype)
        pointers = address(hidden, _FP32), None if added is None else address(added, self.dtype), address(weight, _FP32)
        self._add_and_norm(*pointers, floor, address(normed, self.dtype), rows, width, torch.get_num_threads())
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
            raise misread(f"heads {tuple(heads.shape)} for slots {tuple(stored.shape)}")
        out = heads.new_empty(count, self.group * sets * width)
        weights = (None, None, 0.0) if norms is None else (address(norms[0], _FP32), address(norms[1], _FP32), norms[2])
        own = [address(part, self.dtype) for part in (heads, keys, values, out)]
        angles, places = (address(cos, _FP32), address(sin, _FP32)), address(positions, torch.long)
        sizes = count, sets, capacity, window or 0, scaling
        self._attend_slots(own[0], *angles, *weights, *own[1:3], places, *sizes, own[3], torch.get_num_threads())
        return out


def compiled(dtype: torch.dtype, *, width: int, group: int, hidden: int) -> Kernels | None:
    """Kernels for hidden states of ``hidden``; None where they cannot be compiled, or no vector divides the sizes."""
    lanes = next((count for count in LANES if width % (2 * count) == hidden % count == 0), None)
    if lanes is None or dtype not in (torch.float32, torch.bfloat16):
        return None
    sizes = f"WIDTH={width}", f"GROUP={group}", f"LANES={lanes}"
    made = library("kernels.c", *sizes, *["BF16"] * (dtype == torch.bfloat16))
    return Kernels(made, dtype, width=width, group=group, lanes=lanes) if made is not None else None
