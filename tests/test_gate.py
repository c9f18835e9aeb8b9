"""The gate: a straight line from chance to full, the last five steps, and what a step makes of it."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_groups, tiny_model, tiny_parts

from credo.algo.advantages import prime_advantages, prime_returns
from credo.gate import Gate
from credo.train import prime_step


@pytest.mark.parametrize(
    ("accuracy", "factor"), [(0.0, 0.0), (0.5, 0.0), (0.55, 0.25), (0.6, 0.5), (0.7, 1.0), (0.9, 1.0)]
)
def test_it_opens_linearly_from_chance(accuracy: float, factor: float):
    gate = Gate(0.7)
    assert gate.open(accuracy) == pytest.approx(factor)
    assert gate.factor == pytest.approx(factor)


def test_it_goes_by_the_mean_of_the_last_five():
    gate = Gate(1.0)
    seen = [1.0, 0.5, 0.75, 1.0, 0.5, 0.9, 0.2]
    for count, accuracy in enumerate(seen, start=1):
        last = seen[max(0, count - 5) : count]
        expected = min(1.0, max(0.0, 2 * (sum(last) / len(last) - 0.5)))
        assert gate.open(accuracy) == pytest.approx(expected)


def test_0_keeps_it_open():
    gate = Gate(0.0)
    assert [gate.open(accuracy) for accuracy in (0.0, 0.5, 1.0)] == [1.0, 1.0, 1.0]


def test_a_restored_gate_goes_on_bit_for_bit():
    accuracies = [0.6, 0.7, 0.55, 0.9, 1 / 3, 0.65, 0.8, 0.51]
    whole, first, second = Gate(0.8), Gate(0.8), Gate(0.8)
    expected = [whole.open(accuracy) for accuracy in accuracies]
    seen = [first.open(accuracy) for accuracy in accuracies[:6]]
    second.restore(json.loads(json.dumps(first.state())))
    assert seen + [second.open(accuracy) for accuracy in accuracies[6:]] == expected


@pytest.mark.parametrize("before", [[0.0] * 4, [0.95, 0.9, 0.95, 0.9]], ids=["shut", "ajar"])
@pytest.mark.parametrize("estimator", ["rloo", "implicit_value"])
def test_a_step_hears_as_much_of_the_prm_as_the_gate_lets_by(tmp_path: Path, before: list[float], estimator: str):
    other = str(tiny_model(tmp_path / "other", seed=1))
    config, parts = tiny_parts(tmp_path, prm__path=other, advantage__gate_accuracy=1.0, advantage__estimator=estimator)
    groups = tiny_groups(parts.start, prompts=[(3, 4, 7), (5, 6, 7)], per_prompt=4, max_tokens=3)
    parts.gate.restore({"accuracies": before})
    with closing(parts.verifier):
        made = prime_step(parts, groups, config, 0)
    mean = (sum(before) + made.metrics["prm/informative_pair_accuracy"]) / 5
    factor = min(1.0, max(0.0, 2 * mean - 1))
    assert made.metrics["prm/gate"] == pytest.approx(factor)
    rows = made.batch.outcomes, made.batch.mask, made.batch.group_ids
    assert made.returns is not None
    assert made.log_ratios is not None
    in_full = prime_returns(made.log_ratios, *rows, rules=parts.rules)
    assert in_full.process.abs().max() > 1e-3
    torch.testing.assert_close(made.returns.process, factor * in_full.process)
    torch.testing.assert_close(made.returns.outcome, in_full.outcome)
    if factor == 0:
        torch.testing.assert_close(made.advantages, prime_advantages(None, *rows, rules=parts.rules))
    else:
        assert 0 < factor < 1
        quieter = replace(parts.rules, process_coef=factor)
        torch.testing.assert_close(made.advantages, prime_advantages(made.log_ratios, *rows, rules=quieter))


def test_a_run_without_a_gate_does_not_speak_of_one(tmp_path: Path):
    config, parts = tiny_parts(tmp_path)
    groups = tiny_groups(parts.start, prompts=[(3, 4, 7)], per_prompt=4, max_tokens=3)
    with closing(parts.verifier):
        assert "prm/gate" not in prime_step(parts, groups, config, 0).metrics
