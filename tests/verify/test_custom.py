"""The user's function in real children: refused at the start if unusable, and bounded, whatever it does, afterwards."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from credo.types import Message, Problem, Unknown, Verdict
from credo.verify.custom import function_place, function_pool

REWARDS = """
import os, sys, time

def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    print("noise" * 200)
    print("noise" * 200, file=sys.stderr)
    match solution_str:
        case "raise": raise KeyError("lost")
        case "hang": time.sleep(60)
        case "hoard": return len(bytearray(3 << 30))
        case "exit": sys.exit(0)
        case "die": os._exit(0)
        case "nan": return float("nan")
        case "low": return {"score": -1.0}
        case "environment": return os.environ.get("MY_JUDGE") == "yes"
        case "folder": return os.path.exists("my_reward.py")
    return {"score": float(solution_str == ground_truth)}

def score(response, answer, problem):
    return problem.kind == "exact" and problem.prompt[0].content == response

async def trl_reward(prompts, completions, solution, **columns):
    return [float(completion == right) for completion, right in zip(completions, solution)]
"""


def problem(**changes: object) -> Problem:
    values = {"id": "1", "kind": "exact", "prompt": "", "answer": "a", "source": "test"} | changes
    return Problem(**values)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_reward.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_JUDGE", "yes")
    return tmp_path


def scores(judged: list[Verdict | Unknown]) -> list[float | None]:
    return [verdict.score if isinstance(verdict, Verdict) else None for verdict in judged]


def test_whatever_the_function_does(folder: Path):
    pool = function_pool("verl:my_reward.py", deadline=0.7, memory_mb=512)
    words = ["a", "b", "raise", "hang", "hoard", "exit", "die", "nan", "low", "environment", "folder", "a"]
    started = time.monotonic()
    judged = pool.verify([(problem(), word) for word in words])
    pool.close()
    assert time.monotonic() - started < 20
    assert scores(judged) == [1.0, 0.0, None, None, None, None, None, None, None, 1.0, 1.0, 1.0]
    named = ["KeyError: 'lost'", "0.7 s", "memory", "SystemExit", "died", "NaN", "[0, 1]"]
    reasons = [verdict.reason for verdict in judged if isinstance(verdict, Unknown)]
    assert all(word in reason for word, reason in zip(named, reasons, strict=True)), reasons


def test_printing_for_ever_is_no_fault(folder: Path):
    pool = function_pool("verl:my_reward.py", workers=1)
    judged = pool.verify([(problem(), "a")] * 1500)
    pool.close()
    assert scores(judged) == [1.0] * 1500


def test_ours_and_that_of_trl(folder: Path):
    asked = problem(prompt=(Message(role="user", content="?"),))
    pool = function_pool("python:my_reward:score", workers=1, memory_mb=512)
    assert scores(pool.verify([(asked, "?"), (asked, "!")])) == [1.0, 0.0]
    pool.close()
    pool = function_pool("trl:./my_reward.py:trl_reward", workers=1)
    assert scores(pool.verify([(problem(), "a"), (problem(), "b")])) == [1.0, 0.0]
    pool.close()


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("python:my_rewards:score", "no module 'my_rewards'"),
        ("python:my_reward:scores", "Did you mean score?"),
        ("python:my_reward:sys", "cannot be called"),
        ("verl:my_reward:score", "does not take"),
        ("verl:absent.py", "no file"),
    ],
)
def test_an_unusable_function_is_refused_at_the_start(kind: str, named: str, folder: Path):
    with pytest.raises(ValueError, match=named) as refusal:
        function_pool(kind)
    assert len(str(refusal.value).splitlines()) == 1


def test_a_module_that_ends_the_process_is_refused(folder: Path):
    (folder / "my_reward.py").write_text("import os; os._exit(3)")
    with pytest.raises(ValueError, match="dies"):
        function_pool("python:my_reward:score")


def test_the_name_of_a_function(folder: Path):
    place = function_place("python:./below/my.py:score")
    assert (place.style, place.module, place.name, place.folder) == ("python", "./below/my.py", "score", str(folder))
    assert function_place("verl:a/b.py").name == "compute_score"
    assert function_place("verl:a/b.py:mine").name == "mine"
    assert function_place("trl:pkg.rewards:accuracy").module == "pkg.rewards"


@pytest.mark.parametrize(
    "kind", ["maths", "python:", "python:score", "python:a:b:", "ruby:a:b", "python:a/b:c", "trl:a"]
)
def test_what_names_no_function(kind: str):
    with pytest.raises(ValueError, match=r"verify\.kind"):
        function_place(kind)
