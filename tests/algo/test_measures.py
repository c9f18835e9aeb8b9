"""The measures by hand, by slow loops, and where they have nothing to measure."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from credo.algo.measures import auc, average_ranks, calibration_error, correlation, spearman, thirds

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def sample(count: int, seed: int, *, levels: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers, or whole ones below ``levels``, of which many are equal."""
    generator = torch.Generator().manual_seed(seed)
    if levels:
        return torch.randint(levels, (count,), generator=generator).to(dtype)
    return torch.randn(count, generator=generator, dtype=dtype)


def slow_auc(scores: Tensor, positive: Tensor) -> float:
    pairs = list(product(scores[positive].tolist(), scores[~positive].tolist()))
    return sum((high > low) + 0.5 * (high == low) for high, low in pairs) / len(pairs)


def slow_calibration_error(probabilities: Tensor, outcomes: Tensor, bins: int) -> float:
    total = 0.0
    for index in range(bins):
        low, high = index / bins, (index + 1) / bins if index < bins - 1 else 2.0
        inside = [(p, y) for p, y in zip(probabilities.tolist(), outcomes.tolist(), strict=True) if low <= p < high]
        if inside:
            gap = sum(y for _, y in inside) / len(inside) - sum(p for p, _ in inside) / len(inside)
            total += len(inside) / len(outcomes) * abs(gap)
    return total


def slow_rank(value: float, values: list[float]) -> float:
    return sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2


def test_auc_by_hand():
    """Of the pairs (3, 1), (3, 2), (2, 1), (2, 2) three are right and one is a tie."""
    scores, positive = torch.tensor([1.0, 3.0, 2.0, 2.0]), torch.tensor([False, True, True, False])
    assert auc(scores, positive) == 3.5 / 4
    assert auc(-scores, positive) == 0.5 / 4


@pytest.mark.parametrize("classes", [[], [True, True], [False, False]])
def test_auc_without_one_of_the_classes_is_chance(classes: list[bool]):
    assert auc(torch.arange(float(len(classes))), torch.tensor(classes, dtype=torch.bool)) == 0.5


@BOTH
@pytest.mark.parametrize("levels", [0, 3])
def test_auc_counts_pairs(levels: int, dtype: torch.dtype):
    scores, positive = sample(40, 0, levels=levels, dtype=dtype), sample(40, 1) > 0.3
    assert auc(scores, positive).item() == pytest.approx(slow_auc(scores, positive), abs=1e-12)
    order = torch.randperm(40)
    assert auc(scores[order], positive[order]) == auc(scores, positive)
    assert auc(scores.exp(), positive) == auc(scores, positive), "only the order counts"


def test_calibration_error_by_hand():
    """Of 2 bins the lower has 0.1, 0.3 against 1, 0 (gap 0.3), the upper 0.5 and 1 against 1, 0.5 (gap 0)."""
    probabilities, outcomes = torch.tensor([0.1, 0.3, 0.5, 1.0]), torch.tensor([1.0, 0.0, 1.0, 0.5])
    assert calibration_error(probabilities, outcomes, 2).item() == pytest.approx(0.5 * 0.3, abs=1e-7)
    apart = calibration_error(probabilities, outcomes).item()
    assert apart == pytest.approx((0.9 + 0.3 + 0.5 + 0.5) / 4, abs=1e-7), "each in one of 10 bins"


@BOTH
@pytest.mark.parametrize("bins", [1, 7, 10])
def test_calibration_error_bin_by_bin(bins: int, dtype: torch.dtype):
    probabilities, outcomes = sample(60, 0, dtype=dtype).sigmoid(), sample(60, 1, levels=2, dtype=dtype)
    expected = slow_calibration_error(probabilities, outcomes, bins)
    assert calibration_error(probabilities, outcomes, bins).item() == pytest.approx(expected, abs=1e-12)


def test_what_happens_as_often_as_said_is_calibrated():
    probabilities, outcomes = torch.full((8,), 0.25), torch.tensor([1.0, 0.0, 0.0, 0.0] * 2)
    assert calibration_error(probabilities, outcomes) == 0
    assert calibration_error(probabilities[:0], outcomes[:0]) == 0


