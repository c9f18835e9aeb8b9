"""Online PRIME: the loop of the paper's Algorithm 1, one call a stage. What a stage does is its module's business."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

from credo.algo.advantages import prime_returns, value_targets, whiten_returns
from credo.assemble import Parts, assemble
from credo.config import TrainConfig
from credo.data.batching import collate
from credo.dist.world import World
from credo.instruments import observe
from credo.interruption import Interrupted, Interruption
from credo.journal import Journal, Step
from credo.metrics import memory_metrics, sampler_metrics
from credo.run_folder import RunFolder
from credo.scoring import heard, score_and_learn
from credo.types import Group


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
        parts = assemble(journal.config, world, journal.console)
        with closing(parts.verifier), closing(parts.engine):
            loop(journal.config, parts, journal, interruption, world)
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
    policy, critic, engine = parts.policy, parts.critic, parts.engine
    batch = collate(groups, parts.start.pad_id)
    old_logprobs = policy.old_logprobs(batch)

    scores, metrics = score_and_learn(parts, batch, groups, config)
    if not scores.finite:
        return Step.not_finite(batch, scores.log_ratios, metrics)

    rules = heard(parts, batch, scores, world.all_reduce)
    log_ratios = parts.control(scores.log_ratios, batch.mask, policy.version)
    returns = prime_returns(
        log_ratios,
        batch.outcomes,
        batch.mask,
        batch.group_ids,
        rules=rules,
        evidence=scores.evidence,
        all_reduce=world.all_reduce,
    )
    advantages = whiten_returns(returns, batch.mask, batch.group_ids, rules, world.all_reduce)
    metrics |= observe(parts, batch, groups, scores, returns, advantages, config, done + 1)

    if critic is not None and scores.evidence.values is not None:
        metrics |= critic.update(batch, scores.evidence.values, value_targets(returns, scores.evidence.values, rules))
    if done >= config.policy_starts:
        anchor_logprobs = parts.anchor.logprobs(batch, temperature=policy.temperature) if parts.anchor else None
        old_logprobs, learnt = policy.update(batch, advantages, old_logprobs, anchor_logprobs)
        metrics |= learnt | sampler_metrics(batch, old_logprobs)
        engine.load_weights(policy.weights())
    return Step(batch=batch, log_ratios=log_ratios, returns=returns, advantages=advantages, metrics=metrics)
