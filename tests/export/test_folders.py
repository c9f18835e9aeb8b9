"""Exported folders: bit-equal, usable wherever a PRM is, and nothing left behind by what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from tiny import lines, tiny_config, tiny_model

from credo.console import Console
from credo.data.prm_record import read_record
from credo.data.prompts import encode_response
from credo.evaluation.evaluate import evaluate
from credo.export.folders import chosen, export, refuse_difference
from credo.models.causal import fingerprint, load_model
from credo.models.lora import WEIGHTS
from credo.offline.scorer import open_scorer, score_file
from credo.options.evaluation import EvaluateOptions
from credo.options.export import ExportOptions
from credo.options.offline import PrmScoreOptions, ScorerOptions
from credo.train import train


def trained(folder: Path, **changes: Any) -> Path:
    """The folder of a tiny run with checkpoints of steps 1 to 3, evaluated."""
    config = tiny_config(folder, checkpoint__every=1, checkpoint__keep=0, data__suffix="=", **changes)
    return train(config)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    held_out = folder / "held-out.jsonl"
    held_out.write_text('{"prompt": "dd=", "answer": "d"}\n{"prompt": "ca=", "answer": "c"}\n')
    return trained(folder, evaluation__sources=[str(held_out)], evaluation__every=1)


def exported(run: Path, target: Path, **options: Any) -> Path:
    export(ExportOptions(run=run, to=target, **options))
    assert not target.with_name(f"{target.name}.tmp").exists()
    return target


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def header(folder: Path) -> dict[str, Any]:
    """The YAML at the top of the card, as the hub's own package reads it."""
    return ModelCard((folder / "README.md").read_text(), ignore_metadata_errors=False).data.to_dict()


@pytest.mark.parametrize("role", ["policy", "prm"])
def test_weights_are_those_of_the_checkpoint_and_load_anywhere(role: str, run: Path, tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = exported(run, tmp_path / "deep" / "out", step=2) / role
    saved = weights(run / "checkpoints" / "step-000002" / role)
    assert same(weights(folder), saved)
    assert not same(saved, weights(run / "checkpoints" / "step-000003" / role))
    loaded = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in saved.items())
    assert AutoTokenizer.from_pretrained(folder)("ab=").input_ids == load_model(str(folder)).tokenizer("ab=").input_ids


def test_the_newest_whole_one_is_chosen_unless_told_otherwise(run: Path, tmp_path: Path, capsys: Any):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    assert chosen(ExportOptions(run=copy), Console()).step == 3
    (copy / "checkpoints" / "step-000003" / "prm" / "model.safetensors").write_bytes(b"")
    assert chosen(ExportOptions(run=copy), Console()).step == 2
    assert "step-000003" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"step-000003 is damaged: prm/model.safetensors"):
        exported(copy, tmp_path / "out", step=3)
    assert not (tmp_path / "out").exists()


def test_the_best_is_by_the_metric_of_the_run(run: Path, tmp_path: Path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    rows = [{"step": step, "eval/accuracy": accuracy} for step, accuracy in ((0, 1.0), (1, 0.4), (2, 0.4), (3, 0.1))]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (copy / "evaluation.jsonl").write_text(text + '{"step": 3, "eval/acc')
    assert chosen(ExportOptions(run=copy, best=True), Console()).step == 2
    (copy / "evaluation.jsonl").unlink()
    with pytest.raises(ValueError, match=r"has a eval/accuracy \(steps 1, 2, 3\)"):
        chosen(ExportOptions(run=copy, best=True), Console())


def test_the_record_says_how_the_prm_is_read(run: Path, tmp_path: Path):
    prm = exported(run, tmp_path / "out") / "prm"
    record = read_record(str(prm))
    assert record is not None
    start = load_model(str(run.parent.parent / "model"))
    assert (record.beta, record.loss, record.steps, record.prompting.suffix) == (0.05, "ce", 3, "=")
    assert (record.reference, record.reference_sha256) == (str(run.parent.parent / "model"), fingerprint(start))
    assert record.training["semantics"] == "official"
    assert record.training["weights_sha256"] == fingerprint(load_model(str(prm)))


def test_the_prm_scores_evaluates_and_starts_another_run(run: Path, tmp_path: Path):
    out = exported(run, tmp_path / "out")
    rows, prm = tmp_path / "rows.jsonl", str(out / "prm")
    rows.write_text('{"prompt": "ab", "response": "a"}\n')
    common: dict[str, Any] = {"threads": 1, "device": "cpu"}
    score_file(PrmScoreOptions(input=rows, scorer=ScorerOptions(prm=prm, **common)))
    explicit = open_scorer(ScorerOptions(prm=prm, reference=str(run.parent.parent / "model"), **common), Console())
    (scored,) = lines(tmp_path / "rows.scores.jsonl")
    tokens = explicit.prm.start.tokenizer
    (rewards,) = explicit.rewards([(tuple(tokens("ab=").input_ids), encode_response("a", tokens))])
    assert scored["token_rewards"] == pytest.approx(rewards.tolist(), abs=1e-6)
    assert max(map(abs, scored["token_rewards"])) > 0

    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"prompt": "ab", "answer": "a"}\n')
    evaluate(
        EvaluateOptions(
            model=str(out / "policy"), benchmarks=str(problems), kind="exact", max_tokens=2, prm=prm, **common
        )
    )
    again = trained(tmp_path, model__path=str(out / "policy"), prm__path=prm, run__steps=1)
    assert (again / "checkpoints" / "step-000001").is_dir()


