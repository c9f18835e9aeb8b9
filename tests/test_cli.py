"""The command line: quick help, one sentence for a mistake, and every command on something tiny."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from tiny import PAIRS, tiny_model, tiny_problems, tiny_recipe

import credo
from credo import cli
from credo.cli import main
from credo.commands import COMMANDS, DATA_COMMANDS, PRM_COMMANDS, Command, Group

CREDO = str(Path(sys.executable).with_name("credo"))


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error of a command that leaves with 1."""
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    assert leaving.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("credo: ")
    return line


def test_help_is_quick_and_needs_no_torch():
    program = "import sys, credo.cli; credo.cli.main(['--help']); print(sorted({'torch', 'tyro'} & set(sys.modules)))"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)  # of the processor, which other tests use too
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    assert run.stdout.splitlines()[-1] == "[]"


def test_the_installed_command_is_this_program():
    run = subprocess.run([CREDO, "--version"], capture_output=True, text=True, timeout=30)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"credo {credo.__version__}\n", "")


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["help"]])
def test_the_overview_names_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    main(arguments)
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as leaving:
        main([command, "--help"])
    assert leaving.value.code == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert ("--run.steps" in said.out) == (command in ("sft", "train", "plan", "verify-resume"))
    assert ("--resume" in said.out) == (command == "train")


def test_help_on_a_command_needs_no_torch():
    program = (
        "import sys, credo.cli\n"
        f"for command in {list(COMMANDS)}:\n"
        "    try: credo.cli.main([command, '--help'])\n"
        "    except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["trian", "x.toml"], "'trian'. Did you mean train?"),
        (["dance"], "'dance'"),
        (["train"], "recipe"),
        (["train", "--run.steps", "3"], "recipe"),
        (["train", "absent.toml"], "absent.toml"),
        (["train", "absent.toml", "--resume"], "--resume"),
        (["sft", "absent.toml"], "absent.toml"),
        (["plan", "absent.toml"], "absent.toml"),
        (["verify-resume", "absent.toml"], "absent.toml"),
        (["verify", "--kind", "exact", "--input", "absent.jsonl", "--output", "out.jsonl"], "absent.jsonl"),
        (["evaluate", "--model", "absent", "--benchmarks", "absent.jsonl"], "absent.jsonl"),
        (["verify", "--kind", "maths", "--input", "a.jsonl", "--output", "out.jsonl"], "maths"),
        (["data", "inspekt"], "Did you mean data inspect?"),
        (["data", "filtr"], "Did you mean data filter?"),
        (["data", "filter", "absent.jsonl", "--output", "out.jsonl"], "absent.jsonl"),
        (["data", "card", "absent.jsonl"], "absent.jsonl"),
        (["data", "inspect", "absent.jsonl"], "absent.jsonl"),
        (["prm", "scoer"], "Did you mean prm score?"),
        (["prm", "train", "absent.toml"], "absent.toml"),
        (["prm", "rollouts", "--model", "x", "--problems", "absent.jsonl", "--output", "out.jsonl"], "absent.jsonl"),
        (["prm", "score", "absent.jsonl", "--prm", "x"], "absent.jsonl"),
        (["prm", "best-of-n", "absent.jsonl"], "absent.jsonl"),
        (["prm", "processbench", "absent.jsonl"], "absent.jsonl"),
        (["prm", "serve", "./absent", "--port", "0"], "./absent"),
        (["export", "absent", "--to", "out"], "absent holds no checkpoints"),
        (["compare-evaluations", "absent", "absent"], "absent"),
        (["diff-semantics", "absent.json"], "absent.json"),
        (["diff-semantics", "absent.jsonl"], "absent.jsonl"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]):
    assert named in refused(arguments, capsys)


@pytest.mark.parametrize(
    "arguments",
    [["evaluate", "--modle", "x"], ["verify", "--kind", "math"], ["data", "inspect"], ["evaluate"], ["diff-semantics"]],
)
def test_a_wrong_option_leaves_with_1(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    assert leaving.value.code == 1
    assert capsys.readouterr().err


@pytest.mark.parametrize("command", [*COMMANDS.values(), *DATA_COMMANDS.values(), *PRM_COMMANDS.values()])
def test_what_the_table_names_is_there(command: Command | Group):
    for place in (command.reads, command.calls) if isinstance(command, Command) else ():
        if isinstance(place, str):
            module, name = place.split(":")
            assert callable(getattr(import_module(f"credo.{module}"), name))


def raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: str, words: list[str]) -> None:
        raise error

    monkeypatch.setattr(cli, "_run", run)


