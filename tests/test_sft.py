"""Tiny warm-ups: the loss is that of the responses alone, it falls, and the folder that is left can be used."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from credo.config import SftConfig
from credo.models import precision
from credo.models.causal import build_model, load_model, save_model
from credo.recipe import build
from credo.sft import sft

ROWS = [("12+3=", "15"), ("4+4=", "8"), ("1+1+1=", "1+1=2;2+1=3")]
ARCHITECTURE = {"layers": 1, "width": 16, "heads": 2, "positions": 32, "alphabet": "0123456789+=;"}


@pytest.fixture
def rows(tmp_path: Path) -> str:
    """A file of demonstrations."""
    path = tmp_path / "demonstrations.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in ROWS))
    return str(path)


def recipe(source: str, folder: Path, **sections: dict[str, Any]) -> SftConfig:
    values: dict[str, dict[str, Any]] = {
        "run": {"name": "warm", "folder": str(folder), "steps": 20, "threads": 1, "device": "cpu"},
        "sft": {"sources": [source], "batch": 3, "lr": 1e-2, "max_tokens": 32},
    }
    if "model" not in sections:
        values["architecture"] = dict(ARCHITECTURE)
    for name, options in sections.items():
        values[name] = values.get(name, {}) | options
    return build(SftConfig, values)


def losses(folder: Path, name: str = "warm") -> list[float]:
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["sft/loss"] for line in lines]


@torch.no_grad()
def oracle_loss(causal: Any, rows: list[tuple[str, str]] = ROWS) -> float:
    """Cross-entropy per token over the responses and their end tokens, one row at a time, from all logits."""
    total, count = 0.0, 0
    for prompt, response in rows:
        before, said = causal.tokenizer(prompt).input_ids, causal.tokenizer(response).input_ids
        tokens = torch.tensor([[*before, *said, causal.tokenizer.eos_token_id]])
        logprobs = torch.log_softmax(causal.model(input_ids=tokens).logits[0], dim=-1)
        for s in range(len(before), tokens.shape[1]):
            total -= logprobs[s - 1, tokens[0, s]].item()
            count += 1
    return total / count


def test_the_loss_is_that_of_responses_and_their_ends(rows: str, tmp_path: Path):
    config = recipe(rows, tmp_path, run={"steps": 1, "seed": 4})
    target = sft(config)
    assert config.architecture is not None
    start = build_model(config.architecture, seed=4)
    assert losses(tmp_path) == pytest.approx([oracle_loss(start)], abs=1e-5)
    assert oracle_loss(load_model(str(target))) < oracle_loss(start)


@pytest.mark.parametrize("tokens_per_microbatch", [1, 20])
def test_micro_batches_do_not_matter(rows: str, tmp_path: Path, tokens_per_microbatch: int):
    sft(recipe(rows, tmp_path, run={"steps": 3, "name": "whole"}))
    limit = {"tokens_per_microbatch": tokens_per_microbatch}
    sft(recipe(rows, tmp_path, run={"steps": 3, "name": "cut"}, training=limit))
    assert losses(tmp_path, "cut") == pytest.approx(losses(tmp_path, "whole"), abs=1e-4)


def test_it_learns_and_leaves_a_model_that_can_be_loaded(rows: str, tmp_path: Path):
    target = sft(recipe(rows, tmp_path))
    assert target == tmp_path / "warm" / "model"
    curve = losses(tmp_path)
    assert len(curve) == 20
    assert curve[-1] < 0.8 * curve[0]
    tuned = load_model(str(target))
    assert oracle_loss(tuned) < curve[-2]
    assert tuned.tokenizer.decode(tuned.tokenizer("12+3=").input_ids) == "12+3="
    assert (tmp_path / "warm" / "config.toml").exists()
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="needs the extra gym")
def test_it_learns_from_worked_traces(tmp_path: Path):
    shape = "min_terms=3&max_terms=3&min_digits=1&max_digits=1"
    source = f"trace:chain_sum?size=40&seed=7&{shape}&guess_share=0.5&prompt=expression"
    alphabet = {"alphabet": "0123456789+-=;#"}
    sft(recipe(source, tmp_path, sft={"batch": 16}, architecture=ARCHITECTURE | alphabet))
    curve = losses(tmp_path)
    assert curve[0] > 2.5, "near ln 18, as nothing is known at first"
    assert curve[-1] < 0.9 * curve[0]


def test_the_same_recipe_gives_the_same_model_and_another_seed_another(rows: str, tmp_path: Path):
    # Two of three demonstrations a step, so that the order matters and batches span epochs.
    options = {"sft": {"batch": 2}}
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        sft(recipe(rows, tmp_path, run={"name": name, "seed": seed, "steps": 5}, **options))
    assert losses(tmp_path, "one") == losses(tmp_path, "two") != losses(tmp_path, "three")
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("one", "two", "three")]
    assert weights[0] == weights[1] != weights[2]


def test_a_batch_larger_than_the_file_shows_rows_again(rows: str, tmp_path: Path):
    sft(recipe(rows, tmp_path, run={"steps": 1, "name": "once"}))
    sft(recipe(rows, tmp_path, run={"steps": 1, "name": "twice"}, sft={"batch": 6}))
    assert losses(tmp_path, "twice") == pytest.approx(losses(tmp_path, "once"), abs=1e-5)


def test_a_finished_run_is_left_alone(rows: str, tmp_path: Path):
    target = sft(recipe(rows, tmp_path))
    before = {path: path.stat().st_mtime_ns for path in target.iterdir()}
    curve = losses(tmp_path)
    assert sft(recipe(rows, tmp_path)) == target
    assert {path: path.stat().st_mtime_ns for path in target.iterdir()} == before
    assert losses(tmp_path) == curve


def test_another_recipe_in_the_same_folder_is_refused(rows: str, tmp_path: Path):
    target = sft(recipe(rows, tmp_path, run={"steps": 2}))
    weights = (target / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="another recipe"):
        sft(recipe(rows, tmp_path, run={"steps": 3}))
    assert (target / "model.safetensors").read_bytes() == weights


def test_what_a_killed_run_left_does_not_matter(rows: str, tmp_path: Path):
    sft(recipe(rows, tmp_path, run={"steps": 3, "name": "calm"}))
    folder = tmp_path / "killed"
    (folder / "model.tmp").mkdir(parents=True)
    (folder / "model.tmp" / "model.safetensors").write_bytes(b"half")
    (folder / "metrics.jsonl").write_text('{"step": 1, "sft/loss": 9.0}\n{"step": 2, "sf')
    sft(recipe(rows, tmp_path, run={"steps": 3, "name": "killed"}))
    assert losses(tmp_path, "killed") == losses(tmp_path, "calm")
    assert oracle_loss(load_model(str(folder / "model"))) == oracle_loss(load_model(str(tmp_path / "calm" / "model")))


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A model to tune."""
    config = build(
        SftConfig, {"run": {"name": "x", "steps": 1}, "sft": {"sources": ["x"]}, "architecture": ARCHITECTURE}
    )
    assert config.architecture is not None
    causal = build_model(config.architecture, seed=9)
    save_model(causal.model, causal.tokenizer, tmp_path / "start")
    return tmp_path / "start"


