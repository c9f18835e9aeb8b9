"""``credo evaluate``: a line a benchmark, every response in a file, and mistakes named before the work begins."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import PAIRS, lines, tiny_model, tiny_problems

from credo.config import ArchitectureConfig
from credo.evaluation.benchmarks import ACTIONS, BOX
from credo.evaluation.evaluate import evaluate
from credo.evaluation.records import EvaluationFolder
from credo.models.causal import build_model, save_model
from credo.options.evaluation import EvaluateOptions


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
        "output": folder / "results",
    }
    return EvaluateOptions(**values | changes)


def rows(chosen: EvaluateOptions, key: str = "held-out") -> list[dict[str, Any]]:
    """What is saved of every problem."""
    assert chosen.output is not None
    return lines(chosen.output / f"{key}.jsonl")


def results(chosen: EvaluateOptions) -> dict[str, Any]:
    assert chosen.output is not None
    return json.loads((chosen.output / "results.json").read_text())["results"]


def evaluated(folder: Path, name: str, **changes: Any) -> EvaluateOptions:
    """The options of an evaluation that was made, in a folder of its own."""
    chosen = options(folder, output=folder / name, **changes)
    evaluate(chosen)
    return chosen


def test_accuracy_is_the_mean_over_problems_of_what_each_response_deserved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    chosen = evaluated(tmp_path, "results", samples=8)
    scores, solved = [], []
    for row, (_, answer) in zip(rows(chosen), PAIRS, strict=True):
        deserved = [float(response.startswith(answer)) for response in row["responses"]]
        assert row["scores"] == deserved
        assert row["answers"] == [response[:1] or None for response in row["responses"]]
        scores.append(sum(deserved) / 8)
        solved.append(float(any(deserved)))
    assert 0 < sum(scores) < len(scores), "a random model is right now and then"
    result = results(chosen)["held-out"]
    average = result["measures"]["avg@8"]
    assert average["value"] == pytest.approx(sum(scores) / len(scores))
    assert average["low"] < average["value"] < average["high"]
    assert result["measures"]["pass@8"]["value"] == pytest.approx(sum(solved) / len(solved))
    assert average["value"] < result["measures"]["pass@2"]["value"] < result["measures"]["pass@4"]["value"]
    assert result["measures"].keys() == {"avg@8", *(f"pass@{k}" for k in (1, 2, 4, 8)), "maj@2", "maj@4", "maj@8"}
    assert (result["problems"], result["unknown"]) == (16, 0)
    said = capsys.readouterr().out
    assert f"avg@8 {average['value']:.3f}" in said
    assert "16 problems" in said


def test_the_same_seed_gives_the_same_numbers_and_another_gives_others(tmp_path: Path):
    first, again, other = (evaluated(tmp_path, f"{number}", seed=seed) for number, seed in enumerate((0, 0, 1)))
    assert rows(first) == rows(again) != rows(other)
    assert results(first) == results(again)


def test_greedy_responses_are_all_the_same(tmp_path: Path):
    chosen = evaluated(tmp_path, "results", temperature=0.0)
    assert all(len(set(row["responses"])) == 1 for row in rows(chosen))


def test_cuts_reach_the_sampler(tmp_path: Path):
    greedy = rows(evaluated(tmp_path, "greedy", temperature=0.0, max_tokens=8))
    for cut in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        assert rows(evaluated(tmp_path, next(iter(cut)), max_tokens=8, **cut)) == greedy


def test_a_stop_string_stays_in_what_is_judged(tmp_path: Path):
    chosen = evaluated(tmp_path, "results", stop=("b", "cc"), pattern="b$", max_tokens=8, samples=8)
    problems = [(row, answer) for row, (_, answer) in zip(rows(chosen), PAIRS, strict=True)]
    texts = [text for row, _ in problems for text in row["responses"]]
    assert any(text.endswith("b") for text in texts)
    assert any(text.endswith("cc") for text in texts)
    assert not any("b" in text[:-1] or "cc" in text[:-1] for text in texts), "nothing follows it"
    for row, answer in problems:
        assert row["scores"] == [float(answer == "b" and text.endswith("b")) for text in row["responses"]]


@pytest.mark.parametrize("compute", ["bf16", "auto"])
def test_a_precision_may_be_asked_for(tmp_path: Path, compute: str, capsys: pytest.CaptureFixture[str]):
    assert results(evaluated(tmp_path, "results", compute=compute))["held-out"]["problems"] == 16
    assert ("Computes in" in capsys.readouterr().out) == (compute == "auto")


def test_several_benchmarks_are_kept_apart_and_cut_to_the_limit(tmp_path: Path):
    other = tiny_problems(tmp_path / "other.jsonl", PAIRS[:2])
    chosen = evaluated(tmp_path, "results", limit=3, benchmarks=f"{tmp_path}/held-out.jsonl,{other}")
    assert list(results(chosen)) == ["held-out", "other"]
    assert [row["id"] for row in rows(chosen)] == ["held-out.jsonl:1", "held-out.jsonl:2", "held-out.jsonl:3"]
    assert len(rows(chosen, "other")) == 2


def test_no_file_is_written_unless_asked_for(tmp_path: Path):
    evaluate(options(tmp_path, output=None))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["held-out.jsonl", "model"]


def test_the_hash_of_a_file_nobody_vouches_for_is_said_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    chosen = evaluated(tmp_path, "results", limit=2)
    sha256 = hashlib.sha256((tmp_path / "held-out.jsonl").read_bytes()).hexdigest()
    assert chosen.output is not None
    source = json.loads((chosen.output / "results.json").read_text())["sources"]["held-out"]
    assert (source["sha256"], source["registered"]) == (sha256, False)
    assert sha256 in capsys.readouterr().out
    evaluate(options(tmp_path, benchmarks=f"{tmp_path}/held-out.jsonl#sha256={sha256}", output=None, limit=2))
    assert sha256 not in capsys.readouterr().out


def test_words_around_a_problem_reach_the_model(tmp_path: Path):
    plain = evaluated(tmp_path, "plain", temperature=0.0, max_tokens=8)
    changed = evaluated(tmp_path, "changed", temperature=0.0, max_tokens=8, suffix="d")
    assert rows(plain) != rows(changed)


def killed(chosen: EvaluateOptions, keep: int, torn: bytes) -> None:
    """The folder of an evaluation as if it had been killed while it wrote the line after ``keep``."""
    assert chosen.output is not None
    path = chosen.output / "held-out.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:keep]) + torn)
    numbers = json.loads((chosen.output / "results.json").read_text()) | {"results": {}}
    (chosen.output / "results.json").write_text(json.dumps(numbers))


@pytest.mark.parametrize(("keep", "torn"), [(0, b""), (4, b""), (5, b'{"id": "held-out.jso'), (16, b"")])
def test_a_killed_evaluation_goes_on_to_the_same_numbers(tmp_path: Path, keep: int, torn: bytes):
    whole = evaluated(tmp_path, "whole", save_every=4)
    chosen = evaluated(tmp_path, "results", save_every=4)
    killed(chosen, keep, torn)
    evaluate(chosen)
    assert rows(chosen) == rows(whole)
    assert results(chosen) == results(whole)


def test_what_is_there_is_not_sampled_again(tmp_path: Path):
    chosen = evaluated(tmp_path, "results", limit=2)
    assert chosen.output is not None
    path = chosen.output / "held-out.jsonl"
    path.write_text(path.read_text().replace('"reasons": [', '"reasons": ["kept", ', 1))
    evaluate(replace(chosen, limit=4, concurrent=7, save_every=1))
    assert [row["reasons"][0] == "kept" for row in rows(chosen)] == [True, False, False, False]
    evaluate(replace(chosen, limit=1))
    assert results(chosen)["held-out"]["problems"] == 1
    assert len(rows(chosen)) == 4, "a smaller limit throws nothing away"


def test_ctrl_c_leaves_whole_lines_and_a_way_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    chosen = options(tmp_path, save_every=4)
    appended = EvaluationFolder.append

    def append(folder: EvaluationFolder, key: str, records: Any) -> None:
        appended(folder, key, records)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(EvaluationFolder, "append", append)
        with pytest.raises(KeyboardInterrupt):
            evaluate(chosen)
    assert len(rows(chosen)) == 4
    assert "the same command goes on" in capsys.readouterr().out
    evaluate(chosen)
    assert rows(chosen) == rows(evaluated(tmp_path, "whole", save_every=4))


def test_progress_is_said_between_chunks(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    evaluated(tmp_path, "results", save_every=6)
    said = [line for line in capsys.readouterr().out.splitlines() if " left" in line]
    assert [line.partition(" problems")[0] for line in said] == ["held-out: 6 of 16", "held-out: 12 of 16"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "seed = 0"),
        ({"temperature": 0.5}, "temperature"),
        ({"stop": ("a",)}, "stop"),
        ({"pattern": "^b"}, "pattern"),
        ({"model": "other"}, "model"),
    ],
)
def test_other_options_are_refused_in_the_same_folder(tmp_path: Path, changes: dict[str, Any], named: str):
    chosen = evaluated(tmp_path, "results", limit=2)
    if "model" in changes:
        changes = {"model": str(tiny_model(tmp_path / "other"))}
    with pytest.raises(ValueError, match=named):
        evaluate(replace(chosen, **changes))


def test_other_weights_and_other_problems_are_refused_in_the_same_folder(tmp_path: Path):
    chosen = evaluated(tmp_path, "results", limit=2)
    tiny_model(tmp_path / "model", seed=1)
    with pytest.raises(ValueError, match="model_sha256"):
        evaluate(chosen)
    tiny_model(tmp_path / "model", seed=0)
    tiny_problems(tmp_path / "held-out.jsonl", PAIRS[1:])
    with pytest.raises(ValueError, match="other problems"):
        evaluate(chosen)


def test_saved_responses_are_judged_again_without_the_model(tmp_path: Path):
    chosen = evaluated(tmp_path, "results", max_tokens=4, samples=4)
    first = rows(chosen)
    shutil.rmtree(tmp_path / "model")
    last = replace(chosen, regrade=True, pattern=".$")
    (tmp_path / "model").mkdir()  # named, but nothing is in it
    evaluate(last)
    again = rows(chosen)
    assert [row["responses"] for row in again] == [row["responses"] for row in first]
    for row, (_, answer) in zip(again, PAIRS, strict=True):
        assert row["scores"] == [float(response.endswith(answer)) for response in row["responses"]]
    assert results(chosen)["held-out"]["measures"]["avg@4"]["value"] == pytest.approx(
        sum(sum(row["scores"]) / 4 for row in again) / 16
    )
    evaluate(replace(chosen, regrade=True))
    assert rows(chosen) == first


def test_only_what_can_change_is_judged_again(tmp_path: Path):
    chosen = evaluated(tmp_path, "results", limit=2)
    with pytest.raises(ValueError, match="seed"):
        evaluate(replace(chosen, regrade=True, seed=5))
    other = tiny_problems(tmp_path / "other.jsonl", PAIRS[:2])
    with pytest.raises(ValueError, match="nothing else"):
        evaluate(replace(chosen, benchmarks=f"{chosen.benchmarks},{other}", regrade=True, pattern="b"))
    evaluate(replace(chosen, benchmarks=str(other)))
    with pytest.raises(ValueError, match="held-out"):
        evaluate(replace(chosen, benchmarks=str(other), regrade=True, pattern="b"))
    with pytest.raises(ValueError, match=r"results\.json"):
        evaluate(options(tmp_path, regrade=True, output=tmp_path / "empty"))


def test_the_best_of_k_is_chosen_by_a_prm(tmp_path: Path):
    prm, reference = (str(tiny_model(tmp_path / name, seed=seed)) for name, seed in (("prm", 5), ("reference", 6)))
    chosen = evaluated(tmp_path, "results", samples=4, prm=prm, reference=reference)
    best = []
    for row in rows(chosen):
        assert len(set(row["rewards"])) > 1 or len(set(row["responses"])) == 1
        ranked = sorted(zip(row["rewards"], row["scores"], strict=True), reverse=True)
        top = [score for reward, score in ranked if reward == ranked[0][0]]
        best.append(sum(top) / len(top))
    measured = results(chosen)["held-out"]["measures"]
    assert measured["best@4"]["value"] == pytest.approx(sum(best) / 16)
    assert "best@2" in measured
    without = evaluated(tmp_path, "without", samples=4)
    evaluate(replace(without, regrade=True, prm=prm, reference=reference))
    for ours, theirs in zip(rows(without), rows(chosen), strict=True):
        assert ours["rewards"] == pytest.approx(theirs["rewards"], abs=1e-5)
    with pytest.raises(ValueError, match=r"prm\.json"):
        evaluate(options(tmp_path, prm=prm))


@pytest.mark.parametrize("role", ["prm", "reference"])
def test_other_weights_of_a_prm_or_its_reference_are_refused_but_may_judge_anew(tmp_path: Path, role: str):
    roles = {name: str(tiny_model(tmp_path / name, seed=seed)) for name, seed in (("prm", 5), ("reference", 6))}
    chosen = evaluated(tmp_path, "results", limit=2, **roles)
    first = rows(chosen)
    tiny_model(tmp_path / role, seed=7)
    with pytest.raises(ValueError, match="prm_sha256"):
        evaluate(replace(chosen, limit=4))
    assert rows(chosen) == first
    evaluate(replace(chosen, regrade=True))
    assert [row["rewards"] for row in rows(chosen)] != [row["rewards"] for row in first]
    evaluate(replace(chosen, limit=4))
    assert len(rows(chosen)) == 4


def test_a_comma_within_a_source_is_written_in_percent(tmp_path: Path):
    with pytest.raises(ValueError, match="%2C"):
        evaluate(options(tmp_path, benchmarks="gym:basic_arithmetic?operators=+,-&size=2"))
    two = "gym:basic_arithmetic?operators=+%2C-&size=2"
    chosen = evaluated(tmp_path, "results", benchmarks=f"{two},{tiny_problems(tmp_path / 'other.jsonl')}")
    assert [of["problems"] for of in results(chosen).values()] == [2, 16]


def test_the_preset_asks_as_the_paper_did_and_options_win(tmp_path: Path):
    alphabet = "".join(sorted(set(ACTIONS + BOX + "abcd=\n")))
    built = build_model(ArchitectureConfig(layers=1, width=16, heads=2, positions=1024, alphabet=alphabet), seed=0)
    save_model(built.model, built.tokenizer, tmp_path / "model")
    graded = {"kind": "math", "extract": "auto", "pattern": ""}
    asked = options(tmp_path, preset="paper", samples=None, max_tokens=3, limit=2, **graded)
    evaluate(asked)
    assert asked.output is not None
    conditions = json.loads((asked.output / "results.json").read_text())["sources"]["held-out"]["conditions"]
    paper = {"samples": 1, "temperature": 0.0, "top_p": 1.0, "system": ACTIONS, "suffix": BOX, "stop": []}
    assert conditions == {**paper, "max_tokens": 3}
    assert results(asked)["held-out"]["measures"].keys() == {"avg@1"}


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
        ({"output": Path("no/such/folder/results")}, "no/such/folder"),
        ({"pattern": ""}, "pattern"),
        ({"save_every": -1}, "--save-every"),
        ({"benchmarks": "mat500"}, "Did you mean 'math500'"),
        ({"reference": "x"}, "--prm"),
        ({"regrade": True, "output": None}, "--output"),
        ({"output": Path(__file__)}, "is a file"),
    ],
)
def test_mistakes_are_named_before_a_model_is_loaded(tmp_path: Path, changes: dict[str, Any], named: str):
    with pytest.raises(ValueError, match=named):
        evaluate(options(tmp_path, **{"model": str(tmp_path / "none"), **changes}))


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed")
def test_an_engine_that_is_not_installed_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"pip install 'credo\[vllm\]'"):
        evaluate(options(tmp_path, engine="vllm"))
