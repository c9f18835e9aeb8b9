"""What a recipe amounts to, in words and bytes, before anything is loaded: batch arithmetic, memory by role, warnings.

Parameters are counted on a model without storage. Activations are not estimated; they follow the micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from credo.config import TrainConfig
from credo.models.size import ModelSize, model_size, size_text
from credo.planning.arithmetic import batch_arithmetic, checked_responses, counted, kept_counts, longest_tokens

WEIGHTS, GRADIENTS, MOMENTS = 4, 4, 8
"""Bytes a parameter, all fp32; AdamW keeps two moments."""
FEW_RESPONSES = 32
"""Fewer than this in an optimiser step are worth a warning."""
LOOSE_GSPO_CLIP = 0.01
"""GSPO's paper (arXiv 2507.18071) clips at 3e-4 and 4e-4; above this hardly any response is ever clipped."""

Row = tuple[str, str, int | None]
"""Role, what it holds, bytes if known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The models that a recipe names."""

    policy: ModelSize
    prm: ModelSize
    reference: ModelSize


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A model that a run holds."""

    name: str
    parameters: int | None
    trained: bool = False
    saved: bool = False
    """Whether checkpoints hold it, and its optimiser if it is trained."""
    shared: int | None = 0
    """Parameters of another role that it uses too: they are in memory once, but checkpoints hold them with both."""
    halved: int | None = 0
    """Parameters kept in bf16."""


def plan(config: TrainConfig) -> str:
    """The plan of ``config`` as text. Raises ValueError for a local model that cannot be read."""
    sizes = model_sizes(config)
    models = [f"policy: {sizes.policy.words}"]
    if config.prm.enabled and config.prm.path:
        models.append(f"PRM: {sizes.prm.words}")
    if config.prm.enabled and config.prm.reference_path:
        models.append(f"reference: {sizes.reference.words}")
    sections = {
        f"{config.run.name}: {config.run.steps:,} steps": batch_arithmetic(config),
        "Models": models,
        "Memory": [
            *_table(memory(config, sizes)),
            "Activations come on top; they grow with training.tokens_per_microbatch.",
        ],
        "Disk": [disk(config, sizes)],
        "Warnings": list(doubts(config, sizes)),
    }
    return "\n\n".join("\n  ".join([title, *lines]) for title, lines in sections.items() if lines)


def memory(config: TrainConfig, sizes: Sizes) -> list[Row]:
    """Bytes by role. An upper bound where all is known: not everything is alive at once."""
    rows: list[Row] = []
    for role in roles(config, sizes):
        what = "weights, gradients, AdamW's m and v" if role.trained else "weights"
        factor = WEIGHTS + GRADIENTS + MOMENTS if role.trained else WEIGHTS
        rows.append((role.name, what, _less(_times(role.parameters, factor), _times(role.halved, 2))))
    if config.prm.enabled and config.prm.reference == "policy":
        rows.append(("reference", "none: the policy stands in", 0))
    if config.policy.kl_coef > 0 and reference_is_start(config):
        rows.append(("KL anchor", "none: the PRM's reference serves", 0))
    if config.prm.enabled and config.prm.top_layers:
        tokens = shared_tokens(config)
        rows.append(("shared layers", f"hidden states of {tokens:,} tokens", _times(sizes.prm.width, 4 * tokens)))
    compute_bytes = 2 if config.model.compute == "bf16" else 4  # of an activation, a logit, a cached key or value
    if config.model.compute != "fp32":
        largest = max(_less(role.parameters, role.halved) or 0 for role in roles(config, sizes)) or None
        rows.append(("bf16", "copy of the weights in use", _times(largest, 2)))
    if config.rollout.packed:
        rows.append(("sampler", "copy of the policy's weights, packed", _times(sizes.policy.parameters, compute_bytes)))
    sequences, length = _decoding(config)
    cache = f"{counted(sequences, 'sequence')} of {length:,} tokens"
    needed, bound = _times(sizes.policy.cached, sequences * length * compute_bytes), config.rollout.cache_gb * 2**30
    if needed is not None and 0 < bound < needed:
        needed, cache = int(bound), f"bounded, of {cache}"
    rows.append(("key-value cache", cache, needed))
    tokens = max(config.training.tokens_per_microbatch, longest_tokens(config))
    alive = logits_alive(config)
    logits = f"{tokens:,} tokens of one micro-batch, {'and their gradient' if alive == 2 else 'by three models'}"
    return [*rows, ("logits", logits, _times(sizes.policy.vocabulary, alive * tokens * compute_bytes))]


def roles(config: TrainConfig, sizes: Sizes) -> Iterator[Role]:
    """Every model of a run, those that another one stands in for aside."""
    if config.lora.rank:
        yield from _adapters(config, sizes.policy)
        return
    yield Role(name="policy", parameters=sizes.policy.parameters, trained=True, saved=True)
    if config.prm.enabled:
        learns = config.prm.update != "none"
        own, shared = sizes.prm.divided(config.prm.top_layers)
        yield Role(name="PRM", parameters=own, trained=learns, saved=True, shared=shared)
        if config.prm.ema > 0:
            yield Role(name="PRM average", parameters=own, saved=True, shared=shared)
        if config.prm.reference != "policy":
            yield Role(name="reference", parameters=sizes.reference.parameters)
    if config.policy.kl_coef > 0 and not reference_is_start(config):
        yield Role(name="KL anchor", parameters=sizes.policy.parameters)
    if config.advantage.estimator == "gae":
        yield Role(name="critic", parameters=sizes.policy.critic, trained=True, saved=True)


def _adapters(config: TrainConfig, size: ModelSize) -> Iterator[Role]:
    """The roles that share one backbone, which is reference and KL anchor too."""
    halved = size.linear if config.model.compute == "bf16" else 0
    yield Role(name="backbone", parameters=size.parameters, halved=halved)
    own = _times(size.adapter, config.lora.rank)
    yield Role(name="policy adapter", parameters=own, trained=True, saved=True, shared=size.parameters)
    if config.prm.enabled:
        learns = config.prm.update != "none"
        yield Role(name="PRM adapter", parameters=own, trained=learns, saved=True, shared=size.parameters)


def doubts(config: TrainConfig, sizes: Sizes) -> Iterator[str]:
    """What is probably not meant, each with what to change."""
    longest, budget = longest_tokens(config), config.training.tokens_per_microbatch
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
    if sizes.policy.positions and longest > sizes.policy.positions:
        yield (
            f"rollout.max_tokens: sequences may have {longest:,} tokens, and the model was made for "
            f"{sizes.policy.positions:,}; lower it or data.max_prompt_tokens."
        )
    yield from _policy_doubts(config)
    if config.prm.enabled:
        yield from _prm_doubts(config, sizes)


def _policy_doubts(config: TrainConfig) -> Iterator[str]:
    policy = config.policy
    if policy.loss == "gspo" and max(policy.clip_low, policy.clip_high) > LOOSE_GSPO_CLIP:
        yield (
            "policy.clip_low, policy.clip_high: GSPO's ratio is a mean over a response and stays close to 1, so bounds "
            "of PPO's size never clip; its paper has 3e-4 and 4e-4."
        )
    if policy.loss == "pg" and policy.minibatch < config.responses_per_step:
        yield (
            "policy.loss: 'pg' is right on the policy's own responses, which they are in the first of "
            f"{-(-config.responses_per_step // policy.minibatch):,} optimiser steps; raise policy.minibatch to "
            f"{config.responses_per_step:,} or choose 'ppo'."
        )
    if policy.kl_coef > 0 and policy.kl == "k1":
        yield "policy.kl: the gradient of 'k1' is 0 on average, so it holds nothing; choose 'k2' or 'k3'."
    if policy.importance_cap > 0 and not config.rollout.cuts and config.model.compute == "fp32":
        yield (
            "policy.importance_cap: in fp32 and where all tokens can be drawn this engine's probabilities are the "
            "trainer's, so every weight is 1 up to rounding; set 0."
        )


def _prm_doubts(config: TrainConfig, sizes: Sizes) -> Iterator[str]:
    prm, advantage = config.prm, config.advantage
    if config.rollout.per_prompt == 1 and prm.loss != "ce":
        yield f"prm.loss: '{prm.loss}' compares the responses to one prompt, and rollout.per_prompt is 1; choose 'ce'."
    if advantage.gamma_process == 0 and not advantage.negative_only:
        yield (
            "advantage.gamma_process: immediate credit has made policies run to rare tokens that the PRM overrates; "
            "watch policy/entropy, or set advantage.negative_only = true."
        )
    apart = None not in (sizes.prm.parameters, sizes.reference.parameters)
    if apart and prm.reference == "initial" and sizes.prm.parameters != sizes.reference.parameters:
        yield (
            "prm.reference: PRM and reference are of different size, so their log-ratios begin as the difference "
            "between two models; set prm.reference = 'own', or prm.reference_path to what the PRM was trained against."
        )
    reference = _times(sizes.reference.parameters, WEIGHTS) or 0
    if (
        reference_is_start(config)
        and config.policy.kl_coef == config.lora.rank == config.prm.top_layers == 0
        and reference >= 2**30
    ):
        yield f"prm.reference: the frozen start takes {size_text(reference)}; prm.reference = 'policy' does without it."


def _optimiser_step_doubts(section: str, minibatch: int, responses: int) -> Iterator[str]:
    step = min(minibatch, responses)
    if step < FEW_RESPONSES:
        more = f"{section}.minibatch" if minibatch < responses else "rollout.prompts"
        yield f"{section}: {counted(step, 'response')} an optimiser step make a noisy gradient; raise {more}."
    if responses % step:
        yield (
            f"{section}: the last optimiser step has {counted(responses % step, 'response')}, the others {step:,}; "
            f"choose a {section}.minibatch that divides {responses:,}."
        )


def model_sizes(config: TrainConfig) -> Sizes:
    """The sizes of policy, PRM and reference. Raises ValueError as ``model_size`` does."""
    policy = model_size(config.model.path)
    prm = model_size(config.prm.path) if config.prm.path else policy
    reference = prm if config.prm.reference == "own" else policy
    if config.prm.reference_path:
        reference = model_size(config.prm.reference_path)
    return Sizes(policy=policy, prm=prm, reference=reference)


def shared_tokens(config: TrainConfig) -> int:
    """Tokens of a step at most, those of a prompt counted once: what a PRM with ``top_layers`` remembers of."""
    prompts = config.rollout.prompts * config.data.max_prompt_tokens
    return prompts + config.responses_per_step * config.rollout.max_tokens


def logits_alive(config: TrainConfig) -> int:
    """Tensors of logits at once: those of one model and their gradient, or of three, one of them twice to select."""
    return 4 if config.prm.enabled and config.advantage.baseline == "expected" else 2


def reference_is_start(config: TrainConfig) -> bool:
    """Whether the PRM's reference is the frozen start of the policy."""
    start = ("", config.model.path)
    return config.prm.enabled and config.prm.reference == "initial" and config.prm.reference_path in start


