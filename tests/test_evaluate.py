"""``credo evaluate``: a line a benchmark, every response in a file, and mistakes named before the work begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import PAIRS, tiny_model, tiny_problems

from credo.evaluate import evaluate
from credo.options import EvaluateOptions


def options(folder: Path, **changes: Any) -> EvaluateOptions:
    if not (folder / "model").exists():
        tiny_model(folder / "model")
    values: dict[str, Any] = {
        "model": str(folder / "model"),
        "benchmarks": str(tiny_problems(folder / "held-out.jsonl")),
        "samples": 3,
        "max_tokens": 2,
        "kind": "exact",
        "extract": "regex",
        "pattern": "^.",
        "threads": 1,
        "device": "cpu",
        "output": folder / "results.json",
    }
    return EvaluateOptions(**values | changes)


def results(chosen: EvaluateOptions) -> list[dict[str, Any]]:
    evaluate(chosen)
    assert chosen.output is not None
    return json.loads(chosen.output.read_text())["results"]


def test_accuracy_is_the_mean_over_problems_of_what_each_response_deserved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (result,) = results(options(tmp_path, samples=8))
    scores = []
    for row, (_, answer) in zip(result["problems"], PAIRS, strict=True):
        deserved = [float(response.startswith(answer)) for response in row["responses"]]
        assert row["scores"] == deserved
        scores.append(sum(deserved) / 8)
    assert 0 < sum(scores) < len(scores), "a random model is right now and then"
    assert result["eval/accuracy"] == pytest.approx(sum(scores) / len(scores))
    assert result["eval/accuracy_low"] < result["eval/accuracy"] < result["eval/accuracy_high"]
    assert (result["eval/problems"], result["eval/samples"], result["eval/unknown"]) == (16, 8, 0)
    said = capsys.readouterr().out
    assert f"avg@8 {result['eval/accuracy']:.3f}" in said
    assert "16 problems" in said


def test_the_same_seed_gives_the_same_responses_and_another_gives_others(tmp_path: Path):
    first, again, other = (results(options(tmp_path, seed=seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_greedy_responses_are_all_the_same(tmp_path: Path):
    (result,) = results(options(tmp_path, temperature=0.0))
    assert all(len(set(row["responses"])) == 1 for row in result["problems"])


def test_cuts_reach_the_sampler(tmp_path: Path):
    greedy = results(options(tmp_path, temperature=0.0, max_tokens=8))[0]["problems"]
    for cut in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        (result,) = results(options(tmp_path, max_tokens=8, **cut))
        assert result["problems"] == greedy


def test_a_stop_string_stays_in_what_is_judged(tmp_path: Path):
    (result,) = results(options(tmp_path, stop=("b", "cc"), pattern="b$", max_tokens=8, samples=8))
    problems = [(row, answer) for row, (_, answer) in zip(result["problems"], PAIRS, strict=True)]
    texts = [text for row, _ in problems for text in row["responses"]]
    assert any(text.endswith("b") for text in texts)
    assert any(text.endswith("cc") for text in texts)
    assert not any("b" in text[:-1] or "cc" in text[:-1] for text in texts), "nothing follows it"
    for row, answer in problems:
        assert row["scores"] == [float(answer == "b" and text.endswith("b")) for text in row["responses"]]


@pytest.mark.parametrize("compute", ["bf16", "auto"])
def test_a_precision_may_be_asked_for(tmp_path: Path, compute: str, capsys: pytest.CaptureFixture[str]):
    assert results(options(tmp_path, compute=compute))[0]["eval/problems"] == 16
    assert ("Computes in" in capsys.readouterr().out) == (compute == "auto")


def test_several_benchmarks_are_kept_apart_and_cut_to_the_limit(tmp_path: Path):
    other = tiny_problems(tmp_path / "other.jsonl", PAIRS[:2])
    chosen = options(tmp_path, limit=3)
    both = results(options(tmp_path, limit=3, benchmarks=f"{chosen.benchmarks},{other}"))
    assert [result["benchmark"] for result in both] == [chosen.benchmarks, str(other)]
    assert [len(result["problems"]) for result in both] == [3, 2]
    assert [row["id"] for row in both[0]["problems"]] == ["held-out.jsonl:1", "held-out.jsonl:2", "held-out.jsonl:3"]


def test_no_file_is_written_unless_asked_for(tmp_path: Path):
    evaluate(options(tmp_path, output=None))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["held-out.jsonl", "model"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"samples": 0}, "--samples"),
        ({"max_tokens": 0}, "--max-tokens"),
        ({"concurrent": 0}, "--concurrent"),
        ({"limit": -1}, "--limit"),
        ({"top_p": 0.0}, "--top-p"),
        ({"temperature": -1.0}, "--temperature"),
        ({"top_k": -1}, "--top-k"),
        ({"min_p": 1.1}, "--min-p"),
        ({"stop": ("x", "")}, "--stop"),
        ({"benchmarks": ","}, "--benchmarks"),
        ({"benchmarks": "absent.jsonl"}, "absent.jsonl"),
        ({"output": Path("no/such/folder/results.json")}, "no/such/folder"),
        ({"pattern": ""}, "pattern"),
    ],
)
def test_mistakes_are_named_before_a_model_is_loaded(tmp_path: Path, changes: dict[str, Any], named: str):
    with pytest.raises(ValueError, match=named):
        evaluate(options(tmp_path, **{"model": str(tmp_path / "none"), **changes}))
