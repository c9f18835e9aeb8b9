"""From a configuration to the objects of a run. The only file that chooses implementations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from credo.ahead import AheadCollector, SettledEngine
from credo.algo.controls import noise, shuffled
from credo.algo.credit import CreditRules
from credo.collect import Collector
from credo.config import RolloutConfig, SandboxConfig, Template, TrainConfig, VerifyConfig
from credo.console import Console
from credo.data.admission import short_enough, training_problems
from credo.data.memory import SolveRates
from credo.data.prompts import render
from credo.data.steps import step_ends, step_pattern
from credo.data.stream import ProblemStream
from credo.dist.device import set_threads
from credo.dist.world import World
from credo.gate import Gate
from credo.models.causal import CausalModel, fingerprint, load_model, response_logprobs
from credo.models.critic import Critic
from credo.models.lora import freeze
from credo.models.policy import Policy
from credo.models.prm import Prm
from credo.models.reference import Reference
from credo.roles import build_roles, whole_policy
from credo.rollout.engine import RolloutEngine, SamplingParams
from credo.rollout.torch_engine import TorchEngine
from credo.rollout.vllm_engine import VllmEngine
from credo.rollout.vllm_server import ServerEngine
from credo.rollout.vllm_shared import Probe
from credo.seeds import mixed_seed
from credo.sharing import SharedEngine, SharedVerifier
from credo.types import Batch, Problem
from credo.verify.extraction import Extraction
from credo.verify.router import verifier_for
from credo.verify.sandbox import sandbox_level
from credo.verify.strictness import Strictness
from credo.verify.verifier import Verifier

Encode = Callable[[Problem], tuple[int, ...]]
Decode = Callable[[Sequence[int]], str]
StepEnds = Callable[[Batch], Bool[Tensor, "B S"]]
Control = Callable[[Float[Tensor, "B S"] | None, Bool[Tensor, "B S"], int], Float[Tensor, "B S"] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything a training run is made of."""

    world: World
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
    collector: Collector | AheadCollector
    encode: Encode
    decode: Decode
    held_out: tuple[Problem, ...]
    fingerprint: str
    """SHA-256 of the weights that policy and reference start from."""


def assemble(config: TrainConfig, world: World, console: Console) -> Parts:
    """Collective. Loads the data, then the models. Raises ValueError for whatever the user can mend."""
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
    start = load_model(config.model.path, device="cpu" if world.sharded else world.device)
    asked, decode = config.data, decoder(start)
    encode = encoder(start, template=asked.template, system=asked.system, suffix=asked.suffix)
    train = short_enough(train, encode, config.data, console)
    held_out = short_enough(held_out, encode, config.data, console) if held_out else []
    marked = fingerprint(start)
    if config.lora.rank:
        freeze(start.model, config.model.precision)
    whole: Any = whole_policy(config, start, world) if world.sharded else None
    roles = build_roles(config, start, world, console)
    if whole is not None:
        whole.to(world.device)
    if config.rollout.ahead and whole is None:
        whole = copy.deepcopy(roles.policy.model)
    engine = build_engine(replace(start, model=whole or roles.policy.model), roles.policy, config, world, console)
    collector, engine, verifier = _collecting(config, world, train, encode, decode, engine, verifier)
    return Parts(
        world=world,
        start=start,
        policy=roles.policy,
        prm=roles.prm,
        reference=roles.reference,
        anchor=roles.anchor,
        critic=roles.critic,
        rules=CreditRules(**config.credit_options()),
        gate=Gate(config.advantage.gate_accuracy),
        control=_control(config),
        step_ends=_step_ends(config, start),
        engine=engine,
        verifier=verifier,
        collector=collector,
        encode=encode,
        decode=decode,
        held_out=tuple(held_out),
        fingerprint=marked,
    )


def build_engine(
    start: CausalModel, policy: Policy, config: TrainConfig, world: World, console: Console
) -> RolloutEngine:
    """Collective. The engine that samples from ``start``, the policy itself or a copy to keep like it; it says how."""
    rollout, compute = config.rollout, config.model.precision
    common: dict[str, Any] = {"eos_ids": start.eos_ids, "concurrent": rollout.concurrent, "compute": compute}
    cache_bytes = int(rollout.cache_gb * 2**30) if rollout.cache_gb else None
    trained = partial(response_logprobs, policy.model, compute=compute)
    probe = Probe(trained=trained, threshold=rollout.probe_threshold, warn=console.warn)
    context = config.data.max_prompt_tokens + rollout.max_tokens
    match rollout.engine:
        case "torch":
            own: dict[str, Any] = {"pad_id": start.pad_id, "decode": decoder(start), "packed": rollout.packed}
            engine = TorchEngine(start.model, cache_bytes=cache_bytes, **own, **common)
        case "vllm":
            own = {"context": context, "probe": probe, "cache_bytes": cache_bytes}
            engine = VllmEngine(start.model, start.tokenizer, **own, **common)
        case "vllm-server":
            shape = start.model.config.get_text_config()
            engine = ServerEngine(
                rollout.servers,
                folder=Path(config.run.folder) / config.run.name,
                probe=probe,
                context=min(context, shape.max_position_embeddings),
                vocabulary=shape.vocab_size,
                max_lag=rollout.max_lag,
                first=world.is_first,
                together=world.broadcast,
                **common,
            )
            engine.load_weights(policy.weights())
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


def sampling_params(options: RolloutConfig) -> SamplingParams:
    """How the responses of training are drawn."""
    return SamplingParams(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        max_tokens=options.max_tokens,
        stop=options.stop,
    )


def encoder(start: CausalModel, *, template: Template, system: str, suffix: str) -> Encode:
    """Problem to prompt tokens, with these words around it."""
    return lambda problem: render(problem.prompt, start.tokenizer, template=template, system=system, suffix=suffix)


def decoder(start: CausalModel) -> Decode:
    """Response tokens to text, special tokens removed."""
    return lambda ids: start.tokenizer.decode(list(ids), skip_special_tokens=True)  # pyright: ignore


def _collecting(
    config: TrainConfig,
    world: World,
    problems: list[Problem],
    encode: Encode,
    decode: Decode,
    engine: RolloutEngine,
    verifier: Verifier,
) -> tuple[Collector | AheadCollector, RolloutEngine, Verifier]:
    """The collector, and the engine and verifier that the rest of the run sees."""

    def shared(by: World) -> tuple[RolloutEngine, Verifier]:
        return (engine, verifier) if by.size == 1 else (SharedEngine(engine, by), SharedVerifier(verifier, by))

    seen = shared(world)
    if not config.rollout.ahead:
        return _collector(config, problems, encode, decode, *seen), *seen
    ahead = AheadCollector(_collector(config, problems, encode, decode, *shared(world.beside())))
    return ahead, SettledEngine(seen[0], ahead), seen[1]


def _collector(
    config: TrainConfig,
    problems: list[Problem],
    encode: Encode,
    decode: Decode,
    engine: RolloutEngine,
    verifier: Verifier,
) -> Collector:
    return Collector(
        stream=ProblemStream(problems, seed=config.run.seed, memory=_memory(config)),
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
