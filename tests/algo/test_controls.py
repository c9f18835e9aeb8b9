"""Controls keep what they should of the log-ratios and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from credo.algo.controls import noise, shuffled

Control = Callable[[Tensor, Tensor, int], Tensor]


def responses(values: Tensor, mask: Tensor) -> list[Tensor]:
    """The values of each row on the mask."""
    return [row[own] for row, own in zip(values, mask, strict=True)]


def test_a_shuffle_keeps_the_values_of_each_response(random_rows):
    rows = random_rows()
    made = shuffled(rows.log_ratios, rows.mask, 3)
    moved = 0
    for before, after in zip(responses(rows.log_ratios, rows.mask), responses(made, rows.mask), strict=True):
        assert torch.equal(before.sort().values, after.sort().values)
        torch.testing.assert_close(before.sum(), after.sum())
        moved += int((before != after).sum())
    assert moved > 10


def test_a_shuffle_makes_every_order():
    mask = torch.tensor([[False, True, True, True, False]])
    values = torch.tensor([[torch.nan, 1.0, 2.0, 3.0, torch.nan]])
    seen = {tuple(shuffled(values, mask, seed)[0, 1:4].tolist()) for seed in range(60)}
    assert seen == set(permutations((1.0, 2.0, 3.0)))


def test_rows_are_shuffled_each_in_its_own_way():
    mask = torch.ones(6, 8, dtype=torch.bool)
    made = shuffled(torch.arange(8.0).expand(6, 8), mask, 0)
    assert len({tuple(row.tolist()) for row in made}) == 6


def test_noise_is_as_loud_as_the_log_ratios():
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(60) < torch.randint(20, 60, (100, 1), generator=generator)
    values = (torch.rand(100, 60, generator=generator) - 2.0).masked_fill(~mask, torch.nan)
    made = noise(values, mask, 4)[mask]
    assert made.square().mean().sqrt().item() == pytest.approx(values[mask].square().mean().sqrt().item(), rel=0.05)
    assert abs(made.mean().item()) < 0.1, "around 0, though the log-ratios are not"
    assert ((made.abs() < made.std()).float().mean().item()) == pytest.approx(0.683, abs=0.03)


def test_noise_does_not_know_where_or_what_the_log_ratios_were(random_rows):
    rows = random_rows()
    made = noise(rows.log_ratios, rows.mask, 5)
    torch.testing.assert_close(noise(-rows.log_ratios, rows.mask, 5), made)
    elsewhere = rows.log_ratios.clone()
    elsewhere[rows.mask] = rows.log_ratios[rows.mask].flip(0)
    torch.testing.assert_close(noise(elsewhere, rows.mask, 5), made)
    torch.testing.assert_close(noise(2 * rows.log_ratios, rows.mask, 5), 2 * made)


def test_the_noise_of_silence_is_silence():
    mask = torch.tensor([[True, False], [False, False]])
    assert (noise(torch.zeros(2, 2), mask, 0) == 0).all()
    assert (noise(torch.full((2, 2), torch.nan), torch.zeros_like(mask), 0) == 0).all()


@pytest.mark.parametrize("control", [shuffled, noise])
def test_the_seed_decides_and_padding_and_input_do_not_matter(random_rows, control: Control):
    rows = random_rows()
    before = rows.log_ratios.clone()
    made = control(rows.log_ratios, rows.mask, 1)
    assert made.isfinite().all()
    assert (made[~rows.mask] == 0).all()
    assert torch.equal(made, control(rows.log_ratios, rows.mask, 1))
    assert not torch.equal(made, control(rows.log_ratios, rows.mask, 2))
    torch.testing.assert_close(rows.log_ratios, before, equal_nan=True, atol=0, rtol=0)
    wide = control(F.pad(rows.log_ratios, (2, 3), value=torch.nan), F.pad(rows.mask, (2, 3)), 1)
    torch.testing.assert_close(wide, F.pad(made, (2, 3)), atol=1e-7, rtol=1e-6)
