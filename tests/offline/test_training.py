"""Tiny offline PRMs: every loss learns to rank, the folder that is left says what it is, and mistakes are named."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import LETTERS, lines, tiny_model, untimed

from credo.algo.rewards import sequence_logits
from credo.config import OfflineConfig, PrmTrainingConfig
from credo.data.prm_record import read_record
from credo.models.causal import fingerprint, load_model
from credo.offline.folder import load_prm
from credo.offline.training import REFERENCE, floored, train_prm, unit_loss
from credo.recipe import build

PROMPTS = [f"{first}{second}=" for first in LETTERS for second in LETTERS]


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Four responses to each of 16 prompts; those that begin with an a or a b are right."""
    rows = [
        {"prompt": prompt, "response": letter + letter, "label": letter in "ab"}
        for prompt in PROMPTS
        for letter in LETTERS
    ]
    path = tmp_path / "labelled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe(folder: Path, source: Path, **offline: Any) -> PrmTrainingConfig:
    run = offline.pop("run", {})
    if not (folder / "model").exists():
        tiny_model(folder / "model")
    values = {
        "run": {"name": "prm", "folder": str(folder / "runs"), "steps": 30, "threads": 1, "device": "cpu"} | run,
        "model": {"path": str(folder / "model")} | offline.pop("model", {}),
        "offline": {"sources": [str(source)], "batch": 16, "lr": 1e-2, "beta": 0.5} | offline,
        "training": {"tokens_per_microbatch": 64},
    }
    return build(PrmTrainingConfig, values)


def figures(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "prm.json").read_text())["held_out"]["scores"]


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "ce"},
        {"loss": "dpo"},
        {"loss": "nca", "pairs": "all"},
        {"loss": "kto", "correct_weight": 1.2},
        *({"loss": "ce", "balance": balance} for balance in ("class", "dataset", "instruction")),
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_every_loss_learns_to_rank_problems_it_has_not_seen(options: dict[str, Any], labelled: Path, tmp_path: Path):
    target = train_prm(recipe(tmp_path, labelled, **options))
    assert target == tmp_path / "runs" / "prm" / "prm"
    curve = lines(tmp_path / "runs" / "prm" / "metrics.jsonl")
    assert [row["step"] for row in curve] == list(range(31))
    assert curve[0]["offline/pair_accuracy"] == curve[0]["offline/auc"] == 0.5
    assert curve[-1]["offline/loss"] < curve[1]["offline/loss"]
    found = figures(target)
    assert found["prm"]["auc"]["value"] > 0.9
    assert found["prm"]["pair_accuracy"]["value"] > 0.9
    assert found["length"]["pair_accuracy"]["value"] == 0.5, "all responses are as long"
    assert found["length"]["auc_gain"]["value"] == pytest.approx(found["prm"]["auc"]["value"] - 0.5)