def test_a_calibration_error_needs_a_bin():
    with pytest.raises(ValueError, match="bin"):
        calibration_error(torch.rand(3), torch.rand(3), bins=0)


def test_correlation_by_hand():
    """Centred, (-1, 0, 1) and (-1, -1, 2): 3 / sqrt(2 * 6)."""
    x, y = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 0.0, 3.0])
    assert correlation(x, y).item() == pytest.approx(3 / 12**0.5)
    assert correlation(x, -y).item() == pytest.approx(-3 / 12**0.5)
    assert spearman(x, y).item() == pytest.approx(1.5 / (2 * 1.5) ** 0.5)


@BOTH
def test_correlation_is_numpy_s(dtype: torch.dtype):
    x, y = sample(50, 0, dtype=dtype), sample(50, 1, levels=4, dtype=dtype)
    expected = torch.corrcoef(torch.stack([x, y]).double())[0, 1].item()
    assert correlation(x, y).item() == pytest.approx(expected, abs=1e-12)
    assert correlation(y, x).item() == pytest.approx(expected, abs=1e-12)
    assert correlation(3 * x + 1, y).item() == pytest.approx(expected, abs=1e-6)


@BOTH
def test_spearman_is_the_correlation_of_ranks_with_ties_shared(dtype: torch.dtype):
    x, y = sample(50, 0, levels=5, dtype=dtype), sample(50, 1, dtype=dtype)
    ranks = [torch.tensor([slow_rank(v, z.tolist()) for v in z.tolist()], dtype=torch.float64) for z in (x, y)]
    torch.testing.assert_close(average_ranks(x), ranks[0])
    assert spearman(x, y).item() == pytest.approx(torch.corrcoef(torch.stack(ranks))[0, 1].item(), abs=1e-12)
    assert spearman(x, y.exp()) == spearman(x, y)


def test_spearman_sees_any_monotone_relation():
    x = sample(20, 0)
    assert spearman(x, x.pow(3)).item() == pytest.approx(1.0)
    assert spearman(x, -x.exp()).item() == pytest.approx(-1.0)
    assert correlation(x, x.pow(3)).item() < 0.95


@pytest.mark.parametrize("measure", [correlation, spearman])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_what_is_constant_correlates_with_nothing(measure: Callable[..., Tensor], count: int):
    flat, other = torch.full((count,), 0.1), sample(count, 0)
    assert measure(flat, other) == 0
    assert measure(other, flat) == 0


def test_rounding_is_no_variation():
    """Means of many equal numbers, over different counts, differ in their last digits and then with the count."""
    counts = torch.arange(1.0, 4000.0, 37.0)
    means = torch.stack([torch.full((int(count),), 0.7).sum() / count for count in counts])
    assert means.unique().numel() > 1
    assert correlation(means, counts) == 0
    assert correlation(means + counts * 1e-5, counts).item() == pytest.approx(1.0, abs=1e-3)


def test_tiny_and_huge_numbers_correlate_like_others():
    x, y = sample(30, 0), sample(30, 1)
    assert correlation(x * 1e-30, y * 1e30).item() == pytest.approx(correlation(x, y).item(), abs=1e-6)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5.0, 1.0, 3.0, 2.0, 6.0, 4.0], [2, 0, 1, 0, 2, 1]),
        ([1.0, 2.0, 3.0, 4.0], [0, 1, 1, 2]),
        ([7.0, 7.0, 7.0], [1, 1, 1]),
        ([1.0, 2.0, 2.0, 2.0, 2.0, 2.0], [0, 1, 1, 1, 1, 1]),
        ([1.0, 2.0], [0, 2]),
        ([], []),
    ],
)
def test_thirds_by_hand(values: list[float], expected: list[int]):
    assert thirds(torch.tensor(values)).tolist() == expected


def test_thirds_are_equally_many_without_ties():
    assert thirds(sample(99, 0)).bincount().tolist() == [33, 33, 33]
