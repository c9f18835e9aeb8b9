"""The configuration of ``credo train``, and what its sections demand of each other."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from credo.config.checks import require, unread
from credo.config.learning import AdvantageConfig, PolicyConfig, PrmConfig
from credo.config.running import CheckpointConfig, EvaluationConfig, ModelConfig, RunConfig, TrainingConfig
from credo.config.sampling import DataConfig, FilterConfig, RolloutConfig, VerifyConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything `credo train` reads."""

    run: RunConfig
    model: ModelConfig
    data: DataConfig
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    prm: PrmConfig = field(default_factory=PrmConfig)
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        require(
            self.prm.enabled or self.advantage.outcome_coef > 0,
            "advantage.outcome_coef: with prm.enabled = false the outcome is the only reward; set it above 0.",
        )
        require(
            not self.prm.enabled or self.prm.warmup_steps < self.run.steps,
            f"prm.warmup_steps: {self.prm.warmup_steps} leaves none of the {self.run.steps} steps for the policy.",
        )
        require(
            not (self.prm.enabled and self.advantage.process_coef == 0),
            "advantage.process_coef: 0 trains a PRM that nobody reads; set prm.enabled = false for outcome-only RLOO.",
        )
        unanimous = self.filter.accuracy_low > 0 and self.filter.accuracy_high < 1
        require(
            unanimous or self.prm.enabled,
            "filter: without the PRM a unanimous group has no advantage; keep accuracy_low > 0 and accuracy_high < 1.",
        )
        same = self.prm.path in ("", self.model.path) and self.prm.reference == "initial"
        require(
            not (self.prm.enabled and self.prm.update == "none" and same),
            "prm.update: 'none' keeps this PRM equal to its reference and every process reward 0; set prm.path to a "
            "trained PRM, or let it learn.",
        )
        if all(source.startswith("gym:") for source in self.data.train + self.evaluation.sources):
            unread(self.data, "data", "kind", cause="on `gym:` problems, which judge themselves")

    @property
    def responses_per_step(self) -> int:
        """Rollouts of a full training step."""
        return self.rollout.prompts * self.rollout.per_prompt

    def credit_options(self) -> dict[str, Any]:
        """The keyword arguments of ``credo.prime_advantages`` that this configuration sets."""
        options = asdict(self.advantage) | {"beta": self.prm.beta, "granularity": self.prm.granularity}
        return {name: value for name, value in options.items() if value is not None}
