"""Which numbers a step takes of the PRM, when, and with which weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_groups, tiny_model, tiny_parts
from torch import Tensor, nn

from credo.algo.rewards import informative_pair_accuracy
from credo.assemble import Parts
from credo.config import TrainConfig
from credo.rollout.engine import Progress, RolloutEngine, SamplingParams
from credo.train import prime_step
from credo.types import Group, Rollout

PREFIX = {
    "prm/prefix_rank_correlation",
    "prm/prefix_correlation_low",
    "prm/prefix_correlation_high",
    "prm/prefix_success_change",
    "prm/prefix_stretches",
    "prm/prefix_unjudged",
}
CHANGE = {"prm/pair_accuracy_before", "prm/pair_accuracy_after"}


class Witness:
    """Samples as ``engine`` does, and takes note of the weights and of what was asked."""

    def __init__(self, engine: RolloutEngine, model: nn.Module) -> None:
        self.engine, self.model = engine, model
        self.seen: list[Tensor] = []
        self.asked: list[tuple[int, int, SamplingParams]] = []
        self.seeds: list[tuple[int, ...]] = []

    @property
    def metrics(self) -> Mapping[str, float]:
        return self.engine.metrics

    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        n: int,
        params: SamplingParams,
        seeds: Sequence[int],
        progress: Progress | None = None,
    ) -> list[list[Rollout]]:
        self.seen.append(weights(self.model))
        self.asked.append((len(prompts), n, params))
        self.seeds.append(tuple(seeds))
        return self.engine.sample(prompts, n, params, seeds, progress)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.engine.load_weights(weights)

    def close(self) -> None:
        self.engine.close()


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).clone()


@contextmanager
def watched(folder: Path, **changes: Any) -> Iterator[tuple[TrainConfig, Parts, tuple[Group, ...], Witness]]:
    """A run's objects with a witness for an engine, and groups sampled from its policy."""
    config, parts = tiny_parts(folder, **{"rollout__max_tokens": 5, "rollout__temperature": 0.9, **changes})
    groups = tiny_groups(
        parts.start, prompts=[(3, 4, 7), (5, 6, 7), (4, 7)], per_prompt=4, max_tokens=5, temperature=0.9
    )
    witness = Witness(parts.engine, parts.policy.model)
    with closing(parts.verifier):
        yield config, replace(parts, engine=witness), groups, witness


def test_what_is_dear_is_taken_at_due_steps_only(tmp_path: Path):
    with watched(tmp_path, instruments__every=2, instruments__prefixes=3) as (config, parts, groups, witness):
        for done, due in enumerate((False, True, False, True)):
            metrics = prime_step(parts, groups, config, done).metrics
            assert {key for key in metrics if key in PREFIX | CHANGE} == (PREFIX | CHANGE if due else set())
            assert "prm/informative_pair_accuracy" in metrics
    assert len(witness.asked) == 2
    assert witness.seeds[0] != witness.seeds[1], "every step asks anew"


def test_nothing_is_taken_where_nothing_is_asked_for(tmp_path: Path):
    with watched(tmp_path) as (config, parts, groups, witness):
        metrics = prime_step(parts, groups, config, 0).metrics
    assert witness.asked == []
    assert not metrics.keys() & (PREFIX | CHANGE)


def test_completions_come_from_the_weights_that_made_the_rollouts(tmp_path: Path):
    changes = {"instruments__every": 1, "instruments__prefixes": 3, "instruments__completions": 2}
    with watched(tmp_path, **changes) as (config, parts, groups, witness):
        for done in (0, 1):
            before = weights(parts.policy.model)
            prime_step(parts, groups, config, done)
            assert torch.equal(witness.seen[done], before)
            assert not torch.equal(weights(parts.policy.model), before)
    for prompts, n, params in witness.asked:
        assert (prompts, n) == (2 * 3, 2), "before and after each stretch"
        assert (params.temperature, params.top_p) == (0.9, 1.0)
        assert params.max_tokens <= 5


def test_taking_them_changes_nothing_else(tmp_path: Path):
    ends = []
    for every in (None, 1):
        with watched(tmp_path, instruments__every=every) as (config, parts, groups, _):
            rows = [prime_step(parts, groups, config, done).metrics for done in (0, 1)]
            metrics = [{key: row[key] for key in row if key not in PREFIX | CHANGE} for row in rows]
            ends.append((metrics, weights(parts.policy.model).tolist()))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("update", ["after", "before", "none"])
def test_ranks_are_compared_over_the_prms_learning(tmp_path: Path, update: str):
    other = str(tiny_model(tmp_path / "other", seed=1))
    changes = {"prm__update": update, "prm__path": other, "instruments__every": 1}
    if update == "none":
        changes["prm__lr"] = None
    with watched(tmp_path, **changes) as (config, parts, groups, _):
        assert parts.prm is not None
        assert parts.reference is not None
        made = prime_step(parts, groups, config, 0)
        batch, metrics = made.batch, made.metrics
        rows = batch.outcomes, batch.mask, batch.group_ids
        learnt = parts.prm.score(batch, parts.reference.logprobs(batch))
        assert metrics.keys() >= PREFIX
        if update == "none":
            assert not metrics.keys() & CHANGE
            return
        assert metrics["prm/pair_accuracy_before"] == metrics["prm/informative_pair_accuracy"]
        assert metrics["prm/pair_accuracy_after"] == informative_pair_accuracy(learnt, *rows).item()
        assert metrics["prm/pair_accuracy_after"] > metrics["prm/pair_accuracy_before"]


def test_a_control_is_measured_by_the_prms_own_log_ratios(tmp_path: Path):
    found = []
    for control in ("none", "random"):
        other = str(tiny_model(tmp_path / "other", seed=1))
        with watched(tmp_path, prm__path=other, advantage__control=control, instruments__every=1) as (
            config,
            parts,
            groups,
            _,
        ):
            made = prime_step(parts, groups, config, 0)
            assert made.log_ratios is not None
            keys = PREFIX | CHANGE | {"prm/pair_accuracy", "prm/auc", "prm/cross_entropy"}
            found.append(({key: str(made.metrics[key]) for key in keys}, made.log_ratios))
    assert found[0][0] == found[1][0]
    assert not torch.equal(found[0][1], found[1][1]), "the policy heard the noise"


def test_without_a_prm_only_outcomes_are_observed(tmp_path: Path):
    outcome_only = {"prm__enabled": False, "filter__accuracy_low": 0.2, "filter__accuracy_high": 0.8}
    with watched(tmp_path, **outcome_only) as (config, parts, groups, witness):
        metrics = prime_step(parts, groups, config, 0).metrics
    assert "outcome/mean" in metrics
    assert not any(key.startswith("prm/") for key in metrics)
    assert witness.asked == []
