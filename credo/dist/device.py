"""Where tensors live and how many threads work on them."""

from __future__ import annotations

import os

import torch


def set_threads(threads: int) -> None:
    """CPU threads for torch, 0 for this process's share of the cores that it may use.

    Two processes that fight over the cores run 5 to 20 times slower: each of the ranks on one machine gets as many.
    """
    sharers = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // sharers))


def choose_device(device: str) -> str:
    """``auto`` as the device it stands for. Raises ValueError for a GPU that torch does not see."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("run.device = 'cuda', but torch sees no GPU here; set run.device = 'cpu'.")
    return device