def test_a_model_is_tuned_from_where_it_stands(rows: str, start: Path, tmp_path: Path):
    sft(recipe(rows, tmp_path, run={"name": "first"}, model={"path": str(start)}))
    assert losses(tmp_path, "first")[0] == pytest.approx(oracle_loss(load_model(str(start))), abs=1e-5)
    sft(recipe(rows, tmp_path, run={"name": "second"}, model={"path": str(tmp_path / "first" / "model")}))
    assert losses(tmp_path, "second")[0] < losses(tmp_path, "first")[-2]


def test_an_epoch_shows_every_demonstration_once_in_an_order_of_its_own(rows: str, start: Path, tmp_path: Path):
    """Read from the losses of a model that hardly moves, one demonstration a step."""
    causal = load_model(str(start))
    each = [oracle_loss(causal, [row]) for row in ROWS]

    def shown(seed: int) -> list[list[int]]:
        options = {"sft": {"batch": 1, "lr": 1e-9}, "model": {"path": str(start)}}
        sft(recipe(rows, tmp_path, run={"name": f"slow-{seed}", "seed": seed, "steps": 15}, **options))
        curve = losses(tmp_path, f"slow-{seed}")
        order = [min(range(3), key=lambda row: abs(each[row] - loss)) for loss in curve]
        return [order[first : first + 3] for first in range(0, 15, 3)]

    epochs = shown(1)
    assert all(sorted(epoch) == [0, 1, 2] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert shown(2) != epochs


def test_bf16_trains_too_and_writes_fp32(rows: str, start: Path, tmp_path: Path):
    sft(recipe(rows, tmp_path, run={"name": "exact"}, model={"path": str(start)}))
    target = sft(recipe(rows, tmp_path, run={"name": "rough"}, model={"path": str(start), "compute": "bf16"}))
    exact, rough = losses(tmp_path, "exact"), losses(tmp_path, "rough")
    assert rough != exact
    assert rough == pytest.approx(exact, abs=0.1)
    assert json.loads((target / "config.json").read_text())["dtype"] == "float32"


def test_a_precision_is_chosen_once(rows: str, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = {"path": str(start), "compute": "auto"}
    monkeypatch.setattr(precision, "WORTH", 0.0)
    target = sft(recipe(rows, tmp_path, run={"steps": 2}, model=model))
    written = (target / "config.json").stat().st_mtime_ns
    assert 'compute = "bf16"' in (tmp_path / "warm" / "config.toml").read_text()
    monkeypatch.setattr(precision, "WORTH", math.inf)
    assert sft(recipe(rows, tmp_path, run={"steps": 2}, model=model)) == target
    assert (target / "config.json").stat().st_mtime_ns == written, "it is the same recipe still"
    sft(recipe(rows, tmp_path, run={"steps": 2, "name": "other"}, model=model))
    assert 'compute = "fp32"' in (tmp_path / "other" / "config.toml").read_text()


@pytest.mark.parametrize(("prompt", "response"), [("2*3=", "6"), ("2+3=", "five")])
def test_characters_outside_the_alphabet_are_refused(tmp_path: Path, prompt: str, response: str):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": prompt, "response": response}))
    with pytest.raises(ValueError, match=r"architecture\.alphabet"):
        sft(recipe(str(path), tmp_path))
    assert not (tmp_path / "warm" / "model").exists()


def test_an_end_token_that_is_also_the_unknown_token_is_no_unknown_character(rows: str, start: Path, tmp_path: Path):
    """As with GPT-2, whose tokenizer knows every byte and calls its end token the unknown one."""
    settings = json.loads((start / "tokenizer_config.json").read_text())
    (start / "tokenizer_config.json").write_text(json.dumps(settings | {"unk_token": "<eos>"}))
    assert sft(recipe(rows, tmp_path, run={"steps": 1}, model={"path": str(start)})).exists()


def test_demonstrations_over_the_limit_are_refused(rows: str, tmp_path: Path):
    """The longest is 1+1+1= with 1+1=2;2+1=3 and the end token: 6 + 11 + 1 tokens."""
    with pytest.raises(ValueError, match="18 tokens"):
        sft(recipe(rows, tmp_path, sft={"max_tokens": 17}))
    assert sft(recipe(rows, tmp_path, sft={"max_tokens": 18}, run={"steps": 1})).exists()


def test_a_loss_that_explodes_stops_the_run_without_a_model(rows: str, tmp_path: Path):
    with pytest.raises(RuntimeError, match=r"lower sft\.lr"):
        sft(recipe(rows, tmp_path, sft={"lr": 1e30, "lr_warmup": 0.0}))
    assert not (tmp_path / "warm" / "model").exists()


def test_an_interrupted_run_keeps_what_it_has(rows: str, tmp_path: Path):
    config = recipe(rows, tmp_path, run={"steps": 1_000_000})
    metrics = tmp_path / "warm" / "metrics.jsonl"

    def interrupt() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") >= 3):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    sft(config)
    thread.join()
    curve = losses(tmp_path)
    assert 3 <= len(curve) < 1_000_000
    assert not (tmp_path / "warm" / "model").exists()
    partial = tmp_path / "warm" / f"model-step-{len(curve):06d}"
    assert oracle_loss(load_model(str(partial))) < curve[0]
