"""Judged rollouts as rows: schema, resuming to the same file, unknown labels, and mistakes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import PAIRS, lines, tiny_model, tiny_problems

from credo.data.responses import by_problem, load_responses
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
    assert len(by_problem(read)) == 6
    assert "18 labelled responses and 0 of unknown label" in capsys.readouterr().out


def test_problems_of_the_same_words_are_one_to_learn_from(options: PrmRolloutsOptions, tmp_path: Path):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder, pairs in zip(folders, ([*PAIRS[:2], PAIRS[0]], PAIRS[2:4]), strict=True):
        folder.mkdir()
        tiny_problems(folder / "problems.jsonl", pairs)
        make_rollouts(replace(options, problems=f"{folder}/problems.jsonl", output=folder / "rollouts.jsonl"))
    read = load_responses([str(folder / "rollouts.jsonl") for folder in folders], labelled=True)
    problems = by_problem(read)
    assert [len(rows) for rows in problems.values()] == [6, 3, 3, 3], "problems.jsonl:1 is another in each folder"
    assert all(len({read[row].prompt for row in rows}) == 1 for rows in problems.values())


def test_half_the_tests_of_a_program_are_no_half_a_point(options: PrmRolloutsOptions, tmp_path: Path):
    tiny_model(tmp_path / "digits", alphabet="1=")
    tests = {"inputs": ["", ""], "outputs": ["", "x"]}
    (tmp_path / "code.jsonl").write_text(json.dumps({"prompt": "1=", "kind": "code", "tests": tests}))
    model, problems = str(tmp_path / "digits"), str(tmp_path / "code.jsonl")
    make_rollouts(replace(options, model=model, problems=problems, kind="code", extract="auto", pattern=""))
    rows = lines(options.output)
    assert any(row["reason"].startswith("1 of 2 tests") for row in rows), "the program 1 prints nothing"
    assert {row["score"] for row in rows} == {0.0}


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


def test_how_many_are_drawn_at_once_may_change_on_the_way(options: PrmRolloutsOptions):
    make_rollouts(options)
    whole = options.output.read_bytes()
    options.output.write_bytes(whole[: len(whole) // 2])
    make_rollouts(replace(options, at_once=3, concurrent=2))
    assert options.output.read_bytes() == whole


@pytest.mark.parametrize(
    "change",
    [
        *({"seed": 1}, {"samples": 2}, {"temperature": 0.5}, {"limit": 2}, {"max_tokens": 1}, {"top_p": 0.5}),
        *({"suffix": "="}, {"system": "a"}, {"template": "plain"}, {"stop": ("a",)}, {"pattern": "^.."}),
    ],
)
def test_a_file_of_another_command_is_refused(change: dict[str, Any], options: PrmRolloutsOptions):
    make_rollouts(options)
    before = options.output.read_bytes()
    with pytest.raises(ValueError, match="not what this command makes"):
        make_rollouts(replace(options, **change))
    assert options.output.read_bytes() == before


@pytest.mark.parametrize("what", ["weights", "prompt", "answer"])
def test_a_file_of_other_weights_or_words_is_refused(what: str, options: PrmRolloutsOptions):
    make_rollouts(options)
    before = options.output.read_bytes()
    pairs = [("ba=", "a"), *PAIRS[1:6]] if what == "prompt" else [("aa=", "b"), *PAIRS[1:6]]
    if what == "weights":
        tiny_model(Path(options.model), seed=1)
    else:
        tiny_problems(Path(options.problems), pairs)
    with pytest.raises(ValueError, match="not what this command makes"):
        make_rollouts(options)
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
