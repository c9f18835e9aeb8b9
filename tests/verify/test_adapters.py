"""Functions of all three styles, called in this process: what they are given and what becomes of what they return."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from credo.types import Message, Problem, Unknown, Verdict
from credo.verify.adapters import (
    FunctionPlace,
    Style,
    call_python,
    call_trl,
    call_verl,
    load,
    refuse_signature,
    scored,
)

PROBLEM = Problem(id="7", kind="math", prompt="2+2=", answer="4", source="set.jsonl", extra={"level": 3})
CHAT = replace(PROBLEM, prompt=(Message(role="user", content="2+2?"),))


def task(problem: Problem = PROBLEM, response: str = "four") -> dict[str, Any]:
    """What a child is sent, after JSON: messages are a list of objects."""
    fields = asdict(problem) | {"response": response}
    if not isinstance(fields["prompt"], str):
        fields["prompt"] = list(fields["prompt"])
    return fields


@pytest.fixture(autouse=True)
def same_path() -> Iterator[None]:
    """Loading adds to the path of a child, which is ours here."""
    path, loaded = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - loaded:
        if name.startswith(("credo_user", "rewards_of")):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("value", "score"),
    [(1, 1.0), (0.25, 0.25), (True, 1.0), (False, 0.0), (numpy.float32(0.5), 0.5), (numpy.bool_(True), 1.0), (-0.0, 0)],
)
def test_a_number_in_range_is_a_score(value: object, score: float):
    assert scored(value) == {"score": score, "reason": ""}


@pytest.mark.parametrize("value", [None, "1.0", [1.0], {"score": 1}, math.nan, math.inf, 1.5, -1, 1e-9 + 1, object()])
def test_anything_else_is_unknown(value: object):
    assert scored(value).keys() == {"unknown"}


def test_a_reward_out_of_range_comes_with_the_remedy():
    assert "-1" in scored(-1.0)["unknown"]
    assert "(reward - lowest) / (highest - lowest)" in scored(-1.0)["unknown"]


def test_ours_gets_the_problem_back():
    seen = []

    def judge(response: str, answer: str, problem: Problem) -> float:
        seen.append((response, answer, problem))
        return 0.5

    assert call_python(judge, task()) == {"score": 0.5, "reason": ""}
    assert call_python(judge, task(CHAT)) == {"score": 0.5, "reason": ""}
    assert seen == [("four", "4", PROBLEM), ("four", "4", CHAT)]


def test_ours_may_return_a_judgement():
    assert call_python(lambda r, a, p: Verdict(score=0.25, reason="half"), task()) == {"score": 0.25, "reason": "half"}
    assert call_python(lambda r, a, p: Unknown(reason="no idea"), task()) == {"unknown": "no idea"}

    async def later(response: str, answer: str, problem: Problem) -> bool:
        return response == "four"

    assert call_python(later, task())["score"] == 1.0


def test_trl_gets_lists_of_one():
    seen = {}

    def reward(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        columns["log_metric"]("shown", 1.0)
        seen.update(columns, prompts=prompts, completions=completions)
        return [0.75]

    assert call_trl(reward, task()) == {"score": 0.75, "reason": ""}
    assert (seen["prompts"], seen["completions"], seen["level"]) == (["2+2="], ["four"], [3])
    assert seen["answer"] == seen["solution"] == seen["ground_truth"] == ["4"]
    own = replace(CHAT, extra={"solution": "$4$", "completion_ids": [1]})
    call_trl(reward, task(own))
    assert seen["prompts"] == [[{"role": "user", "content": "2+2?"}]]
    assert seen["completions"] == [[{"role": "assistant", "content": "four"}]]
    assert (seen["solution"], seen["answer"]) == (["$4$"], ["4"])
    assert "completion_ids" not in seen


def test_trl_functions_of_other_shapes():
    async def later(completions: list[str], **columns: Any) -> list[float]:
        return [float(len(completions[0]) == 4)]

    assert call_trl(later, task())["score"] == 1.0
    assert call_trl(lambda completions, solution: [float(solution == ["4"])], task())["score"] == 1.0
    assert call_trl(lambda completions: numpy.array([0.5]), task())["score"] == 0.5


@pytest.mark.parametrize("returned", [[None], [math.nan], [], [1.0, 1.0], 1.0, None, [2.0]])
def test_trl_returns_that_are_no_outcome(returned: object):
    assert call_trl(lambda **columns: returned, task()).keys() == {"unknown"}


def test_verl_gets_its_four_arguments():
    seen = []

    def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> dict:
        seen.append((data_source, solution_str, ground_truth, extra_info))
        return {"score": 1.0, "acc": True}

    assert call_verl(compute_score, task()) == {"score": 1.0, "reason": ""}
    stored = replace(PROBLEM, extra={"data_source": "openai/gsm8k", "extra_info": {"index": 5}})
    call_verl(compute_score, task(stored))
    assert seen == [("set.jsonl", "four", "4", {"level": 3}), ("openai/gsm8k", "four", "4", {"index": 5})]


@pytest.mark.parametrize(("returned", "score"), [(0.5, 0.5), (True, 1.0), ([1, "fmt"], 1.0), ((False, 0, ""), 0.0)])
def test_verl_returns(returned: object, score: float):
    assert call_verl(lambda **arguments: returned, task()) == {"score": score, "reason": ""}


@pytest.mark.parametrize("returned", [-1.0, {"acc": 1.0}, {}, [], None, "1"])
def test_verl_returns_that_are_no_outcome(returned: object):
    assert call_verl(lambda **arguments: returned, task()).keys() == {"unknown"}


def place(folder: Path, module: str, name: str = "score", style: Style = "python") -> FunctionPlace:
    return FunctionPlace(style=style, module=module, name=name, folder=str(folder))


def test_modules_and_files_are_found_with_what_lies_beside_them(tmp_path: Path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "rewards_of_b.py").write_text("VALUE = 7\n")
    source = "from rewards_of_b import VALUE\nfrom dataclasses import dataclass\n@dataclass\nclass X:\n    a: int\n"
    (tmp_path / "below" / "my_reward.py").write_text(source + "def score(r, a, p): return VALUE\n")
    (tmp_path / "rewards_of_a.py").write_text("def score(r, a, p): return 1\n")
    assert load(place(tmp_path, "rewards_of_a"))("", "", None) == 1
    assert load(place(tmp_path, "./below/my_reward.py"))("", "", None) == 7
    assert load(place(tmp_path, str(tmp_path / "below" / "my_reward.py")))("", "", None) == 7
    assert load(place(tmp_path, "math", "sqrt"))(4) == 2


@pytest.mark.parametrize(
    ("source", "name", "named"),
    [
        (None, "score", "no module 'rewards_of_c'"),
        ("def scores(r, a, p): return 1", "score", "Did you mean scores"),
        ("score = 5", "score", "int, which cannot be called"),
        ("import absent_package", "score", "absent_package"),
        ("raise ValueError('my own')", "score", "ValueError: my own"),
        ("raise SystemExit(3)", "score", "SystemExit"),
        ("def score(:", "score", "SyntaxError"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(source: str | None, name: str, named: str, tmp_path: Path):
    if source is not None:
        (tmp_path / "rewards_of_c.py").write_text(source)
    with pytest.raises(ValueError, match=rf"verify\.kind.*{named}"):
        load(place(tmp_path, "rewards_of_c", name))
    with pytest.raises(ValueError, match=r"no file .*absent\.py"):
        load(place(tmp_path, "absent.py"))


def needs_ids(completions: Any, completion_ids: Any, **columns: Any) -> None: ...


@pytest.mark.parametrize(
    ("style", "function", "named"),
    [
        ("python", lambda response: 1.0, "response, answer, problem"),
        ("verl", lambda solution_str, ground_truth: 1.0, "data_source"),
        ("trl", needs_ids, "completion_ids"),
    ],
)
def test_a_signature_that_cannot_work_is_refused(style: Style, function: Callable, named: str, tmp_path: Path):
    with pytest.raises(ValueError, match=named):
        refuse_signature(place(tmp_path, "m", style=style), function)


def test_a_signature_that_can_work_is_accepted(tmp_path: Path):
    refuse_signature(place(tmp_path, "m"), lambda *arguments: 1.0)
    refuse_signature(place(tmp_path, "m", style="trl"), lambda completions, completion_ids=None, **columns: [1.0])
    refuse_signature(place(tmp_path, "m", style="verl"), lambda data_source, solution_str, ground_truth, **more: 1.0)
    refuse_signature(place(tmp_path, "m"), max)
