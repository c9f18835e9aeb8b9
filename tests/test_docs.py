"""What the pages say is so: links lead somewhere, snippets run and print what is shown, commands and options exist.

A ``text`` block right below a ``python`` block is what that block prints. The python blocks of a page run in order, in
one namespace, beside a tiny ``runs/demo``. A ``toml`` block whose first line is ``# NAME.toml`` is a recipe for the
commands of its page. Each line of a ``json`` block in the tutorial is a row of data.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import tomllib
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_config

from credo.cli import main, parse
from credo.config import PrmTrainingRecipe, SftRecipe, TrainConfig, TrainRecipe
from credo.data.rows import demonstration_of, problem_of
from credo.data.sources import parse_generated
from credo.recipe import leaves, read_recipe
from credo.train import train

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MACHINE_PATH = re.compile(r"(?<![\w.~*/])/(?:work|home|root|tmp|opt|mnt|usr|var)/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    printed: str | None
    """The ``text`` block right below, if there is one."""


def blocks(page: Path, *languages: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    fences = list(FENCE.finditer(text))
    found = []
    for fence, below in zip(fences, [*fences[1:], None], strict=False):
        touching = below is not None and not text[fence.end() : below.start()].strip()
        printed = below[2] if below is not None and touching and below[1] == "text" else None
        found.append(Block(language=fence[1], text=fence[2], printed=printed))
    return [block for block in found if block.language in languages]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def shown(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_blocks_are_found_with_what_they_print(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "a\n```python\nx\n```\n\n```text\ny\n```\nb\n```python\nz\n```\nc\n```text\nw\n```\n```\nplain\n```\n"
    )
    found = blocks(page, "python", "")
    assert [(block.text, block.printed) for block in found] == [("x\n", "y\n"), ("z\n", None), ("plain\n", None)]
    assert prose(page).split() == ["a", "b", "c"]


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_every_link_leads_somewhere(page: Path):
    lost = []
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose(page)):
        place, _, anchor = target.partition("#")
        goal = page.parent / place if place else page
        if "://" in target or target.startswith("mailto:"):
            continue
        if not goal.exists() or (anchor and anchor not in anchors(goal)):
            lost.append(target)
    assert lost == []


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "recipes").glob("*.toml"))], ids=shown)
def test_no_page_names_a_place_on_somebody_s_machine(page: Path):
    assert MACHINE_PATH.findall(page.read_text(encoding="utf-8")) == []


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run in ``runs/demo``."""
    folder = tmp_path_factory.mktemp("session")
    train(tiny_config(folder, run__name="demo"))
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=shown)
def test_python_blocks_run_and_print_what_the_page_says(page: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(run_folder)
    namespace: dict[str, Any] = {}
    for block in blocks(page, "python"):
        with contextlib.redirect_stdout(io.StringIO()) as output, torch.random.fork_rng(devices=[]):
            exec(compile(block.text, shown(page), "exec"), namespace)
        if block.printed is not None:
            assert output.getvalue() == block.printed


def commands(page: Path) -> list[list[str]]:
    """The commands of the sh blocks as words, a command a list."""
    found = []
    for block in blocks(page, "sh", "bash", "shell"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                command = list(takewhile(lambda word: word not in ("&&", "|", ";"), words))
                words = words[len(command) + 1 :]
                found.append(command)
    return found


def recipes_of(page: Path, folder: Path) -> None:
    """Writes the recipes that ``page`` shows into ``folder``, and links those of the project."""
    (folder / "recipes").symlink_to(ROOT / "recipes")
    for block in blocks(page, "toml"):
        named = re.match(r"# ([\w-]+\.toml)\n", block.text)
        if named:
            (folder / named[1]).write_text(block.text, encoding="utf-8")


def check(words: list[str]) -> None:
    """Parses the words after ``credo`` as the program would; raises where it would refuse them."""
    if "--help" not in words and words != ["--version"]:
        parse(words)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=shown)
def test_commands_name_what_exists(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipes_of(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = set(project()["optional-dependencies"])
    for words in commands(page):
        match Path(words[0]).name, words[1:]:
            case "credo", rest:
                check(rest)
            case "torchrun", rest:
                check(rest[rest.index("credo.cli") + 1 :])
            case (("sbatch" | "kubectl"), rest):
                assert all((ROOT / word).is_file() for word in rest if word.startswith("examples/"))
            case "make", rest:
                assert {word for word in rest if "=" not in word} <= targets
            case (("pip" | "pip3"), rest):
                asked = re.findall(r"\[([\w,]+)\]", " ".join(rest))
                assert {extra for group in asked for extra in group.split(",")} <= extras
            case (("python" | "python3"), [script, *_]) if script.endswith(".py"):
                assert (ROOT / script).is_file()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["trian", "recipes/demo.toml"], ValueError),
        (["train", "recipes/absent.toml"], ValueError),
        (["train", "recipes/demo.toml", "--prm.enabeld", "false"], ValueError),
        (["evaluate", "--modle", "x"], SystemExit),
        (["diff-semantics", "rollouts.jsonl", "--tokns", "5"], SystemExit),
    ],
)
def test_a_wrong_command_would_be_noticed(
    words: list[str], error: type[BaseException], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(ROOT)
    with pytest.raises(error):
        check(words)


PLANS = [
    (page, block) for page in PAGES for block in blocks(page, "sh") if "credo plan" in block.text and block.printed
]


@pytest.mark.parametrize(("page", "block"), PLANS, ids=[shown(page) for page, _ in PLANS])
def test_a_plan_on_a_page_is_what_the_command_prints(
    page: Path, block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))  # as for someone who has no models
    monkeypatch.chdir(ROOT)
    main(shlex.split(block.text.replace("\\\n", " "))[1:])
    assert capsys.readouterr().out == block.printed


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_options_in_the_prose_exist(page: Path):
    known = {key for tree in (TrainRecipe, SftRecipe, PrmTrainingRecipe) for key, _ in leaves(tree)}
    sections = "|".join({key.split(".")[0] for key in known})
    said = re.findall(rf"`-{{0,2}}((?:{sections})\.(?!safetensors|toml|py|md|jsonl?\b)\w+)", prose(page))
    assert set(said) <= known


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "metrics.md"], ids=shown)
def test_metrics_in_the_prose_are_explained(page: Path):
    explained = set(re.findall(r"^\| `(\w+/\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    groups = "|".join({name.split("/")[0] for name in explained})
    assert set(re.findall(rf"`((?:{groups})/\w+)`", prose(page))) <= explained


def test_the_rows_in_the_tutorial_are_data():
    rows = [
        json.loads(line) for block in blocks(ROOT / "docs" / "tutorial.md", "json") for line in block.text.splitlines()
    ]
    shown_rows = [row for row in rows if "answer" in row or "solution" in row or "reward_model" in row]
    answers = [problem_of(row, default_id="1", default_kind="math", source="tutorial").answer for row in shown_rows]
    assert answers == ["56", "7", "(x-1)(x+1)", "1024"]
    responses = [demonstration_of(row)[1] for row in rows if row not in shown_rows]
    assert responses == ["12+30=42;42-2=40#40", "\\boxed{42}"]


def test_the_tutorial_measures_the_demo_on_its_own_task():
    demo = read_recipe(TrainConfig, [ROOT / "recipes" / "demo.toml"])
    words = next(words for words in commands(ROOT / "docs" / "tutorial.md") if words[:2] == ["credo", "evaluate"])
    measured = dict(parse_generated(words[words.index("--benchmarks") + 1]).parameters)
    trained = dict(parse_generated(demo.evaluation.sources[0]).parameters)
    assert measured | {"size": "", "seed": ""} == trained | {"size": "", "seed": ""}
    assert measured["seed"] != trained["seed"]
    assert words[words.index("--pattern") + 1] == demo.verify.pattern


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=shown)
def test_checkpoints_in_commands_are_kept_by_the_demo(page: Path):
    demo = read_recipe(TrainConfig, [ROOT / "recipes" / "demo.toml"])
    saved = [
        step for step in range(1, demo.run.steps + 1) if step % demo.checkpoint.every == 0 or step == demo.run.steps
    ]
    named = {int(step) for words in commands(page) for step in re.findall(r"checkpoints/step-(\d+)", " ".join(words))}
    assert named <= set(saved[-demo.checkpoint.keep :])


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_dependencies_are_those_of_the_project():
    asked = {("", requirement) for requirement in project()["dependencies"]}
    asked |= {(extra, entry) for extra, entries in project()["optional-dependencies"].items() for entry in entries}
    wanted = {(extra, re.split(r"[\[<>=!~ ]", requirement)[0]) for extra, requirement in asked}
    page = prose(ROOT / "docs" / "dependencies.md")
    always = re.findall(r"^\| `([\w-]+)` \| [^`|]+ \|", page, re.MULTILINE)
    extra = re.findall(r"^\| `([\w-]+)` \| `([\w-]+)` \|", page, re.MULTILINE)
    assert sorted([("", name) for name in always] + extra) == sorted(wanted)
