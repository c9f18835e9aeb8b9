"""What goes wrong on the user's side ends in one sentence that names it, with status 1, and loses nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from learners import OPTIMIZERS
from tiny import PAIRS, lines, tiny_problems, tiny_recipe, untimed

from credo.checkpoint import read
from credo.cli import main
from credo.run_folder import RunFolder


def refusal(arguments: list[str | Path], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as leaving:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert leaving.value.code == 1
    assert said.err.startswith("credo: ")
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.out + said.err
    return said.err


def missing_file(folder: Path) -> None:
    (folder / "train.jsonl").unlink()


def empty_file(folder: Path) -> None:
    (folder / "train.jsonl").write_text("")


def malformed_line(folder: Path) -> None:
    path = tiny_problems(folder / "train.jsonl", [*PAIRS, *PAIRS])
    rows = path.read_text().splitlines()
    rows[16] = rows[16][:-1]
    path.write_text("\n".join(rows))


def no_answer(folder: Path) -> None:
    (folder / "train.jsonl").write_text('{"prompt": "ab=", "answer": "a"}\n{"prompt": "ba="}\n')


def no_model(folder: Path) -> None:
    shutil.rmtree(folder / "model")


def an_empty_model_folder(folder: Path) -> None:
    shutil.rmtree(folder / "model")
    (folder / "model").mkdir()


def weights_that_are_none(folder: Path) -> None:
    (folder / "model" / "model.safetensors").write_bytes(b"these are no weights")


def no_end_of_sequence(folder: Path) -> None:
    path = folder / "model" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["eos_token"]
    path.write_text(json.dumps(settings))


def long_prompt(folder: Path) -> None:
    tiny_problems(folder / "train.jsonl", [*PAIRS, ("abcdabcda", "a")])


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (missing_file, ["train.jsonl"]),
        (empty_file, ["train.jsonl"]),
        (malformed_line, ["train.jsonl", "17", "JSON"]),
        (no_answer, ["train.jsonl", "2", "answer"]),
        (no_model, ["model.path"]),
        (an_empty_model_folder, ["model.path", "config.json"]),
        (weights_that_are_none, ["model"]),
        (no_end_of_sequence, ["end-of-sequence"]),
        (long_prompt, ["train.jsonl:17", "data.max_prompt_tokens"]),
    ],
)
def test_what_the_recipe_names_is_not_as_it_should_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], named: list[str]
):
    recipe = tiny_recipe(tmp_path)
    spoil(tmp_path)
    sentence = refusal(["train", recipe], capsys)
    assert all(words in sentence for words in named)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--rollout.temprature", "1"], "rollout.temperature"),
        (["--rollout.per_prompt=1"], "rollout.per_prompt"),
        (["--rollout.prompts", "many"], "rollout.prompts"),
        (["--prm.warmup_steps", "3"], "prm.warmup_steps"),
        (["--run.device", "cuda"], "run.device"),
        (["--run.trackers", "wandb"], "wandb"),
        (["--verify.pattern", "("], "verify.pattern"),
        (["--resume", "no/such/checkpoint"], "no/such/checkpoint"),
        (["--run.folder", "/dev/null"], "/dev/null"),
        (["--model.path", "package:no-such-package"], "no-such-package"),
    ],
)
def test_an_option_is_not_as_it_should_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], named: str
):
    assert named in refusal(["train", tiny_recipe(tmp_path), *flags], capsys)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[rollout]\ntemprature = 1.0\n", "rollout.temperature"),
        ("[rollout]\nprompts = '8'\n", "rollout.prompts"),
        ("[rollout\n", "TOML"),
    ],
)
def test_a_recipe_is_not_as_it_should_be(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, named: str):
    (tmp_path / "more.toml").write_text(text)
    sentence = refusal(["train", tiny_recipe(tmp_path), tmp_path / "more.toml"], capsys)
    assert named in sentence
    assert "more.toml" in sentence


def test_a_mistake_before_the_first_step_is_mended_and_the_run_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recipe = tiny_recipe(tmp_path)
    empty_file(tmp_path)
    refusal(["train", recipe], capsys)
    tiny_problems(tmp_path / "train.jsonl")
    main(["train", str(recipe), "--resume", "never", "--policy.lr", "1e-3"])
    assert len(lines(tmp_path / "runs" / "run" / "metrics.jsonl")) == 3


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def test_a_damaged_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recipe, run = tiny_recipe(tmp_path, run__steps=4), tmp_path / "runs" / "run"
    main(["train", str(recipe)])
    before, newest = untimed(lines(run / "metrics.jsonl")), run / "checkpoints" / "step-000004"
    whole = (newest / "policy" / "model.safetensors").read_bytes()
    flip(newest / "policy" / "model.safetensors")
    capsys.readouterr()

    main(["train", str(recipe)])
    said = capsys.readouterr().out
    assert f"warning: The checkpoint {newest} is damaged" in said
    assert "Resumed after step 2" in said
    assert untimed(lines(run / "metrics.jsonl")) == before
    assert (newest / "policy" / "model.safetensors").read_bytes() == whole

    for folder in (run / "checkpoints").iterdir():
        flip(folder / OPTIMIZERS)
    sentence = refusal(["train", recipe], capsys)
    assert "step-000004, step-000002" in sentence
    assert untimed(lines(run / "metrics.jsonl")) == before


def test_a_run_folder_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recipe = tiny_recipe(tmp_path)
    with RunFolder(tmp_path / "runs" / "run"):
        assert str(tmp_path / "runs" / "run") in refusal(["train", recipe], capsys)


def test_resuming_with_another_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recipe, run = tiny_recipe(tmp_path, run__steps=2), tmp_path / "runs" / "run"
    main(["train", str(recipe)])
    before = lines(run / "metrics.jsonl")
    assert "policy.lr was 0.01" in refusal(["train", recipe, "--policy.lr", "0.02"], capsys)
    assert "already holds a run" in refusal(["train", recipe, "--resume", "never"], capsys)
    tiny_problems(tmp_path / "train.jsonl", PAIRS[1:])
    assert "data" in refusal(["train", recipe, "--run.steps", "4"], capsys)
    assert lines(run / "metrics.jsonl") == before
    assert read(run / "checkpoints" / "step-000002").step == 2


def test_branching_off_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recipe, run = tiny_recipe(tmp_path, run__steps=4), tmp_path / "runs" / "run"
    main(["train", str(recipe)])
    origin = run / "checkpoints" / "step-000002"
    assert "run.name" in refusal(["train", recipe, "--resume", origin], capsys)

    branch = ["train", str(recipe), "--resume", str(origin), "--run.name"]
    main([*branch, "same"])
    main([*branch, "faster", "--policy.lr", "0.05"])
    main([*branch, "decaying", "--policy.weight_decay", "0.5"])
    same, faster = (untimed(lines(tmp_path / "runs" / name / "metrics.jsonl")) for name in ("same", "faster"))
    assert same == untimed(lines(run / "metrics.jsonl"))[2:]
    assert [row["policy/lr"] for row in faster] == [0.05, 0.05]
    ends = [tmp_path / "runs" / name / "checkpoints" / "step-000004" for name in ("run", "same", "decaying")]
    run_weights, same_weights, decayed = ((end / "policy" / "model.safetensors").read_bytes() for end in ends)
    assert run_weights == same_weights != decayed
    assert len(lines(run / "metrics.jsonl")) == 4, "the run that was branched off stays as it is"


FULL_DISK = """
import contextlib, io, json, shutil, sys
from pathlib import Path
from tiny import lines, tiny_model, tiny_recipe, untimed
from credo.checkpoint import newest_whole
from credo.cli import main

