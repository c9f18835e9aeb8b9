"""From a configuration to the objects of a run. The only file that chooses implementations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from jaxtyping import Bool, Float
from torch import Tensor

from credo.algo.controls import noise, shuffled
from credo.algo.credit import CreditRules
from credo.collect import Collector
from credo.config import DataConfig, RolloutConfig, SandboxConfig, TrainConfig, VerifyConfig
from credo.console import Console
from credo.data.admission import short_enough, training_problems
from credo.data.memory import SolveRates
from credo.data.prompts import render
from credo.data.steps import step_ends, step_pattern
from credo.data.stream import ProblemStream
from credo.dist.device import choose_device, set_threads
from credo.dist.world import World
from credo.gate import Gate
from credo.models.causal import CausalModel, fingerprint, load_model, recompute_layers, response_logprobs
from credo.models.critic import Critic
from credo.models.lora import as_now, freeze, with_adapter
from credo.models.policy import Policy
from credo.models.prm import Prm
from credo.models.reference import Reference
from credo.models.trunk import Trunk, with_own_top
from credo.options import EvaluateOptions
from credo.rollout.engine import RolloutEngine, SamplingParams
from credo.rollout.torch_engine import TorchEngine
from credo.rollout.vllm_engine import Probe, VllmEngine
from credo.seeds import mixed_seed
from credo.types import Batch, Problem
from credo.verify.extraction import Extraction
from credo.verify.router import verifier_for
from credo.verify.sandbox import sandbox_level
from credo.verify.strictness import Strictness
from credo.verify.verifier import Verifier

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Encode = Callable[[Problem], tuple[int, ...]]
Decode = Callable[[Sequence[int]], str]
StepEnds = Callable[[Batch], Bool[Tensor, "B S"]]
Control = Callable[[Float[Tensor, "B S"] | None, Bool[Tensor, "B S"], int], Float[Tensor, "B S"] | None]
POLICY, PRM = 0, 1
"""What tells the seeds of their adapters apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything a training run is made of."""

    start: CausalModel
    """The policy's model with its tokenizer."""
    policy: Policy
    prm: Prm | None
    reference: Reference | Policy | None
    """What the PRM is measured against; the policy as it sampled can stand in for it."""
    anchor: Reference | None
    """What the KL term holds the policy to."""
    critic: Critic | None
    rules: CreditRules
    gate: Gate
    control: Control
    """What the policy hears of the log-ratios: all, or less in a control run. Takes the number of the step too."""
    step_ends: StepEnds | None
    """Where the steps of a batch end, if process rewards stand there."""
    engine: RolloutEngine
    verifier: Verifier
    collector: Collector
    encode: Encode
    decode: Decode
    held_out: tuple[Problem, ...]
    fingerprint: str
    """SHA-256 of the weights that policy and reference start from."""


def assemble(config: TrainConfig, world: World, console: Console) -> Parts:
    """Loads the data, then the models. Raises ValueError for whatever the user can mend."""
    set_threads(config.run.threads)
    train, held_out = training_problems(config, console)
    kinds = {problem.kind for problem in [*train, *held_out]}
    verifier = build_verifier(config.verify, config.sandbox, kinds)
    if "code" in kinds and config.verify.kind == "auto" and not config.sandbox.url:
        console.say(f"Programs run in a sandbox of level {sandbox_level()} of 3.")
    try:
        return _assembled(config, world, console, train, held_out, verifier)
    except BaseException:
        verifier.close()
        raise


def _assembled(
    config: TrainConfig,
    world: World,
    console: Console,
    train: list[Problem],
    held_out: list[Problem],
    verifier: Verifier,
) -> Parts:
    """The models, and what is made of them."""
    device = choose_device(config.run.device)
    start = load_model(config.model.path, device=device)
    encode, decode = encoder(start, config.data), decoder(start)
    train = short_enough(train, encode, config.data, console)
    held_out = short_enough(held_out, encode, config.data, console) if held_out else []
    marked = fingerprint(start)
    if config.lora.rank:
        freeze(start.model, config.model.precision)
    policy = _policy(config, start)
    prm, reference = _prm(config, start, policy)
    if config.lora.rank == 0:
        _warn_of_sizes(prm, reference, console)
    if config.training.gradient_checkpointing:
        for learner in (policy, prm):
            if learner is not None:
                recompute_layers(learner.model)
    engine = build_engine(replace(start, model=policy.model), config, console)
    return Parts(
        start=start,
        policy=policy,
        prm=prm,
        reference=reference,
        anchor=_anchor(config, start, reference),
        critic=_critic(config, start),
        rules=CreditRules(**config.credit_options()),
        gate=Gate(config.advantage.gate_accuracy),
        control=_control(config),
        step_ends=_step_ends(config, start),
        engine=engine,
        verifier=verifier,
        collector=_collector(config, world, train, encode, decode, engine, verifier),
        encode=encode,
        decode=decode,
        held_out=tuple(held_out),
        fingerprint=marked,
    )