def _table(rows: list[Row]) -> list[str]:
    known = sum(count for _, _, count in rows if count is not None)
    complete = all(count is not None for _, _, count in rows)
    total = ("sum", "at most: not all of it is alive at once" if complete else "of what is known", known)
    return [f"{role:<16}{what:<56}{size_text(count):>12}" for role, what, count in [*rows, total]]


def disk(config: TrainConfig, sizes: Sizes) -> str:
    """The size of a checkpoint and how many are kept, in words."""
    saved = [role for role in roles(config, sizes) if role.saved]
    parts = [_times(role.parameters, WEIGHTS + MOMENTS if role.trained else WEIGHTS) for role in saved]
    parts += [_times(role.shared, WEIGHTS) for role in saved]
    known = [part for part in parts if part is not None]
    count = sum(known) if len(known) == len(parts) else None
    keep = config.checkpoint.keep
    kept = f"the newest {keep} are kept, plus one while saving" if keep else "all are kept"
    return f"a checkpoint: {size_text(count)}; {kept}"


def _decoding(config: TrainConfig) -> tuple[int, int]:
    """Sequences decoded at once and their longest length, for the use that fills the cache most.

    Evaluation can fill all of ``rollout.concurrent``, a round of training may not. The prefix check goes on from
    prefixes of any length by what the shortest of them may need, which can be ``rollout.max_tokens``.
    """
    limit, longest = config.rollout.concurrent, longest_tokens(config)
    uses = [(limit if config.evaluation.sources else min(limit, config.responses_per_step), longest)]
    if config.instruments.every:
        uses.append((min(limit, checked_responses(config)), longest + config.rollout.max_tokens))
    return max(uses, key=lambda use: use[0] * use[1])


def _less(count: int | None, other: int | None) -> int | None:
    return None if count is None or other is None else count - other


def _times(count: int | None, factor: int) -> int | None:
    return None if count is None else count * factor
