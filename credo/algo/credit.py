"""The choices that turn log-ratios and outcomes into advantages, and what paper and released codes chose.

No tensor is touched here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

Semantics = Literal["official", "paper", "verl"]
Estimator = Literal["rloo", "grpo", "reinforce", "reinforce_pp", "gae", "implicit_value", "calibrated_value", "remax"]
Granularity = Literal["token", "step", "whole"]
Form = Literal["sum", "min"]
Baseline = Literal["token_mean", "sequence", "position", "expected", "none"]
Normalizer = Literal["max_return", "rms", "quantile", "none"]
Whitening = Literal["batch", "group", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What one source does with process rewards and advantages."""

    scales_by_beta: bool
    """The reward of a token is beta * q, else q."""
    drops_last: bool
    """The last token of a response gets no process reward."""
    stretches: bool
    """The leave-one-out baseline of tokens is the released one (see ``centre_as_released``), else Eq. 5's."""
    normalizer: Normalizer
    whitening: Whitening


PUBLISHED: Mapping[Semantics, Published] = {
    # The released PRIME code: dp_prime.py for the rewards, core_algos.py for the advantages.
    "official": Published(
        scales_by_beta=False, drops_last=False, stretches=True, normalizer="max_return", whitening="batch"
    ),
    # Eq. 3 and Eq. 5 as printed.
    "paper": Published(scales_by_beta=True, drops_last=False, stretches=False, normalizer="none", whitening="none"),
    # verl's recipe: prime_dp_rm.py and prime_core_algos.py.
    "verl": Published(scales_by_beta=True, drops_last=True, stretches=True, normalizer="max_return", whitening="batch"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditRules:
    """Every choice between log-ratios and advantages. Unset ones are the estimator's, then the semantics' own.

    Raises ValueError for a choice that does not exist.
    """

    semantics: Semantics = "official"
    estimator: Estimator = "rloo"
    beta: float = 0.05
    gamma_process: float = 1.0
    """Discount of process rewards, per token; 0 is immediate credit: a token's own reward alone."""
    gamma_outcome: float = 1.0
    gae_lambda: float = 1.0
    process_coef: float = 1.0
    outcome_coef: float = 1.0
    granularity: Granularity = "token"
    credit: Form = "sum"
    baseline: Baseline | None = None
    normalizer: Normalizer | None = None
    normalizer_floor: float = 1e-2
    """In units of q."""
    whitening: Whitening | None = None
    negative_only: bool = False

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, choices = getattr(self, entry.name), CHOICES.get(entry.name)
            if choices is not None and value is not None and value not in choices:
                raise ValueError(f"Unknown {entry.name} {value!r}. Choose {', '.join(choices)}.")
        if self.semantics == "paper" and self.gamma_outcome != 1.0:
            raise ValueError(
                f"Eq. 5 of the paper does not discount the outcome, but gamma_outcome is {self.gamma_outcome}. "
                "Set it to 1 or choose the official semantics."
            )

    @property
    def published(self) -> Published:
        """What the chosen semantics does where nothing else is said."""
        return PUBLISHED[self.semantics]

    @property
    def unit(self) -> float:
        """The process reward of a log-ratio of 1, before it is normalised."""
        return self.beta if self.published.scales_by_beta else 1.0

    @property
    def divides_by(self) -> Normalizer:
        """The normaliser in force. GRPO divides by the spread of each group instead."""
        return "none" if self.estimator == "grpo" else self.normalizer or self.published.normalizer

    @property
    def whitens(self) -> Whitening:
        """The whitening in force: REINFORCE is without by definition, REINFORCE++ is defined by it."""
        match self.estimator:
            case "reinforce":
                return self.whitening or "none"
            case "reinforce_pp":
                return "batch"
            case _:
                return self.whitening or self.published.whitening

    @property
    def values_prefixes(self) -> bool:
        """The PRM is read as a value of prefixes and rewards no token (PRIME, section 5.4, variant 3)."""
        return self.estimator in ("implicit_value", "calibrated_value")


CHOICES: Mapping[str, tuple[Any, ...]] = {
    "semantics": get_args(Semantics),
    "estimator": get_args(Estimator),
    "granularity": get_args(Granularity),
    "credit": get_args(Form),
    "baseline": get_args(Baseline),
    "normalizer": get_args(Normalizer),
    "whitening": get_args(Whitening),
}
