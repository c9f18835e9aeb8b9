"""Scores of a file: rewards against the models' own log-probs, aggregations, references, and mistakes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import lines, tiny_model

from credo.config import PrmTrainingConfig
from credo.console import Console
from credo.data.responses import Response
from credo.models.causal import load_model
from credo.offline import scorer as module
from credo.offline.scorer import Scorer, open_scorer, score_file
from credo.offline.training import train_prm
from credo.options.offline import AggregationOptions, PrmScoreOptions, ScorerOptions
from credo.recipe import build

ROWS = [
    {"id": 1, "prompt": "ab=", "response": "aab", "label": True},
    {"id": 2, "prompt": "b=", "response": "c", "finish": "length"},
    {"id": 3, "problem": "cd=", "responses": ["a", "bb"], "labels": [False, True]},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model(tmp_path / "phi", seed=1)
    tiny_model(tmp_path / "ref", seed=2)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def scored(folder: Path, *, reference: str = "ref", scorer: dict[str, Any] | None = None, **aggregation: Any):
    path = str(folder / reference) if reference not in ("auto", "none") else reference
    options = ScorerOptions(
        **{"prm": str(folder / "phi"), "reference": path, "threads": 1, "device": "cpu", **(scorer or {})}
    )
    output = folder / "scores.jsonl"
    score_file(
        PrmScoreOptions(
            input=folder / "rows.jsonl", output=output, scorer=options, aggregation=AggregationOptions(**aggregation)
        )
    )
    return lines(output)


@torch.no_grad()
def oracle(folder: Path, model: str, prompt: str, response: str, *, ends: bool = True) -> list[float]:
    causal = load_model(str(folder / model))
    before, said = causal.tokenizer(prompt).input_ids, causal.tokenizer(response).input_ids
    tokens = [*before, *said, *([causal.tokenizer.eos_token_id] if ends else [])]
    table = torch.log_softmax(causal.model(input_ids=torch.tensor([tokens])).logits[0], dim=-1)
    return [table[s - 1, tokens[s]].item() for s in range(len(before), len(tokens))]


def test_rewards_are_beta_times_log_ratios(folder: Path):
    rows = scored(folder, scorer={"beta": 0.1})
    assert [(row["id"], row.get("sample")) for row in rows] == [(1, None), (2, None), (3, 0), (3, 1)]
    cases = [("ab=", "aab", True), ("b=", "c", False), ("cd=", "a", True), ("cd=", "bb", True)]
    for row, (prompt, response, ends) in zip(rows, cases, strict=True):
        phi, ref = (oracle(folder, model, prompt, response, ends=ends) for model in ("phi", "ref"))
        expected = [0.1 * (a - b) for a, b in zip(phi, ref, strict=True)]
        assert row["token_rewards"] == pytest.approx(expected, abs=1e-5)
        assert row["prm_score"] == row["sequence_reward"] == pytest.approx(sum(expected), abs=1e-5)
        assert len(row["tokens"]) == len(expected)
        assert row["response"] == response
    assert rows[0]["tokens"] == ["a", "a", "b", "<eos>"]
    assert rows[3]["label"] is True


def test_without_a_reference(folder: Path):
    rows = scored(folder, reference="none")
    assert rows[0]["token_rewards"] == pytest.approx([0.05 * x for x in oracle(folder, "phi", "ab=", "aab")], abs=1e-5)


def test_totals_are_those_of_whole_responses_whoever_else_is_in_the_batch(folder: Path):
    """An empty response is its end; one that was cut off has none."""
    options = ScorerOptions(prm=str(folder / "phi"), reference=str(folder / "ref"), beta=1.0, threads=1, device="cpu")
    cases = [("a", True), ("abcd", True), ("dd", False), ("", True)]
    responses = [
        Response(prompt="ab=", text=text, score=None, problem="p", source="made", finished=finished, row={})
        for text, finished in cases
    ]
    scorer = open_scorer(options, Console())
    for total, (text, finished) in zip(scorer.totals(responses), cases, strict=True):
        phi, ref = (sum(oracle(folder, model, "ab=", text, ends=finished)) for model in ("phi", "ref"))
        assert total == pytest.approx(phi - ref, abs=1e-4)
    assert scorer.totals([]) == []


def test_steps_and_aggregations(folder: Path):
    tokens = scored(folder)[0]["token_rewards"]
    steps: dict[str, Any] = {"level": "step", "step_boundary": "regex", "step_pattern": "a"}
    single = [tokens[0], tokens[1], tokens[2] + tokens[3]]
    row = scored(folder, **steps, aggregate="min")[0]
    assert row["step_rewards"] == pytest.approx(single, abs=1e-6)
    assert row["prm_score"] == pytest.approx(min(single), abs=1e-6)
    row = scored(folder, **steps, form="accumulated", aggregate="mean")[0]
    reached = [tokens[0], tokens[0] + tokens[1], sum(tokens)]
    assert row["prm_score"] == pytest.approx(sum(reached) / 3, abs=1e-6)
    assert scored(folder, aggregate="last")[0]["prm_score"] == pytest.approx(tokens[3], abs=1e-6)
    assert scored(folder, aggregate="last", form="accumulated")[0]["prm_score"] == pytest.approx(sum(tokens), abs=1e-6)


def test_micro_batches_do_not_matter(folder: Path):
    whole, cut = scored(folder), scored(folder, scorer={"tokens_per_microbatch": 1})
    for one, other in zip(whole, cut, strict=True):
        assert one["token_rewards"] == pytest.approx(other["token_rewards"], abs=1e-5)


def trained(folder: Path) -> str:
    """A PRM folder whose reference is ``ref``."""
    rows = [{"prompt": f"{p}=", "response": r, "label": r == "a"} for p in "abcd" for r in "ab"]
    (folder / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "run": {"name": "prm", "folder": str(folder), "steps": 1, "threads": 1, "device": "cpu"},
        "model": {"path": str(folder / "ref")},
        "offline": {"sources": [str(folder / "labelled.jsonl")], "beta": 0.3, "suffix": "=", "lr": 1e-2},
    }
    return str(train_prm(build(PrmTrainingConfig, config)))


def test_a_prm_folder_says_how_it_is_read(folder: Path):
    options = ScorerOptions(prm=trained(folder), threads=1, device="cpu")
    scorer = open_scorer(options, Console())
    assert (scorer.beta, scorer.prompting.suffix) == (0.3, "=")
    assert scorer.prm.reference is not None
    other = open_scorer(replace(options, beta=1.0, suffix=""), Console())
    assert (other.beta, other.prompting.suffix) == (1.0, "")


def test_a_reference_that_has_changed_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]):
    prm = trained(folder)
    tiny_model(folder / "ref", seed=3)
    with pytest.raises(ValueError, match="not those that"):
        open_scorer(ScorerOptions(prm=prm, threads=1, device="cpu"), Console())
    open_scorer(ScorerOptions(prm=prm, reference=str(folder / "phi"), threads=1, device="cpu"), Console())
    assert "is not the reference" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("reference", "scorer", "aggregation", "named"),
    [
        ("auto", {}, {}, "--reference"),
        ("ref", {"prm": ""}, {}, "--prm"),
        ("ref", {"prm": "./absent"}, {}, "absent"),
        ("absent", {}, {}, "--reference"),
        ("foreign", {}, {}, "different tokenizers"),
        ("ref", {"beta": 0.0}, {}, "--beta"),
        ("ref", {}, {"step_boundary": "regex"}, "--step-pattern"),
        ("ref", {}, {"step_boundary": "regex", "step_pattern": "("}, "regular expression"),
    ],
)
def test_mistakes(reference: str, scorer: dict[str, Any], aggregation: dict[str, Any], named: str, folder: Path):
    tiny_model(folder / "foreign", alphabet="abcdef=")
    with pytest.raises(ValueError, match=named):
        scored(folder, reference=reference, scorer=scorer, **aggregation)
    assert not (folder / "scores.jsonl").exists()


def test_a_damaged_record_is_named(folder: Path):
    prm = trained(folder)
    (Path(prm) / "prm.json").write_text('{"format": 2}')
    with pytest.raises(ValueError, match=r"prm\.json is damaged"):
        open_scorer(ScorerOptions(prm=prm), Console())


def test_the_input_is_never_written_over(folder: Path):
    rows = folder / "rows.jsonl"
    with pytest.raises(ValueError, match="both input"):
        score_file(PrmScoreOptions(input=rows, output=rows))
    with pytest.raises(ValueError, match="absent"):
        score_file(PrmScoreOptions(input=folder / "absent.jsonl"))


def test_what_was_scored_before_a_kill_is_not_scored_again(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "AT_ONCE", 1)
    whole, parts = scored(folder), []
    (folder / "scores.jsonl").unlink()

    def stopping(self: Any, part: Any, *arguments: Any) -> Any:
        parts.append([response.problem for response in part])
        if len(parts) == 3:
            raise KeyboardInterrupt
        return plain(self, part, *arguments)

    plain = Scorer.scored
    monkeypatch.setattr(Scorer, "scored", stopping)
    with pytest.raises(KeyboardInterrupt):
        scored(folder)
    [aside] = folder.glob("scores.jsonl.*.tmp")
    with aside.open("a") as file:
        file.write('{"half a')
    assert scored(folder) == whole
    assert len(parts) == 5, "two before the kill, one that it broke off, and the last two"
    assert not list(folder.glob("*.tmp"))


def test_other_settings_begin_anew(folder: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched:
        patched.setattr(module, "AT_ONCE", 1)
        patched.setattr(Path, "rename", lambda *_: None)
        with pytest.raises(FileNotFoundError):
            scored(folder)
    [aside] = folder.glob("scores.jsonl.*.tmp")
    rows = scored(folder, scorer={"beta": 0.7})
    assert aside.exists()
    assert rows != [json.loads(line) for line in aside.read_text().splitlines()]


def test_a_folder_is_read_as_one(folder: Path):
    rows = scored(folder)
    (folder / "rows").mkdir()
    (folder / "rows.jsonl").rename(folder / "rows" / "only.jsonl")
    options = ScorerOptions(prm=str(folder / "phi"), reference=str(folder / "ref"), threads=1, device="cpu")
    score_file(PrmScoreOptions(input=folder / "rows", output=folder / "again.jsonl", scorer=options))
    assert lines(folder / "again.jsonl") == rows
