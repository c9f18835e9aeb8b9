"""Benchmarks by name: the right files, read whole; wrong and missing ones named; the conditions of the paper."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from credo.assemble import build_verifier
from credo.config import SandboxConfig, VerifyConfig
from credo.data.fetch import sha256_of
from credo.evaluation.benchmarks import (
    ACTIONS,
    BENCHMARKS,
    BOX,
    DEFAULT,
    PROGRAM,
    Loaded,
    conditions_of,
    load_benchmark,
    paper_conditions,
)
from credo.types import Problem, Verdict

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
REGISTERED = [name for name, benchmark in BENCHMARKS.items() if benchmark.sha256]
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the benchmarks' files are not here")


def rows_in(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@needs_shared
@pytest.mark.parametrize("name", REGISTERED)
def test_registered_files_are_what_the_names_stand_for(name: str):
    loaded = load_benchmark(name, folder=SHARED)
    assert len(loaded.problems) == BENCHMARKS[name].problems
    assert (loaded.sha256, loaded.registered, loaded.key) == (BENCHMARKS[name].sha256, True, name)
    assert loaded.kind == BENCHMARKS[name].kind
    assert all(problem.answer or problem.extra["tests"] for problem in loaded.problems)
    assert loaded.skipped == (60 if name == "aime2024" else 0)


@needs_shared
def test_a_file_may_lie_right_in_the_folder(tmp_path: Path):
    (tmp_path / "amc83.jsonl").write_bytes((SHARED / "math" / "amc83.jsonl").read_bytes())
    assert len(load_benchmark("amc", folder=tmp_path).problems) == 83


def test_a_changed_file_is_refused_with_both_checksums(tmp_path: Path):
    path = rows_in(tmp_path / "math" / "math500.jsonl", {"id": "1", "problem": "1 + 1?", "answer": "2"})
    with pytest.raises(ValueError, match=f"(?s){sha256_of([path])}.*{BENCHMARKS['math500'].sha256}"):
        load_benchmark("math500", folder=tmp_path)


def test_a_pin_is_what_a_file_is_held_to(tmp_path: Path):
    path = rows_in(tmp_path / "own.jsonl", {"problem": "1 + 1?", "answer": "2"})
    sha256 = sha256_of([path])
    own = load_benchmark(str(path))
    assert (own.key, own.sha256, own.registered, own.source) == ("own", sha256, False, str(path))
    assert load_benchmark(f"{path}#sha256={sha256}").registered
    with pytest.raises(ValueError, match=f"(?s){sha256}.*{'0' * 64}"):
        load_benchmark(f"{path}#sha256={'0' * 64}")
    rows_in(tmp_path / "amc83.jsonl", {"problem": "1 + 1?", "answer": "2"})
    pinned = load_benchmark(f"amc#sha256={sha256}", folder=tmp_path)
    assert (len(pinned.problems), pinned.registered) == (1, True)


def test_an_unknown_name_has_a_suggestion():
    for name, near in (("mat500", "math500"), ("gsm8", "gsm8k"), ("human-eval", "humaneval")):
        with pytest.raises(ValueError, match=f"Did you mean '{near}'"):
            load_benchmark(name)
    with pytest.raises(ValueError, match="credo prm processbench"):
        load_benchmark("processbench")
    with pytest.raises(ValueError, match="olympiadbench"):
        load_benchmark("zzz")
    with pytest.raises(ValueError, match=r"absent\.jsonl"):
        load_benchmark("absent.jsonl")


def test_a_missing_file_is_named(tmp_path: Path):
    for name, benchmark in BENCHMARKS.items():
        with pytest.raises(ValueError, match=re.escape(benchmark.file)):
            load_benchmark(name, folder=tmp_path)


def test_what_is_not_on_the_hub_needs_a_folder():
    for name in ("leetcode", "mbpp"):
        with pytest.raises(ValueError, match="--data-folder"):
            load_benchmark(name)


def test_other_sources_have_a_hash_too(tmp_path: Path):
    rows_in(tmp_path / "folder" / "a.jsonl", {"problem": "1 + 1?", "answer": "2"})
    folder = load_benchmark(str(tmp_path / "folder"))
    assert (folder.key, len(folder.sha256)) == ("folder", 64)
    with pytest.raises(ValueError, match=folder.sha256):
        load_benchmark(f"{tmp_path}/folder#sha256={'0' * 64}")
    made = load_benchmark("gym:chain_sum?size=3&seed=1")
    assert (made.key, len(made.problems)) == ("gym_chain_sum_size_3_seed_1", 3)
    assert made.sha256 == load_benchmark("gym:chain_sum?size=3&seed=1").sha256
    assert made.sha256 != load_benchmark("gym:chain_sum?size=3&seed=2").sha256


def test_livecodebench_is_read_from_all_its_files(tmp_path: Path):
    row = {"question_content": "Add.", "starter_code": "", "private_test_cases": "[]", "metadata": "{}"}
    row["public_test_cases"] = json.dumps([{"input": "1 2", "output": "3"}])
    rows_in(
        tmp_path / "livecodebench" / "test.jsonl", row | {"question_id": "1", "contest_date": "2023-08-01T00:00:00"}
    )
    rows_in(
        tmp_path / "livecodebench" / "test2.jsonl", row | {"question_id": "2", "contest_date": "2024-09-01T00:00:00"}
    )
    assert [problem.id for problem in load_benchmark("livecodebench-all", folder=tmp_path).problems] == ["1", "2"]
    paper = load_benchmark("livecodebench", folder=tmp_path)
    assert ([problem.id for problem in paper.problems], paper.skipped) == (["1"], 1)
    assert not paper.registered
    rows_in(
        tmp_path / "livecodebench" / "test3.jsonl", row | {"question_id": "2", "contest_date": "2024-09-01T00:00:00"}
    )
    with pytest.raises(ValueError, match="twice"):
        load_benchmark("livecodebench-all", folder=tmp_path)


def test_files_without_a_problem_of_the_benchmark_are_refused(tmp_path: Path):
    row = {"question_content": "Add.", "question_id": "1", "contest_date": "2025-08-01", "metadata": "{}"}
    row["public_test_cases"] = json.dumps([{"input": "1 2", "output": "3"}])
    rows_in(tmp_path / "livecodebench" / "test.jsonl", row)
    with pytest.raises(ValueError, match="none of its problems"):
        load_benchmark("livecodebench", folder=tmp_path)


@pytest.mark.parametrize(
    ("name", "max_tokens"),
    [
        ("aime2024", 4096),
        ("amc", 4096),
        ("math500", 8192),
        ("minerva", 4096),
        ("olympiadbench", 4096),
        ("leetcode", 8192),
    ],
)
def test_the_paper_asks_greedily_and_once(name: str, max_tokens: int):
    conditions = paper_conditions(name, "math")
    assert (conditions.samples, conditions.temperature, conditions.max_tokens) == (1, 0.0, max_tokens)
    assert conditions.system == ACTIONS
    assert conditions.suffix == (PROGRAM if name == "leetcode" else BOX)


def test_an_answer_in_the_form_that_the_preset_asks_for_is_judged_right(tmp_path: Path):
    (gym,) = load_benchmark("gym:chain_sum?size=1&seed=4").problems
    files = {
        "math": {"problem": "1 - 5?", "answer": "-4"},
        "code": {"problem": "Write f.", "tests": {"asserts": "assert f() == 4"}},
        "exact": {"problem": "The first letter of bd?", "answer": "b", "kind": "exact"},
        "regex": {"problem": "A word of three letters?", "answer": "[a-z]{3}", "kind": "regex"},
    }
    asked = {kind: rows_in(tmp_path / f"{kind}.jsonl", row) for kind, row in files.items()}
    problems = {kind: load_benchmark(str(path)).problems[0] for kind, path in asked.items()} | {"gym": gym}
    right = {"math": "-4", "code": "def f():\n    return 4\n", "gym": gym.answer, "exact": "b", "regex": "abc"}
    tasks: list[tuple[Problem, str]] = []
    for kind, problem in problems.items():
        suffix = paper_conditions("own", problem.kind).suffix
        form = re.search(r"\\boxed\{Your answer\}|<answer>Your answer</answer>|```python", suffix)
        said = form.group().replace("Your answer", right[kind]) if form else right[kind]
        said = f"{said}\n{right[kind]}```" if kind == "code" else said
        tasks.append((problem, f"[OUTPUT]\n# It is {said}" if form and kind != "code" else said))
    with closing(build_verifier(VerifyConfig(workers=1), SandboxConfig(), set(problems))) as verifier:
        verdicts = dict(zip(problems, verifier.verify(tasks), strict=True))
    assert {kind: isinstance(one, Verdict) and one.correct for kind, one in verdicts.items()} == dict.fromkeys(
        problems, True
    )
    for kind in ("exact", "regex"):
        assert paper_conditions("own", problems[kind].kind).system == "", "all of the response is the answer"


def test_the_paper_asks_livecodebench_ten_times():
    conditions = paper_conditions("livecodebench", "code")
    assert (conditions.samples, conditions.temperature, conditions.top_p) == (10, 0.2, 0.95)
    assert (conditions.stop, conditions.max_tokens, conditions.suffix) == (("###",), 4096, PROGRAM)


def test_options_win_over_the_preset(tmp_path: Path):
    path = rows_in(tmp_path / "own.jsonl", {"problem": "1 + 1?", "answer": "2"})
    own = load_benchmark(str(path))
    assert conditions_of(own, "none", {}) == DEFAULT
    changed = conditions_of(
        own, "paper", {"samples": 16, "temperature": 0.3, "top_p": 0.95, "system": None, "suffix": ""}
    )
    assert (changed.samples, changed.temperature, changed.top_p, changed.system) == (16, 0.3, 0.95, ACTIONS)
    assert (changed.suffix, changed.max_tokens) == ("", 4096)


def test_the_kind_of_a_source_is_that_of_most_of_its_problems(tmp_path: Path):
    tests = {"asserts": "assert f(1) == 1"}
    program = {"problem": "Write f.", "tests": tests}
    path = rows_in(tmp_path / "mixed.jsonl", program, {"problem": "1 + 1?", "answer": "2"}, program)
    loaded: Loaded = load_benchmark(str(path))
    assert loaded.kind == "code"
    assert conditions_of(loaded, "paper", {}).suffix == PROGRAM


def test_the_page_lists_every_benchmark_with_its_facts():
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for name, benchmark in BENCHMARKS.items():
        (line,) = re.findall(rf"^\| `{name}` \|.*$", page, re.MULTILINE)
        assert benchmark.file in line
        assert not benchmark.problems or f" {benchmark.problems:,} " in line
        assert benchmark.hub.partition(":")[0] in line
        if benchmark.sha256:
            assert f"`{benchmark.sha256}`" in page
