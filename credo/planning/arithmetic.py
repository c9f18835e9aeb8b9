"""How a training step divides into groups, optimiser steps and micro-batches, in words. It knows no model."""

from __future__ import annotations

from credo.config import TrainConfig


def batch_arithmetic(config: TrainConfig) -> list[str]:
    """How a step divides into groups, optimiser steps and micro-batches, one sentence each."""
    rollout, responses = config.rollout, config.responses_per_step
    budget, longest = config.training.tokens_per_microbatch, longest_tokens(config)
    lines = [
        f"{rollout.prompts:,} prompts x {rollout.per_prompt:,} rollouts = {responses:,} responses",
        f"filter: {_kept_groups(config)}",
        f"policy: {_optimiser_steps(responses, config.policy.minibatch)}",
        *_prm_lines(config),
        f"baseline: {_baseline(config)}",
    ]
    if config.policy_starts:
        learners = ["the critic"] if config.advantage.estimator == "gae" else []
        if config.prm.enabled and config.prm.update != "none":
            learners.insert(0, "the PRM")
        verb = "learns" if len(learners) == 1 else "learn"
        lines.append(f"in the first {config.policy_starts:,} steps only {' and '.join(learners)} {verb}")
    if config.instruments.every:
        prefixes, completions = config.instruments.prefixes, config.instruments.completions
        lines.append(
            f"instruments: one step in {config.instruments.every:,} samples 2 x {prefixes:,} prefixes x "
            f"{completions:,} completions = {checked_responses(config):,} more responses"
        )
    rows = max(1, budget // longest)
    return [
        *lines,
        f"micro-batches of at most {budget:,} tokens hold {counted(rows, 'response')} of the longest length "
        f"({config.data.max_prompt_tokens:,} + {rollout.max_tokens:,} = {longest:,} tokens)",
    ]


def kept_counts(config: TrainConfig) -> list[int]:
    """How many correct responses of a group pass the filter, where scores are 0 or 1."""
    low, high, k = config.filter.accuracy_low - 1e-6, config.filter.accuracy_high + 1e-6, config.rollout.per_prompt
    undecided = config.filter.drop_unanimous or config.filter.length_matched
    counts = range(1, k) if undecided else range(k + 1)
    return [correct for correct in counts if low <= correct / k <= high]


def longest_tokens(config: TrainConfig) -> int:
    """Tokens of the longest sequence that training can meet."""
    return config.data.max_prompt_tokens + config.rollout.max_tokens


def checked_responses(config: TrainConfig) -> int:
    """Responses that one prefix check samples."""
    return 2 * config.instruments.prefixes * config.instruments.completions


def counted(count: int, noun: str) -> str:
    """``2 responses``, ``1 response``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _prm_lines(config: TrainConfig) -> list[str]:
    prm = config.prm
    if not prm.enabled:
        return ["PRM: none; the outcome is the only reward"]
    learning = "frozen" if prm.update == "none" else _optimiser_steps(config.responses_per_step, prm.minibatch)
    if prm.top_layers:
        learning += f", on the last {counted(prm.top_layers, 'layer')} alone"
    order = {
        "after": "scores the whole batch, then learns from it",
        "before": "learns from the batch, then scores it (double forward)",
        "none": "scores the batch and never learns",
    }
    return [f"PRM: {learning}", f"order: the PRM {order[prm.update]}; the policy learns last"]


def _baseline(config: TrainConfig) -> str:
    """What outcomes and process rewards are compared with."""
    own = {
        "rloo": "the mean of the other responses",
        "grpo": "the mean of the group, in units of its spread",
        "reinforce": "none",
        "reinforce_pp": "none but whitening",
        "gae": f"a critic, {_optimiser_steps(config.responses_per_step, config.policy.minibatch)}",
        "remax": f"the greedy response to each prompt that passes the filter, at least {config.rollout.prompts:,} more",
        "implicit_value": "the PRM's value of the prefix, as a logit",
        "calibrated_value": "the PRM's value of the prefix, as a probability",
    }[config.advantage.estimator]
    process = {
        "token_mean": "the others' token means",
        "sequence": "the others' totals",
        "position": "the others' returns at the same fraction of the response",
        "expected": "what the policy expected at that token",
        "none": "none",
    }
    if not config.prm.enabled or config.advantage.baseline is None:
        return own
    return f"{own}; of process rewards {process[config.advantage.baseline]}"


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
    parts = [f"{counted(whole, 'optimiser step')} of {minibatch:,}"] if whole else []
    if rest:
        parts.append(f"1 of {rest:,}" if whole else f"1 optimiser step of {rest:,}")
    return " and ".join(parts)