def test_our_own_mistakes_keep_their_trace(monkeypatch: pytest.MonkeyPatch):
    for error in (json.JSONDecodeError("no", "", 0), NotImplementedError("no"), KeyError("no"), AssertionError("no")):
        raising(error, monkeypatch)
        with pytest.raises(type(error)):
            main(["train"])


def test_the_trace_behind_a_sentence_is_shown_on_request(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CREDO_TRACEBACK", "1")
    with pytest.raises(ValueError, match=r"absent\.toml"):
        main(["train", "absent.toml"])


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (PermissionError(13, "Permission denied", "/runs/x"), "/runs/x"),
        (OSError(28, "No space left on device"), "Make room"),
        (RuntimeError("A run that cannot go on."), "cannot go on"),
    ],
)
def test_what_the_system_refuses_is_one_sentence(
    error: Exception, named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    raising(error, monkeypatch)
    assert named in refused(["train"], capsys)


def test_a_second_ctrl_c_leaves_as_shells_expect(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    raising(KeyboardInterrupt(), monkeypatch)
    with pytest.raises(SystemExit) as leaving:
        main(["train"])
    assert leaving.value.code == 128 + signal.SIGINT
    assert capsys.readouterr().err == "credo: Interrupted.\n"


def test_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["plan", str(tiny_recipe(tmp_path)), "--rollout.prompts", "5"])
    assert "5 prompts x 4 rollouts = 20 responses" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_train_reads_recipes_and_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["train", str(tiny_recipe(tmp_path)), "--run.steps", "1", "--run.name=other"])
    assert "step 1/1" in capsys.readouterr().out
    assert (tmp_path / "runs" / "other" / "metrics.jsonl").exists()


