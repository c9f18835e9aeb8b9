"""The configuration of ``credo train``, and what its sections demand of each other."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import lcm
from typing import Any

from credo.config.checks import require, unread
from credo.config.learning import (
    GROUP_ESTIMATORS,
    VALUE_ESTIMATORS,
    AdvantageConfig,
    CriticConfig,
    PolicyConfig,
    PrmConfig,
)
from credo.config.running import (
    CheckpointConfig,
    EvaluationConfig,
    InstrumentsConfig,
    LoraConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
)
from credo.config.sampling import DataConfig, FilterConfig, RolloutConfig, SandboxConfig, VerifyConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything `credo train` reads."""

    run: RunConfig
    model: ModelConfig
    data: DataConfig
    lora: LoraConfig = field(default_factory=LoraConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    prm: PrmConfig = field(default_factory=PrmConfig)
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    instruments: InstrumentsConfig = field(default_factory=InstrumentsConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        if self.prm.enabled:
            self._check_prm()
        else:
            self._check_outcome_only()
        if self.lora.rank > 0:
            self._check_lora()
        if self.advantage.estimator != "gae":
            cause = f"with advantage.estimator = '{self.advantage.estimator}'"
            unread(self.critic, "critic", "lr", "warmup_steps", "clip", cause=cause)
        require(
            self.rollout.per_prompt > 1 or not (self.filter.drop_unanimous or self.filter.length_matched),
            "filter.drop_unanimous, filter.length_matched: compare the responses to one prompt, but rollout.per_prompt "
            "is 1, so every group would be dropped.",
        )
        require(
            not (self.rollout.ahead or self.rollout.max_lag) or self.policy.importance_cap > 0,
            f"rollout.{'ahead' if self.rollout.ahead else 'max_lag'}: responses are then older than the policy that "
            "learns from them; set policy.importance_cap above 0 (2 is usual) to correct for it.",
        )
        require(
            self.advantage.estimator != "gae" or self.advantage.outcome_coef > 0,
            "advantage.outcome_coef: the critic of estimator 'gae' predicts the outcome; set it above 0.",
        )
        require(
            self.rollout.per_prompt >= self.least_judged,
            "rollout.per_prompt: this baseline compares the responses to one prompt; set 2 or more.",
        )
        require(
            self.critic.warmup_steps < self.run.steps,
            f"critic.warmup_steps: {self.critic.warmup_steps} leaves the policy none of the {self.run.steps} steps.",
        )
        if self.checkpoint.best > 0 and self.checkpoint.metric.removeprefix("-").startswith("eval/"):
            self._check_best()
        if all(source.startswith("gym:") for source in self.data.train + self.evaluation.sources):
            unread(self.data, "data", "kind", cause="on `gym:` problems, which judge themselves")

    def _check_outcome_only(self) -> None:
        require(
            self.advantage.outcome_coef > 0,
            "advantage.outcome_coef: with prm.enabled = false the outcome is the only reward; set it above 0.",
        )
        require(
            self.advantage.estimator not in VALUE_ESTIMATORS,
            f"advantage.estimator: '{self.advantage.estimator}' is the PRM's value; set prm.enabled = true.",
        )
        require(
            self.advantage.estimator not in GROUP_ESTIMATORS
            or self.filter.drop_unanimous
            or (self.filter.accuracy_low > 0 and self.filter.accuracy_high < 1),
            "filter: without the PRM a unanimous group has no advantage; keep accuracy_low > 0 and accuracy_high < 1, "
            "or set drop_unanimous = true.",
        )
        unread(self.instruments, "instruments", "every", cause="without the PRM, which it measures")

    def _check_prm(self) -> None:
        prm, advantage = self.prm, self.advantage
        require(
            prm.warmup_steps < self.run.steps,
            f"prm.warmup_steps: {prm.warmup_steps} leaves none of the {self.run.steps} steps for the policy.",
        )
        require(
            advantage.process_coef > 0,
            "advantage.process_coef: 0 trains a PRM that nobody reads; set prm.enabled = false for outcome-only RLOO.",
        )
        start, base = prm.path or self.model.path, prm.reference_path or self.model.path
        same = prm.reference == "own" or (prm.reference == "initial" and start == base)
        require(
            prm.top_layers == 0 or same,
            f"prm.top_layers: PRM and reference share the layers that do not learn, but the PRM starts from '{start}' "
            f"and its reference is '{base}'; let both start from one model, or leave prm.top_layers at 0.",
        )
        require(
            not (prm.update == "none" and same),
            "prm.update: 'none' keeps this PRM equal to its reference and every process reward 0; set prm.path to a "
            "trained PRM and prm.reference to another model, or let it learn.",
        )
        require(
            not (advantage.credit == "min" and prm.granularity == "whole"),
            "advantage.credit: 'min' needs several rewards in a response, prm.granularity = 'whole' gives one.",
        )
        require(
            not (advantage.estimator == "remax" and advantage.baseline is None and advantage.control == "random"),
            "advantage.control: 'random' would be compared with the PRM's real reward of the greedy response; choose "
            "an advantage.baseline.",
        )
        require(
            not (advantage.gate_accuracy > 0 and self.rollout.per_prompt == 1),
            "advantage.gate_accuracy: pair accuracy compares responses to one prompt; set rollout.per_prompt to 2 or "
            "more, or the gate never opens.",
        )
        if advantage.estimator in VALUE_ESTIMATORS:
            unread(prm, "prm", "granularity", cause=f"with advantage.estimator = '{advantage.estimator}'")
        cuts = " and ".join(f"{name} = {value}" for name, value in self.rollout.cuts.items())
        require(
            not (advantage.baseline == "expected" and cuts),
            f"advantage.baseline: 'expected' averages over the policy's whole distribution, but with {cuts} some "
            "tokens are never drawn; leave that out or choose another baseline.",
        )

    def _check_lora(self) -> None:
        prm, start = self.prm, ("", self.model.path)
        require(
            not (prm.enabled and (prm.path not in start or prm.reference_path not in start)),
            "prm.path, prm.reference_path: with lora.rank above 0 policy, PRM and reference share the weights of "
            "model.path; leave these empty or set lora.rank = 0.",
        )
        require(
            not (prm.enabled and prm.ema > 0),
            "prm.ema: with lora.rank above 0 it would average the factors of an adapter, whose product is then no "
            "average; set it to 0.",
        )
        require(
            not (prm.enabled and prm.top_layers > 0),
            "prm.top_layers: with lora.rank above 0 no whole layer learns; set one of the two to 0.",
        )
        require(
            self.advantage.estimator != "gae",
            "advantage.estimator: the critic of 'gae' trains a copy of all weights, which is what lora.rank above 0 "
            "does without; choose another estimator or set lora.rank = 0.",
        )
        require(
            self.rollout.engine == "torch",
            "rollout.engine: 'vllm' is not told of adapters yet; with lora.rank above 0 leave it at 'torch'.",
        )

    def _check_best(self) -> None:
        every = self.evaluation.every or self.run.steps
        require(
            len(self.evaluation.sources) > 0 and lcm(every, self.checkpoint.every) < self.run.steps,
            f"checkpoint.best: no checkpoint before the last would know its {self.checkpoint.metric}; set "
            "evaluation.sources, and evaluation.every to a step at which there is a checkpoint, or choose another "
            "checkpoint.metric.",
        )

    @property
    def responses_per_step(self) -> int:
        """Rollouts of a full training step."""
        return self.rollout.prompts * self.rollout.per_prompt

    @property
    def least_judged(self) -> int:
        """Judged responses without which a group has no baseline."""
        advantage = self.advantage
        shared = advantage.baseline in ("token_mean", "sequence", "position") and self.prm.enabled
        return 2 if shared or advantage.estimator in GROUP_ESTIMATORS else 1

    @property
    def policy_starts(self) -> int:
        """Training steps that the policy waits for PRM and critic."""
        return max(self.prm.warmup_steps if self.prm.enabled else 0, self.critic.warmup_steps)

    def credit_options(self) -> dict[str, Any]:
        """The options of ``credo.prime_advantages`` that this configuration sets."""
        options = asdict(self.advantage) | {"beta": self.prm.beta, "granularity": self.prm.granularity}
        elsewhere = ("gate_accuracy", "control")
        return {name: value for name, value in options.items() if value is not None and name not in elsewhere}
