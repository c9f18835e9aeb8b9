"""The configuration of ``credo sft``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from credo.config.checks import above_zero, at_least, require, unread
from credo.config.launch import LaunchConfig, without_launch
from credo.config.running import ArchitectureConfig, ModelConfig, RunConfig, TrainingConfig, TuningCheckpointConfig
from credo.config.sampling import Template


@dataclass(frozen=True, kw_only=True)
class DemonstrationConfig:
    """Demonstrations for SFT, and how fast they are learnt."""

    sources: tuple[str, ...]
    """.jsonl and .parquet files of prompt and response, of messages or of conversations, whose turns of the assistant
    are all learnt; or `trace:FAMILY?..` for worked traces made by credo."""
    held_out: tuple[str, ...] = ()
    """Demonstrations to measure the loss on, in the same forms; those with the same prompt are left out of training."""
    held_out_share: float = 0.0
    """Or this share of the prompts in `sources`, drawn by the seed of the run."""
    evaluate_every: int = 0
    """Measure the held-out loss after every so many steps; 0 only before and after."""
    epochs: float = 0.0
    """Times that every demonstration is shown, in place of `run.steps`."""
    batch: int = 96
    """Demonstrations in one optimiser step, whatever the number of ranks and micro-batches."""
    lr: float = 1e-5
    """Peak learning rate."""
    lr_warmup: float = 0.1
    """Share of the steps spent in linear warm-up; a cosine to zero follows."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Global gradient norm is clipped to this."""
    max_tokens: int = 2048
    """Tokens of the longest demonstration, prompts and responses together."""
    too_long: Literal["refuse", "drop", "truncate"] = "refuse"
    """What becomes of a longer one. truncate keeps its beginning, and drops it where that holds nothing to learn; both
    are counted."""
    max_bad_share: float = 0.0
    """Share of unreadable rows that is skipped and counted; 0 refuses the first one."""
    template: Template = "auto"
    """Chat template or plain text; auto follows the row and the tokenizer."""
    system: str = ""
    """System message put before every conversation."""
    suffix: str = ""
    """Text put after every prompt."""

    def __post_init__(self) -> None:
        require(len(self.sources) > 0, "sft.sources: no source given; name a file or a `trace:` family.")
        above_zero(self, "sft", "lr", "max_grad_norm")
        for name in ("lr_warmup", "max_bad_share", "held_out_share"):
            require(0 <= getattr(self, name) < 1, f"sft.{name}: expected 0 to below 1, got {getattr(self, name)}.")
        at_least(0, self, "sft", "weight_decay", "evaluate_every", "epochs")
        at_least(1, self, "sft", "batch")
        at_least(2, self, "sft", "max_tokens")
        if self.template == "plain":
            unread(self, "sft", "system", cause="with sft.template = 'plain'")
        if self.held_out:
            unread(self, "sft", "held_out_share", cause="with sft.held_out")
        if not self.holds_out:
            unread(self, "sft", "evaluate_every", cause="without sft.held_out or sft.held_out_share")

    @property
    def holds_out(self) -> bool:
        """Whether a loss is measured that is not learnt from."""
        return bool(self.held_out) or self.held_out_share > 0


@dataclass(frozen=True, kw_only=True)
class SftRunConfig(RunConfig):
    """The run as a whole."""

    steps: int = 0
    """Optimiser steps; 0 leaves it to `sft.epochs`."""

    least_steps = 0


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """Everything about a run of `credo sft`."""

    run: SftRunConfig
    sft: DemonstrationConfig
    model: ModelConfig | None = None
    architecture: ArchitectureConfig | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)
    checkpoint: TuningCheckpointConfig = field(default_factory=TuningCheckpointConfig)

    def __post_init__(self) -> None:
        require(
            (self.model is None) != (self.architecture is None),
            "model, architecture: give one of the two: [model] to tune an existing model, [architecture] to build one.",
        )
        require(
            (self.run.steps > 0) != (self.sft.epochs > 0),
            f"run.steps, sft.epochs: give one of the two above 0, got {self.run.steps} and {self.sft.epochs}.",
        )
        unread(self.training, "training", "max_nonfinite_steps", cause="in `credo sft`, which stops at the first one")
        self.checkpoint.check_best("sft", {"sft/held_out_loss"}, self.sft.evaluate_every)


@dataclass(frozen=True, kw_only=True)
class SftRecipe(SftConfig):
    """What a recipe of `credo sft` may say: a run's configuration, and where it runs."""

    launch: LaunchConfig = field(default_factory=LaunchConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.launch.refuse_ray("sft")

    @property
    def config(self) -> SftConfig:
        """The configuration alone."""
        return without_launch(SftConfig, self)
