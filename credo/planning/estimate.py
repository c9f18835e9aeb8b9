"""What a recipe takes on a cluster: memory of one GPU and seconds of a step, by arithmetic on data sheets.

Every rank is alike: it samples, scores and learns from its share of the batch. Models are whole on each rank, or spread
layer by layer over all. Verification, evaluation, checkpoints and groups that the filter drops are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from credo.config import TrainConfig
from credo.models.size import ModelSize, typical_size
from credo.planning.arithmetic import longest_tokens
from credo.planning.gpus import NODE, Gpu
from credo.planning.plan import (
    GRADIENTS,
    MOMENTS,
    WEIGHTS,
    Role,
    Sizes,
    logits_alive,
    reference_is_start,
    roles,
    shared_tokens,
)
from credo.planning.step_passes import Pass, around, known, passes

MATRIX_SHARE = 0.4
"""Of the peak in products, reached in training: 38 to 43 % in the report on Llama 3 (arXiv 2407.21783, table 4)."""
MEMORY_SHARE = 0.6
"""Of the memory's speed, reached in decoding: 55 to 72 % are published for vLLM's kind and for compiled PyTorch."""
LINK_SHARE = 0.8
"""Of NVLink or the network, reached by large collectives of NCCL."""
EAGER_LAYER = 1.2e-3
"""Seconds that PyTorch takes to start the operations of one decoder layer: 39 ms a token for the 32 layers of a 7B
model on an A100 (PyTorch's report on gpt-fast, before it compiles). vLLM replays graphs and does not wait for that."""
USABLE = 0.9
"""Of a GPU's memory; the rest is for CUDA, NCCL and what fragments."""
RESPONSE_SHARE, PROMPT_SHARE = 0.5, 0.25
"""Mean lengths, of the limits: the paper's run began with responses of 0.47 of them."""
WORTH_DOUBLING = 0.75
"""Twice as many GPUs are worth it if a step takes this share of the time, or less."""
MOST_GPUS = 4096

Sharding = Literal["none", "full", "offload"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes on one GPU. Only one model learns at a time, and nobody samples meanwhile."""

    weights: int
    moments: int
    sampler: int
    cache: int
    gradients: int
    gathered: int
    activations: int
    """Of the longest micro-batch, and the hidden states that PRM and reference share."""
    logits: int

    @property
    def peak(self) -> int:
        """The most that is alive at once."""
        learning = self.gradients + self.gathered + self.activations + self.logits
        return self.weights + self.moments + self.sampler + max(self.cache, learning)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seconds:
    """The stages of one step, with what they wait for the wires."""

    sampling: float
    scoring: float
    prm: float
    critic: float
    policy: float
    weights: float
    """Weights on their way to the sampler."""

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a recipe takes on so many GPUs."""

    gpus: int
    sharding: Sharding
    """The first of the :func:`ways` that fits; the last, if none does."""
    fits: bool
    footprint: Footprint
    whole: Footprint
    """With ``sharding = none``."""
    seconds: Seconds


def estimate(config: TrainConfig, sizes: Sizes, gpu: Gpu, gpus: int) -> Estimate:
    """What ``config`` takes on ``gpus`` of them. Raises ValueError for fewer than 1 and for sizes that are unknown."""
    if gpus < 1:
        raise ValueError(f"--gpus: expected 1 or more, got {gpus}.")
    sizes = with_shapes(sizes)
    footprints = {way: footprint(config, sizes, gpus, way) for way in ways(config)}
    fitting: list[Sharding] = [way for way in ways(config) if footprints[way].peak <= usable(gpu)]
    sharding = fitting[0] if fitting else ways(config)[-1]
    return Estimate(
        gpus=gpus,
        sharding=sharding,
        fits=bool(fitting),
        footprint=footprints[sharding],
        whole=footprints["none"],
        seconds=seconds(config, sizes, gpu, gpus, sharding),
    )


def ways(config: TrainConfig) -> tuple[Sharding, ...]:
    """How its models can be spread, least first. Models that share layers are whole on every rank."""
    sharing = config.prm.enabled and config.prm.top_layers > 0
    return ("none",) if sharing else ("none", "full", "offload")


def _backbones(config: TrainConfig, sharding: Sharding) -> int:
    """How often the weights under the adapters are held: once, or spread for each role by itself."""
    if sharding == "none":
        return 1
    prm, anchored = config.prm, config.policy.kl_coef > 0 and not reference_is_start(config)
    return 1 + (1 + (prm.reference != "policy") if prm.enabled else 0) + anchored


def usable(gpu: Gpu) -> float:
    """Bytes of its memory that a plan may fill."""
    return USABLE * gpu.memory * 2**30


def with_shapes(sizes: Sizes) -> Sizes:
    """``sizes`` with the usual shape of models that are known by their name alone. Raises ValueError if not even that
    tells how large one is."""
    return replace(sizes, **{field.name: _shaped(getattr(sizes, field.name)) for field in fields(sizes)})


def _shaped(size: ModelSize) -> ModelSize:
    if size.parameters is None:
        raise ValueError(f"--gpus: a plan for a cluster rests on the size of the model, and that is {size.words}.")
    return typical_size(size.parameters) if size.layers is None else size


def footprint(config: TrainConfig, sizes: Sizes, gpus: int, sharding: Sharding) -> Footprint:
    """Bytes on one of ``gpus``."""
    held, policy, share = list(roles(config, sizes)), sizes.policy, 1 if sharding == "none" else gpus
    adapters = held[1:] if config.lora.rank else []  # whole on each rank
    spread = held[:1] * _backbones(config, sharding) if adapters else held
    trained, apart = ([known(role.parameters) for role in some if role.trained] for some in (spread, adapters))
    resident = 0 if sharding == "offload" else 1
    width = compute_bytes(config)
    tokens = max(config.training.tokens_per_microbatch, longest_tokens(config))
    kept = known(policy.adapter)  # inputs and outputs of the linear layers
    if config.training.gradient_checkpointing:
        kept = kept // known(policy.layers) + known(policy.layers) * known(policy.width)
    copied = _weight_bytes(held[0]) if sharding != "none" or config.rollout.ahead else 0  # whole, and does not learn
    top = config.prm.enabled and config.prm.top_layers > 0
    shared = 4 * shared_tokens(config) * known(sizes.prm.width) if top else 0
    cache = sequences(config, policy, gpus)[1] * longest_tokens(config) * known(policy.cached) * width
    if sharding == "none":
        largest = max(known(role.parameters) - known(role.halved) for role in held)
        gathered = 2 * largest if width == 2 else 0  # autocast's copy of the weights in use
    else:  # two layers and what is around them, with their gradients
        layer, learning = known(policy.linear) // known(policy.layers), 0 if adapters else GRADIENTS
        gathered = 2 * layer * (width + learning) + around(policy) * (WEIGHTS + learning)
    return Footprint(
        weights=resident * sum(map(_weight_bytes, spread)) // share + sum(map(_weight_bytes, adapters)),
        moments=resident * MOMENTS * sum(trained) // share + MOMENTS * sum(apart),
        sampler=copied + known(policy.parameters) * (width if config.rollout.packed else 0),
        cache=cache,
        gradients=GRADIENTS * max(resident * max(trained, default=0) // share, *apart, 0),
        gathered=gathered,
        activations=tokens * kept * width + shared,
        logits=logits_alive(config) * tokens * known(policy.vocabulary) * width,
    )


def seconds(config: TrainConfig, sizes: Sizes, gpu: Gpu, gpus: int, sharding: Sharding) -> Seconds:
    """The stages of one step on ``gpus``; what goes over PCIe to the host with "offload" is left out."""
    stages = {"scoring": 0.0, "prm": 0.0, "critic": 0.0, "policy": 0.0}
    for made in passes(config, sizes):
        stages[made.stage] += made.times * _pass_seconds(config, made, gpu, gpus, sharding)
    spread = sharding != "none" and gpus > 1 and not config.lora.rank  # adapters are whole on each rank
    travelling = WEIGHTS * known(sizes.policy.parameters) if spread else 0
    return Seconds(
        sampling=sampling_seconds(config, sizes.policy, gpu, gpus),
        **stages,
        weights=_wire_seconds(travelling, gpu, gpus),
    )


def sampling_seconds(config: TrainConfig, policy: ModelSize, gpu: Gpu, gpus: int) -> float:
    """One round of sampling: each decoding step reads all weights and the cache once, and starts its operations."""
    prompt, response = mean_lengths(config)
    share, slots = sequences(config, policy, gpus)
    steps = max(config.rollout.max_tokens, share * response / slots)  # no shorter than the longest response
    active, context, width = share * response / steps, prompt + response / 2, compute_bytes(config)
    read = (_dense(policy) + active * context * known(policy.cached)) * width
    counted = active * _operations(policy, 2 * context)
    launched = EAGER_LAYER * known(policy.layers) if config.rollout.engine == "torch" else 0
    step = max(read / (gpu.bandwidth * MEMORY_SHARE), counted / _speed(config, gpu), launched)
    prompts = share / config.rollout.per_prompt * prompt * _operations(policy, prompt) / _speed(config, gpu)
    return steps * step + prompts


def sequences(config: TrainConfig, policy: ModelSize, gpus: int) -> tuple[int, int]:
    """Responses that one rank samples in a step, greedy ones included, and how many it decodes at once.

    A prompt's responses are all of one rank.
    """
    greedy = 1 if config.advantage.estimator == "remax" else 0
    share = -(-config.rollout.prompts // gpus) * (config.rollout.per_prompt + greedy)
    slots = min(config.rollout.concurrent, share)
    if config.rollout.cache_gb > 0:
        each = longest_tokens(config) * known(policy.cached) * compute_bytes(config)
        slots = max(1, min(slots, int(config.rollout.cache_gb * 2**30 // each)))
    return share, slots


def worthwhile(config: TrainConfig, sizes: Sizes, gpu: Gpu) -> int | None:
    """The most GPUs, a power of 2, to which doubling saved a fourth of the step or more; None if nothing fits."""
    gpus = 1
    while not (now := estimate(config, sizes, gpu, gpus)).fits:
        if gpus >= MOST_GPUS:
            return None
        gpus *= 2
    while gpus < MOST_GPUS:
        doubled = estimate(config, sizes, gpu, 2 * gpus)
        if doubled.seconds.total > WORTH_DOUBLING * now.seconds.total:
            break
        gpus, now = 2 * gpus, doubled
    return gpus


def mean_lengths(config: TrainConfig) -> tuple[float, float]:
    """Tokens of a prompt and of a response, as assumed."""
    return PROMPT_SHARE * config.data.max_prompt_tokens, RESPONSE_SHARE * config.rollout.max_tokens


def compute_bytes(config: TrainConfig) -> int:
    """Of an activation, a logit, a cached key or value; GPUs of the table all have bf16, so "auto" takes it."""
    return 4 if config.model.compute == "fp32" else 2


def _pass_seconds(config: TrainConfig, made: Pass, gpu: Gpu, gpus: int, sharding: Sharding) -> float:
    """The slowest rank's pass. Spread layers come while others compute; gradients of whole models come after all."""
    prompt, response = mean_lengths(config)
    mean = prompt + response
    tokens = max(made.rows * mean / gpus, prompt + config.rollout.max_tokens)  # one response is as long as can be
    computing = tokens * made.cost / 2 * _operations(made.size, mean) / _speed(config, gpu)
    if sharding == "none":
        return computing + _wire_seconds(2 * GRADIENTS * made.trained, gpu, gpus)
    micro_batches = -int(-tokens // config.training.tokens_per_microbatch)
    gathered = known(made.size.linear) * compute_bytes(config) + around(made.size) * WEIGHTS
    travelling = gathered * (2 if made.trained else 1)
    if config.lora.rank:  # what learns is whole on each rank
        own = _wire_seconds(2 * GRADIENTS * made.trained, gpu, gpus)
        return max(computing, _wire_seconds(micro_batches * travelling, gpu, gpus)) + own
    return max(computing, _wire_seconds(micro_batches * (travelling + GRADIENTS * made.trained), gpu, gpus))


def _wire_seconds(count: int, gpu: Gpu, gpus: int) -> float:
    """Bytes that go once around a ring of all ranks; between machines each adapter carries a ring of its own."""
    slowest = gpu.link if gpus <= NODE else min(gpu.link, gpu.network)
    return count * (gpus - 1) / gpus / (slowest * LINK_SHARE)


def _speed(config: TrainConfig, gpu: Gpu) -> float:
    return MATRIX_SHARE * (gpu.fp32 if compute_bytes(config) == 4 else gpu.bf16)


def _operations(size: ModelSize, length: float) -> float:
    """Of the forward pass of a token, in a sequence of ``length`` tokens that it sees half of on average."""
    return 2 * _dense(size) + 2 * known(size.queries) * length


def _dense(size: ModelSize) -> int:
    """Parameters that are multiplied with every token: no table of embeddings."""
    return known(size.linear) + known(size.vocabulary) * known(size.width)


def _weight_bytes(role: Role) -> int:
    return WEIGHTS * known(role.parameters) - 2 * known(role.halved)
