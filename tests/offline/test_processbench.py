"""ProcessBench: F1 in two ways, thresholds that come from elsewhere, step boundaries, and mistakes."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model
from torch import Tensor

from credo.console import Console
from credo.offline.processbench import (
    Solution,
    best_threshold,
    f1_score,
    first_below,
    judged_subset,
    load_solutions,
    processbench,
    step_rewards,
)
from credo.offline.scorer import open_scorer
from credo.options.offline import ProcessBenchOptions, ScorerOptions

REAL = Path(__file__).parents[3] / "shared/data/process/processbench_dev.jsonl"


def plain_f1(predicted: list[int], labels: list[int]) -> float:
    """As the benchmark's authors define it: the harmonic mean of two accuracies."""
    wrong = [p == e for p, e in zip(predicted, labels, strict=True) if e != -1]
    fine = [p == e for p, e in zip(predicted, labels, strict=True) if e == -1]
    first = sum(wrong) / len(wrong) if wrong else 0.0
    second = sum(fine) / len(fine) if fine else 0.0
    return 2 * first * second / (first + second) if first + second else 0.0


def sample(seed: int, count: int) -> tuple[list[Tensor], list[int]]:
    draw = random.Random(seed)
    rewards = [torch.tensor([round(draw.gauss(0, 1), 1) for _ in range(draw.randint(1, 5))]) for _ in range(count)]
    return rewards, [draw.randrange(-1, len(values)) for values in rewards]


@pytest.mark.parametrize("seed", range(5))
def test_f1_in_two_ways(seed: int):
    rewards, labels = sample(seed, 30)
    erroneous = torch.tensor([label >= 0 for label in labels])
    best = -1.0
    for threshold in [-9.0, *sorted({value for values in rewards for value in values.tolist()}), 9.0]:
        predicted = [first_below(values, threshold + 0.05) for values in rewards]
        right = torch.tensor([p == e for p, e in zip(predicted, labels, strict=True)])
        f1 = f1_score(right, erroneous, torch.ones(1, 30, dtype=torch.float64)).item()
        assert f1 == pytest.approx(plain_f1(predicted, labels))
        best = max(best, f1)
    chosen = best_threshold(rewards, labels)
    assert plain_f1([first_below(values, chosen) for values in rewards], labels) == pytest.approx(best)


def test_the_first_step_below():
    rewards = torch.tensor([0.5, -0.2, -0.9])
    assert [first_below(rewards, t) for t in (-1.0, -0.2, 0.0, 1.0)] == [-1, 2, 1, 0]


def solutions(subset: str, labels: list[int], rewards: list[Tensor]) -> list[Solution]:
    return [
        Solution(id=f"{subset}-{i}", subset=subset, prompt=f"{subset} {i}", steps=("s",) * len(values), first_error=e)
        for i, (values, e) in enumerate(zip(rewards, labels, strict=True))
    ]


def test_a_subset_is_judged_by_the_threshold_of_another():
    near = [torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.9])] * 8
    far = [values + 5 for values in near]
    labels = [1, -1] * 8
    rows, rewards = solutions("gsm8k", labels, near) + solutions("math", labels, far), near + far
    math = judged_subset(rows, rewards, "math", "gsm8k")
    assert math.chosen_on == "gsm8k"
    assert 0.0 < math.threshold < 0.9
    assert (math.erroneous.value, math.correct.value, math.f1.value) == (0.0, 1.0, 0.0)
    own = judged_subset(rows, rewards, "gsm8k", "gsm8k")
    assert own.chosen_on == "the other half of gsm8k"
    assert own.f1.value == 1.0


def test_no_row_takes_part_in_choosing_its_own_threshold():
    """Labels that say nothing: a threshold fitted to them looks better than one of the other half, on average."""
    honest = fitted = 0.0
    for seed in range(10):
        rewards, labels = sample(seed, 60)
        honest += judged_subset(solutions("gsm8k", labels, rewards), rewards, "gsm8k", "gsm8k").f1.value / 10
        threshold = best_threshold(rewards, labels)
        fitted += plain_f1([first_below(values, threshold) for values in rewards], labels) / 10
    assert honest < fitted - 0.03


@pytest.fixture
def options(tmp_path: Path) -> ProcessBenchOptions:
    tiny_model(tmp_path / "phi", seed=1, alphabet="abcd=\n")
    tiny_model(tmp_path / "ref", seed=2, alphabet="abcd=\n")
    draw = random.Random(0)
    rows = [
        {"id": f"{subset}-{i}", "subset": subset, "problem": f"{draw.choice('abcd')}{draw.choice('abcd')}="}
        | {"steps": [draw.choice("abcd") for _ in range(2)], "label": draw.randrange(-1, 2)}
        for subset in ("gsm8k", "math")
        for i in range(12)
    ]
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scorer = ScorerOptions(prm=str(tmp_path / "phi"), reference=str(tmp_path / "ref"), threads=1, device="cpu")
    return ProcessBenchOptions(input=tmp_path / "bench.jsonl", output=tmp_path / "out.json", scorer=scorer)


