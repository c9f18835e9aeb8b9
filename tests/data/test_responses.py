"""Labelled responses from files: schemas, groups, unknown labels, and rows that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from credo.data.responses import by_problem, fingerprint, load_responses
from credo.types import Message


def written(path: Path, *rows: Any) -> list[str]:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return [str(path)]


def test_one_response_a_row(tmp_path: Path):
    source = written(
        tmp_path / "r.jsonl",
        {"id": "a-1", "problem": "1 + 1 =", "response": "2", "label": True},
        {"id": "a-2", "problem": "1 +  1 =", "response": "3", "label": False},
        {"id": 7, "prompt": "2+2=", "response": "4", "score": 0.5, "finish": "length"},
    )
    first, second, third = load_responses(source, labelled=True)
    assert first.prompt == (Message(role="user", content="1 + 1 ="),)
    assert third.prompt == "2+2=", "a run's own rollouts hold the prompt as it was said to the model"
    assert [(r.text, r.score, r.finished) for r in (first, second, third)] == [
        ("2", 1.0, True),
        ("3", 0.0, True),
        ("4", 0.5, False),
    ]
    assert first.problem == second.problem != third.problem
    assert by_problem([first, third, second]) == {first.problem: [0, 2], third.problem: [1]}
    assert first.source == "r.jsonl"


def test_all_responses_to_a_problem_in_one_row(tmp_path: Path):
    row = {"id": 1, "problem": "p", "responses": ["x", "y"], "labels": [True, None], "rm_scores": [0.5, -1]}
    found = load_responses(written(tmp_path / "r.jsonl", row), labelled=True)
    assert [(r.text, r.score, r.row["rm_score"], r.row["sample"]) for r in found] == [
        ("x", 1.0, 0.5, 0),
        ("y", None, -1, 1),
    ]
    assert found[0].problem == found[1].problem
    assert "responses" not in found[0].row


@pytest.mark.parametrize(
    ("said", "problems"),
    [
        ([("a", 1), ("b", 1), ("c", 2)], {"a": [0, 1], "c": [2]}),
        ([("a", 1), ("b", None), ("a", 2)], {"a": [0, 2], "b": [1]}),
        ([("a", 1), ("b", 2), ("c", None), ("b", 1), ("c", 2)], {"a": [0, 1, 2, 3, 4]}),
        ([("1", "a"), ("a", "b"), ("b", "1")], {"1": [0], "a": [1], "b": [2]}),
    ],
    ids=["a group joins prompts", "a prompt joins groups", "both, in any order", "words and groups are no one thing"],
)
def test_responses_of_one_prompt_or_one_group_are_to_one_problem(
    said: list[tuple[str, Any]], problems: dict[str, list[int]], tmp_path: Path
):
    rows = [{"prompt": p, "response": "x", "label": 1} | ({} if g is None else {"group": g}) for p, g in said]
    assert by_problem(load_responses(written(tmp_path / "r.jsonl", *rows), labelled=True)) == problems


def test_labels_are_optional_where_nothing_is_learnt(tmp_path: Path):
    source = written(tmp_path / "r.jsonl", {"prompt": "a", "response": ""})
    (found,) = load_responses(source, labelled=False)
    assert (found.text, found.score) == ("", None)
    with pytest.raises(ValueError, match=r"r\.jsonl, line 1: has none of label"):
        load_responses(source, labelled=True)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ("{broken", "malformed JSON"),
        ({"response": "x", "label": 1}, "none of prompt"),
        ({"prompt": "a", "label": 1}, "response: expected text, got nothing"),
        ({"prompt": "a", "response": ["x"], "label": 1}, "response: expected text, got list"),
        ({"prompt": "a", "response": "x", "label": "yes"}, "'yes'"),
        ({"prompt": "a", "response": "x", "label": 2}, "got 2"),
        ({"prompt": "a", "response": "x", "label": float("nan")}, "NaN"),
        ({"prompt": "a", "responses": ["x", "y"], "labels": [1]}, "labels: expected a list"),
        ({"prompt": "a", "responses": []}, "responses: expected a list"),
        ({"prompt": "a", "responses": "xy"}, "responses: expected a list"),
    ],
)
def test_a_row_that_does_not_fit_is_named(row: Any, named: str, tmp_path: Path):
    source = written(tmp_path / "r.jsonl", {"prompt": "a", "response": "x", "label": 1}, row)
    with pytest.raises(ValueError, match=r"r\.jsonl, line 2") as refused:
        load_responses(source, labelled=True)
    assert named in str(refused.value)
    assert len(load_responses(source, labelled=True, max_bad_share=0.5)) == 1


def test_sources_that_hold_no_responses(tmp_path: Path):
    for source, named in (([str(tmp_path / "absent.jsonl")], "absent"), (["gym:chain_sum?size=2"], "rollouts")):
        with pytest.raises(ValueError, match=named):
            load_responses(source, labelled=True)
    with pytest.raises(ValueError, match="no rows"):
        load_responses(written(tmp_path / "empty.jsonl"), labelled=True)


def test_the_fingerprint_is_of_what_is_said(tmp_path: Path):
    row = {"prompt": "a", "response": "x", "label": 1}
    marks = [
        fingerprint(load_responses(written(tmp_path / name, said), labelled=True))
        for name, said in (("1.jsonl", row), ("2.jsonl", row), ("3.jsonl", row | {"label": 0}))
    ]
    assert marks[0] == marks[1] != marks[2]
