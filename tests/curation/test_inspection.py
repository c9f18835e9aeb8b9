"""Every kind of fault is found, with its line; sound rows pass; the second grader is another one than the first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from credo.curation.inspection import Inspection, _problem, described, inspect_data, inspect_rows, same_text
from credo.data.sources import file_rows
from credo.options.curation import InspectOptions
from credo.types import Problem, Unknown, Verdict
from credo.verify.verifier import ScriptedVerifier


def judge(problem: Problem, response: str) -> Verdict | Unknown:
    """Right if the answer stands in the response; it cannot read ``?``, and will not have ``never``."""
    if problem.answer == "?":
        return Unknown(reason="cannot be read")
    gold = problem.answer or "good"
    return Verdict(score=float(gold in response and gold != "never"), reason="said so")


def inspected(folder: Path, rows: Sequence[object], kind: str = "math") -> Inspection:
    path = folder / "set.jsonl"
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    parse = partial(_problem, kind=kind, origin=path, label="set.jsonl")
    return inspect_rows("set.jsonl", file_rows(path), parse, ScriptedVerifier(judge), long_prompt=20)


def test_every_fault_with_its_line(tmp_path: Path):
    rows = [
        {"prompt": "a", "answer": "1"},
        {"prompt": "b", "answer": "never", "id": "own"},
        {"prompt": "c", "answer": "?"},
        "{broken",
        {"prompt": "d", "answer": ""},
        {"prompt": " a ", "answer": "1"},
        {"prompt": "a", "answer": "2"},
        {"prompt": "e", "answer": "3", "id": "own"},
        {"prompt": "f", "answer": "4", "solution": r"so \boxed{5}"},
        {"prompt": "g", "answer": "6", "solution": r"so \boxed{6.0}"},
        {"prompt": "a long prompt, a long prompt", "answer": "7"},
    ]
    found = inspected(tmp_path, rows)
    assert [fault.line for fault in found.faults] == [2, 3, 4, 5, 6, 7, 8, 9]
    words = ["judged wrong", "unknown", "unreadable", "unreadable", "prompt of line 1", "another answer", "id", "'5'"]
    assert all(word in fault.reason for word, fault in zip(words, found.faults, strict=True)), found.faults
    assert found.faults[0].id == "own"
    assert (found.rows, found.kinds, found.long_prompts) == (11, {"math": 9}, 1)
    assert found.golds == {"correct": 7, "wrong": 1, "unknown": 1}
    said = described(found, long_prompt=20)
    assert "11 rows (9 math)" in said
    assert "line 9 (set.jsonl:9)" in said


def test_labels_against_both_graders(tmp_path: Path):
    rows = [
        {"problem": "a", "gold": "12", "response": "it is 12", "label": True},
        {"problem": "a", "gold": "12", "response": "12 or 13", "label": False},
        {"problem": "b", "answer": "5", "responses": ["5.0", "so 5", "6"], "labels": [1, 1, 0]},
        {"problem": "c", "answer": "5", "responses": ["5"], "labels": [None]},
    ]
    found = inspected(tmp_path, rows)
    assert found.labels == {"all": 5, "verifier": 4, "text": 5}
    assert [(fault.line, "label False" in fault.reason) for fault in found.faults] == [(2, True)]


def test_references_of_programs(tmp_path: Path):
    tests = {"asserts": "assert f(1)"}
    rows = [
        {"id": 1, "prompt": "p", "tests": tests, "reference_solutions": ["good", "bad"]},
        {"id": 2, "prompt": "q", "tests": tests},
        {"id": 3, "prompt": "r", "kind": "code"},
    ]
    found = inspected(tmp_path, rows)
    assert found.golds == {"correct": 1, "wrong": 1, "unchecked": 1}
    assert [fault.id for fault in found.faults] == ["1", "set.jsonl:3"]


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (r"\dfrac{1}{2}", r"\frac{1}{2}", True),
        ("1,000", "1000.0", True),
        ("1/2", "0.5", True),
        ("$x + 1$", "x+1", True),
        ("12", "13", False),
        ("x", "y", False),
        ("1/0", "2/0", False),
        (r"\frac{1}{2}", "0.5", False),
    ],
)
def test_the_second_grader_knows_text_and_numbers_alone(left: str, right: str, same: bool):
    assert same_text(left, right) == same


def test_the_command_over_several_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("reasoning_gym")
    (tmp_path / "a.jsonl").write_text('{"prompt": "x", "answer": "1/2"}\n{"prompt": "y", "answer": ""}\n')
    (tmp_path / "a.quarantine.jsonl").write_text("{}\n")
    listed = tmp_path / "bad.jsonl"
    inspect_data(
        InspectOptions(sources=(str(tmp_path), "gym:chain_sum?size=3"), quarantine=listed, workers=1, deadline=30.0)
    )
    said = capsys.readouterr().out
    assert "a.jsonl: 2 rows (1 math)" in said
    assert "3 rows (3 gym)\n  gold against itself: 3 correct" in said
    assert [json.loads(line)["id"] for line in listed.read_text().splitlines()] == ["a.jsonl:2"]
