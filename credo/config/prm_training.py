"""The configuration of ``credo prm train``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from credo.config.checks import above_zero, at_least, require, share, unread
from credo.config.launch import LaunchConfig, without_launch
from credo.config.running import ModelConfig, RunConfig, TrainingConfig, TuningCheckpointConfig
from credo.config.sampling import Template

PAIR_LOSSES = ("dpo", "nca")
"""They learn from a correct and a wrong response to one problem."""
VALIDATED = ("offline/auc", "offline/calibration_error", "offline/pair_accuracy")
"""Metrics of the held-out responses."""


@dataclass(frozen=True, kw_only=True)
class OfflineConfig:
    """An implicit PRM learnt from responses that are judged already, and how fast."""

    sources: tuple[str, ...]
    """Labelled responses: .jsonl or .parquet files, or folders of them, a response or all responses of a problem a
    row; such as `credo prm rollouts` makes, or the rollouts of a run."""
    held_out: tuple[str, ...] = ()
    """Labelled responses to validate on; their problems are taken out of training. Empty holds out some of
    `sources`."""
    held_out_share: float = 0.2
    """Share of the problems held out where `offline.held_out` names no file; always the same ones."""
    loss: Literal["ce", "dpo", "nca", "kto"] = "ce"
    """Cross-entropy or KTO on single responses, DPO or NCA on pairs of a correct and a wrong one to a problem."""
    beta: float = 0.05
    """Scale of the log-ratios in the loss; stays with the PRM."""
    balance: Literal["none", "class", "dataset", "instruction"] = "none"
    """Each epoch leaves out some responses of the larger class: over all, in each source, or in each problem."""
    pairs: Literal["matched", "all"] = "matched"
    """Each epoch pairs correct and wrong responses to a problem one to one anew (paper), or each with each (its
    code)."""
    correct_weight: float = 1.0
    """Weight of correct responses in KTO."""
    wrong_weight: float = 1.0
    """Weight of wrong responses in KTO."""
    reference_path: str = ""
    """The frozen reference; empty is `model.path` as it is before training."""
    batch: int = 64
    """Responses, or pairs of them, in one optimiser step."""
    lr: float = 5e-7
    """Peak learning rate."""
    lr_warmup: float = 0.03
    """Share of the steps spent in linear warm-up; half a cosine follows."""
    lr_floor: float = 0.1
    """Share of the peak learning rate that the cosine ends at."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Global gradient norm is clipped to this."""
    evaluate_every: int = 0
    """Also validate after every so many steps; 0 only before and after."""
    max_tokens: int = 2048
    """Longer responses, prompt included, are left out and counted."""
    max_bad_share: float = 0.0
    """Share of unreadable rows that is skipped; 0 refuses the first one."""
    template: Template = "auto"
    """Chat template or plain text; auto follows the row and the tokenizer."""
    system: str = ""
    """System message put before every conversation."""
    suffix: str = ""
    """Text put after every prompt."""

    def __post_init__(self) -> None:
        require(len(self.sources) > 0, "offline.sources: no source given; name a file of labelled responses.")
        above_zero(self, "offline", "beta", "lr", "max_grad_norm", "held_out_share")
        above_zero(self, "offline", "correct_weight", "wrong_weight")
        for name in ("lr_warmup", "max_bad_share", "held_out_share"):
            require(0 <= getattr(self, name) < 1, f"offline.{name}: expected 0 to below 1, got {getattr(self, name)}.")
        share(self, "offline", "lr_floor")
        at_least(0, self, "offline", "weight_decay", "evaluate_every")
        at_least(1, self, "offline", "batch")
        at_least(2, self, "offline", "max_tokens")
        cause = f"with offline.loss = '{self.loss}'"
        unread(self, "offline", "balance" if self.loss in PAIR_LOSSES else "pairs", cause=cause)
        if self.loss != "kto":
            unread(self, "offline", "correct_weight", "wrong_weight", cause=cause)
        if self.held_out:
            unread(self, "offline", "held_out_share", cause="with offline.held_out")
        if self.template == "plain":
            unread(self, "offline", "system", cause="with offline.template = 'plain'")


@dataclass(frozen=True, kw_only=True)
class PrmTrainingConfig:
    """Everything about a run of `credo prm train`."""

    run: RunConfig
    model: ModelConfig
    offline: OfflineConfig
    training: TrainingConfig = field(default_factory=TrainingConfig)
    checkpoint: TuningCheckpointConfig = field(default_factory=TuningCheckpointConfig)

    def __post_init__(self) -> None:
        cause = "in `credo prm train`, which stops at the first one"
        unread(self.training, "training", "max_nonfinite_steps", cause=cause)
        self.checkpoint.check_best("offline", VALIDATED, self.offline.evaluate_every)


@dataclass(frozen=True, kw_only=True)
class PrmTrainingRecipe(PrmTrainingConfig):
    """What a recipe of `credo prm train` may say: a run's configuration, and where it runs."""

    launch: LaunchConfig = field(default_factory=LaunchConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.launch.refuse_ray("prm train")

    @property
    def config(self) -> PrmTrainingConfig:
        """The configuration alone."""
        return without_launch(PrmTrainingConfig, self)