def build_engine(start: CausalModel, config: TrainConfig, console: Console) -> RolloutEngine:
    """The engine that samples from ``start``; it says how."""
    rollout, compute = config.rollout, config.model.precision
    common: dict[str, Any] = {"eos_ids": start.eos_ids, "concurrent": rollout.concurrent, "compute": compute}
    common["cache_bytes"] = int(rollout.cache_gb * 2**30) if rollout.cache_gb else None
    if rollout.engine == "vllm":
        trained = partial(response_logprobs, start.model, compute=compute)
        probe = Probe(trained=trained, threshold=rollout.probe_threshold, warn=console.warn)
        context = config.data.max_prompt_tokens + rollout.max_tokens
        engine = VllmEngine(start.model, start.tokenizer, context=context, probe=probe, **common)
    else:
        own: dict[str, Any] = {"pad_id": start.pad_id, "decode": decoder(start), "packed": rollout.packed}
        engine = TorchEngine(start.model, **own, **common)
    console.say(f"Sampling: {engine.summary}.")
    return engine


def build_verifier(config: VerifyConfig, sandbox: SandboxConfig, kinds: Collection[str]) -> Verifier:
    """The verifier of problems of these kinds; processes that judge text start with the first response.

    Raises ValueError or RuntimeError if this machine cannot judge them: a function not found, too weak a sandbox.
    """
    return verifier_for(
        kinds,
        kind=config.kind,
        extraction=Extraction(kind=config.extract, pattern=config.pattern),
        strictness=Strictness(need_units=config.need_units, decimal_digits=config.decimal_digits),
        workers=config.workers,
        deadline=config.deadline,
        memory_mb=config.memory_mb,
        sandbox_url=sandbox.url,
        min_level=sandbox.min_level,
        partial=sandbox.partial,
        float_tolerance=sandbox.float_tolerance,
    )


def sampling_params(options: RolloutConfig | EvaluateOptions) -> SamplingParams:
    """How responses are drawn: those of training, or those of `credo evaluate`."""
    return SamplingParams(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        max_tokens=options.max_tokens,
        stop=options.stop,
    )


def encoder(start: CausalModel, config: DataConfig) -> Encode:
    """Problem to prompt tokens, through the template of ``config``."""

    def encode(problem: Problem) -> tuple[int, ...]:
        return render(
            problem.prompt, start.tokenizer, template=config.template, system=config.system, suffix=config.suffix
        )

    return encode


def decoder(start: CausalModel) -> Decode:
    """Response tokens to text, special tokens removed."""
    return lambda ids: start.tokenizer.decode(list(ids), skip_special_tokens=True)  # pyright: ignore


def _collector(
    config: TrainConfig,
    world: World,
    problems: list[Problem],
    encode: Encode,
    decode: Decode,
    engine: RolloutEngine,
    verifier: Verifier,
) -> Collector:
    return Collector(
        stream=ProblemStream(
            problems, seed=config.run.seed, rank=world.rank, world_size=world.size, memory=_memory(config)
        ),
        engine=engine,
        verifier=verifier,
        encode=encode,
        decode=decode,
        config=config.filter,
        params=sampling_params(config.rollout),
        per_prompt=config.rollout.per_prompt,
        seed=config.run.seed,
        max_unknown_share=config.verify.max_unknown_share,
        least_judged=config.least_judged,
        greedy=config.advantage.estimator == "remax",
    )


def _memory(config: TrainConfig) -> SolveRates | None:
    """What the stream remembers of solve rates, if anything."""
    if config.filter.memory_floor == 1:
        return None
    return SolveRates(
        floor=config.filter.memory_floor,
        per_prompt=config.rollout.per_prompt,
        low=config.filter.accuracy_low,
        high=config.filter.accuracy_high,
        drop_unanimous=config.filter.drop_unanimous or config.filter.length_matched,
    )