def test_from_end_to_end(options: ProcessBenchOptions, capsys: pytest.CaptureFixture[str]):
    processbench(options)
    assert options.output is not None
    found = json.loads(options.output.read_text())
    assert [subset["subset"] for subset in found["subsets"]] == ["gsm8k", "math"]
    math = found["subsets"][1]
    rows = [row for row in found["rows"] if row["subset"] == "math"]
    predicted = [first_below(torch.tensor(row["rewards"]), math["threshold"]) for row in rows]
    assert math["f1"]["value"] == pytest.approx(plain_f1(predicted, [row["label"] for row in rows]))
    assert math["f1"]["low"] <= math["f1"]["value"] <= math["f1"]["high"]
    said = capsys.readouterr().out
    assert "threshold chosen on the other half of gsm8k" in said
    assert "No threshold was chosen on the rows it judges" in said
    processbench(replace(options, limit=8))
    assert len(json.loads(options.output.read_text())["rows"]) == 16


def test_a_limit_leaves_both_kinds_of_rows_that_are_sorted_by_kind(options: ProcessBenchOptions):
    rows = [json.loads(line) for line in options.input.read_text().splitlines()]
    rows = [{**row, "subset": "gsm8k", "label": -1 if index >= 12 else 0} for index, row in enumerate(rows)]
    options.input.write_text("".join(json.dumps(row) + "\n" for row in rows))
    processbench(replace(options, limit=8))
    assert options.output is not None
    assert {row["label"] for row in json.loads(options.output.read_text())["rows"]} == {-1, 0}
    options.input.write_text("".join(json.dumps(row) + "\n" for row in rows[:12]))
    with pytest.raises(ValueError, match="'gsm8k' needs solutions with an error and without one"):
        processbench(options)


def test_the_rewards_of_steps_are_those_of_their_tokens(options: ProcessBenchOptions):
    scorer = open_scorer(options.scorer, Console())
    solution = Solution(id="1", subset="x", prompt="ab=", steps=("ab", "c"), first_error=-1)
    (single,) = step_rewards(scorer, [solution], "single", lambda done: None)
    (reached,) = step_rewards(scorer, [solution], "accumulated", lambda done: None)
    tokenizer = scorer.prm.start.tokenizer
    prompt, said = tokenizer("ab=").input_ids, tokenizer("ab\n\nc").input_ids
    (tokens,) = scorer.rewards([(tuple(prompt), tuple(said))])
    assert single.tolist() == pytest.approx([tokens[:4].sum().item(), tokens[4:].sum().item()], abs=1e-6)
    assert reached.tolist() == pytest.approx([tokens[:4].sum().item(), tokens.sum().item()], abs=1e-6)


def test_a_folder_is_read_whole_and_a_file_names_the_subset_of_rows_that_name_none(tmp_path: Path):
    row = {"problem": "p", "steps": ["a"], "label": -1}
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {"subset": "hard"}))
    (tmp_path / "math.jsonl").write_text(json.dumps(row))
    assert [solution.subset for solution in load_solutions(tmp_path)] == ["gsm8k", "hard", "math"]
    assert [solution.subset for solution in load_solutions(tmp_path / "math.jsonl")] == ["math"]


@pytest.mark.skipif(not REAL.exists(), reason="needs ProcessBench of the shared data")
def test_the_real_rows_can_be_read():
    rows = load_solutions(REAL)
    assert {row.subset for row in rows} == {"gsm8k", "math", "olympiadbench", "omnimath"}
    assert all(-1 <= row.first_error < len(row.steps) for row in rows)
    assert len(rows) == 1712


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"problem": "p", "steps": [], "label": -1}, "steps"),
        ({"problem": "p", "steps": ["a", " "], "label": -1}, "steps"),
        ({"problem": "p", "steps": ["a"], "label": 1}, "label"),
        ({"problem": "p", "steps": ["a"]}, "label"),
        ({"steps": ["a"], "label": -1}, "none of prompt"),
    ],
)
def test_a_row_that_does_not_fit_is_named(row: dict[str, Any], named: str, tmp_path: Path):
    path = tmp_path / "bench.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(ValueError, match=rf"bench\.jsonl, line 1: .*{named}"):
        load_solutions(path)


def test_mistakes(options: ProcessBenchOptions):
    for change, named in (
        ({"chosen_on": "gsm"}, "no subset 'gsm'"),
        ({"limit": -1}, "--limit"),
        ({"limit": 1}, "two problems"),
        ({"input": Path("absent.jsonl")}, "absent"),
        ({"scorer": ScorerOptions()}, "--prm"),
        ({"output": Path("absent/figures.json")}, "no folder"),
    ):
        with pytest.raises(ValueError, match=named):
            processbench(replace(options, **change))
