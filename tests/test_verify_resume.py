"""Two runs that are the same are found the same, each thing that differs is named, and a recipe is proved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from learners import OPTIMIZERS, flip
from safetensors.torch import load_file, save_file
from tiny import PAIRS, tiny_config, tiny_problems, tiny_recipe

from credo.cli import main
from credo.train import train
from credo.verify_resume import compare, table

SAVED = "checkpoints/step-000002"
CHANGES: dict[str, Any] = {
    "prm__ema": 0.5,
    "advantage__estimator": "gae",
    "advantage__outcome_coef": 1.0,
    "rollout__ahead": True,
    "policy__importance_cap": 2.0,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps, with a checkpoint after the second."""
    return train(tiny_config(tmp_path_factory.mktemp("run"), checkpoint__keep=3, **CHANGES))


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "copy")


def differing(one: Path, other: Path) -> dict[str, str]:
    found = {comparison.what: comparison.difference for comparison in compare(one, other, 2)}
    return {what: difference for what, difference in found.items() if difference}


def rewrite(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text() if path.exists() else ""))


def tensors(copy: Path, prefix: str) -> None:
    """Moves one number of the first tensor of that name by the last bit."""
    path = copy / SAVED / OPTIMIZERS
    loaded = load_file(path)
    name = min(name for name in loaded if name.startswith(prefix) and loaded[name].numel() > 1)
    first = loaded[name].view(-1)
    first[0] = torch.nextafter(first[0], first[0] + 1) if first.is_floating_point() else first[0] + 1
    save_file(loaded, path)


def state(copy: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = copy / SAVED / "state.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


ALTERED: dict[str, Callable[[Path], None]] = {
    "policy: weights": lambda copy: flip(copy / SAVED / "policy" / "model.safetensors"),
    "policy: optimiser": lambda copy: tensors(copy, "policy/"),
    "PRM: weights": lambda copy: flip(copy / SAVED / "prm" / "model.safetensors"),
    "PRM: average of weights": lambda copy: shutil.rmtree(copy / SAVED / "prm-average"),
    "PRM: optimiser": lambda copy: tensors(copy, "prm/"),
    "critic: weights": lambda copy: tensors(copy, "critic-weights/"),
    "critic: optimiser": lambda copy: tensors(copy, "critic/"),
    "random state": lambda copy: tensors(copy, "random"),
    "data stream": lambda copy: state(copy, lambda values: values["collector"]["stream"].update(next=0)),
    "surplus groups": lambda copy: state(copy, lambda values: values["collector"].update(surplus_version=99)),
    "batch sampled ahead": lambda copy: state(copy, lambda values: values["collector"]["ahead"]["groups"].pop()),
    "watch and gate": lambda copy: state(copy, lambda values: values["watch"].update(empty_steps=7)),
    "metrics": lambda copy: rewrite(copy / "metrics.jsonl", lambda text: text.replace('"step": 2', '"step": 1')),
    "evaluations": lambda copy: rewrite(copy / "evaluation.jsonl", lambda text: '{"step": 0, "scores": [1.0]}\n'),
    "rollouts": lambda copy: rewrite(copy / "rollouts/step-000001.jsonl", lambda text: text.replace("stop", "length")),
    "next batch": lambda copy: (copy / "rollouts/step-000003.jsonl").unlink(),
}


def test_a_run_is_the_same_as_itself_but_for_its_times(run: Path, copy: Path):
    rewrite(copy / "metrics.jsonl", lambda text: text.replace('"time/step": ', '"time/step": 9'))
    compared = compare(run, copy, 2)
    assert {comparison.what for comparison in compared} == ALTERED.keys()
    assert not differing(run, copy)
    assert [comparison.what for comparison in compared if not comparison.count] == ["evaluations"]
    assert table(compared).count("  equal") == len(ALTERED) - 1


@pytest.mark.parametrize("what", ALTERED)
def test_whatever_differs_is_named(run: Path, copy: Path, what: str):
    ALTERED[what](copy)
    assert differing(run, copy).keys() == {what}
    assert differing(copy, run).keys() == {what}


def test_the_first_difference_says_where_and_how_much(run: Path, copy: Path):
    tensors(copy, "critic-weights/")
    assert "1 of 16 numbers" in differing(run, copy)["critic: weights"]
    state(copy, lambda values: values["collector"]["stream"].update(next=99))
    assert "stream.next: " in differing(run, copy)["data stream"]


def test_a_recipe_is_proved_and_the_proof_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Also one whose best checkpoints are by a metric that so few steps do not know."""
    best = {"checkpoint__every": 10, "checkpoint__best": 1, "checkpoint__metric": "eval/accuracy_low"}
    held_out = {
        "evaluation__sources": [str(tiny_problems(tmp_path / "held-out.jsonl", PAIRS[:2]))],
        "evaluation__every": 10,
    }
    changes = {"run__steps": 50, "prm__warmup_steps": 9, "checkpoint__asynchronous": True, **best, **held_out}
    recipe = tiny_recipe(tmp_path, **changes)
    main(["verify-resume", str(recipe), "--steps", "1", "--output", str(tmp_path / "proof.json")])
    proof = json.loads((tmp_path / "proof.json").read_text())
    assert proof["equal"]
    assert (proof["killed_in_step"], proof["resumed_after_step"], proof["compared_after_step"]) == (2, 1, 2)
    assert proof["versions"]["torch"] == torch.__version__
    compared = {found["what"]: found for found in proof["compared"]}
    assert all(found["equal"] and found["difference"] is None for found in compared.values())
    assert all(compared[what]["count"] for what in ("policy: optimiser", "random state", "next batch"))
    assert not list((tmp_path / "runs").iterdir()), "of the runs nothing stays"
    said = capfd.readouterr().out
    assert "Resumed after step 1" in said
    assert "policy: weights" in said


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--steps", "0"], "--steps"),
        (["--steps", "few"], "--steps"),
        (["--launch.kind", "ray", "--launch.workers", "2"], "launch.kind"),
        (["--data.train", "absent.jsonl"], "absent.jsonl"),
    ],
)
def test_what_cannot_be_proved_is_refused(
    tmp_path: Path, flags: list[str], named: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as leaving:
        main(["verify-resume", str(tiny_recipe(tmp_path)), *flags])
    assert leaving.value.code == 1
    assert named in capsys.readouterr().err
