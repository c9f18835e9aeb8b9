"""Best of N on real candidates against an independent computation, and on small ones by hand."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import lines, tiny_model

from credo.offline.best_of_n import Candidates, as_json, best_of_n, curve_over_n
from credo.offline.scorer import score_file
from credo.options.offline import BestOfNOptions, PrmScoreOptions, ScorerOptions

REAL = Path(__file__).parents[3] / "shared/data/process/bon_math100x8_dev.jsonl"
ROWS = [
    {"problem": "p", "answer": "1/2", "responses": ["\\boxed{0.5}", "\\boxed{\\frac12}", "\\boxed{2}", "?!"]},
    {"problem": "q", "answer": "3", "responses": ["\\boxed{3}", "\\boxed{4}", "\\boxed{4.0}", "\\boxed{5}"]},
]
SCORES = [[3.0, 1.0, 2.0, -9.0], [2.0, 1.0, 1.0, 4.0]]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def options(tmp_path: Path) -> BestOfNOptions:
    rows = [row | {"rm_scores": scores} for row, scores in zip(ROWS, SCORES, strict=True)]
    return BestOfNOptions(input=written(tmp_path / "rows.jsonl", rows), output=tmp_path / "out.json", workers=1)


def figures(options: BestOfNOptions) -> dict[tuple[int, str], list[float]]:
    best_of_n(options)
    assert options.output is not None
    return {(row["n"], row["way"]): row["problems"] for row in json.loads(options.output.read_text())}


def test_by_hand(options: BestOfNOptions, capsys: pytest.CaptureFixture[str]):
    found = figures(options)
    assert found[4, "mean@1"] == [0.5, 0.25]
    assert found[4, "pass@N"] == [1.0, 1.0]
    assert found[2, "pass@N"] == pytest.approx([1 - 1 / 6, 0.5])
    assert found[4, "majority"] == [1.0, 0.0], "0.5 is 1/2, and 4 is 4.0"
    assert found[4, "best by rm_score"] == [1.0, 0.0]
    assert found[4, "vote weighted by rm_score"] == [1.0, 0.0]
    said = capsys.readouterr().out
    assert "labels by the grader, 0 unknown" in said
    assert "N = 4: best by rm_score minus majority +0.0000" in said


def test_half_a_point_is_no_pass(options: BestOfNOptions):
    written(options.input, [{"problem": "p", "responses": ["x", "y", "z"], "labels": [0.6, 0.6, 0.99]}])
    found = figures(replace(options, n=(1, 2)))
    assert found[1, "mean@1"] == pytest.approx([0.73])
    assert found[1, "pass@N"] == pytest.approx([1 / 3])
    assert found[2, "pass@N"] == pytest.approx([2 / 3])


@pytest.mark.parametrize("default", ["math", "exact"])
def test_answers_are_compared_as_their_own_problem_is_judged(default: Any, options: BestOfNOptions):
    """Two responses say one half in two ways: in mathematics a majority, as texts not."""
    halves = {"answer": "1/2", "responses": ["\\boxed{1/2}", "\\boxed{0.5}", "\\boxed{2}"]}
    written(options.input, [{"problem": kind, "kind": kind} | halves for kind in ("math", "exact")])
    found = figures(replace(options, extract="boxed", kind=default))
    assert found[3, "mean@1"] == pytest.approx([2 / 3, 1 / 3])
    assert found[3, "majority"] == pytest.approx([1.0, 1 / 3])


def test_labels_of_the_file_count_and_are_compared(options: BestOfNOptions, capsys: pytest.CaptureFixture[str]):
    labels = [[True, True, False, False], [False, True, True, None]]
    written(options.input, [row | {"labels": each} for row, each in zip(ROWS, labels, strict=True)])
    found = figures(replace(options, n=(3,)))
    assert found[3, "mean@1"] == pytest.approx([0.5, 2 / 3]), "an unknown one is left out"
    assert "agrees with 4 of 7 labels" in capsys.readouterr().out
    assert figures(replace(options, labels="grader"))[4, "mean@1"] == [0.5, 0.25]


@pytest.mark.skipif(not REAL.exists(), reason="needs the best-of-N candidates of the shared data")
def test_real_candidates_against_an_independent_computation(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The arithmetic of Qwen's rm_maj_eval.py, from the file's own labels, answers and scores."""
    rows = [json.loads(line) for line in REAL.read_text().splitlines()]
    found = figures(BestOfNOptions(input=REAL, output=tmp_path / "out.json", ties="first", workers=1))
    assert "agrees with 408 of 408 labels" in capsys.readouterr().out
    for index, row in enumerate(rows):
        labels = row["labels"]
        assert found[8, "mean@1"][index] == sum(labels) / 8
        pairs = [labels[i] or labels[j] for i in range(8) for j in range(i)]
        assert found[2, "pass@N"][index] == pytest.approx(sum(pairs) / 28)
        assert found[8, "pass@N"][index] == float(any(labels))
        most_frequent = Counter(row["preds"]).most_common(1)[0][0]
        assert found[8, "majority"][index] == float(labels[row["preds"].index(most_frequent)])
        highest = max(range(8), key=row["rm_scores"].__getitem__)
        assert found[8, "best by rm_score"][index] == float(labels[highest])