def train(name, room=None):
    recipe = tiny_recipe(folder, run__name=name, run__folder=str(disk), run__steps=6)
    if room is not None:
        (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - room))
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        main(["train", str(recipe)])
    (disk / "ballast").unlink(missing_ok=True)
    found = newest_whole(disk / name / "checkpoints", lambda line: None)
    whole = room is None  # a full disk may leave half a line, which resuming cuts away
    return said.getvalue(), found.step if found else 0, untimed(lines(disk / name / "metrics.jsonl")) if whole else []

folder, disk, rooms = Path(sys.argv[1]), Path(sys.argv[2]), map(int, sys.argv[3:])
tiny_model(folder / "model", width=64)
_, _, expected = train("undisturbed")
for name, room in enumerate(rooms):
    said, step, _ = train(str(name), room)
    print(json.dumps({"said": said, "step": step, "mended": train(str(name)) == ("", 6, expected)}), file=sys.stderr)
    shutil.rmtree(disk / str(name))
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare to mount a small disk")
def test_a_full_disk(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    alone, mount = ["unshare", "-rm", "sh", "-c"], f"mount -t tmpfs -o size=9m none '{disk}'"
    if subprocess.run([*alone, mount], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    (tmp_path / "full.py").write_text(FULL_DISK)
    command = (
        f"{mount} && exec '{sys.executable}' '{tmp_path}/full.py' '{tmp_path}/recipe' '{disk}' 500000 1700000 2600000"
    )
    tests = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"}
    run = subprocess.run([*alone, command], capture_output=True, text=True, env=environment, timeout=250)
    assert run.returncode == 0, run.stderr
    ends = [json.loads(line) for line in run.stderr.splitlines()]
    assert len(ends) == 3
    for end in ends:
        assert end["said"].startswith("credo: ")
        assert end["said"].count("\n") == 1
        assert "No space left on device" in end["said"]
        assert end["mended"], "with room again the run becomes what it would have been"
    assert ends[0]["step"] == 0
    assert 0 < ends[-1]["step"] < 6, "a checkpoint from before the disk was full is whole"
