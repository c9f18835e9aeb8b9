"""Solve rates are the mean scores of a model's responses, and a killed command goes on to the same numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny import PAIRS, tiny_model, tiny_problems

from credo.curation import difficulty as module
from credo.curation.difficulty import CHUNK, Rates, difficulty, measure
from credo.curation.entries import Entry, read_entries
from credo.curation.filters import apply_steps, parse_steps
from credo.options.curation import DifficultyOptions
from credo.types import Problem

Rows = Callable[..., Path]


def entries(path: Path) -> list[Entry]:
    return [entry for entry in read_entries([str(path)], kind="math") if isinstance(entry, Entry)]


def solver(asked: list[str], *, stop_at: int = -1) -> Callable[[Sequence[Problem], int], Rates]:
    """Solves by the number in the problem; notes what it was asked, and fails at one chunk."""

    def solve(problems: Sequence[Problem], chunk: int) -> Rates:
        if chunk == stop_at:
            raise RuntimeError("killed")
        asked.extend(problem.id for problem in problems)
        return [(chunk + int(problem.answer) / 1000, 4) for problem in problems]

    return solve


def many(rows: Rows, count: int) -> Path:
    return rows(*({"id": str(n), "prompt": f"p{n}", "answer": str(n), "kept": n} for n in range(count)))


def test_rates_stand_in_the_rows(rows: Rows, tmp_path: Path):
    source, output = many(rows, CHUNK + 3), tmp_path / "out.jsonl"
    rates = measure(iter(entries(source)), output, solver([]), settings="mine")
    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["solve_rate"] for row in written] == rates
    assert rates[0] == 0.0
    assert rates[-1] == 1 + (CHUNK + 2) / 1000, "of the second chunk"
    assert written[5] == {"id": "5", "prompt": "p5", "answer": "5", "kept": 5} | {
        "solve_rate": 0.005,
        "solve_samples": 4,
        "solve_by": "mine",
    }
    (step,) = parse_steps("solve_rate=0.01..0.02")
    assert [e.problem.id for e in entries(output) if apply_steps(e, (step,)) is None] == [str(n) for n in range(10, 21)]


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_it_goes_on_after_a_kill_to_the_same_file(rows: Rows, tmp_path: Path, cut: int):
    source = many(rows, 2 * CHUNK + 5)
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    measure(iter(entries(source)), whole, solver([]), settings="mine")
    with pytest.raises(RuntimeError):
        measure(iter(entries(source)), output, solver([], stop_at=2), settings="mine")
    if cut:
        output.write_bytes(output.read_bytes()[:-cut] if cut > 0 else b"")
    asked: list[str] = []
    rates = measure(iter(entries(source)), output, solver(asked), settings="mine")
    assert output.read_bytes() == whole.read_bytes()
    assert len(rates) == 2 * CHUNK + 5
    first = {0: 2 * CHUNK, -1: 0}.get(cut, CHUNK)
    assert asked == [str(n) for n in range(first, 2 * CHUNK + 5)], "whole chunks are not asked again"


@pytest.mark.parametrize("settings", ["mine", "others"])
def test_another_ones_file_is_not_touched(rows: Rows, tmp_path: Path, settings: str):
    output = tmp_path / "out.jsonl"
    measure(iter(entries(many(rows, 3))), output, solver([]), settings="mine")
    before = output.read_bytes()
    source = rows({"prompt": "q", "answer": "1"}, name="other.jsonl") if settings == "mine" else many(rows, 3)
    with pytest.raises(ValueError, match="another row"):
        measure(iter(entries(source)), output, solver([]), settings=settings)
    with pytest.raises(ValueError, match="more rows"):
        measure(iter(entries(many(rows, 2))), output, solver([]), settings="mine")
    for change in ({"prompt": "another"}, {"answer": "7"}, {"kept": 7}):
        changed = [{"id": "0", "prompt": "p0", "answer": "0", "kept": 0} | change]
        with pytest.raises(ValueError, match="another row"):
            measure(iter(entries(rows(*changed))), output, solver([]), settings="mine")
    assert output.read_bytes() == before
    output.write_text("not ours\n")
    with pytest.raises(ValueError, match="another row"):
        measure(iter(entries(source)), output, solver([]), settings=settings)
    assert output.read_text() == "not ours\n"


def options(folder: Path, **changes: Any) -> DifficultyOptions:
    if not (folder / "model").exists():
        tiny_model(folder / "model")
    values: dict[str, Any] = {
        "sources": (str(tiny_problems(folder / "train.jsonl")),),
        "model": str(folder / "model"),
        "output": folder / "rated.jsonl",
        "samples": 8,
        "max_tokens": 2,
        "kind": "exact",
        "extract": "regex",
        "pattern": "^.",
        "threads": 1,
        "device": "cpu",
    }
    return DifficultyOptions(**values | changes)


def test_a_real_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(module, "CHUNK", 5)
    difficulty(options(tmp_path))
    said = capsys.readouterr().out
    rated = (tmp_path / "rated.jsonl").read_bytes()
    rows = [json.loads(line) for line in rated.splitlines()]
    rates = [row["solve_rate"] for row in rows]
    assert [row["answer"] for row in rows] == [answer for _, answer in PAIRS]
    assert all(row["solve_samples"] == 8 and rate * 8 == int(rate * 8) for row, rate in zip(rows, rates, strict=True))
    assert 0 < sum(rates) < len(rates), "a random model is right now and then"
    assert f"mean solve rate {sum(rates) / 16:.3f}" in said
    assert f"{rates.count(0.0)} never solved" in said
    (tmp_path / "rated.jsonl").write_bytes(b"".join(rated.splitlines(keepends=True)[:12])[:-4])
    difficulty(options(tmp_path))
    assert (tmp_path / "rated.jsonl").read_bytes() == rated
    with pytest.raises(ValueError, match="other settings"):
        difficulty(options(tmp_path, temperature=0.5))
    with pytest.raises(ValueError, match="other settings"):
        difficulty(options(tmp_path, suffix="="))
    with pytest.raises(ValueError, match="other settings"):
        difficulty(options(tmp_path, compute="bf16"))
    with pytest.raises(ValueError, match="other settings"):
        difficulty(options(tmp_path, sandbox_url="http://127.0.0.1:1"))
    difficulty(options(tmp_path, limit=3, output=tmp_path / "few.jsonl"))
    assert (tmp_path / "few.jsonl").read_bytes() == b"".join(rated.splitlines(keepends=True)[:3])
    tiny_model(tmp_path / "model", seed=1)
    with pytest.raises(ValueError, match="other settings"):
        difficulty(options(tmp_path))
    assert (tmp_path / "rated.jsonl").read_bytes() == rated


def test_a_program_that_passes_some_of_its_tests_has_solved_nothing(rows: Rows, tmp_path: Path):
    tiny_model(tmp_path / "model", alphabet="12")
    tests = {"inputs": ["", ""], "outputs": ["", "x"]}  # a number is a program that prints nothing
    source = rows({"prompt": "1", "kind": "code", "tests": tests})
    difficulty(options(tmp_path, sources=(str(source),), extract="auto", pattern="", output=tmp_path / "rated.jsonl"))
    (row,) = (json.loads(line) for line in (tmp_path / "rated.jsonl").read_text().splitlines())
    assert (row["solve_rate"], row["solve_samples"]) == (0.0, 8)


@pytest.mark.parametrize(
    ("row", "said"),
    [({"prompt": "a"}, "rows.jsonl:1"), ({"prompt": "a", "response": "b"}, "demonstration")],
)
def test_rows_that_cannot_be_solved_are_named_before_the_model_is_loaded(
    rows: Rows, tmp_path: Path, row: dict[str, str], said: str
):
    with pytest.raises(ValueError, match=said):
        difficulty(options(tmp_path, sources=(str(rows(row)),), model="absent"))


@pytest.mark.parametrize("changes", [{"samples": 0}, {"top_p": 0.0}, {"temperature": -1.0}, {"limit": -1}])
def test_options_out_of_range(tmp_path: Path, changes: dict[str, Any]):
    with pytest.raises(ValueError, match="--"):
        difficulty(options(tmp_path, **changes))
