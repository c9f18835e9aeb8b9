"""Golden numbers, random batches and pretended ranks for the tests of the algorithm."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The arguments of ``prime_advantages``, with NaN wherever the mask is False."""

    log_ratios: Tensor
    outcomes: Tensor
    mask: Tensor
    group_ids: Tensor

    def __getitem__(self, index: Any) -> Rows:
        return Rows(
            log_ratios=self.log_ratios[index],
            outcomes=self.outcomes[index],
            mask=self.mask[index],
            group_ids=self.group_ids[index],
        )

    def replace(self, **changes: Tensor) -> Rows:
        return replace(self, **changes)

    def astuple(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.log_ratios, self.outcomes, self.mask, self.group_ids


@dataclass(frozen=True, kw_only=True)
class Golden:
    """One case of the golden file: its input, and the numbers to hit by name."""

    rows: Rows
    numbers: dict[str, Any]

    def check(self, actual: Tensor, name: str) -> None:
        expected = torch.tensor(self.numbers[name], dtype=actual.dtype)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.fixture(params=["small", "main"])
def golden(request: pytest.FixtureRequest) -> Golden:
    numbers = json.loads(Path(__file__).with_name("golden_rloo.json").read_text())[request.param]
    mask = torch.tensor(numbers["mask"]).bool()
    rows = Rows(
        log_ratios=torch.tensor(numbers["q"]).masked_fill(~mask, float("nan")),
        outcomes=torch.tensor(numbers["acc"]),
        mask=mask,
        group_ids=torch.arange(len(mask)) // numbers["n"],
    )
    return Golden(rows=rows, numbers=numbers)


@pytest.fixture
def random_rows() -> Callable[..., Rows]:
    """Rows of groups of the given sizes in random order: a prompt, a response of 1 to 6 tokens, padding."""

    def draw(sizes: Sequence[int] = (2, 5, 3, 4), seed: int = 0, dtype: torch.dtype = torch.float32) -> Rows:
        generator = torch.Generator().manual_seed(seed)
        group_ids = torch.repeat_interleave(torch.arange(len(sizes)) * 7 - 3, torch.tensor(sizes))
        group_ids = group_ids[torch.randperm(len(group_ids), generator=generator)]
        count = len(group_ids)
        start = torch.randint(1, 4, (count, 1), generator=generator)
        length = torch.randint(1, 7, (count, 1), generator=generator)
        position = torch.arange(10)
        mask = (position >= start) & (position < start + length)
        log_ratios = torch.randn(count, 10, generator=generator, dtype=dtype).masked_fill(~mask, float("nan"))
        outcomes = torch.randint(0, 5, (count,), generator=generator).to(dtype) / 4
        return Rows(log_ratios=log_ratios, outcomes=outcomes, mask=mask, group_ids=group_ids)

    return draw


@pytest.fixture
def on_ranks() -> Callable[..., list[Any]]:
    """Call ``function(rank, all_reduce)`` for each rank in a thread of its own; the results by rank."""

    def run(function: Callable[..., Any], count: int = 2) -> list[Any]:
        barrier = threading.Barrier(count, timeout=10)
        slots: list[Tensor] = [torch.empty(0)] * count

        def reduce_for(rank: int) -> Callable[[Tensor, str], Tensor]:
            def all_reduce(x: Tensor, operation: str) -> Tensor:
                slots[rank] = x
                barrier.wait()
                stacked = torch.stack(slots)
                barrier.wait()
                return stacked.sum(dim=0) if operation == "sum" else stacked.amax(dim=0)

            return all_reduce

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda rank: function(rank, reduce_for(rank)), range(count)))

    return run


@pytest.fixture
def no_type_checks() -> Iterator[None]:
    """Let a wrong ``Literal`` reach our own error where the run checks annotations."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
