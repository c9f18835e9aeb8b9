"""What a recipe amounts to, in words and bytes, before anything is loaded: batch arithmetic, memory by role, warnings.

Parameters are counted on a model without storage. Activations are not estimated; they follow the micro-batch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from credo.config import TrainConfig

WEIGHTS, GRADIENTS, MOMENTS = 4, 4, 8
"""Bytes a parameter, all fp32; AdamW keeps two moments."""
CACHE_BYTES = 4
"""Of a cached key or value: rotary embeddings are fp32, so under bf16 autocast the cache is fp32 too."""
FEW_RESPONSES = 32
"""Fewer than this in an optimiser step are worth a warning."""

Row = tuple[str, str, int | None]
"""Role, what it holds, bytes if known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """What the configuration of a model, or else its name, says about its size."""

    parameters: int | None = None
    source: str
    """Where the number comes from, for the reader."""
    cached: int | None = None
    """Keys and values that one token leaves in the cache, over all layers."""
    vocabulary: int | None = None
    positions: int | None = None
    """The longest sequence it was made for."""


def plan(config: TrainConfig) -> str:
    """The plan of ``config`` as text. Raises ValueError for a local model that cannot be read."""
    policy = model_size(config.model.path)
    prm = model_size(config.prm.path) if config.prm.path else policy
    models = [f"policy: {_parameters(policy)}"]
    if config.prm.enabled and config.prm.path:
        models.append(f"PRM: {_parameters(prm)}")
    rows = memory(config, policy, prm)
    sections = {
        f"{config.run.name}: {config.run.steps:,} steps": batch_arithmetic(config),
        "Models": models,
        "Memory": [*_table(rows), "Activations come on top; they grow with training.tokens_per_microbatch."],
        "Disk": [_disk(config, policy, prm)],
        "Warnings": list(doubts(config, policy)),
    }
    return "\n\n".join("\n  ".join([title, *lines]) for title, lines in sections.items() if lines)