def test_scores_of_a_prm_are_those_that_are_stored(tmp_path: Path):
    tiny_model(tmp_path / "phi", seed=1)
    tiny_model(tmp_path / "ref", seed=2)
    rows = [
        {"prompt": f"{p}=", "answer": p, "response": f"{r}{r}", "kind": "regex"} | {"answer": f"{p}.*"}
        for p in "ab"
        for r in "abc"
    ]
    path = written(tmp_path / "rows.jsonl", rows)
    scorer = ScorerOptions(prm=str(tmp_path / "phi"), reference=str(tmp_path / "ref"), threads=1, device="cpu")
    score_file(PrmScoreOptions(input=path, output=tmp_path / "scores.jsonl", scorer=scorer))
    assert len(lines(tmp_path / "scores.jsonl")) == 6
    options = BestOfNOptions(input=path, output=tmp_path / "out.json", workers=1)
    own = figures(replace(options, scorer=scorer))
    stored = figures(replace(options, input=tmp_path / "scores.jsonl"))
    for n in (1, 2, 3):
        assert own[n, "best by PRM"] == stored[n, "best by prm_score"]
        assert own[n, "mean@1"] == pytest.approx([1 / 3, 1 / 3])
    assert own[3, "majority"] == pytest.approx([1 / 3, 1 / 3])


def test_problems_with_too_few_responses_leave_the_curve():
    few = Candidates(problem="a", correct=(1.0,), answers=(0,), scores={})
    many = Candidates(problem="b", correct=(0.0, 1.0), answers=(0, 1), scores={})
    curve = curve_over_n([few, many], ())
    assert {n: len(ways["mean@1"]) for n, ways in curve.items()} == {1: 2, 2: 1}
    assert [row["mean"] for row in as_json(curve) if row["way"] == "mean@1"] == [0.75, 0.5]
    with pytest.raises(ValueError, match="No problem has 3"):
        curve_over_n([few, many], (3,))


@pytest.mark.parametrize(
    ("rows", "change", "named"),
    [
        ([{"problem": "p", "response": "x"}], {}, "no answers"),
        ([{"problem": "p", "response": "x", "label": 1}], {"labels": "grader"}, "no answers"),
        ([{"problem": "p", "response": "x", "label": None}], {}, "known label|no answers"),
        ([{"problem": "p", "response": "x", "label": 1}], {"scores": "mine"}, "'mine'"),
        ([{"problem": "p", "response": "x", "label": 1, "rm_score": "high"}], {}, "no number"),
        ([{"problem": "p", "response": "x", "label": 1}], {"n": (0,)}, "--n"),
        ([{"problem": "p"}], {}, "line 1"),
        ([], {}, "no rows"),
    ],
)
def test_mistakes(rows: list[dict[str, Any]], change: dict[str, Any], named: str, tmp_path: Path):
    options = BestOfNOptions(input=written(tmp_path / "rows.jsonl", rows), workers=1)
    with pytest.raises(ValueError, match=named):
        best_of_n(replace(options, **change))
