"""The frozen configuration trees of ``credo sft`` and ``credo train``.

A value out of range and an option that some other option makes inert are errors. Nothing is ever written back into a
configuration. How recipes are read is not known here; this module imports neither torch nor the rest of the package.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

Template = Literal["auto", "chat", "plain"]
Extract = Literal["auto", "whole", "boxed", "answer_tag", "last_number", "regex"]
Semantics = Literal["official", "paper", "verl"]
Tracker = Literal["tensorboard", "wandb", "trackio"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _at_least(least: int, config: Any, section: str, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value >= least, f"{section}.{name}: expected {least} or more, got {value}.")


def _above_zero(config: Any, section: str, *names: str) -> None:
    for name in names:
        _require(getattr(config, name) > 0, f"{section}.{name}: expected above 0, got {getattr(config, name)}.")


def _share(config: Any, section: str, *names: str) -> None:
    for name in names:
        _require(0 <= getattr(config, name) <= 1, f"{section}.{name}: expected 0 to 1, got {getattr(config, name)}.")


def _unread(config: Any, section: str, *names: str, cause: str) -> None:
    """An option that nothing reads has to stand at its default: whoever sets it believes that it does something."""
    for entry in fields(config):
        if entry.name in names:
            inert = getattr(config, entry.name) == entry.default
            _require(inert, f"{section}.{entry.name}: has no effect {cause}; leave it at {entry.default!r}.")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The run as a whole."""

    name: str
    """Folder of the run inside `run.folder`."""
    folder: str = "runs"
    """Where run folders live."""
    steps: int
    """Training steps; one step is one batch of rollouts (in SFT: one optimiser step)."""
    seed: int = 0
    """Fixes the data order, every rollout and the mini-batch order."""
    threads: int = 0
    """CPU threads for torch; 0 takes every core this process may use."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the models live; auto takes the GPU if torch sees one."""
    trackers: tuple[Tracker, ...] = ()
    """Where metrics go besides metrics.jsonl and the terminal; each needs the extra of the same name."""

    def __post_init__(self) -> None:
        plain = self.name not in ("", ".", "..") and "/" not in self.name
        _require(plain, f"run.name: expected a plain folder name, got '{self.name}'.")
        _at_least(1, self, "run", "steps")
        _at_least(0, self, "run", "seed", "threads")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model that training starts from."""

    path: str
    """A Hugging Face folder or hub id, a .gguf file, or `package:NAME` for the .gguf file inside a Python package."""
    compute: Literal["fp32", "bf16"] = "fp32"
    """Precision of the forward and backward passes; weights, losses and advantages stay fp32."""


@dataclass(frozen=True, kw_only=True)
class ArchitectureConfig:
    """A small Llama with random weights, for `credo sft` from scratch."""

    layers: int = 4
    """Decoder layers."""
    width: int = 128
    """Hidden size; a multiple of 2 x heads."""
    heads: int = 4
    """Attention heads."""
    positions: int = 128
    """Longest sequence, prompt and response together, in tokens."""
    tokenizer: Literal["characters", "bytes"] = "characters"
    """One token per character of `alphabet`, or one per byte."""
    alphabet: str = "0123456789+-*/=;#() "
    """The characters a character tokenizer knows."""

    def __post_init__(self) -> None:
        _at_least(1, self, "architecture", "layers", "width", "heads", "positions")
        _require(
            self.width % (2 * self.heads) == 0,
            f"architecture.width: rotary positions need an even head size, got {self.width} / {self.heads} heads.",
        )
        if self.tokenizer == "bytes":
            _unread(self, "architecture", "alphabet", cause="with architecture.tokenizer = 'bytes'")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Problems to train on, and how their prompts are written."""

    train: tuple[str, ...]
    """Sources: .jsonl or .parquet files, folders of them, or `gym:FAMILY?size=..&seed=..&parameter=..`."""
    kind: Literal["math", "exact"] = "math"
    """How answers of files are judged where a row does not say; gym problems judge themselves."""
    max_bad_share: float = 0.0
    """Share of unreadable rows that is skipped and counted; 0 refuses the first one."""
    max_prompt_tokens: int = 1024
    """Longer prompts are refused, or dropped and counted with `data.drop_long_prompts`."""
    drop_long_prompts: bool = False
    """Drop and count prompts over the limit instead of refusing them."""
    template: Template = "auto"
    """Chat template or plain text; auto follows the row and the tokenizer."""
    system: str = ""
    """System message put before every conversation."""
    suffix: str = ""
    """Text put after every prompt, e.g. how to present the answer."""

    def __post_init__(self) -> None:
        _require(len(self.train) > 0, "data.train: no source given; name a file or a `gym:` family.")
        _require(0 <= self.max_bad_share < 1, f"data.max_bad_share: expected 0 to below 1, got {self.max_bad_share}.")
        _at_least(1, self, "data", "max_prompt_tokens")
        if self.template == "plain":
            _unread(self, "data", "system", cause="with data.template = 'plain'")


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """Sampling from the policy."""

    prompts: int = 32
    """Prompts of one training step, after filtering."""
    per_prompt: int = 4
    """Responses to each prompt (K)."""
    temperature: float = 1.0
    """Sampling temperature; the clipped surrogate uses the same."""
    top_p: float = 1.0
    """Nucleus sampling; 1 is off."""
    max_tokens: int = 256
    """Longest response, in tokens."""
    concurrent: int = 256
    """Sequences decoded at once: bounds the key-value cache."""

    def __post_init__(self) -> None:
        _require(
            self.per_prompt >= 2,
            "rollout.per_prompt: a leave-one-out baseline compares responses to one prompt; set 2 or more.",
        )
        _above_zero(self, "rollout", "temperature", "top_p")
        _share(self, "rollout", "top_p")
        _at_least(1, self, "rollout", "prompts", "max_tokens", "concurrent")


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Judging responses."""

    extract: Extract = "auto"
    """Where the answer stands in a response."""
    pattern: str = ""
    """Regular expression for `verify.extract = "regex"`; the last match counts, its first group if it has one."""
    workers: int = 2
    """Verifier processes."""
    deadline: float = 5.0
    """Seconds for one response; past them the worker is killed and the verdict is unknown."""
    memory_mb: int = 2048
    """Memory limit of one worker."""
    max_unknown_share: float = 0.1
    """Above this share of unknown verdicts in one step the run stops."""

    def __post_init__(self) -> None:
        _require(
            (self.extract == "regex") == bool(self.pattern),
            "verify.pattern: goes with verify.extract = 'regex' and only with it; set both or neither.",
        )
        _at_least(1, self, "verify", "workers")
        _at_least(512, self, "verify", "memory_mb")
        _above_zero(self, "verify", "deadline")
        _share(self, "verify", "max_unknown_share")


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which groups of rollouts are trained on."""

    accuracy_low: float = 0.2
    """Keep groups with at least this mean score."""
    accuracy_high: float = 0.8
    """Keep groups with at most this mean score."""
    drop_truncated: bool = False
    """Drop groups in which a response ran into `rollout.max_tokens`."""
    max_rounds: int = 8
    """Rounds of sampling in one step before it goes on with what it has."""
    max_empty_steps: int = 3
    """Steps in a row that keep no group before the run stops."""

    def __post_init__(self) -> None:
        _require(
            0 <= self.accuracy_low <= self.accuracy_high <= 1,
            "filter.accuracy_low, filter.accuracy_high: expected 0 <= low <= high <= 1, got "
            f"{self.accuracy_low} and {self.accuracy_high}.",
        )
        _at_least(1, self, "filter", "max_rounds", "max_empty_steps")


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
        _require(self.lr > 0, f"prm.lr: expected above 0, got {self.lr}. To freeze the PRM set prm.update = 'none'.")
        _above_zero(self, "prm", "beta", "max_grad_norm")
        _at_least(1, self, "prm", "minibatch")
        _at_least(0, self, "prm", "lr_warmup", "warmup_steps", "weight_decay")
        if self.enabled and self.update == "none":
            learning = ("lr", "lr_warmup", "warmup_steps", "minibatch", "weight_decay", "max_grad_norm")
            _unread(self, "prm", *learning, cause="with prm.update = 'none'")


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
        _at_least(0, self, "advantage", "process_coef", "outcome_coef")
        _share(self, "advantage", "gamma_process", "gamma_outcome")
        if self.normalizer_floor is not None:
            _above_zero(self, "advantage", "normalizer_floor")
        if self.semantics == "verl":
            _unread(self, "advantage", "gamma_process", "gamma_outcome", cause="with semantics 'verl'")
        if self.semantics == "paper":
            _unread(self, "advantage", "gamma_outcome", "normalizer_floor", cause="with semantics 'paper'")
        if self.outcome_coef == 0:
            _unread(self, "advantage", "gamma_outcome", cause="with advantage.outcome_coef = 0")


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
        _above_zero(self, "policy", "lr", "max_grad_norm", "clip_low", "clip_high")
        _at_least(1, self, "policy", "minibatch")
        _at_least(0, self, "policy", "lr_warmup", "weight_decay")
        _require(self.clip_low < 1, f"policy.clip_low: expected below 1, got {self.clip_low}.")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How tensors are cut, and when a step is given up. No number depends on `tokens_per_microbatch`."""

    tokens_per_microbatch: int = 8192
    """Tokens, padding included, of one forward and backward pass."""
    max_nonfinite_steps: int = 3
    """Optimiser steps skipped for a non-finite loss, log-ratio or gradient before the run stops."""

    def __post_init__(self) -> None:
        _at_least(1, self, "training", "tokens_per_microbatch")
        _at_least(0, self, "training", "max_nonfinite_steps")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Held-out problems, before and after training and every few steps."""

    sources: tuple[str, ...] = ()
    """Problems held out; those that also stand in `data.train` are taken out of training."""
    samples: int = 4
    """Responses to each problem (k of avg@k)."""
    temperature: float = 1.0
    """Sampling temperature; 0 is greedy."""
    every: int = 0
    """Also evaluate after every so many steps; 0 only before and after."""
    limit: int = 0
    """Use the first so many problems; 0 uses all."""

    def __post_init__(self) -> None:
        _at_least(1, self, "evaluation", "samples")
        _at_least(0, self, "evaluation", "temperature", "every", "limit")
        _require(
            not (self.temperature == 0 and self.samples > 1),
            "evaluation.samples: greedy decoding gives the same response each time; set samples = 1 or a temperature.",
        )
        if not self.sources:
            options = ("samples", "temperature", "every", "limit")
            _unread(self, "evaluation", *options, cause="without evaluation.sources")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is kept on disk."""

    every: int = 10
    """Save after every so many steps (and always at the end and when stopped)."""
    keep: int = 2
    """Newest checkpoints kept; 0 keeps all."""
    rollouts_every: int = 1
    """Write rollouts with their token rewards every so many steps; 0 never."""

    def __post_init__(self) -> None:
        _at_least(1, self, "checkpoint", "every")
        _at_least(0, self, "checkpoint", "keep", "rollouts_every")


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
        _require(
            self.prm.enabled or self.advantage.outcome_coef > 0,
            "advantage.outcome_coef: with prm.enabled = false the outcome is the only reward; set it above 0.",
        )
        _require(
            not self.prm.enabled or self.prm.warmup_steps < self.run.steps,
            f"prm.warmup_steps: {self.prm.warmup_steps} leaves none of the {self.run.steps} steps for the policy.",
        )
        _require(
            not (self.prm.enabled and self.advantage.process_coef == 0),
            "advantage.process_coef: 0 trains a PRM that nobody reads; set prm.enabled = false for outcome-only RLOO.",
        )
        unanimous = self.filter.accuracy_low > 0 and self.filter.accuracy_high < 1
        _require(
            unanimous or self.prm.enabled,
            "filter: without the PRM a unanimous group has no advantage; keep accuracy_low > 0 and accuracy_high < 1.",
        )
        same = self.prm.path in ("", self.model.path) and self.prm.reference == "initial"
        _require(
            not (self.prm.enabled and self.prm.update == "none" and same),
            "prm.update: 'none' keeps this PRM equal to its reference and every process reward 0; set prm.path to a "
            "trained PRM, or let it learn.",
        )
        if all(source.startswith("gym:") for source in self.data.train + self.evaluation.sources):
            _unread(self.data, "data", "kind", cause="on `gym:` problems, which judge themselves")

    @property
    def responses_per_step(self) -> int:
        """Rollouts of a full training step."""
        return self.rollout.prompts * self.rollout.per_prompt

    def credit_options(self) -> dict[str, Any]:
        """The keyword arguments of ``credo.prime_advantages`` that this configuration sets."""
        options = asdict(self.advantage) | {"beta": self.prm.beta, "granularity": self.prm.granularity}
        return {name: value for name, value in options.items() if value is not None}


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
        _require(len(self.sources) > 0, "sft.sources: no source given; name a file or a `trace:` family.")
        _above_zero(self, "sft", "lr", "max_grad_norm")
        for name in ("lr_warmup", "max_bad_share"):
            _require(0 <= getattr(self, name) < 1, f"sft.{name}: expected 0 to below 1, got {getattr(self, name)}.")
        _at_least(0, self, "sft", "weight_decay")
        _at_least(1, self, "sft", "batch")
        _at_least(2, self, "sft", "max_tokens")
        if self.template == "plain":
            _unread(self, "sft", "system", cause="with sft.template = 'plain'")


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """Everything `credo sft` reads."""

    run: RunConfig
    sft: DemonstrationConfig
    model: ModelConfig | None = None
    architecture: ArchitectureConfig | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        _require(
            (self.model is None) != (self.architecture is None),
            "model, architecture: give one of the two: [model] to tune an existing model, [architecture] to build one.",
        )
        _unread(self.run, "run", "trackers", cause="in `credo sft`")
        _unread(self.training, "training", "max_nonfinite_steps", cause="in `credo sft`, which stops at the first one")
