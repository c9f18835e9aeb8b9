"""Tiny warm-ups: the loss is that of the responses alone, it falls, and the folder that is left can be used."""

from __future__ import annotations

import importlib.util
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

from credo.config import SftConfig
from credo.models import precision
from credo.models.causal import build_model, load_model, save_model
from credo.recipe import build
from credo.sft import sft
from tests.tiny import lines, untimed

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


def test_an_interrupted_run_keeps_what_it_has_and_goes_on(rows: str, tmp_path: Path):
    config = recipe(rows, tmp_path, run={"steps": 1_000_000})
    metrics = tmp_path / "warm" / "metrics.jsonl"

    def interrupt(least: int) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") >= least):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    made = 0
    for _ in range(2):
        thread = threading.Thread(target=interrupt, args=(made + 3,))
        thread.start()
        sft(config)
        thread.join()
        curve = losses(tmp_path)
        assert made + 3 <= len(curve) < 1_000_000
        assert not (tmp_path / "warm" / "model").exists()
        partial = tmp_path / "warm" / "checkpoints" / f"step-{len(curve):06d}" / "policy"
        assert oracle_loss(load_model(str(partial))) < curve[0]
        made = len(curve)


def metrics_of(folder: Path, name: str = "warm") -> list[dict[str, Any]]:
    return untimed(lines(folder / name / "metrics.jsonl"))


def test_epochs_stand_for_steps(rows: str, tmp_path: Path):
    """Five epochs of three demonstrations are fifteen of them: eight batches of two."""
    sft(recipe(rows, tmp_path, run={"steps": 0, "name": "epochs"}, sft={"epochs": 5.0, "batch": 2}))
    sft(recipe(rows, tmp_path, run={"steps": 8, "name": "steps"}, sft={"batch": 2}))
    assert metrics_of(tmp_path, "epochs") == metrics_of(tmp_path, "steps")
    assert [row["sft/epoch"] for row in metrics_of(tmp_path, "epochs")] == [2 * step / 3 for step in range(1, 9)]


def test_metrics_by_hand(rows: str, tmp_path: Path):
    """Of 10 steps 2 warm up. Prompts have 5, 4 and 6 tokens, responses with their ends 3, 2 and 12."""
    sft(recipe(rows, tmp_path, run={"steps": 10}, sft={"lr_warmup": 0.2, "lr": 0.01}))
    written = metrics_of(tmp_path)
    rates = [0.01 * factor for factor in (1 / 3, 2 / 3, 1.0)]
    assert [row["sft/lr"] for row in written[:3]] == pytest.approx(rates)
    assert written[6]["sft/lr"] == pytest.approx(0.005), "half way down"
    assert {row["sft/tokens"] for row in written} == {32.0}
    assert [row["time/step"] > 0 for row in lines(tmp_path / "warm" / "metrics.jsonl")] == [True] * 10


def test_the_held_out_loss_is_that_of_the_held_out_and_teaches_nothing(rows: str, tmp_path: Path):
    other = tmp_path / "held-out.jsonl"
    apart = [("5+5=", "10"), ROWS[1]]
    other.write_text("".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in apart))
    shown = tmp_path / "two.jsonl"
    shown.write_text("".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in (ROWS[0], ROWS[2])))
    held = {"held_out": [str(other)], "evaluate_every": 2, "batch": 2}
    alphabet = {"alphabet": "0123456789+=;"}
    sft(recipe(rows, tmp_path, run={"steps": 5, "name": "held"}, sft=held, architecture=alphabet))
    sft(recipe(str(shown), tmp_path, run={"steps": 5, "name": "bare"}, sft={"batch": 2}, architecture=alphabet))
    written = metrics_of(tmp_path, "held")
    losses_by_step = {row["step"]: row["sft/held_out_loss"] for row in written if "sft/held_out_loss" in row}
    assert list(losses_by_step) == [0, 2, 4, 5]
    config = recipe(rows, tmp_path)
    assert config.architecture is not None
    assert losses_by_step[0] == pytest.approx(oracle_loss(build_model(config.architecture, seed=0), apart), abs=1e-5)
    trained = load_model(str(tmp_path / "held" / "model"))
    assert losses_by_step[5] == pytest.approx(oracle_loss(trained, apart), abs=1e-5)
    learnt = [{key: row[key] for key in row if key != "sft/held_out_loss"} for row in written[1:]]
    assert learnt == metrics_of(tmp_path, "bare"), "a prompt that is held out is not shown"


def test_a_share_is_held_out_by_the_seed(rows: str, tmp_path: Path):
    curves = {}
    for seed in range(4):
        name = f"share-{seed}"
        options = {"held_out_share": 0.4, "batch": 2, "lr": 1e-9}
        sft(recipe(rows, tmp_path, run={"steps": 1, "name": name, "seed": seed}, sft=options))
        curves[seed] = metrics_of(tmp_path, name)[0]["sft/held_out_loss"]
    config = recipe(rows, tmp_path)
    assert config.architecture is not None
    for seed, loss in curves.items():
        each = [oracle_loss(build_model(config.architecture, seed=seed), [row]) for row in ROWS]
        assert min(abs(loss - one) for one in each) < 1e-5, "one of three prompts"


