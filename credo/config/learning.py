"""Sections about what is learnt from rollouts: PRM, advantages, policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from credo.config.checks import above_zero, at_least, compiles, require, share, unread

Semantics = Literal["official", "paper", "verl"]
Estimator = Literal["rloo", "grpo", "reinforce", "reinforce_pp", "gae", "implicit_value", "calibrated_value", "remax"]
GROUP_ESTIMATORS = ("rloo", "grpo")
"""They compare the responses to one prompt with each other."""
VALUE_ESTIMATORS = ("implicit_value", "calibrated_value")
"""They read the PRM as a value of prefixes, so it rewards no token."""


@dataclass(frozen=True, kw_only=True)
class PrmConfig:
    """The implicit process reward model."""

    enabled: bool = True
    """False is outcome-only RLOO: neither PRM nor reference; the rest of this section is not read, nor what
    `advantage` says of the process reward."""
    path: str = ""
    """Weights the PRM starts from: an offline PRM, or a smaller model with the same tokenizer; empty takes
    `model.path`."""
    update: Literal["after", "before", "none"] = "after"
    """Score then learn (paper), learn then score again (double forward), or score with frozen weights."""
    reference: Literal["initial", "own", "policy"] = "initial"
    """Frozen start of the policy, frozen start of the PRM itself, or the policy that sampled the rollouts."""
    reference_path: str = ""
    """Weights of the frozen reference where it is neither: the model that an offline PRM was trained against."""
    top_layers: int = 0
    """The PRM learns only so many of its last decoder layers and its last norm, and computes the rest once with its
    reference; 0 learns all."""
    beta: float = 0.05
    """Scale of the log-ratios in the cross-entropy, and in the reward where the semantics has one."""
    granularity: Literal["token", "step", "whole"] = "token"
    """A reward for every token, or their sum at the last token of each step, or of the response."""
    step_boundary: Literal["newline", "sentence", "regex"] = "newline"
    """What ends a step: line breaks, the end of a sentence, or `prm.step_pattern`."""
    step_pattern: str = ""
    """Regular expression for `prm.step_boundary = "regex"`; a step ends with the token in which a match ends."""
    loss: Literal["ce", "dpo", "bon_acc", "bon_rm"] = "ce"
    """Cross-entropy (paper), detached DPO against the group's other outcomes, or the latter weighted towards the best
    of n by outcome or by reward."""
    label_smoothing: float = 0.0
    """Moves outcomes this far towards their opposite: 0.1 trains 1 as 0.95 and 0 as 0.05."""
    ema: float = 0.0
    """Scores with an average of the weights that keeps this share of itself at each optimiser step; 0 scores with the
    newest."""
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
        at_least(0, self, "prm", "lr_warmup", "warmup_steps", "weight_decay", "ema", "top_layers")
        require(self.ema < 1, f"prm.ema: expected 0 to below 1, got {self.ema}; 1 would never learn.")
        share(self, "prm", "label_smoothing")
        if self.granularity != "step":
            unread(self, "prm", "step_boundary", "step_pattern", cause=f"with prm.granularity = '{self.granularity}'")
        require(
            (self.step_boundary == "regex") == bool(self.step_pattern),
            "prm.step_pattern: goes with prm.step_boundary = 'regex' and only with it; set both or neither.",
        )
        if self.step_pattern:
            compiles("prm.step_pattern", self.step_pattern)
        if self.reference != "initial":
            unread(self, "prm", "reference_path", cause=f"with prm.reference = '{self.reference}'")
        require(
            self.reference != "own" or bool(self.path),
            "prm.reference: 'own' is the PRM's own start, which without prm.path is the policy's; set prm.path or "
            "leave it at 'initial'.",
        )
        require(
            self.reference != "policy" or self.top_layers == 0,
            "prm.top_layers: a PRM that learns its last layers alone shares the others with a frozen reference, and "
            "prm.reference = 'policy' has none; leave it at 0 or choose 'initial'.",
        )
        if self.enabled and self.update == "none":
            learning = ("lr", "lr_warmup", "warmup_steps", "minibatch", "weight_decay", "max_grad_norm")
            learning += ("loss", "label_smoothing", "ema", "top_layers")
            unread(self, "prm", *learning, cause="with prm.update = 'none'")


@dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
    """From process rewards and outcomes to advantages."""

    semantics: Semantics = "official"
    """Which PRIME: the released code, the paper's Eq. 5, or verl's recipe."""
    estimator: Estimator = "rloo"
    """Baseline of the advantages: the other responses (rloo), the group's mean and spread (grpo), nothing (reinforce),
    nothing but whitening (reinforce_pp), a critic (gae), the greedy response (remax), or the PRM's own value of the
    prefix, as a logit (implicit_value) or a probability (calibrated_value)."""
    process_coef: float = 1.0
    """Weight of the process return."""
    outcome_coef: float = 1.0
    """Weight of the outcome return."""
    gamma_process: float = 1.0
    """Discount of process rewards, per token; 0 credits a token with its own reward alone."""
    gamma_outcome: float = 1.0
    """Discount of the outcome, per token; the paper does not discount it."""
    gae_lambda: float = 1.0
    """Trust in the critic, from 1 (only as a baseline) down to 0 (one step ahead)."""
    credit: Literal["sum", "min"] = "sum"
    """A return adds up the rewards of a response, or knows only the lowest of them."""
    baseline: Literal["token_mean", "sequence", "position", "expected", "none"] | None = None
    """Baseline of the process rewards: token means of the others, their totals spread over the tokens, their returns
    at the same fraction of the response, or what the policy expected at that token; unset takes the estimator's own."""
    normalizer: Literal["max_return", "rms", "quantile", "none"] | None = None
    """Process rewards are divided by the largest return of the batch, their root mean square, the 99.9 % quantile of
    their size, or nothing; unset is as `advantage.semantics` has it."""
    normalizer_floor: float | None = None
    """Least value of the reward normaliser (in grpo: of the spread that it divides by), in log-ratio units (default
    0.01): keeps an untrained PRM's noise small."""
    whitening: Literal["batch", "group", "none"] | None = None
    """Advantages are shifted and scaled to mean 0 and variance 1 over the tokens of the batch or of each group; unset
    is as estimator and semantics have it."""
    negative_only: bool = False
    """Process rewards above their baseline count as 0: the PRM only takes away."""
    gate_accuracy: float = 0.0
    """Pair accuracy at which the process reward is heard in full; below, it fades to nothing at 0.5 (chance). 0 hears
    it always, as in the paper."""
    control: Literal["none", "shuffled", "random"] = "none"
    """Replaces log-ratios by their own shuffle within each response, or by noise of the same scale: what is left is not
    due to which token got which reward."""

    def __post_init__(self) -> None:
        at_least(0, self, "advantage", "process_coef", "outcome_coef")
        share(self, "advantage", "gamma_process", "gamma_outcome", "gae_lambda")
        if self.normalizer_floor is not None:
            above_zero(self, "advantage", "normalizer_floor")
        require(
            self.gate_accuracy == 0 or 0.5 < self.gate_accuracy <= 1,
            f"advantage.gate_accuracy: expected 0 (off) or above 0.5 (chance) up to 1, got {self.gate_accuracy}.",
        )
        if self.semantics == "verl":
            unread(self, "advantage", "gamma_process", "gamma_outcome", cause="with semantics 'verl'")
        if self.semantics == "paper":
            unread(self, "advantage", "gamma_outcome", cause="with semantics 'paper'")
        if self.outcome_coef == 0:
            unread(self, "advantage", "gamma_outcome", cause="with advantage.outcome_coef = 0")
        if self.estimator != "gae":
            unread(self, "advantage", "gae_lambda", cause=f"with advantage.estimator = '{self.estimator}'")
        self._check_process_reward()

    def _check_process_reward(self) -> None:
        cause = f"with advantage.estimator = '{self.estimator}'"
        if self.estimator in VALUE_ESTIMATORS:
            rewarding = ("gamma_process", "credit", "baseline", "normalizer", "normalizer_floor", "negative_only")
            unread(self, "advantage", *rewarding, cause=f"{cause}, which gives no token a process reward")
        if self.estimator == "grpo":
            scaling = ("baseline", "normalizer")
            unread(self, "advantage", *scaling, cause=f"{cause}, which divides by the spread of its group")
        if self.estimator == "reinforce_pp":
            unread(self, "advantage", "whitening", cause=f"{cause}, which is reinforce with whitening")
        scaled = self.normalizer or ("none" if self.semantics == "paper" else "max_return")
        if scaled == "none" and self.estimator != "grpo":
            unread(self, "advantage", "normalizer_floor", cause="without a normalizer")
        require(
            not (self.baseline == "position" and self.negative_only),
            "advantage.negative_only: takes the part of each reward below its baseline, but the baseline 'position' is "
            "one of returns; choose another baseline.",
        )
        require(
            not (self.baseline == "expected" and self.control != "none"),
            "advantage.control: the baseline 'expected' belongs to the PRM's own log-ratios; choose another baseline.",
        )


