"""Figures of scores: against the plain measures, and intervals that cover the truth as often as they say."""

from __future__ import annotations

import pytest
import torch

from credo.algo.measures import auc, calibration_error
from credo.measures.ranking import (
    Judged,
    calibration_figure,
    over_problems,
    problem_pair_accuracies,
    ranking_figures,
    weighted_auc,
    weighted_calibration_error,
)


def judged(outcomes: list[float], problems: list[int]) -> Judged:
    return Judged(outcomes=torch.tensor(outcomes), problems=torch.tensor(problems))


def test_pair_accuracies_by_hand():
    of = judged([1.0, 0.0, 0.0, 1.0, 1.0, 0.0], [7, 7, 7, 3, 3, 9])
    # Problem 3 and 9 have nothing to rank; in 7 the right one beats one of two, and ties with none.
    assert problem_pair_accuracies(of, torch.tensor([0.5, 0.1, 0.9, 0.0, 1.0, 2.0])) == [0.5]
    assert problem_pair_accuracies(of, torch.zeros(6)) == [0.5]


def test_weights_are_repetitions():
    generator = torch.Generator().manual_seed(3)
    scores = torch.randint(5, (12,), generator=generator).float()
    outcomes = torch.randint(2, (12,), generator=generator).float()
    times = torch.randint(4, (6, 12), generator=generator)
    areas = weighted_auc(scores, outcomes > 0.5, times.double())
    errors = weighted_calibration_error(scores / 5, outcomes, times.double())
    for r in range(6):
        rows = torch.arange(12).repeat_interleave(times[r])
        assert areas[r].item() == pytest.approx(auc(scores[rows], outcomes[rows] > 0.5).item())
        assert errors[r].item() == pytest.approx(calibration_error(scores[rows] / 5, outcomes[rows]).item())


def test_one_class_has_no_area():
    assert weighted_auc(torch.arange(3.0), torch.ones(3, dtype=torch.bool), torch.ones(2, 3)).tolist() == [0.5, 0.5]


def test_figures_of_two_scores():
    generator = torch.Generator().manual_seed(1)
    outcomes = torch.randint(2, (200,), generator=generator).float()
    of = Judged(outcomes=outcomes, problems=torch.arange(50).repeat_interleave(4))
    scores = {"good": outcomes + 0.5 * torch.randn(200, generator=generator), "constant": torch.zeros(200)}
    found = ranking_figures(of, scores, "good")
    assert set(found["good"]) == {"pair_accuracy", "auc"}
    good, constant = found["good"]["auc"], found["constant"]
    assert good.value == pytest.approx(auc(scores["good"], outcomes > 0.5).item())
    assert good.low < good.value < good.high
    assert constant["auc"].value == constant["auc"].low == 0.5
    assert constant["auc_gain"].value == pytest.approx(good.value - 0.5)
    assert constant["auc_gain"].low > 0
    assert constant["pair_accuracy_gain"].low > 0
    assert calibration_figure(of, scores["constant"]).value == pytest.approx(abs(outcomes.mean().item() - 0.5))


def test_intervals_take_the_problem_as_the_unit():
    """Ten copies of each response are no more evidence than one."""
    outcomes = torch.tensor([1.0, 0.0] * 20)
    chances = torch.linspace(0, 1, 40)

    def width(copies: int) -> float:
        problems = torch.arange(20).repeat_interleave(2 * copies)
        rows = torch.arange(40).view(20, 2).repeat(1, copies).flatten()
        statistic = lambda weights: weighted_auc(chances[rows], outcomes[rows] > 0.5, weights)  # noqa: E731
        figure = over_problems(problems, statistic)
        return figure.high - figure.low

    assert width(10) == pytest.approx(width(1))


def test_intervals_cover_the_truth():
    """Scores shifted by 1 for right responses: the AUC is Phi(1 / sqrt 2) = 0.7602."""
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(100):
        outcomes = torch.tensor([1.0, 0.0]).repeat(60)
        scores = outcomes + torch.randn(120, generator=generator)
        of = Judged(outcomes=outcomes, problems=torch.arange(60).repeat_interleave(2))
        figure = over_problems(of.problems, lambda w, s=scores, o=outcomes: weighted_auc(s, o > 0.5, w))
        covered += figure.low <= 0.7602 <= figure.high
    assert 0.88 <= covered / 100 <= 0.99
