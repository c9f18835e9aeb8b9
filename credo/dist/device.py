"""Where tensors live and how many threads work on them."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt, from glibc's malloc.h
_GROWS_BY = 64 * 2**20


def set_threads(threads: int) -> None:
    """CPU threads for torch, 0 for this process's share of the cores that it may use.

    Two processes that fight over the cores run 5 to 20 times slower: each of the ranks on one machine gets as many.
    """
    sharers = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // sharers))
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Has malloc keep what tensors leave for those that follow: a page that the system clears anew costs more than it.

    glibc gives large blocks back at once, and a fifth of a training step's processor time went into getting them again.
    Elsewhere it does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _GROWS_BY)):
            mallopt(option, value)


def choose_device(device: str) -> str:
    """``auto`` as the device it stands for. Raises ValueError for a GPU that torch does not see."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("run.device = 'cuda', but torch sees no GPU here; set run.device = 'cpu'.")
    return device
