"""The rows of a batch among ranks: each on exactly one, equally many parts on all, tokens in balance."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ranks import run_ranks

from credo.data.batching import micro_batches
from credo.dist.world import World
from credo.models.division import Division, Prompts, divided, divided_batch
from credo.types import Batch


def divisions(lengths: list[int], budget: int, size: int) -> list[Division]:
    return [divided(torch.tensor(lengths), budget, World(rank=rank, size=size)) for rank in range(size)]


def test_one_process_has_all_rows_in_its_micro_batches():
    lengths = torch.tensor([3, 9, 4, 4])
    division = divided(lengths, 12)
    expected = micro_batches(lengths, 12)
    assert [rows.tolist() for rows in division.parts] == [rows.tolist() for rows in expected]
    assert division.worked == len(expected)
    assert division.own.tolist() == [True] * 4


@pytest.mark.parametrize("size", [1, 2])
def test_padding_does_not_count_where_rows_are_packed(size: int):
    """6 and 2 tokens are 8 without padding and 12 with it."""
    lengths, world = torch.tensor([6, 2] * size), World(rank=size - 1, size=size)
    assert [len(part) for part in divided(lengths, 8, world).parts] == [1, 1]
    assert [len(part) for part in divided(lengths, 8, world, packed=True).parts] == [2]


def test_by_hand():
    """Tokens 5, 4, 3, 2, 1 go to rank 0, 1, 1, 0 and, both having 7, to 0; two rows of 4 tokens fit 8."""
    first, second = divisions([1, 2, 3, 4, 5], 8, 2)
    assert first.own.tolist() == [True, True, False, False, True]
    assert second.own.tolist() == [False, False, True, True, False]
    assert [rows.tolist() for rows in first.parts] == [[4], [1, 0]]
    assert [rows.tolist() for rows in second.parts] == [[3, 2], [0]]
    assert (first.worked, second.worked) == (2, 1), "the last part of the second keeps step with the first alone"


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("budget", [1, 20, 64, 10_000])
@pytest.mark.parametrize("rows", [1, 2, 4, 37])
def test_every_row_is_worked_on_exactly_once_and_all_ranks_run_equally_often(size: int, budget: int, rows: int):
    lengths = torch.randint(1, 30, (rows,), generator=torch.Generator().manual_seed(rows))
    ranks = divisions(lengths.tolist(), budget, size)
    worked = [row for division in ranks for part in division.parts[: division.worked] for row in part.tolist()]
    assert sorted(worked) == list(range(rows))
    assert len({len(division.parts) for division in ranks}) == 1
    assert max(division.worked for division in ranks) == len(ranks[0].parts), "nobody runs in vain on all ranks"
    for division in ranks:
        own = {row for part in division.parts[: division.worked] for row in part.tolist()}
        assert set(division.own.nonzero().flatten().tolist()) == own
        for part in division.parts:
            assert len(part) == 1 or len(part) * int(lengths[part].max()) <= budget
        for part in division.parts[division.worked :]:
            assert lengths[part].tolist() == [lengths.min()], "what counts nothing costs little"


@pytest.mark.parametrize("size", [2, 3, 8])
def test_no_rank_has_a_row_more_than_another_in_tokens(size: int):
    lengths = torch.randint(1, 500, (200,), generator=torch.Generator().manual_seed(size))
    tokens = [int(lengths[division.own].sum()) for division in divisions(lengths.tolist(), 10_000, size)]
    assert max(tokens) - min(tokens) <= int(lengths.max())
    assert max(tokens) < 1.02 * sum(tokens) / size


def owned(lengths: list[int], prompts: Prompts, size: int) -> list[list[int]]:
    worlds = [World(rank=rank, size=size) for rank in range(size)]
    found = [divided(torch.tensor(lengths), 100, world, prompts=prompts) for world in worlds]
    return [division.own.nonzero().flatten().tolist() for division in found]


def test_rows_of_one_prompt_stay_on_one_rank():
    """Prompts of 5: 13 and 12 tokens; dealt out one by one, each rank would compute both prompts, 35 tokens in all."""
    lengths, prompts = [6, 6, 9, 9, 7, 8], ([5] * 6, [1, 2, 1, 2, 1, 2])
    assert owned(lengths, prompts, 2) == [[1, 3, 5], [0, 2, 4]]


def test_rows_of_one_prompt_part_where_a_rank_would_have_too_much():
    """One group of three on two ranks, and a prompt that is little beside the responses."""
    assert owned([9, 9, 9], ([1] * 3, [0] * 3), 2) == [[0, 2], [1]]


def test_a_batch_is_divided_by_its_groups():
    mask = torch.tensor([[False, False, False, True]] * 4)
    batch = Batch(
        tokens=torch.zeros(4, 4, dtype=torch.int64),
        attention=torch.ones_like(mask),
        mask=mask,
        outcomes=torch.zeros(4),
        group_ids=torch.tensor([7, 3, 7, 3]),
        sampling_logprobs=torch.zeros(4, 4),
    )
    owns = [divided_batch(batch, 100, World(rank=rank, size=2)).own.tolist() for rank in range(2)]
    assert owns == [[True, False, True, False], [False, True, False, True]]


def test_rows_of_one_length_are_dealt_out_evenly():
    assert [int(division.own.sum()) for division in divisions([7] * 10, 7, 3)] == [4, 3, 3]


@pytest.mark.parametrize("size", [1, 2])
def test_a_budget_below_one_is_refused(size: int):
    with pytest.raises(ValueError, match="budget"):
        divisions([3, 4], 0, size)


def found_together(world: World) -> tuple[list[Any], list[Any]]:
    """What each rank has found of its own rows, and rubbish of the others', put together."""
    division = divided(torch.tensor([3, 1, 2, 5, 4]), 6, world)
    numbers = torch.full((5, 2), torch.nan)
    marks = torch.ones(5, 2, dtype=torch.bool)
    for row in division.own.nonzero().flatten():
        numbers[row] = torch.tensor([0.1 * row, 1.0 / 3.0])
        marks[row] = row == 2
    numbers, marks = division.together(numbers), division.together(marks)
    assert (numbers.dtype, marks.dtype) == (torch.float32, torch.bool)
    return numbers.tolist(), marks.tolist()


@pytest.mark.parametrize("size", [1, 3])
def test_together_each_row_is_as_the_rank_found_it_that_answers_for_it(size: int):
    numbers = torch.stack([0.1 * torch.arange(5), torch.full((5,), 1.0 / 3.0)], dim=1).tolist()
    expected = numbers, [[row == 2] * 2 for row in range(5)]
    if size == 1:
        assert found_together(World()) == expected
    else:
        assert run_ranks(size, found_together) == [expected] * size