def test_the_folder_is_a_model_with_its_record(labelled: Path, tmp_path: Path):
    config = recipe(tmp_path, labelled, run={"steps": 2}, suffix="=")
    target = train_prm(config)
    start = load_model(str(tmp_path / "model"))
    record = read_record(str(target))
    assert record is not None
    assert (record.beta, record.loss, record.steps, record.prompting.suffix) == (0.5, "ce", 2, "=")
    assert record.reference == config.model.path
    assert record.reference_sha256 == fingerprint(start)
    assert fingerprint(load_model(str(target))) != fingerprint(start)
    assert record.training["responses"] + record.training["held_out_responses"] == 64
    assert record.training["held_out_problems"] == 3, "a fifth of 16 problems"
    said = (target / "REPORT.md").read_text()
    assert record.reference_sha256 in said
    assert "length alone" in said
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_first_loss_is_that_of_equal_models_and_the_reference_stays(labelled: Path, tmp_path: Path):
    train_prm(recipe(tmp_path, labelled, run={"steps": 2}, batch=8))
    curve = lines(tmp_path / "runs" / "prm" / "metrics.jsonl")
    assert curve[1]["offline/loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert curve[2]["offline/loss"] != pytest.approx(math.log(2), abs=1e-5)


def test_another_reference_is_measured_against_and_recorded(labelled: Path, tmp_path: Path):
    other = tiny_model(tmp_path / "other", seed=5)
    target = train_prm(recipe(tmp_path, labelled, run={"steps": 1}, reference_path=str(other)))
    record = read_record(str(target))
    assert record is not None
    assert record.reference_sha256 == fingerprint(load_model(str(other)))
    curve = lines(tmp_path / "runs" / "prm" / "metrics.jsonl")
    assert abs(curve[1]["offline/loss"] - math.log(2)) > 1e-3
    tiny_model(tmp_path / "foreign", alphabet="abcdef=")
    with pytest.raises(ValueError, match="another tokenizer"):
        train_prm(recipe(tmp_path, labelled, run={"name": "b"}, reference_path=str(tmp_path / "foreign")))


@pytest.mark.parametrize("own", [True, False])
def test_the_reference_is_found_from_any_folder(
    own: bool, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tiny_model(tmp_path / "model")
    tiny_model(tmp_path / "other", seed=5)
    monkeypatch.chdir(tmp_path)
    reference = {} if own else {"reference_path": "other"}
    target = train_prm(recipe(tmp_path, labelled, run={"steps": 1}, model={"path": "model"}, **reference))
    monkeypatch.chdir("/")
    prm = load_prm(str(target), "auto", device="cpu")
    assert prm.record is not None
    assert prm.record.reference == str((tmp_path / ("model" if own else "other")).resolve())


@pytest.mark.parametrize("loss", ["ce", "dpo", "nca", "kto"])
def test_micro_batches_do_not_matter(loss: str, labelled: Path, tmp_path: Path):
    for name, tokens in (("whole", 4096), ("cut", 1)):
        config = recipe(tmp_path, labelled, run={"name": name, "steps": 3}, loss=loss)
        values = {"tokens_per_microbatch": tokens}
        train_prm(build(PrmTrainingConfig, {**as_values(config), "training": values}))
    whole, cut = (lines(tmp_path / "runs" / name / "metrics.jsonl") for name in ("whole", "cut"))
    for one, other in zip(untimed(whole), untimed(cut), strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def as_values(config: PrmTrainingConfig) -> dict[str, Any]:
    import tomllib

    from credo.recipe import to_toml

    return tomllib.loads(to_toml(config))


def test_the_same_recipe_gives_the_same_prm_and_another_seed_another(labelled: Path, tmp_path: Path):
    weights = []
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        target = train_prm(recipe(tmp_path, labelled, run={"name": name, "seed": seed, "steps": 3}))
        weights.append((target / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_problems_that_are_held_out_by_a_file_are_not_learnt_from(labelled: Path, tmp_path: Path):
    rows = labelled.read_text().splitlines()
    (tmp_path / "validation.jsonl").write_text("\n".join(rows[:8]))
    target = train_prm(recipe(tmp_path, labelled, run={"steps": 1}, held_out=[str(tmp_path / "validation.jsonl")]))
    record = read_record(str(target))
    assert record is not None
    assert (record.training["problems"], record.training["held_out_problems"]) == (14, 2)


def test_unknown_labels_and_long_responses_are_left_out_and_counted(labelled: Path, tmp_path: Path):
    with labelled.open("a") as file:
        file.write(json.dumps({"prompt": "ab=", "response": "a", "label": None}) + "\n")
        file.write(json.dumps({"prompt": "ab=", "response": "abcabc", "label": 1}) + "\n")
    target = train_prm(recipe(tmp_path, labelled, run={"steps": 1}, max_tokens=8))
    record = read_record(str(target))
    assert record is not None
    assert (record.training["unknown_labels"], record.training["too_long"]) == (1, 1)


def test_a_finished_run_is_left_alone_and_another_recipe_refused(labelled: Path, tmp_path: Path):
    target = train_prm(recipe(tmp_path, labelled, run={"steps": 1}))
    before = {path: path.stat().st_mtime_ns for path in target.iterdir()}
    assert train_prm(recipe(tmp_path, labelled, run={"steps": 1})) == target
    assert {path: path.stat().st_mtime_ns for path in target.iterdir()} == before
    with pytest.raises(ValueError, match="another recipe"):
        train_prm(recipe(tmp_path, labelled, run={"steps": 2}))


def test_validation_on_the_way(labelled: Path, tmp_path: Path):
    train_prm(recipe(tmp_path, labelled, run={"steps": 5}, evaluate_every=2))
    curve = lines(tmp_path / "runs" / "prm" / "metrics.jsonl")
    assert [row["step"] for row in curve if "offline/auc" in row] == [0, 2, 4, 5]


@pytest.mark.parametrize(
    ("rows", "options", "named"),
    [
        ([], {}, "no rows"),
        ([{"prompt": "ab=", "response": "a", "label": 1}] * 3, {}, "to learn from"),
        ([{"prompt": p, "response": "a", "label": 1} for p in PROMPTS], {}, "same label"),
        ([{"prompt": p, "response": "a", "label": p < "b"} for p in PROMPTS], {"loss": "dpo"}, "correct and wrong"),
        ([{"prompt": p, "response": "a", "label": p < "b"} for p in PROMPTS], {"balance": "instruction"}, "balance"),
        ([{"prompt": p, "response": "a", "label": None} for p in PROMPTS], {}, "unknown label"),
        ([{"prompt": "ab=", "response": "a", "label": 1}, {"prompt": "b"}], {}, "labelled.jsonl, line 2"),
    ],
)
def test_data_that_teaches_nothing_is_refused(
    rows: list[dict[str, Any]], options: dict[str, Any], named: str, labelled: Path, tmp_path: Path
):
    labelled.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=named):
        train_prm(recipe(tmp_path, labelled, **options))
    assert not (tmp_path / "runs" / "prm" / "prm").exists()


def test_a_loss_that_explodes_stops_the_run_without_a_prm(labelled: Path, tmp_path: Path):
    with pytest.raises(RuntimeError, match=r"lower offline\.lr"):
        train_prm(recipe(tmp_path, labelled, lr=1e30, lr_warmup=0.0))
    assert not (tmp_path / "runs" / "prm" / "prm").exists()


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(labelled: Path, tmp_path: Path):
    calm = train_prm(recipe(tmp_path, labelled, run={"name": "calm"}, evaluate_every=7))
    config = recipe(tmp_path, labelled, evaluate_every=7)
    folder = tmp_path / "runs" / "prm"
    metrics = folder / "metrics.jsonl"

    def interrupt() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") >= 3):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    train_prm(config)
    thread.join()
    assert not (folder / "prm").exists()
    assert lines(metrics)[-1]["step"] < config.run.steps
    before = (folder / REFERENCE).stat().st_mtime_ns
    target = train_prm(config)
    assert (folder / REFERENCE).stat().st_mtime_ns == before, "the reference is asked once"
    assert untimed(lines(metrics)) == untimed(lines(calm.parent / "metrics.jsonl"))
    for name in ("model.safetensors", "prm.json"):
        assert (target / name).read_bytes() == (calm / name).read_bytes()


def test_a_run_that_was_killed_before_its_last_word_says_it(labelled: Path, tmp_path: Path):
    config = recipe(tmp_path, labelled, run={"steps": 3})
    target = train_prm(config)
    said = (target / "prm.json").read_bytes()
    shutil.rmtree(target)
    assert (train_prm(config) / "prm.json").read_bytes() == said


@pytest.mark.parametrize("damage", ["cut", "of others"])
def test_what_the_reference_said_is_not_taken_for_something_else(damage: str, labelled: Path, tmp_path: Path):
    config = recipe(tmp_path, labelled, run={"steps": 2})
    expected = (train_prm(config) / "model.safetensors").read_bytes()
    path = tmp_path / "runs" / "prm" / REFERENCE
    known = path.read_bytes()
    if damage == "cut":
        path.write_bytes(known[:30])
    else:
        found = {name: tensor + 9.0 for name, tensor in load_file(path).items()}
        save_file(found, path, metadata={"about": "another model"})
    for name in ("prm", "checkpoints"):
        shutil.rmtree(path.parent / name)
    (path.parent / "metrics.jsonl").unlink()
    assert (train_prm(config) / "model.safetensors").read_bytes() == expected
    assert path.read_bytes() == known


def test_the_cross_entropy_of_whole_responses_is_that_of_their_tokens():
    ratios = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    outcomes, mask = torch.tensor([1.0, 0.0, 0.5]), torch.ones(3, 4, dtype=torch.bool)
    config = OfflineConfig(sources=("x",), beta=0.3)
    found = unit_loss(ratios.sum(dim=1), outcomes, torch.zeros(()), config, count=3)
    logits = sequence_logits(ratios, mask, 0.3)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, outcomes)
    torch.testing.assert_close(found, expected)


def test_the_schedule_ends_at_its_floor():
    factor = floored(2, 10, 0.1)
    assert [factor(0), factor(1)] == pytest.approx([1 / 3, 2 / 3])
    assert factor(2) == 1.0
    assert factor(6) == pytest.approx(0.55)
    assert factor(10) == pytest.approx(0.1)
