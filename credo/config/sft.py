"""The configuration of ``credo sft``."""

from __future__ import annotations

from dataclasses import dataclass, field

from credo.config.checks import above_zero, at_least, require, unread
from credo.config.running import ArchitectureConfig, ModelConfig, RunConfig, TrainingConfig
from credo.config.sampling import Template


@dataclass(frozen=True, kw_only=True)
class DemonstrationConfig:
    """Demonstrations for SFT, and how fast they are learnt."""

    sources: tuple[str, ...]
    """.jsonl files of prompt and response (or messages), or `trace:FAMILY?..` for worked traces made by credo."""
    batch: int = 96
    """Demonstrations in one optimiser step."""
    lr: float = 1e-5
    """Peak learning rate."""
    lr_warmup: float = 0.1
    """Share of the steps spent in linear warm-up; a cosine to zero follows."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Global gradient norm is clipped to this."""
    max_tokens: int = 2048
    """Longer demonstrations are refused."""
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
        for name in ("lr_warmup", "max_bad_share"):
            require(0 <= getattr(self, name) < 1, f"sft.{name}: expected 0 to below 1, got {getattr(self, name)}.")
        at_least(0, self, "sft", "weight_decay")
        at_least(1, self, "sft", "batch")
        at_least(2, self, "sft", "max_tokens")
        if self.template == "plain":
            unread(self, "sft", "system", cause="with sft.template = 'plain'")


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """Everything `credo sft` reads."""

    run: RunConfig
    sft: DemonstrationConfig
    model: ModelConfig | None = None
    architecture: ArchitectureConfig | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        require(
            (self.model is None) != (self.architecture is None),
            "model, architecture: give one of the two: [model] to tune an existing model, [architecture] to build one.",
        )
        unread(self.run, "run", "trackers", cause="in `credo sft`")
        unread(self.training, "training", "max_nonfinite_steps", cause="in `credo sft`, which stops at the first one")
