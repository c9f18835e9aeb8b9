"""``credo verify``: a verdict for every row, whatever the rows look like, and going on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from credo.grading import GradeSummary, grade, grade_file
from credo.options.files import GradeOptions
from credo.types import Problem, Unknown, Verdict
from credo.verify.code_tests import extract_program
from credo.verify.extraction import Extraction
from credo.verify.pool import JudgePool
from credo.verify.verifier import ScriptedVerifier


def echo(problem: Problem, response: str) -> Verdict | Unknown:
    if response == "?":
        return Unknown(reason="no idea", seconds=0.5)
    return Verdict(score=float(response == problem.answer), reason=problem.id, seconds=0.25)


def written(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def simple_rows(count: int) -> list[dict[str, object]]:
    return [{"id": number, "response": str(number % 2), "answer": "0"} for number in range(count)]


def test_three_verdicts(tmp_path: Path):
    rows = [{"id": "a", "response": "1", "answer": "1"}, {"id": 7, "response": "1", "answer": 2}]
    rows.append({"id": "c", "response": "?", "answer": "1"})
    source, output = written(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    seen = []
    summary = grade_file(
        "exact",
        source,
        output,
        verifier=ScriptedVerifier(echo),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert read(output) == [
        {"id": "a", "verdict": "correct", "score": 1.0, "reason": "a", "seconds": 0.25},
        {"id": 7, "verdict": "wrong", "score": 0.0, "reason": "7", "seconds": 0.25},
        {"id": "c", "verdict": "unknown", "score": None, "reason": "no idea", "seconds": 0.5},
    ]
    assert summary == GradeSummary(correct=1, wrong=1, unknown=1)
    assert seen == [(0, 3), (3, 3)]


BAD_ROWS = [
    "{not json",
    "[" * 100_000,
    "[1, 2]",
    '"text"',
    {"response": "1", "answer": "1"},
    {"id": "x", "answer": "1"},
    {"id": "x", "response": "1"},
    {"id": "x", "response": 1, "answer": "1"},
    {"id": "x", "response": "1", "answer": ["1"]},
    {"id": "x", "response": "1", "answer": None},
]


@pytest.mark.parametrize("bad", BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_bad_row_is_unknown_and_stops_nothing(bad: object, tmp_path: Path):
    good = {"id": "good", "response": "1", "answer": "1"}
    source, output = written(tmp_path / "in.jsonl", [good, bad, "", good]), tmp_path / "out.jsonl"
    grade_file("math", source, output, verifier=ScriptedVerifier(echo))
    rows = read(output)
    assert [row["verdict"] for row in rows] == ["correct", "unknown", "correct"]
    assert rows[1]["reason"]
    assert rows[1]["id"] == (bad.get("id") if isinstance(bad, dict) else None)


def test_bytes_that_are_no_text(tmp_path: Path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(
        b'{"id": 1, "response": "\xff", "answer": "1"}\n{"id": 2, "response": "\\ud800", "answer": "\\ud800"}'
    )
    grade_file("exact", source, output, verifier=ScriptedVerifier(echo))
    assert [row["verdict"] for row in read(output)] == ["unknown", "correct"]


def test_a_row_too_long_to_read_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("credo.grading.LONGEST_ROW", 100)
    rows = [{"id": 1, "response": "x" * 950, "answer": "1"}, *simple_rows(2)]
    source, output = written(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert grade_file("exact", source, output, verifier=ScriptedVerifier(echo)) == GradeSummary(
        correct=1, wrong=1, unknown=1
    )
    assert "100 bytes" in read(output)[0]["reason"]


def test_gym_rows_nested_and_flat(tmp_path: Path):
    def check(problem: Problem, response: str) -> Verdict:
        assert problem.extra["family"] == "chain_sum"
        assert problem.extra["entry"]["metadata"] == {"difficulty": 1}
        return Verdict(score=float(response == problem.extra["entry"]["answer"]))

    common = {"response": "39", "family": "chain_sum"}
    rows = [
        {"id": 1, **common, "entry": {"question": "q", "answer": "39", "metadata": {"difficulty": 1}}},
        {"id": 2, **common, "answer": "39", "metadata": {"difficulty": 1}},
        {"id": 3, **common, "answer": None, "metadata": {"difficulty": 1}},
        {"id": 4, **common, "answer": "39"},
        {"id": 5, "response": "39", "answer": "39", "metadata": {}},
    ]
    source, output = written(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    grade_file("gym", source, output, verifier=ScriptedVerifier(check))
    assert [row["verdict"] for row in read(output)] == ["correct", "correct", "wrong", "unknown", "unknown"]


def test_code_rows_with_program_or_response(tmp_path: Path):
    seen = []

    def run(problem: Problem, response: str) -> Verdict:
        program, space = extract_program(response), {}
        seen.append(problem.extra["tests"])
        exec(program, space)
        return Verdict(score=space.get("score", 0.0))

    tests = {"asserts": "assert True"}
    rows = [
        {"id": 1, "program": "score = 1.0", "tests": tests},
        {"id": 2, "response": "So:\n```python\nscore = 0.5\n```", "tests": tests},
        {"id": 3, "program": "note = '''\n```python\nscore = 1\n```\n\\n'''\nscore = 0.25", "tests": tests},
        {"id": 4, "program": "score = 1.0"},
        {"id": 5, "tests": tests},
        {"id": 6, "program": 5, "tests": tests},
    ]
    source, output = written(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    grade_file("code", source, output, verifier=ScriptedVerifier(run))
    assert [row["score"] for row in read(output)] == [1.0, 0.5, 0.25, None, None, None]
    assert [row["verdict"] for row in read(output)][:3] == ["correct", "wrong", "wrong"]
    assert seen == [tests] * 3


def test_a_function_of_the_users_gets_the_whole_row(tmp_path: Path):
    def check(problem: Problem, response: str) -> Verdict:
        prompt = problem.prompt if isinstance(problem.prompt, str) else problem.prompt[0].content
        return Verdict(score=float(prompt == "?" and problem.extra["level"] == 2 and response == "r"))

    rows = [
        {"id": 1, "response": "r", "prompt": "?", "level": 2},
        {"id": 2, "response": "r", "prompt": [{"role": "user", "content": "?"}], "level": 2, "answer": 7},
        {"id": 3, "response": "r", "prompt": 5, "level": 2},
    ]
    source, output = written(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    grade_file("trl:m:f", source, output, verifier=ScriptedVerifier(check))
    assert [row["verdict"] for row in read(output)] == ["correct", "correct", "unknown"]


class Stopped(Exception):
    pass


def test_it_goes_on_where_it_was_stopped(tmp_path: Path):
    source = written(tmp_path / "in.jsonl", simple_rows(1000))
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    grade_file("exact", source, whole, verifier=ScriptedVerifier(echo))

    def stop(done: int, _: int) -> None:
        if done >= 400:
            raise Stopped

    with pytest.raises(Stopped):
        grade_file("exact", source, stopped, verifier=ScriptedVerifier(echo), progress=stop)
    kept = len(read(stopped))
    assert 400 <= kept < 1000
    with stopped.open("a") as file:
        file.write('{"id": 512, "verdict": "cor')
    asked = []

    def count(problem: Problem, response: str) -> Verdict | Unknown:
        asked.append(problem.id)
        return echo(problem, response)

    summary = grade_file("exact", source, stopped, verifier=ScriptedVerifier(count))
    assert stopped.read_bytes() == whole.read_bytes()
    assert asked == [str(number) for number in range(kept, 1000)]
    assert summary == GradeSummary(correct=500, wrong=500, unknown=0)


def test_verdicts_of_other_rows_are_refused(tmp_path: Path):
    source, output = written(tmp_path / "in.jsonl", simple_rows(3)), tmp_path / "out.jsonl"
    grade_file("exact", source, output, verifier=ScriptedVerifier(echo))
    before = output.read_bytes()
    for other in (simple_rows(4)[1:], simple_rows(2), ["{}"]):
        with pytest.raises(ValueError, match="another input"):
            grade_file("exact", written(source, other), output, verifier=ScriptedVerifier(echo))
    assert output.read_bytes() == before
    with pytest.raises(ValueError, match="both input and output"):
        grade_file("exact", source, source, verifier=ScriptedVerifier(echo))


def test_there_must_be_something_to_judge(tmp_path: Path):
    with pytest.raises(ValueError, match="no file"):
        grade_file("exact", tmp_path / "absent", tmp_path / "out", verifier=ScriptedVerifier(echo))
    with pytest.raises(ValueError, match="no rows"):
        grade_file("exact", written(tmp_path / "in", ["", " "]), tmp_path / "out", verifier=ScriptedVerifier(echo))
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [{"id": number, "response": rf"\boxed{{{number}/2}}", "answer": "0.5"} for number in range(3)]
    source, output = written(tmp_path / "in.jsonl", [*rows, {"id": 3}]), tmp_path / "out.jsonl"
    grade(GradeOptions(kind="math", input=source, output=output))
    assert [row["verdict"] for row in read(output)] == ["wrong", "correct", "wrong", "unknown"]
    assert "4 rows: 1 correct, 2 wrong, 1 unknown" in capsys.readouterr().out


def test_kinds_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [{"id": 1, "response": "abc", "answer": "a.c"}, {"id": 2, "response": "abcd", "answer": "a.c"}]
    rows.append({"id": 3, "response": "a", "answer": "("})
    source, output = written(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    grade(GradeOptions(kind="regex", input=source, output=output, workers=1))
    assert [row["verdict"] for row in read(output)] == ["correct", "wrong", "unknown"]
    (tmp_path / "mine.py").write_text("def compute_score(solution_str, **given): return len(solution_str) / 4")
    monkeypatch.chdir(tmp_path)
    grade(GradeOptions(kind="verl:mine.py", input=source, output=tmp_path / "own.jsonl", workers=1))
    assert [row["score"] for row in read(tmp_path / "own.jsonl")] == [0.75, 1.0, 0.25]
    with pytest.raises(ValueError, match="maths"):
        grade(GradeOptions(kind="maths", input=source, output=tmp_path / "new.jsonl"))


def test_an_endless_row_is_unknown(tmp_path: Path):
    rows = [{"id": 1, "response": "a" * 40 + "c", "answer": "b"}, {"id": 2, "response": "b", "answer": "b"}]
    source, output = written(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    verifier = JudgePool(Extraction(kind="regex", pattern="(?:a+)+$|b$"), deadline=0.5)
    grade_file("exact", source, output, verifier=verifier)
    verifier.close()
    assert [row["verdict"] for row in read(output)] == ["unknown", "correct"]