def test_sft(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tiny_model(tmp_path / "model")
    rows = [json.dumps({"prompt": prompt, "response": answer}) for prompt, answer in PAIRS]
    (tmp_path / "demonstrations.jsonl").write_text("\n".join(rows))
    (tmp_path / "sft.toml").write_text(
        f'run = {{name = "sft", folder = "{tmp_path}", steps = 2, threads = 1, device = "cpu"}}\n'
        f'model = {{path = "{tmp_path}/model"}}\nsft = {{sources = ["{tmp_path}/demonstrations.jsonl"], batch = 4}}\n'
    )
    main(["sft", str(tmp_path / "sft.toml")])
    assert (tmp_path / "sft" / "model" / "model.safetensors").exists()
    assert "step 2/2" in capsys.readouterr().out


def test_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    held_out = str(tiny_problems(tmp_path / "held-out.jsonl", PAIRS[:3]))
    model = str(tiny_model(tmp_path / "model"))
    main(
        f"evaluate --model {model} --benchmarks {held_out} --kind exact --max-tokens 2 --threads 1 --device cpu".split()
    )
    assert "3 problems" in capsys.readouterr().out


def test_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [{"id": 1, "response": "a", "answer": "a"}, {"id": 2, "response": "b", "answer": "a"}, {"id": 3}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    main(f"verify --kind exact --input {tmp_path}/rows.jsonl --output {tmp_path}/verdicts.jsonl --workers 1".split())
    verdicts = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert [(row["id"], row["verdict"]) for row in verdicts] == [(1, "correct"), (2, "wrong"), (3, "unknown")]
    assert "1 correct, 1 wrong, 1 unknown" in capsys.readouterr().out


def test_data_explains_its_commands(capsys: pytest.CaptureFixture[str]):
    for arguments in (["data"], ["data", "inspect", "--help"]):
        with pytest.raises(SystemExit) as leaving:
            main(arguments)
        assert leaving.value.code == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in DATA_COMMANDS)
    assert "--quarantine" in said


def test_data_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tiny_problems(tmp_path / "set.jsonl", [*PAIRS[:2], PAIRS[0]])
    main(["data", "inspect", str(tmp_path / "set.jsonl"), "--kind", "exact", "--workers", "1"])
    said = capsys.readouterr().out
    assert "3 rows (3 exact)" in said
    assert "gold against itself: 3 correct" in said
    (row,) = (tmp_path / "set.quarantine.jsonl").read_text().splitlines()
    assert json.loads(row)["line"] == 3


def test_data_commands_take_sources_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("a", "b"):
        tiny_problems(tmp_path / f"{name}.jsonl", [(f"{name}{prompt}", answer) for prompt, answer in PAIRS[:2]])
    sources = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    bench = str(tiny_problems(tmp_path / "bench.jsonl", [("b" + PAIRS[0][0], "x")]))
    main(["data", "import", *sources, "--output", str(tmp_path / "1.jsonl"), "--kind", "exact"])
    main(["data", "filter", str(tmp_path / "1.jsonl"), "--output", str(tmp_path / "2.jsonl"), "--steps", "length=2.."])
    main(["data", "deduplicate", str(tmp_path / "2.jsonl"), "--output", str(tmp_path / "3.jsonl"), "--near", "0"])
    contaminated = ["data", "decontaminate", str(tmp_path / "3.jsonl"), "--output", str(tmp_path / "4.jsonl")]
    main([*contaminated, "--against", bench, bench.replace("bench", "a")])
    main(["data", "card", str(tmp_path / "4.jsonl")])
    assert len((tmp_path / "4.jsonl").read_text().splitlines()) == 1
    assert "| rows | 1 |" in (tmp_path / "4.card.md").read_text()
    assert "3 dropped" in capsys.readouterr().out


@pytest.mark.parametrize("command", PRM_COMMANDS)
def test_prm_explains_its_commands(command: str, capsys: pytest.CaptureFixture[str]):
    for arguments in (["prm"], ["prm", command, "--help"]):
        with pytest.raises(SystemExit) as leaving:
            main(arguments)
        assert leaving.value.code == 0
    said = capsys.readouterr().out
    assert f"  {command} " in said
    assert ("--offline.loss" if command == "train" else "--threads") in said


def test_prm_from_rollouts_to_its_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tiny_model(tmp_path / "model")
    tiny_problems(tmp_path / "problems.jsonl", PAIRS[:8])
    graded = "--kind exact --extract regex --pattern ^."
    here = "--threads 1 --device cpu"
    main(
        f"prm rollouts --model {tmp_path}/model --problems {tmp_path}/problems.jsonl {graded} {here} --samples 8 "
        f"--max-tokens 2 --output {tmp_path}/rollouts.jsonl".split()
    )
    (tmp_path / "prm.toml").write_text(
        f'run = {{name = "p", folder = "{tmp_path}", steps = 2, threads = 1, device = "cpu"}}\n'
        f'model = {{path = "{tmp_path}/model"}}\noffline = {{sources = ["{tmp_path}/rollouts.jsonl"], batch = 8}}\n'
    )
    main(["prm", "train", str(tmp_path / "prm.toml"), "--offline.lr", "1e-3"])
    prm = f"--prm {tmp_path}/p/prm"
    main(f"prm score {tmp_path}/rollouts.jsonl {prm} {here}".split())
    main(f"prm best-of-n {tmp_path}/rollouts.scores.jsonl {prm} {here} {graded}".split())
    said = capsys.readouterr().out
    assert "64 labelled responses" in said
    assert "N = 8: best by PRM minus majority" in said
    main(["train", str(tiny_recipe(tmp_path)), "--run.steps=1", f"--prm.path={tmp_path}/p/prm"])


def test_diff_semantics(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    example = {"log_ratios": [[0.1, 0.2], [0.3]], "outcomes": [1, 0], "group_ids": ["a", "a"]}
    (tmp_path / "example.json").write_text(json.dumps(example))
    main(["diff-semantics", str(tmp_path / "example.json"), "--process-coef", "0"])
    said = capsys.readouterr().out.splitlines()
    assert said[1].split() == ["row", "1", "a", "1.00", "2", "+0.5774", "+1.0000", "+0.5774"]
