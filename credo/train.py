"""Online PRIME: the loop of the paper's Algorithm 1, one call a stage. What a stage does is its module's business."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from credo.algo.advantages import prime_advantages, prime_returns
from credo.assemble import Parts, assemble
from credo.config import TrainConfig
from credo.data.batching import collate
from credo.dist.world import World
from credo.interruption import Interrupted, Interruption
from credo.journal import Journal, Step
from credo.metrics import memory_metrics, outcome_metrics, prm_metrics
from credo.run_folder import RunFolder
from credo.types import Batch, Group


def train(config: TrainConfig, *, resume: str = "auto", world: World | None = None) -> Path:
    """Runs ``config`` to its last step, or until it is interrupted; returns the run's folder.

    Raises ValueError for what the user can mend, RuntimeError for a run that cannot go on. Whatever happens, the newest
    checkpoint is whole.
    """
    world = world or World()
    with (
        RunFolder(Path(config.run.folder) / config.run.name) as folder,
        Interruption().listening() as interruption,
        closing(Journal(config, folder, resume)) as journal,
    ):
        parts = assemble(config, world, journal.console)
        with closing(parts.verifier):
            loop(config, parts, journal, interruption, world)
    return folder.folder


def loop(config: TrainConfig, parts: Parts, journal: Journal, interruption: Interruption, world: World) -> None:
    """The steps from where the run stands to the last."""
    step = journal.restore(parts)
    try:
        while step < config.run.steps:
            with interruption.allowed():
                journal.evaluate(step, parts)
            started = time.perf_counter()
            with (
                parts.collector.undone_by(Interrupted),
                interruption.allowed(),
                journal.console.stage("sampling", "tokens") as progress,
            ):
                collection = parts.collector.collect(config.rollout.prompts, parts.policy.version, progress)
            learning = time.perf_counter()
            made = prime_step(parts, collection.groups, config, step, world) if collection.groups else None
            step += 1
            metrics = {**collection.metrics, **(made.metrics if made else {}), **memory_metrics()}
            metrics |= {"time/learn": time.perf_counter() - learning, "time/step": time.perf_counter() - started}
            journal.record(step, parts, metrics, collection.groups, made)
            if step % config.checkpoint.every == 0 or step == config.run.steps:
                journal.save(step, parts)
        with interruption.allowed():
            journal.evaluate(step, parts)
        journal.finish(parts)
    except Interrupted:
        journal.save(step, parts)
        journal.console.say(f"Stopped after step {step}; go on with the same command.")


def prime_step(parts: Parts, groups: tuple[Group, ...], config: TrainConfig, done: int, world: World) -> Step:
    """Score, learn from outcomes, give credit, learn from credit: all of a step between sampling and logging."""
    policy, engine = parts.policy, parts.engine
    batch = collate(groups, parts.start.pad_id)
    old_logprobs = policy.logprobs(batch, temperature=config.rollout.temperature)

    log_ratios, learnt = score_and_learn(parts, batch, config)
    if log_ratios is not None and not log_ratios.isfinite().all():
        nothing = torch.zeros_like(old_logprobs)
        return Step(
            batch=batch, log_ratios=log_ratios, advantages=nothing, metrics=learnt | {"policy/skipped_steps": 1}
        )

    credit: dict[str, Any] = config.credit_options() | {"all_reduce": world.all_reduce}
    advantages = prime_advantages(log_ratios, batch.outcomes, batch.mask, batch.group_ids, **credit)

    improved: dict[str, float] = {}
    if not config.prm.enabled or done >= config.prm.warmup_steps:
        improved = policy.update(batch, advantages, old_logprobs)
        engine.load_weights(policy.weights())

    seen = dict(outcome_metrics(batch, advantages, old_logprobs))
    if log_ratios is not None:
        returns = prime_returns(log_ratios, batch.outcomes, batch.mask, batch.group_ids, **credit)
        seen |= prm_metrics(batch, log_ratios, returns, beta=config.prm.beta)
    return Step(batch=batch, log_ratios=log_ratios, advantages=advantages, metrics=seen | learnt | improved)


def score_and_learn(
    parts: Parts, batch: Batch, config: TrainConfig
) -> tuple[Float[Tensor, "B S"] | None, dict[str, float]]:
    """Log-ratios for the policy, and the PRM's own learning, in the order that ``prm.update`` names (paper, B.2).

    ``after`` scores the whole batch first. The released code scores each mini-batch just before learning from it, so
    that one batch carries the scores of several PRMs.
    """
    prm, reference = parts.prm, parts.reference
    if prm is None or reference is None:
        return None, {}
    reference_logprobs = reference.logprobs(batch)
    match config.prm.update:
        case "after":
            log_ratios = prm.score(batch, reference_logprobs)
            return log_ratios, prm.update(batch, reference_logprobs)
        case "before":
            learnt = prm.update(batch, reference_logprobs)
            return prm.score(batch, reference_logprobs), learnt
        case "none":
            return prm.score(batch, reference_logprobs), {}
