"""Training steps without a run folder, timed by stage: real models, real sampling and learning, made-up verdicts.

No response ends early, so that lengths are fixed, and every other one counts as correct, so that every group is kept.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

from limits import CLOCKS

from credo.assemble import assemble
from credo.collect import Collector
from credo.config import TrainConfig
from credo.console import Console
from credo.dist.world import World
from credo.recipe import read_recipe
from credo.rollout.torch_engine import TorchEngine
from credo.train import prime_step
from credo.types import Batch, Verdict
from credo.verify.verifier import ScriptedVerifier

ROLES = ("policy", "prm", "reference", "engine")


class Timed:
    """Stands before an object and adds the seconds of each of its methods to ``seconds["role.method"]``."""

    def __init__(self, inner: Any, role: str, seconds: dict[str, float], clock: Callable[[], float]) -> None:
        self._inner, self._role, self._seconds, self._clock = inner, role, seconds, clock

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if not inspect.ismethod(method):
            return method

        def timed(*arguments: Any, **options: Any) -> Any:
            started = self._clock()
            result = method(*arguments, **options)
            self._seconds[f"{self._role}.{name}"] += self._clock() - started
            return result

        return timed


class Training:
    """A training run between its files."""

    def __init__(self, problems: Path, values: Mapping[str, object], clock: str) -> None:
        """``values`` are options of ``credo train`` by dotted key."""
        common = {"run.name": "benchmark", "run.steps": 1_000_000, "run.device": "cpu", "data.kind": "exact"}
        common |= {"data.train": json.dumps([str(problems)]), "data.template": "plain"}
        flags = [word for key, value in (common | dict(values)).items() for word in (f"--{key}", str(value))]
        self.config = read_recipe(TrainConfig, [], flags)
        self.clock, self.stages = CLOCKS[clock], defaultdict[str, float](float)
        with redirect_stdout(sys.stderr):
            parts = assemble(self.config, World(), Console())
        assert isinstance(parts.engine, TorchEngine)
        parts.engine.eos_ids = frozenset()
        proxies = {role: Timed(getattr(parts, role), role, self.stages, self.clock) for role in ROLES}
        self.parts = replace(parts, **{role: proxies[role] for role in ROLES if getattr(parts, role) is not None})
        coin = cycle((0.0, 1.0))
        assert isinstance(parts.collector, Collector)
        parts.collector.engine = self.parts.engine
        parts.collector.verifier = ScriptedVerifier(lambda problem, response: Verdict(score=next(coin)))

    def step(self) -> dict[str, Any]:
        """One training step: its seconds, those of its stages, and how many tokens it was made of.

        Raises RuntimeError if it was not a whole one: fewer groups or shorter responses than asked for, or a model that
        did not learn.
        """
        config, parts = self.config, self.parts
        self.stages.clear()
        started = self.clock()
        groups = parts.collector.collect(config.rollout.prompts, parts.policy.version).groups
        made = prime_step(parts, groups, config, 0)
        seconds = self.clock() - started
        tokens = counted(made.batch)
        if tokens["response"] != config.responses_per_step * config.rollout.max_tokens or made.skipped:
            raise RuntimeError(f"Not the step that was to be measured: {tokens}, {made.skipped} models did not learn.")
        stages = dict(self.stages)
        return {
            "seconds": seconds,
            "stages": stages | {"rest": seconds - sum(stages.values())},
            "tokens": tokens,
        }


def counted(batch: Batch) -> dict[str, int]:
    """Tokens of the batch without padding: of all rows, of their responses, and with each prompt once for its group."""
    rows, response = int(batch.attention.sum()), int(batch.mask.sum())
    firsts = [int((batch.group_ids == group).nonzero()[0, 0]) for group in batch.group_ids.unique()]
    prompts = int((batch.attention & ~batch.mask)[firsts].sum())
    return {"all": rows, "response": response, "prompts_once": prompts + response}


def write_problems(prompts: Sequence[str], path: Path) -> None:
    """A file of problems that nobody can be judged by."""
    path.write_text("".join(json.dumps({"prompt": prompt, "answer": "?"}) + "\n" for prompt in prompts))
