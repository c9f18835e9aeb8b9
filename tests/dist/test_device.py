"""Devices by name, and the number of threads that work on them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from credo.dist.device import choose_device, set_threads


@pytest.fixture
def same_threads_afterwards() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("same_threads_afterwards")
def test_threads_are_set_or_all_cores_of_the_process_are_taken():
    set_threads(3)
    assert torch.get_num_threads() == 3
    set_threads(0)
    assert torch.get_num_threads() == len(os.sched_getaffinity(0))


@pytest.mark.usefixtures("same_threads_afterwards")
def test_ranks_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch):
    cores = len(os.sched_getaffinity(0))
    for ranks, threads in ((1, cores), (2, max(1, cores // 2)), (10 * cores, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        set_threads(0)
        assert torch.get_num_threads() == threads
    set_threads(2)
    assert torch.get_num_threads() == 2, "what was asked for is each rank's"


def test_the_cpu_is_always_there():
    assert choose_device("cpu") == "cpu"


def test_auto_takes_the_gpu_where_there_is_one():
    assert choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU here")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="sees no GPU"):
        choose_device("cuda")
