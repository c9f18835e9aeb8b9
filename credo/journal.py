"""What a run writes down, and how it goes on from there: metrics, rollouts, evaluations, checkpoints, warnings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from credo.algo.advantages import PrimeReturns
from credo.assemble import Parts
from credo.checkpoint import Saver, fetched, restore, worths
from credo.config import TrainConfig
from credo.console import Console, duration
from credo.dist.world import World
from credo.evaluation.held_out import evaluate_policy
from credo.loggers import Loggers
from credo.measures.intervals import paired_gain
from credo.models.precision import with_compute_chosen
from credo.recipe import flat, to_toml
from credo.rollout.engine import SamplingParams
from credo.run_folder import EVALUATION, LOG, METRICS, RunFolder
from credo.types import Batch, Group
from credo.watch import Watch

EVALUATION_SEED = 1_000_003
Report = Callable[[int, Mapping[str, float]], None]
"""Told the number of a step and its metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one training step computed."""

    batch: Batch
    log_ratios: Float[Tensor, "B S"] | None
    returns: PrimeReturns | None
    """None if a log-ratio was not finite, so that nobody learnt from the batch."""
    advantages: Float[Tensor, "B S"]
    metrics: Mapping[str, float]

    @classmethod
    def not_finite(cls, batch: Batch, log_ratios: Float[Tensor, "B S"] | None, metrics: Mapping[str, float]) -> Step:
        """The step of a batch that the policy must not learn from."""
        skipped = {**metrics, "policy/skipped_steps": 1.0}
        nothing = torch.zeros_like(batch.sampling_logprobs)
        return cls(batch=batch, log_ratios=log_ratios, returns=None, advantages=nothing, metrics=skipped)

    @property
    def skipped(self) -> int:
        """Optimiser steps not taken because a number was not finite."""
        return int(self.metrics.get("policy/skipped_steps", 0) + self.metrics.get("prm/skipped_steps", 0))


class Journal:
    """The written side of one run. ``config`` is the one given, with what it leaves open chosen."""

    def __init__(
        self, config: TrainConfig, folder: RunFolder, resume: str, world: World, report: Report | None = None
    ) -> None:
        self.folder, self.world, self.report = folder, world, report
        self.console = console = Console(folder.folder / LOG, quiet=not world.is_first)
        remote = fetched(config.checkpoint, folder.folder, world, console.warn)
        recorded = partial(folder.recorded, resume=resume)
        self.config = config = world.first(lambda: with_compute_chosen(config, recorded, console.say))
        self.watch = Watch(config, console)
        self._found = world.first(lambda: folder.begin(resume, flat(config), to_toml(config), console.warn))
        self.saver = Saver(folder.checkpoints, config.checkpoint, world=world, remote=remote, warn=console.warn)
        self.logger = Loggers([])
        world.first(lambda: self.logger.begin(folder.folder / METRICS, config.run, flat(config)))

    def restore(self, parts: Parts) -> int:
        """Collective. Writes the newest checkpoint into ``parts``; the steps already made, 0 for a fresh run."""
        found = self._found
        if found is None:
            return 0
        if found.state["fingerprint"] != parts.fingerprint:
            raise ValueError(
                f"model.path = '{self.config.model.path}' holds other weights than when the run of {found.folder} "
                "began, so its reference is gone; put them back or start another run."
            )
        self.world.everywhere(partial(restore, found, policy=parts.policy, prm=parts.prm, critic=parts.critic))
        parts.engine.load_weights(parts.policy.weights())
        parts.collector.restore(found.state["collector"])
        self.watch.restore(found.state["watch"])
        parts.gate.restore(found.state["gate"])
        self.console.say(f"Resumed after step {found.step} from {found.folder}.")
        return found.step

    def save(self, step: int, parts: Parts) -> None:
        """Writes a checkpoint of the finished ``step``."""
        self.saver.save(
            step,
            policy=parts.policy,
            prm=parts.prm,
            critic=parts.critic,
            tokenizer=parts.start.tokenizer,
            state={
                "config": flat(self.config),
                "collector": parts.collector.state(),
                "watch": self.watch.state(),
                "gate": parts.gate.state(),
                "fingerprint": parts.fingerprint,
            },
            worth=self._worth(),
        )

    def evaluate(self, step: int, parts: Parts) -> None:
        """Avg@k on the held-out problems, into evaluation.jsonl, where it is due at ``step`` and not yet there."""
        config = self.config
        evaluated = self.world.first(lambda: self.folder.read_lines(EVALUATION))
        every = config.evaluation.every or config.run.steps
        due = step % every == 0 or step == config.run.steps
        if not parts.held_out or not due or (evaluated and evaluated[-1]["step"] == step):
            return
        with self.world.stage("evaluating"), self.console.stage("evaluating", "tokens") as progress:
            evaluation = evaluate_policy(
                parts.held_out,
                engine=parts.engine,
                verifier=parts.verifier,
                encode=parts.encode,
                decode=parts.decode,
                params=SamplingParams(
                    temperature=config.evaluation.temperature,
                    max_tokens=config.rollout.max_tokens,
                    stop=config.rollout.stop,
                ),
                samples=config.evaluation.samples,
                seed=EVALUATION_SEED,
                progress=progress,
            )
            summary = evaluation.summary()
            known = {key: value if math.isfinite(value) else None for key, value in summary.items()}
            append = partial(self.folder.append, EVALUATION, {"step": step, **known, "scores": evaluation.scores})
            self.world.first(append)
        self.console.say(
            f"after step {step}: accuracy {summary['eval/accuracy']:.3f} (95 % interval "
            f"{summary['eval/accuracy_low']:.3f} to {summary['eval/accuracy_high']:.3f}) on {len(parts.held_out):,} "
            f"problems, {evaluation.samples} samples each"
        )

    def record(
        self, step: int, parts: Parts, metrics: Mapping[str, float], groups: tuple[Group, ...], made: Step | None
    ) -> None:
        """Collective. Logs the metrics of ``step``, writes its rollouts, and says what a person should know.

        Raises RuntimeError when the run has nothing left to learn from, or nothing sound.
        """
        with self.world.stage("writing what a step has made"):
            self.world.first(partial(self.logger.log, step, metrics))
            if self.report is not None:
                self.report(step, metrics)
            self.world.first(partial(self._write, step, parts, metrics, groups, made))
        self.watch.see(step, metrics, empty=made is None)

    def finish(self, parts: Parts) -> None:
        """Collective. Says what was gained and where to look, once the last checkpoint is on disk."""
        self.saver.wait()
        if not self.world.is_first:
            return
        evaluated = self.folder.read_lines(EVALUATION)
        judged = all(line["eval/accuracy"] is not None for line in evaluated)
        if len(evaluated) > 1 and evaluated[0]["step"] == 0 and judged:
            first, last = evaluated[0], evaluated[-1]
            gain, low, high = paired_gain(first["scores"], last["scores"])
            self.console.say(
                f"accuracy {first['eval/accuracy']:.3f} -> {last['eval/accuracy']:.3f}, gain {100 * gain:+.1f} points "
                f"(95 % interval {100 * low:+.1f} to {100 * high:+.1f})"
            )
        if parts.prm is not None:
            self.console.say(f"PRM pair accuracy, mean of the last steps: {self.watch.recent_pair_accuracy:.2f}")
        self.console.say(f"Everything is in {self.folder.folder}: metrics.jsonl, rollouts/, checkpoints/.")

    def close(self) -> None:
        """Writes what is held back."""
        with closing(self.logger):
            self.saver.close()

    def _worth(self) -> dict[int, float]:
        """What steps are worth by ``checkpoint.metric``, where the best are kept."""
        if not self.config.checkpoint.best or not self.world.is_first:
            return {}
        lines = [line for name in (METRICS, EVALUATION) for line in self.folder.read_lines(name)]
        return worths(lines, self.config.checkpoint.metric)

    def _write(
        self, step: int, parts: Parts, metrics: Mapping[str, float], groups: tuple[Group, ...], made: Step | None
    ) -> None:
        self.console.say(self._line(step, metrics))
        if made is None:
            return
        every = self.config.checkpoint.rollouts_every
        if every and step % every == 0:
            self.folder.write_rollouts(step, rollout_rows(groups, made, parts))
        if made.skipped:
            self._dump(step, made)

    def _dump(self, step: int, made: Step) -> None:
        path = self.folder.folder / "nonfinite" / f"step-{step:06d}.pt"
        path.parent.mkdir(exist_ok=True)
        batch = {name: getattr(made.batch, name) for name in Batch.__slots__}
        torch.save(batch | {"log_ratios": made.log_ratios, "advantages": made.advantages}, path)
        self.console.warn(f"step {step} met non-finite numbers; its batch is in {path}")

    def _line(self, step: int, metrics: Mapping[str, float]) -> str:
        words = [f"step {step}/{self.config.run.steps}", f"accuracy {metrics['rollout/accuracy']:.3f}"]
        words.append(f"kept {metrics['filter/kept']:.0f}/{metrics['filter/drawn']:.0f}")
        words.append(f"length {metrics['rollout/mean_length']:.0f}")
        if "prm/informative_pair_accuracy" in metrics:
            words.append(f"PRM pairs {metrics['prm/informative_pair_accuracy']:.2f}")
            if "policy/loss" not in metrics:
                words.append("PRM only")
        left = (self.config.run.steps - step) * metrics["time/step"]
        return "  ".join([*words, f"{metrics['time/step']:.1f} s", f"{duration(left)} left"])


def rollout_rows(groups: tuple[Group, ...], made: Step, parts: Parts) -> list[dict[str, Any]]:
    """One JSON object a rollout: text, verdict, and for each token its text, q, process reward and advantage."""
    rewards = made.returns.rewards if made.returns is not None and not parts.rules.values_prefixes else None
    text = parts.start.tokenizer.decode
    rows = []
    places = [(group, k) for group in groups for k in range(len(group.rollouts))]
    for index, (group, k) in enumerate(places):
        mask, rollout, verdict = made.batch.mask[index], group.rollouts[k], group.verdicts[k]
        row = {
            "id": group.problem.id,
            "prompt": text(list(rollout.prompt_ids)),
            "response": group.responses[k],
            "answer": group.problem.answer,
            "score": verdict.score,
            "reason": verdict.reason,
            "finish": rollout.finish,
            "tokens": [text([token]) for token in rollout.response_ids],
            "logprobs": list(rollout.logprobs),
            "advantages": made.advantages[index][mask].tolist(),
        }
        if made.log_ratios is not None:
            row["log_ratios"] = made.log_ratios[index][mask].tolist()
        if made.log_ratios is not None and rewards is not None:
            row["process_rewards"] = rewards[index][mask].tolist()
        rows.append(row)
    return rows