def test_cards_are_what_the_hub_reads(run: Path, tmp_path: Path):
    out = exported(run, tmp_path / "out")
    for role, tag in (("policy", "prime"), ("prm", "process-reward-model")):
        said = header(out / role)
        assert said["library_name"] == "transformers"
        assert tag in said["tags"]
        assert "base_model" not in said
        content = (out / role / "README.md").read_text()
        state = json.loads((run / "checkpoints" / "step-000003" / "state.json").read_text())
        assert state["collector"]["stream"]["problems"] in content
        assert (run / "config.toml").read_text() in content
        last = lines(run / "evaluation.jsonl")[-1]
        assert f"| 3 | {last['eval/accuracy']:.3f} | {last['eval/accuracy_low']:.3f} to" in content
        assert f"| `prm/loss` | {lines(run / 'metrics.jsonl')[-1]['prm/loss']:.6g} |" in content
        assert "time/step" not in content


def test_without_a_prm_there_is_a_policy_alone(tmp_path: Path):
    run = trained(tmp_path, prm__enabled=False, prm__lr=None, run__steps=1, filter__drop_unanimous=True)
    assert [path.name for path in exported(run, tmp_path / "out").iterdir()] == ["policy"]


def test_the_average_is_what_scores(tmp_path: Path):
    run = trained(tmp_path, prm__ema=0.9, run__steps=1)
    saved = run / "checkpoints" / "step-000001"
    out = exported(run, tmp_path / "out")
    assert same(weights(out / "prm"), weights(saved / "prm-average"))
    assert not same(weights(out / "prm"), weights(saved / "prm"))


@pytest.mark.parametrize("reference", ["policy", "own"])
def test_other_references_are_named_and_found(reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    other = tiny_model(tmp_path / "other", seed=5)
    run = trained(tmp_path, prm__reference=reference, prm__path=str(other), run__steps=1)
    monkeypatch.chdir(tmp_path)
    out = exported(run, Path("out")).resolve()
    monkeypatch.chdir(out / "prm")
    scorer = open_scorer(ScorerOptions(prm=str(out / "prm"), threads=1, device="cpu"), Console())
    assert scorer.prm.reference is not None
    named = scorer.prm.record.reference if scorer.prm.record is not None else ""
    assert named == str(tmp_path / ("out/policy" if reference == "policy" else "other"))


def test_adapters_merged_or_kept(tmp_path: Path):
    run = trained(tmp_path, lora__rank=2, lora__alpha=4.0, run__steps=1)
    saved = run / "checkpoints" / "step-000001"
    merged = exported(run, tmp_path / "merged")
    assert same(weights(merged / "prm"), weights(saved / "prm"))
    kept = exported(run, tmp_path / "kept", adapters="kept")
    for role in ("policy", "prm"):
        names = {path.name for path in (kept / role).iterdir()}
        assert {WEIGHTS, "adapter_config.json", "tokenizer.json", "README.md"} <= names
        assert not names & {"model.safetensors", "config.json"}
        copied, source = (
            load_file(at / "adapter_model.safetensors") for at in (kept / role, saved / f"{role}-adapter")
        )
        assert same(copied, source)
        assert header(kept / role)["library_name"] == "peft"
    tiny_model(tmp_path / "model", seed=9)
    with pytest.raises(ValueError, match="holds other weights"):
        exported(run, tmp_path / "again", adapters="kept")
    assert not (tmp_path / "again").exists()


def test_a_model_that_reads_back_differently_is_noticed(run: Path, tmp_path: Path):
    source, copy = run / "checkpoints" / "step-000001" / "policy", tmp_path / "copy"
    shutil.copytree(source, copy)
    assert refuse_difference(copy, source) == fingerprint(load_model(str(source)))
    altered = {name: weight.clone() for name, weight in weights(copy).items()}
    next(iter(altered.values())).view(-1)[0] += 1e-6
    save_file(altered, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="does not read back"):
        refuse_difference(copy, source)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"to": None}, "--to is missing"),
        ({"to": "."}, "is there already"),
        ({"step": 7}, r"step 7; it has 1, 2, 3\."),
        ({"step": 2, "best": True}, "one of them"),
        ({"adapters": "kept"}, "lora.rank"),
        ({"run": "absent"}, "absent holds no checkpoints"),
    ],
)
def test_mistakes(options: dict[str, Any], named: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    paths = {key: Path(options[key]) for key in ("run", "to") if options.get(key)}
    with pytest.raises(ValueError, match=named):
        export(ExportOptions(**{"run": run, "to": Path("out"), **options, **paths}))
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_version_is_named(run: Path, tmp_path: Path):
    from credo.checkpoint.folder import seal

    copy = tmp_path / "run"
    shutil.copytree(run / "checkpoints" / "step-000001", copy / "checkpoints" / "aside")
    aside = copy / "checkpoints" / "aside"
    state = json.loads((aside / "state.json").read_text())
    state["config"]["filter.bygone"] = 1
    (aside / "state.json").write_text(json.dumps(state))
    (aside / "manifest.json").unlink()
    seal(aside, aside.with_name("step-000001"))
    with pytest.raises(ValueError, match=r"another version of credo: .*filter\.bygone"):
        exported(copy, tmp_path / "out")
