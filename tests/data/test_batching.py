from __future__ import annotations

import random
from itertools import chain, combinations

import pytest
import torch

from credo.data.batching import collate, collate_demonstrations, micro_batches, rows_of
from credo.types import Batch, Group, Problem, Rollout, Verdict

PAD = 9
PROBLEM = Problem(id="p", kind="exact", prompt="1=", answer="1", source="made")


def group(*rollouts: tuple[tuple[int, ...], tuple[int, ...], float]) -> Group:
    """Rollouts from (prompt ids, response ids, score); the log-prob of response token ``t`` is ``-t / 4``."""
    return Group(
        problem=PROBLEM,
        rollouts=tuple(
            Rollout(prompt_ids=prompt, response_ids=response, logprobs=tuple(-t / 4 for t in response), finish="stop")
            for prompt, response, _ in rollouts
        ),
        responses=("",) * len(rollouts),
        verdicts=tuple(Verdict(score=score) for _, _, score in rollouts),
    )


GROUPS = [group(((1, 2), (3, 4, 5), 1.0), ((1, 2), (6,), 0.0)), group(((7,), (8, PAD), 0.5), ((7,), (3,), 0.25))]


def test_a_batch_by_hand():
    batch = collate(GROUPS, pad_id=PAD)
    assert batch.tokens.tolist() == [[1, 2, 3, 4, 5], [1, 2, 6, 9, 9], [7, 8, 9, 9, 9], [7, 3, 9, 9, 9]]
    assert batch.attention.int().tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]
    assert batch.mask.int().tolist() == [[0, 0, 1, 1, 1], [0, 0, 1, 0, 0], [0, 1, 1, 0, 0], [0, 1, 0, 0, 0]]
    assert batch.outcomes.tolist() == [1.0, 0.0, 0.5, 0.25]
    assert batch.group_ids.tolist() == [0, 0, 1, 1]
    assert batch.sampling_logprobs.tolist() == [
        [0, 0, -0.75, -1.0, -1.25],
        [0, 0, -1.5, 0, 0],
        [0, -2.0, -2.25, 0, 0],
        [0, -0.75, 0, 0, 0],
    ]
    assert batch.outcomes.dtype == batch.sampling_logprobs.dtype == torch.float32


def test_demonstrations_are_padded_alike():
    tokens, attention, mask = collate_demonstrations([((1, 2), (3,)), ((), (4, 5, 6, 7))], PAD)
    assert tokens.tolist() == [[1, 2, 3, 9], [4, 5, 6, 7]]
    assert attention.int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert mask.int().tolist() == [[0, 0, 1, 0], [1, 1, 1, 1]]


def test_every_other_piece_of_a_conversation_is_learnt():
    tokens, attention, mask = collate_demonstrations([((1,), (2,)), ((1, 2), (3,), (4,), (5, 6), (7,))], PAD)
    assert tokens.tolist() == [[1, 2, 9, 9, 9, 9, 9], [1, 2, 3, 4, 5, 6, 7]]
    assert attention.int().tolist() == [[1, 1, 0, 0, 0, 0, 0], [1] * 7]
    assert mask.int().tolist() == [[0, 1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 1, 1, 0]]


def test_nothing_to_learn_is_refused():
    with pytest.raises(ValueError, match="at least one row"):
        collate([], pad_id=PAD)
    with pytest.raises(ValueError, match="every row a response"):
        collate_demonstrations([((1, 2), ())], PAD)
    with pytest.raises(ValueError, match="every row a response"):
        collate_demonstrations([((1,), (2,)), ((1,), (), (2,))], PAD)


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in Batch.__dataclass_fields__)


def test_rows_are_selected_in_order_and_cut_to_the_longest():
    batch = collate(GROUPS, pad_id=PAD)
    part = rows_of(batch, torch.tensor([3, 1]))
    assert part.tokens.tolist() == [[7, 3, 9], [1, 2, 6]]
    assert part.outcomes.tolist() == [0.25, 0.0]
    assert part.group_ids.tolist() == [1, 0]
    assert part.sampling_logprobs.tolist() == [[0, -0.75, 0], [0, 0, -1.5]]
    assert same(rows_of(batch, torch.arange(4)), batch)


def test_rows_of_one_group_are_the_batch_of_that_group():
    part = rows_of(collate(GROUPS, pad_id=PAD), torch.tensor([0, 1]))
    assert same(part, collate(GROUPS[:1], pad_id=PAD))


def fewest_parts(lengths: list[int], budget: int) -> int:
    """By trying every way to cut the sorted lengths."""
    ordered = sorted(lengths, reverse=True)
    for parts in range(1, len(lengths) + 1):
        for cuts in combinations(range(1, len(lengths)), parts - 1):
            pieces = [ordered[a:b] for a, b in zip((0, *cuts), (*cuts, len(lengths)), strict=True)]
            if all(len(piece) == 1 or len(piece) * piece[0] <= budget for piece in pieces):
                return parts
    raise AssertionError


def test_micro_batches_by_hand():
    parts = micro_batches(torch.tensor([3, 10, 3, 4, 3]), token_budget=8)
    assert [part.tolist() for part in parts] == [[1], [3, 0], [2, 4]]


def test_micro_batches_keep_their_promises():
    generator = random.Random(0)
    for _ in range(200):
        lengths = [generator.randint(1, 12) for _ in range(generator.randint(1, 9))]
        budget = generator.randint(1, 40)
        parts = [part.tolist() for part in micro_batches(torch.tensor(lengths), budget)]
        assert sorted(chain.from_iterable(parts)) == list(range(len(lengths)))
        assert all(len(part) == 1 or len(part) * max(lengths[row] for row in part) <= budget for part in parts)
        assert len(parts) == fewest_parts(lengths, budget)
        assert parts == [part.tolist() for part in micro_batches(torch.tensor(lengths), budget)]


def test_packed_micro_batches_by_hand():
    """Of 12 tokens: 10 and 2 are full; of 24 with padding four rows of 6 fit, though they have 12 tokens without."""
    parts = micro_batches(torch.tensor([2, 10, 2, 6, 2, 2, 1, 1]), token_budget=12, packed=True)
    assert [part.tolist() for part in parts] == [[1], [3, 0, 2, 4], [5, 6, 7]]


def test_packed_micro_batches_keep_their_promises():
    generator = random.Random(0)
    for _ in range(200):
        lengths = [generator.randint(1, 12) for _ in range(generator.randint(1, 9))]
        budget = generator.randint(1, 40)
        parts = [part.tolist() for part in micro_batches(torch.tensor(lengths), budget, packed=True)]
        assert sorted(chain.from_iterable(parts)) == list(range(len(lengths)))
        for part in parts:
            assert len(part) == 1 or sum(lengths[row] for row in part) <= budget
            assert len(part) == 1 or len(part) * max(lengths[row] for row in part) <= 2 * budget
        assert len(parts) <= len(micro_batches(torch.tensor(lengths), budget))


def test_rows_of_one_length_stay_in_order():
    parts = micro_batches(torch.full((5000,), 2), token_budget=2000)
    assert torch.equal(torch.cat(parts), torch.arange(5000))


def test_a_budget_for_everything_makes_one_part():
    assert [len(part) for part in micro_batches(torch.tensor([2, 3, 1]), 9)] == [3]


def test_no_rows_make_no_parts_and_no_budget_is_refused():
    assert micro_batches(torch.zeros(0, dtype=torch.int64), 5) == []
    with pytest.raises(ValueError, match="token budget"):
        micro_batches(torch.tensor([1]), 0)