def batch_arithmetic(config: TrainConfig) -> list[str]:
    """How a step divides into groups, optimiser steps and micro-batches, one sentence each."""
    rollout, prm, responses = config.rollout, config.prm, config.responses_per_step
    budget, longest = config.training.tokens_per_microbatch, _longest(config)
    lines = [
        f"{rollout.prompts:,} prompts x {rollout.per_prompt:,} rollouts = {responses:,} responses",
        f"filter: {_kept_groups(config)}",
        f"policy: {_optimiser_steps(responses, config.policy.minibatch)}",
    ]
    if not prm.enabled:
        lines.append("PRM: none; the outcome is the only reward")
    else:
        learning = "frozen" if prm.update == "none" else _optimiser_steps(responses, prm.minibatch)
        order = {
            "after": "scores the whole batch, then learns from it",
            "before": "learns from the batch, then scores it (double forward)",
            "none": "scores the batch and never learns",
        }
        lines += [f"PRM: {learning}", f"order: the PRM {order[prm.update]}; the policy learns last"]
    if prm.enabled and prm.warmup_steps:
        lines.append(f"in the first {prm.warmup_steps:,} steps only the PRM learns")
    rows = max(1, budget // longest)
    return [
        *lines,
        f"micro-batches of at most {budget:,} tokens hold {_count(rows, 'response')} of the longest length "
        f"({config.data.max_prompt_tokens:,} + {rollout.max_tokens:,} = {longest:,} tokens)",
    ]


def memory(config: TrainConfig, policy: ModelSize, prm: ModelSize) -> list[Row]:
    """Bytes by role. An upper bound where all is known: not everything is alive at once."""
    trained = WEIGHTS + GRADIENTS + MOMENTS
    rows: list[Row] = [("policy", "weights, gradients, AdamW's m and v", _times(policy.parameters, trained))]
    if config.prm.enabled and config.prm.update == "none":
        rows.append(("PRM", "weights", _times(prm.parameters, WEIGHTS)))
    elif config.prm.enabled:
        rows.append(("PRM", "weights, gradients, AdamW's m and v", _times(prm.parameters, trained)))
    if config.prm.enabled and config.prm.reference == "policy":
        rows.append(("reference", "none: the policy stands in", 0))
    elif config.prm.enabled:
        rows.append(("reference", "weights", _times(policy.parameters, WEIGHTS)))
    compute_bytes = 4
    if config.model.compute == "bf16":
        compute_bytes = 2
        largest = max(policy.parameters or 0, prm.parameters or 0) or None
        rows.append(("bf16", "copy of the weights in use", _times(largest, compute_bytes)))
    sequences, longest = _concurrent(config), _longest(config)
    cache = f"{_count(sequences, 'sequence')} of {longest:,} tokens"
    rows.append(("key-value cache", cache, _times(policy.cached, sequences * longest * CACHE_BYTES)))
    tokens = max(config.training.tokens_per_microbatch, longest)
    logits = f"{tokens:,} tokens of one micro-batch, and their gradient"
    return [*rows, ("logits", logits, _times(policy.vocabulary, 2 * tokens * compute_bytes))]


def doubts(config: TrainConfig, policy: ModelSize) -> Iterator[str]:
    """What is probably not meant, each with what to change."""
    longest, budget = _longest(config), config.training.tokens_per_microbatch
    if not kept_counts(config):
        yield (
            "filter: the band keeps no group of right and wrong answers, so the run would stop; widen "
            "filter.accuracy_low to filter.accuracy_high, or raise rollout.per_prompt."
        )
    yield from _optimiser_step_doubts("policy", config.policy.minibatch, config.responses_per_step)
    if config.prm.enabled and config.prm.update != "none":
        yield from _optimiser_step_doubts("prm", config.prm.minibatch, config.responses_per_step)
    if longest > budget:
        yield (
            f"training.tokens_per_microbatch: a response over the limit of {budget:,} tokens stands alone, and it "
            f"may have {longest:,}; memory is for those."
        )
    if policy.positions and longest > policy.positions:
        yield (
            f"rollout.max_tokens: sequences may have {longest:,} tokens, and the model was made for "
            f"{policy.positions:,}; lower it or data.max_prompt_tokens."
        )
    reference = _times(policy.parameters, WEIGHTS) or 0
    if config.prm.enabled and config.prm.reference == "initial" and reference >= 2**30:
        yield f"prm.reference: the frozen start takes {size_text(reference)}; prm.reference = 'policy' does without it."


def _optimiser_step_doubts(section: str, minibatch: int, responses: int) -> Iterator[str]:
    step = min(minibatch, responses)
    if step < FEW_RESPONSES:
        more = f"{section}.minibatch" if minibatch < responses else "rollout.prompts"
        yield f"{section}: {_count(step, 'response')} an optimiser step make a noisy gradient; raise {more}."
    if responses % step:
        yield (
            f"{section}: the last optimiser step has {_count(responses % step, 'response')}, the others {step:,}; "
            f"choose a {section}.minibatch that divides {responses:,}."
        )


def kept_counts(config: TrainConfig) -> list[int]:
    """How many correct responses of a group pass the accuracy band, where scores are 0 or 1."""
    low, high, k = config.filter.accuracy_low - 1e-6, config.filter.accuracy_high + 1e-6, config.rollout.per_prompt
    return [correct for correct in range(k + 1) if low <= correct / k <= high]


def model_size(path: str) -> ModelSize:
    """The size of the model at ``path``, exact if its configuration is on this disk, else guessed from its name.

    A local model may still have to be made, so that one is of unknown size. Raises ValueError if it cannot be read.
    """
    from credo.models.causal import quiet_transformers, resolve_path

    quiet_transformers()
    from huggingface_hub import try_to_load_from_cache
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        location, options = resolve_path(path)
    except ValueError as error:
        return ModelSize(source=str(error).rstrip("."))
    if not Path(location).is_dir():  # a hub id: what an earlier run has fetched, or nothing; a plan asks no network
        cached = try_to_load_from_cache(location, "config.json")
        if not isinstance(cached, str):
            return _guessed(path)
        location = str(Path(cached).parent)
    try:
        settings = AutoConfig.from_pretrained(location, **options)
        parameters = _count_parameters(AutoModelForCausalLM, settings)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"The size of the model at '{path}' cannot be told: {reason}") from None
    return _measured(settings.get_text_config(), parameters)


