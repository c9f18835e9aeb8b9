"""Sections about what is learnt from rollouts: PRM, advantages, policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from credo.config.checks import above_zero, at_least, require, share, unread

Semantics = Literal["official", "paper", "verl"]


@dataclass(frozen=True, kw_only=True)
class PrmConfig:
    """The implicit process reward model."""

    enabled: bool = True
    """False is outcome-only RLOO: neither PRM nor reference; the rest of this section is not read, nor what
    `advantage` says of the process reward."""
    path: str = ""
    """Weights the PRM starts from; empty takes `model.path`."""
    update: Literal["after", "before", "none"] = "after"
    """Score then learn (paper), learn then score again (double forward), or score with frozen weights."""
    reference: Literal["initial", "policy"] = "initial"
    """Frozen start of the policy, or the policy that sampled the rollouts."""
    beta: float = 0.05
    """Scale of the log-ratios in the cross-entropy, and in the reward where the semantics has one."""
    granularity: Literal["token", "whole"] = "token"
    """A reward for every token, or their sum at the last one."""
    lr: float = 1e-6
    """Learning rate."""
    lr_warmup: int = 0
    """Optimiser steps of linear warm-up."""
    warmup_steps: int = 0
    """First training steps in which only the PRM learns."""
    minibatch: int = 256
    """Responses in one optimiser step."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = 10.0
    """Global gradient norm is clipped to this."""

    def __post_init__(self) -> None:
        require(self.lr > 0, f"prm.lr: expected above 0, got {self.lr}. To freeze the PRM set prm.update = 'none'.")
        above_zero(self, "prm", "beta", "max_grad_norm")
        at_least(1, self, "prm", "minibatch")
        at_least(0, self, "prm", "lr_warmup", "warmup_steps", "weight_decay")
        if self.enabled and self.update == "none":
            learning = ("lr", "lr_warmup", "warmup_steps", "minibatch", "weight_decay", "max_grad_norm")
            unread(self, "prm", *learning, cause="with prm.update = 'none'")


@dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
    """From process rewards and outcomes to advantages."""

    semantics: Semantics = "official"
    """Which PRIME: the released code, the paper's Eq. 5, or verl's recipe."""
    estimator: Literal["rloo"] = "rloo"
    """Baseline of the advantages."""
    process_coef: float = 1.0
    """Weight of the process return."""
    outcome_coef: float = 1.0
    """Weight of the outcome return."""
    gamma_process: float = 1.0
    """Discount of process rewards, per token."""
    gamma_outcome: float = 1.0
    """Discount of the outcome, per token; the paper does not discount it."""
    normalizer_floor: float | None = None
    """Least value of the reward normaliser, in log-ratio units (default 0.01): keeps an untrained PRM's noise small."""

    def __post_init__(self) -> None:
        at_least(0, self, "advantage", "process_coef", "outcome_coef")
        share(self, "advantage", "gamma_process", "gamma_outcome")
        if self.normalizer_floor is not None:
            above_zero(self, "advantage", "normalizer_floor")
        if self.semantics == "verl":
            unread(self, "advantage", "gamma_process", "gamma_outcome", cause="with semantics 'verl'")
        if self.semantics == "paper":
            unread(self, "advantage", "gamma_outcome", "normalizer_floor", cause="with semantics 'paper'")
        if self.outcome_coef == 0:
            unread(self, "advantage", "gamma_outcome", cause="with advantage.outcome_coef = 0")


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The policy update."""

    lr: float = 5e-7
    """Learning rate."""
    lr_warmup: int = 0
    """Optimiser steps of linear warm-up."""
    minibatch: int = 256
    """Responses in one optimiser step."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Global gradient norm is clipped to this."""
    clip_low: float = 0.2
    """The probability ratio is clipped below 1 - clip_low."""
    clip_high: float = 0.2
    """The probability ratio is clipped above 1 + clip_high."""
    aggregation: Literal["token_mean", "seq_mean_token_mean"] = "seq_mean_token_mean"
    """Every token weighs the same, or every response (what the released script amounts to)."""

    def __post_init__(self) -> None:
        above_zero(self, "policy", "lr", "max_grad_norm", "clip_low", "clip_high")
        at_least(1, self, "policy", "minibatch")
        at_least(0, self, "policy", "lr_warmup", "weight_decay")
        require(self.clip_low < 1, f"policy.clip_low: expected below 1, got {self.clip_low}.")