def _policy(config: TrainConfig, start: CausalModel) -> Policy:
    return Policy(
        with_adapter(start.model, config.lora, mixed_seed(config.run.seed, POLICY)),
        config.policy,
        temperature=config.rollout.temperature,
        token_budget=config.training.tokens_per_microbatch,
        compute=config.model.precision,
        seed=config.run.seed,
    )


def _prm(config: TrainConfig, start: CausalModel, policy: Policy) -> tuple[Prm | None, Reference | Policy | None]:
    """PRM and reference, copied from the policy's start in memory unless they have a start of their own."""
    if not config.prm.enabled:
        return None, None
    model = _own_model("prm.path", config.prm.path, config, start)
    common: dict[str, Any] = {"token_budget": config.training.tokens_per_microbatch, "compute": config.model.precision}
    if config.prm.top_layers:
        common["trunk"] = Trunk(model, config.prm.top_layers, **common)
        prm = Prm(with_own_top(model, config.prm.top_layers), config.prm, **common)
        return prm, Reference(model, **common)
    learning = with_adapter(model, config.lora, mixed_seed(config.run.seed, PRM))
    prm = Prm(learning, config.prm, **common)
    match config.prm.reference:
        case "policy":
            return prm, policy
        case "own":
            return prm, _frozen(as_now(model, config.lora), config)
        case "initial":
            return prm, _frozen(_own_model("prm.reference_path", config.prm.reference_path, config, start), config)


def _anchor(config: TrainConfig, start: CausalModel, reference: Reference | Policy | None) -> Reference | None:
    """The policy's frozen start for the KL term; the PRM's reference, where that is the same model."""
    if config.policy.kl_coef == 0:
        return None
    same = config.prm.reference == "initial" and config.prm.reference_path in ("", config.model.path)
    return reference if same and isinstance(reference, Reference) else _frozen(as_now(start.model, config.lora), config)


def _critic(config: TrainConfig, start: CausalModel) -> Critic | None:
    if config.advantage.estimator != "gae":
        return None
    return Critic(
        start.model,
        config.critic,
        minibatch=config.policy.minibatch,
        max_grad_norm=config.policy.max_grad_norm,
        token_budget=config.training.tokens_per_microbatch,
        compute=config.model.precision,
        seed=config.run.seed,
    )


def _control(config: TrainConfig) -> Control:
    """The log-ratios as they are, or a control of them seeded by run and step."""
    replaced = {"none": None, "shuffled": shuffled, "random": noise}[config.advantage.control]
    if replaced is None:
        return lambda log_ratios, mask, step: log_ratios
    return lambda log_ratios, mask, step: (
        None if log_ratios is None else replaced(log_ratios, mask, mixed_seed(config.run.seed, step))
    )


def _step_ends(config: TrainConfig, start: CausalModel) -> StepEnds | None:
    if not config.prm.enabled or config.prm.granularity != "step":
        return None
    pattern = step_pattern(config.prm.step_boundary, config.prm.step_pattern)
    return lambda batch: step_ends(batch.tokens, batch.mask, start.tokenizer, pattern)


def _warn_of_sizes(prm: Prm | None, reference: Reference | Policy | None, console: Console) -> None:
    if prm is not None and reference is not None and _size(prm.model) != _size(reference.model):
        console.warn(
            f"The PRM has {_size(prm.model):,} parameters and its reference {_size(reference.model):,}; unless it was "
            "trained against this reference its log-ratios say little but length. prm.reference = 'own' is its start."
        )


def _size(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _frozen(model: PreTrainedModel, config: TrainConfig) -> Reference:
    return Reference(model, token_budget=config.training.tokens_per_microbatch, compute=config.model.precision)


def _own_model(key: str, path: str, config: TrainConfig, start: CausalModel) -> PreTrainedModel:
    """The model at ``path``, or a copy of the policy's start. Raises ValueError for another tokenizer than its."""
    if path in ("", config.model.path):
        return as_now(start.model, config.lora)
    own = load_model(path, key=key, device=str(start.model.device))
    if own.tokenizer.get_vocab() != start.tokenizer.get_vocab():
        raise ValueError(
            f"{key} = '{path}' has another tokenizer than model.path = '{config.model.path}'; log-ratios compare "
            "tokens one by one, so both need the same."
        )
    return own.model