def size_text(count: int | None) -> str:
    """Bytes as people say them."""
    if count is None:
        return "unknown"
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def _count_parameters(factory: Any, settings: Any) -> int:
    import torch

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in factory.from_config(settings).parameters())


def _measured(settings: Any, parameters: int) -> ModelSize:
    """Architectures name their parts as they like, and some have no keys and values at all."""
    heads = getattr(settings, "num_attention_heads", None)
    layers, width = getattr(settings, "num_hidden_layers", None), getattr(settings, "hidden_size", None)
    cached = None
    if heads and layers and width:
        cached_heads = getattr(settings, "num_key_value_heads", None) or heads
        cached = 2 * layers * cached_heads * (getattr(settings, "head_dim", None) or width // heads)
    return ModelSize(
        parameters=parameters,
        source="counted",
        cached=cached,
        vocabulary=getattr(settings, "vocab_size", None),
        positions=getattr(settings, "max_position_embeddings", None),
    )


def _guessed(path: str) -> ModelSize:
    """A size such as 7B, 0.5B, 135M or 8x7B in the name of a model that is not on this disk."""
    found = re.search(r"(?<![\w.])(?:(\d+)x)?(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", path.rsplit("/", 1)[-1].lower())
    if not found:
        return ModelSize(source="not on this disk, and its name tells no size")
    experts, number, unit = found.groups()
    parameters = int(experts or 1) * float(number) * (10**9 if unit == "b" else 10**6)
    return ModelSize(parameters=round(parameters), source="a guess from the name: it is not on this disk")


def _parameters(size: ModelSize) -> str:
    if size.parameters is None:
        return f"unknown size ({size.source})"
    return f"{size.parameters:,} parameters ({size.source})"


def _kept_groups(config: TrainConfig) -> str:
    counts, k = kept_counts(config), config.rollout.per_prompt
    if not counts:
        return f"keeps no group of {k}"
    if len(counts) == k + 1:
        return "keeps every group"
    span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"keeps groups with {span} correct of {k}"


def _optimiser_steps(responses: int, minibatch: int) -> str:
    whole, rest = divmod(responses, minibatch)
    parts = [f"{_count(whole, 'optimiser step')} of {minibatch:,}"] if whole else []
    if rest:
        parts.append(f"1 of {rest:,}" if whole else f"1 optimiser step of {rest:,}")
    return " and ".join(parts)


def _table(rows: list[Row]) -> list[str]:
    known = sum(count for _, _, count in rows if count is not None)
    complete = all(count is not None for _, _, count in rows)
    total = ("sum", "at most: not all of it is alive at once" if complete else "of what is known", known)
    return [f"{role:<16}{what:<56}{size_text(count):>12}" for role, what, count in [*rows, total]]


def _disk(config: TrainConfig, policy: ModelSize, prm: ModelSize) -> str:
    count = _times(policy.parameters, WEIGHTS + MOMENTS)
    if config.prm.enabled:
        more = _times(prm.parameters, WEIGHTS if config.prm.update == "none" else WEIGHTS + MOMENTS)
        count = None if count is None or more is None else count + more
    kept = (
        f"the newest {config.checkpoint.keep} are kept, plus one while saving"
        if config.checkpoint.keep
        else "all are kept"
    )
    return f"a checkpoint: {size_text(count)}; {kept}"


def _concurrent(config: TrainConfig) -> int:
    """Sequences decoded at once: evaluation can fill all of ``rollout.concurrent``, a round of training may not."""
    limit = config.rollout.concurrent
    return limit if config.evaluation.sources else min(limit, config.responses_per_step)


def _longest(config: TrainConfig) -> int:
    return config.data.max_prompt_tokens + config.rollout.max_tokens


def _times(count: int | None, factor: int) -> int | None:
    return None if count is None else count * factor


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
