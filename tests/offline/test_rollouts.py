"""Judged rollouts as rows: schema, resuming to the same file, unknown labels, and mistakes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny import PAIRS, lines, tiny_model, tiny_problems

from credo.data.responses import load_responses
from credo.offline.rollouts import make_rollouts
from credo.options.offline import PrmRolloutsOptions


@pytest.fixture
def options(tmp_path: Path) -> PrmRolloutsOptions:
    tiny_model(tmp_path / "model")
    return PrmRolloutsOptions(
        model=str(tmp_path / "model"),
        problems=str(tiny_problems(tmp_path / "problems.jsonl", PAIRS[:6])),
        output=tmp_path / "rollouts.jsonl",
        samples=3,
        max_tokens=2,
        at_once=2,
        kind="exact",
        extract="regex",
        pattern="^.",
        threads=1,
        device="cpu",
    )


def test_rows_can_be_learnt_from(options: PrmRolloutsOptions, capsys: pytest.CaptureFixture[str]):
    make_rollouts(options)
    rows = lines(options.output)
    assert [(row["prompt"], row["sample"]) for row in rows] == [(p, k) for p, _ in PAIRS[:6] for k in range(3)]
    for row in rows:
        assert row["score"] == float(row["response"][:1] == row["answer"])
    read = load_responses([str(options.output)], labelled=True)
    assert [response.score for response in read] == [row["score"] for row in rows]
    assert len({response.problem for response in read}) == 6
    assert "18 labelled responses and 0 of unknown label" in capsys.readouterr().out


@pytest.mark.parametrize("cut", [0, 1, 400, -1, -40])
def test_it_goes_on_where_it_stopped(cut: int, options: PrmRolloutsOptions):
    make_rollouts(options)
    whole = options.output.read_bytes()
    options.output.write_bytes(whole[:cut])
    make_rollouts(options)
    assert options.output.read_bytes() == whole


def test_what_is_there_is_not_made_again(options: PrmRolloutsOptions, capsys: pytest.CaptureFixture[str]):
    make_rollouts(options)
    changed = options.output.read_bytes().replace(b'"reason": ""', b'"reason": "mine"')
    options.output.write_bytes(changed)
    make_rollouts(options)
    assert options.output.read_bytes() == changed
    assert "6 of 6 problems are in" in capsys.readouterr().out


def test_what_cannot_be_judged_has_no_label(options: PrmRolloutsOptions, tmp_path: Path):
    (tmp_path / "judge.py").write_text(
        "def compute_score(data_source, solution_str, ground_truth, extra_info):\n    return None\n"
    )
    make_rollouts(replace(options, verify=f"verl:{tmp_path}/judge.py", extract="auto", pattern=""))
    assert {row["score"] for row in lines(options.output)} == {None}
    assert {r.score for r in load_responses([str(options.output)], labelled=True)} == {None}


@pytest.mark.parametrize("change", [{"seed": 1}, {"samples": 2}, {"temperature": 0.5}, {"limit": 2}])
def test_a_file_of_another_command_is_refused(change: dict[str, float], options: PrmRolloutsOptions):
    make_rollouts(options)
    before = options.output.read_bytes()
    with pytest.raises(ValueError, match="not what this command makes"):
        make_rollouts(replace(options, **change))  # pyright: ignore[reportArgumentType]
    assert options.output.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"problems": "absent.jsonl"}, "absent"),
        ({"problems": ","}, "no source"),
        ({"samples": 0}, "--samples"),
        ({"temperature": 0.0}, "--temperature"),
        ({"output": Path("absent/x.jsonl")}, "no folder"),
        ({"model": "./absent"}, "absent"),
    ],
)
def test_mistakes(change: dict[str, object], named: str, options: PrmRolloutsOptions):
    with pytest.raises(ValueError, match=named):
        make_rollouts(replace(options, **change))  # pyright: ignore[reportArgumentType]