def test_longer_demonstrations_are_counted(rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sft(recipe(rows, tmp_path, run={"steps": 1, "name": "cut"}, sft={"max_tokens": 7, "too_long": "truncate"}))
    assert "2 of 3 demonstrations" in capsys.readouterr().out
    sft(recipe(rows, tmp_path, run={"steps": 1, "name": "dropped"}, sft={"max_tokens": 7, "too_long": "drop"}))
    assert "0 truncated, 2 dropped" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"No demonstration of sft\.sources"):
        sft(recipe(rows, tmp_path, run={"name": "none"}, sft={"max_tokens": 5, "too_long": "drop"}))


def test_every_answer_of_a_conversation_counts_and_nothing_else(tmp_path: Path):
    shape = ARCHITECTURE | {"alphabet": "0123456789+=;UA\n", "positions": 64}
    built = build_model(recipe("x", tmp_path, architecture=shape).architecture or pytest.fail("no shape"), seed=3)
    built.tokenizer.chat_template = (
        "{% for message in messages %}{{ 'U' if message.role == 'user' else 'A' }}{{ message.content }}"
        "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}A{% endif %}"
    )
    save_model(built.model, built.tokenizer, tmp_path / "chatty")
    turns = [("user", "1+1"), ("assistant", "2"), ("user", "2+2"), ("assistant", "2+2=4")]
    path = tmp_path / "talk.jsonl"
    path.write_text(json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}))
    sft(recipe(str(path), tmp_path, run={"steps": 1}, sft={"batch": 1}, model={"path": str(tmp_path / "chatty")}))
    text = ["U1+1\nA", "2<eos>", "\nU2+2\nA", "2+2=4<eos>"]
    pieces = [built.tokenizer(piece).input_ids for piece in text]
    tokens = torch.tensor([[token for piece in pieces for token in piece]])
    logprobs = torch.log_softmax(built.model(input_ids=tokens).logits[0], dim=-1).detach()
    learnt = [place % 2 == 1 for place, piece in enumerate(pieces) for _ in piece]
    losses_of = [-logprobs[s - 1, tokens[0, s]].item() for s in range(len(learnt)) if learnt[s]]
    assert len(losses_of) == 2 + 6
    assert losses(tmp_path)[0] == pytest.approx(sum(losses_of) / 8, abs=1e-5)


def test_other_demonstrations_do_not_continue_a_run(rows: str, tmp_path: Path):
    sft(recipe(rows, tmp_path, run={"steps": 4}, checkpoint={"every": 2}))
    shutil.rmtree(tmp_path / "warm" / "model")
    with Path(rows).open("a") as file:
        file.write(json.dumps({"prompt": "1+2=", "response": "3"}) + "\n")
    with pytest.raises(ValueError, match="is not what the run"):
        sft(recipe(rows, tmp_path, run={"steps": 4}, checkpoint={"every": 2}))


def test_a_run_goes_on_with_the_options_on_which_no_number_depends(rows: str, tmp_path: Path):
    sft(recipe(rows, tmp_path, run={"steps": 4}, checkpoint={"every": 2}))
    before = metrics_of(tmp_path)
    weights = (tmp_path / "warm" / "model" / "model.safetensors").read_bytes()
    for folder in ("model", "checkpoints/step-000004"):
        shutil.rmtree(tmp_path / "warm" / folder)
    for steps, options in ((5, {}), (4, {"lr": 0.1})):
        with pytest.raises(ValueError, match="when this run was started"):
            sft(recipe(rows, tmp_path, run={"steps": steps}, sft=options))
    sft(recipe(rows, tmp_path, run={"steps": 4}, checkpoint={"every": 3, "keep": 1}))
    assert metrics_of(tmp_path) == before
    assert (tmp_path / "warm" / "model" / "model.safetensors").read_bytes() == weights
    assert [path.name for path in (tmp_path / "warm" / "checkpoints").iterdir()] == ["step-000004"]


def test_the_best_checkpoints_stay(rows: str, tmp_path: Path):
    """At a learning rate that is far too high the first steps are the best."""
    options = {"held_out_share": 0.4, "evaluate_every": 1, "lr": 0.5, "lr_warmup": 0.5}
    keep = {"every": 1, "keep": 1, "best": 1, "metric": "-sft/held_out_loss"}
    sft(recipe(rows, tmp_path, run={"steps": 6}, sft=options, checkpoint=keep))
    known = {row["step"]: row["sft/held_out_loss"] for row in metrics_of(tmp_path) if row["step"]}
    best = min(known, key=lambda step: (known[step], -step))
    kept = {int(path.name.removeprefix("step-")) for path in (tmp_path / "warm" / "checkpoints").iterdir()}
    assert kept == {best, 6}
