"""Two evaluations, paired by problem: the difference by hand, and what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from credo.evaluation.compare import compare_evaluations
from credo.evaluation.records import EvaluationFolder, Record
from credo.measures.intervals import bootstrap_interval
from credo.options.evaluation import CompareEvaluationsOptions


def folder_of(path: Path, scores: dict[str, list[float | None]], *, key: str = "x", sha256: str = "12") -> Path:
    """An evaluation in which the responses to each problem had these scores."""
    with EvaluationFolder(path) as folder:
        folder.begin({"model": path.name})
        folder.begin_source(key, {"source": key, "sha256": sha256})
        blank = {"reasons": (), "finish": (), "lengths": (), "answers": (), "responses": ()}
        folder.append(key, [Record(id=id, scores=tuple(of), **blank) for id, of in scores.items()])
        folder.finish_source(key, {"problems": len(scores)})
    return path


def test_the_difference_is_paired_by_problem(tmp_path: Path):
    before = folder_of(tmp_path / "a", {"1": [0.0, 1.0], "2": [0.0, 0.0], "3": [1.0, 1.0], "4": [None, None]})
    after = folder_of(tmp_path / "b", {"3": [1.0, None], "2": [1.0, 0.0], "1": [1.0, 1.0], "5": [1.0, 1.0]})
    line = compare_evaluations(CompareEvaluationsOptions(before=before, after=after, output=tmp_path / "out.json"))
    found = json.loads((tmp_path / "out.json").read_text())["x"]
    low, high = bootstrap_interval([0.5, 0.5, 0.0])
    assert found == {
        "before": 0.5,
        "after": pytest.approx(2.5 / 3),
        "difference": pytest.approx(1 / 3),
        "low": low,
        "high": high,
        "p": 0.5,  # two problems differ: half of the four assignments of signs are as far
        "problems": 3,
        "unpaired": 1,
    }
    assert line.startswith("x: 0.500 -> 0.833, difference +33.3 points")
    assert "p = 0.5" in line
    assert "1 left out" in line


def test_the_same_evaluation_differs_by_nothing(tmp_path: Path):
    same = folder_of(tmp_path / "a", {str(number): [float(number % 2)] for number in range(10)})
    assert "+0.0 points (95 % interval +0.0 to +0.0), p = 1 " in compare_evaluations(
        CompareEvaluationsOptions(before=same, after=same)
    )


def test_what_cannot_be_compared_is_named(tmp_path: Path):
    one = folder_of(tmp_path / "a", {"1": [0.0]})
    for other, named in (
        (folder_of(tmp_path / "b", {"1": [0.0]}, key="y"), "x.*y"),
        (folder_of(tmp_path / "c", {"1": [0.0]}, sha256="13"), "other problems"),
        (folder_of(tmp_path / "d", {"2": [0.0]}), "no judged problem in common"),
        (tmp_path / "absent", "absent"),
    ):
        with pytest.raises(ValueError, match=named):
            compare_evaluations(CompareEvaluationsOptions(before=one, after=other))