@dataclass(frozen=True, kw_only=True)
class CriticConfig:
    """The critic of `advantage.estimator = "gae"`: the policy's start with a linear head, on its own weights."""

    lr: float = 1e-5
    """Learning rate; mini-batches and the gradient's bound are the policy's."""
    warmup_steps: int = 0
    """First training steps in which the policy waits for the critic."""
    clip: float = 0.5
    """A value may move this far from the old one before its loss stops pulling it on."""

    def __post_init__(self) -> None:
        above_zero(self, "critic", "lr", "clip")
        at_least(0, self, "critic", "warmup_steps")


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
    loss: Literal["ppo", "pg", "gspo", "cispo"] = "ppo"
    """PPO's clipped surrogate, the plain policy gradient, GSPO (one ratio for a response), or CISPO (the ratio is
    clipped, the gradient never)."""
    clip_low: float = 0.2
    """The probability ratio is clipped below 1 - clip_low."""
    clip_high: float = 0.2
    """The probability ratio is clipped above 1 + clip_high."""
    dual_clip: float = 0.0
    """Bounds the loss of a token with negative advantage at this many times the advantage (verl's recipe: 3); 0 is
    off."""
    importance_cap: float = 0.0
    """Weighs tokens by the ratio of the trainer's to the sampler's probability, at most this; 0 is off."""
    kl_coef: float = 0.0
    """Weight of the divergence from the policy's frozen start in the loss."""
    kl: Literal["k1", "k2", "k3"] = "k3"
    """Its estimate: the log-ratio (its gradient is noise around 0), half its square, or the always positive one."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    aggregation: Literal["token_mean", "seq_mean_token_mean"] = "seq_mean_token_mean"
    """Every token weighs the same, or every response (what the released script amounts to)."""

    def __post_init__(self) -> None:
        above_zero(self, "policy", "lr", "max_grad_norm", "clip_low", "clip_high")
        at_least(1, self, "policy", "minibatch")
        at_least(0, self, "policy", "lr_warmup", "weight_decay", "importance_cap", "kl_coef", "entropy_coef")
        require(
            self.dual_clip == 0 or self.dual_clip > 1,
            f"policy.dual_clip: expected 0 (off) or above 1, got {self.dual_clip}.",
        )
        if self.loss != "ppo":
            unread(self, "policy", "dual_clip", cause=f"with policy.loss = '{self.loss}'")
        if self.loss == "pg":
            unread(self, "policy", "clip_low", "clip_high", cause="with policy.loss = 'pg'")
        if self.kl_coef == 0:
            unread(self, "policy", "kl", cause="with policy.kl_coef = 0")
        require(self.clip_low < 1, f"policy.clip_low: expected below 1, got {self.clip_low}.")
