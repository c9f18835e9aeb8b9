"""Online PRIME: the loop of the paper's Algorithm 1, one call a stage. What a stage does is its module's business."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

from credo.algo.advantages import prime_returns, value_targets, whiten_returns
from credo.assemble import Parts, assemble
from credo.config import TrainConfig
from credo.data.batching import collate
from credo.dist.device import choose_device
from credo.dist.world import World
from credo.instruments import observe
from credo.interruption import Interrupted, Interruption
from credo.journal import Journal, Report, Step
from credo.metrics import memory_metrics, sampler_metrics
from credo.run_folder import RunFolder
from credo.scoring import heard, score_and_learn
from credo.types import Group


def train(
    config: TrainConfig, *, resume: str = "auto", world: World | None = None, report: Report | None = None
) -> Path:
    """Collective. Runs ``config`` to its last step, or until it is interrupted; returns the run's folder.

    ``report`` is told the metrics of every step, on every rank. Raises ValueError for what the user can mend,
    RuntimeError for a run that cannot go on. Whatever happens, the newest checkpoint is whole.
    """
    world = world or World(device=choose_device(config.run.device))
    path = Path(config.run.folder) / config.run.name
    with (
        world.bounded(),
        world.everywhere(lambda: RunFolder(path, reads_only=not world.is_first)) as folder,
        Interruption(world.any if world.size > 1 else None).listening() as interruption,
        closing(Journal(config, folder, resume, world, report)) as journal,
    ):
        parts = world.everywhere(lambda: assemble(journal.config, world, journal.console))
        world.alone = interruption.alone
        with closing(parts.verifier), closing(parts.engine):
            loop(journal.config, parts, journal, interruption)
    return folder.folder


def loop(config: TrainConfig, parts: Parts, journal: Journal, interruption: Interruption) -> None:
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
            with parts.world.stage("learning"):
                made = prime_step(parts, collection.groups, config, step) if collection.groups else None
            step += 1
            metrics = {**collection.metrics, **(made.metrics if made else {}), **memory_metrics(parts.world)}
            metrics |= {"time/learn": time.perf_counter() - learning, "time/step": time.perf_counter() - started}
            journal.record(step, parts, metrics, collection.groups, made)
            if step % config.checkpoint.every == 0 or step == config.run.steps:
                journal.save(step, parts)
        with interruption.allowed():
            journal.evaluate(step, parts)
        journal.finish(parts)
    except Interrupted:
        journal.save(step, parts)
        journal.saver.wait()
        journal.console.say(f"Stopped after step {step}; go on with the same command.")


def prime_step(parts: Parts, groups: tuple[Group, ...], config: TrainConfig, done: int) -> Step:
    """Collective. Score, learn from outcomes, give credit, learn from credit: a step between sampling and logging.

    Every rank holds the whole batch, so only the models divide the work: what follows from their log-probs is computed
    by all alike.
    """
    policy, critic, engine = parts.policy, parts.critic, parts.engine
    batch = collate(groups, parts.start.pad_id)
    old_logprobs = policy.old_logprobs(batch)

    scores, metrics = score_and_learn(parts, batch, groups, config)
    if not scores.finite:
        return Step.not_finite(batch, scores.log_ratios, metrics)

    rules = heard(parts, batch, scores)
    log_ratios = parts.control(scores.log_ratios, batch.mask, policy.version)
    returns = prime_returns(
        log_ratios, batch.outcomes, batch.mask, batch.group_ids, rules=rules, evidence=scores.evidence
    )
    advantages = whiten_returns(returns, batch.mask, batch.group_ids, rules)
    metrics |= observe(parts, batch, groups, scores, returns, advantages, config, done + 1)

    if critic is not None and scores.evidence.values is not None:
        metrics |= critic.update(batch, scores.evidence.values, value_targets(returns, scores.evidence.values, rules))
    if done >= config.policy_starts:
        anchor_logprobs = parts.anchor.logprobs(batch, temperature=policy.temperature) if parts.anchor else None
        old_logprobs, learnt = policy.update(batch, advantages, old_logprobs, anchor_logprobs)
        metrics |= learnt | sampler_metrics(batch, old_logprobs)
        engine.load_weights(policy.weights())
        metrics |= engine.metrics
    return Step(batch=batch, log_ratios=log_ratios, returns=returns, advantages=advantages, metrics=metrics)
