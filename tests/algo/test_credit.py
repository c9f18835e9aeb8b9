"""What the sources chose, and what a choice of one's own does to it."""

from __future__ import annotations

from typing import Any

import pytest

from credo.algo.credit import CHOICES, CreditRules, Estimator, Semantics


def made(name: str, choice: Any) -> CreditRules:
    options: dict[str, Any] = {name: choice}
    return CreditRules(**options)


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.usefixtures("no_type_checks")
def test_an_unknown_choice_is_told_the_known_ones(name: str):
    with pytest.raises(ValueError, match=name) as error:
        made(name, "nonsense")
    assert "'nonsense'" in str(error.value)
    assert all(str(choice) in str(error.value) for choice in CHOICES[name])


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_is_accepted(name: str):
    for choice in CHOICES[name]:
        assert getattr(made(name, choice), name) == choice


@pytest.mark.parametrize(
    ("semantics", "unit", "drops_last", "stretches", "divides_by", "whitens"),
    [
        ("official", 1.0, False, True, "max_return", "batch"),
        ("paper", 0.2, False, False, "none", "none"),
        ("verl", 0.2, True, True, "max_return", "batch"),
    ],
)
def test_what_each_source_does(
    semantics: Semantics, unit: float, drops_last: bool, stretches: bool, divides_by: str, whitens: str
):
    rules = CreditRules(semantics=semantics, beta=0.2)
    assert rules.unit == unit
    assert (rules.published.drops_last, rules.published.stretches) == (drops_last, stretches)
    assert (rules.divides_by, rules.whitens) == (divides_by, whitens)


@pytest.mark.parametrize("semantics", CHOICES["semantics"])
@pytest.mark.parametrize("estimator", CHOICES["estimator"])
def test_what_the_estimator_says_goes_before_the_semantics(semantics: Semantics, estimator: Estimator):
    rules = CreditRules(semantics=semantics, estimator=estimator)
    whitens = {"reinforce": "none", "reinforce_pp": "batch"}.get(estimator, "none" if semantics == "paper" else "batch")
    divides_by = "none" if estimator == "grpo" or semantics == "paper" else "max_return"
    assert (rules.whitens, rules.divides_by) == (whitens, divides_by)
    assert rules.values_prefixes == (estimator in ("implicit_value", "calibrated_value"))


def test_what_is_asked_for_goes_before_both():
    assert CreditRules(semantics="paper", whitening="group").whitens == "group"
    assert CreditRules(whitening="none").whitens == "none"
    assert CreditRules(estimator="reinforce", whitening="batch").whitens == "batch"
    assert CreditRules(semantics="paper", normalizer="rms").divides_by == "rms"
    assert CreditRules(normalizer="none").divides_by == "none"


def test_two_definitions_bear_no_choice():
    assert CreditRules(estimator="reinforce_pp", whitening="none").whitens == "batch", "it is reinforce with whitening"
    assert CreditRules(estimator="grpo", normalizer="rms").divides_by == "none", "its spread divides already"


def test_eq_5_does_not_discount_the_outcome():
    with pytest.raises(ValueError, match="gamma_outcome"):
        CreditRules(semantics="paper", gamma_outcome=0.9)
    assert CreditRules(semantics="paper", gamma_process=0.9).gamma_process == 0.9
