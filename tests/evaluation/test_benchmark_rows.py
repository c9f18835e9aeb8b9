"""Rows as benchmarks publish them become problems that the verifiers judge rightly."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from collections.abc import Mapping
from typing import Any

import pytest

from credo.data.rows import problem_of
from credo.evaluation import benchmark_rows as rows
from credo.types import Problem, Verdict
from credo.verify.programs import ProgramVerifier
from credo.verify.sandbox import sandbox_level

HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def twice(x):\n    """Double."""\n',
    "entry_point": "twice",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(0.1) == 0.2\n",
}
PLUS = """import numpy as np

def assertion(out, exp, atol):
    exact_match = out == exp
    if not exact_match and atol != 0:
        assert np.allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert exact_match

def check(candidate):
    inputs = [[1.0], [3.0], [[1.0, 2.0]]]
    results = [0.1, 0.3, [0.1, 0.2]]
    for inp, exp in zip(inputs, results):
        assertion(candidate(*inp), exp, 1e-6)
"""
MBPP = {
    "task_id": 2,
    "prompt": "Write a function to square.",
    "test_imports": ["import math"],
    "test_list": ["assert square(3) == 9", "assert square(math.pi) > 9"],
}
LEETCODE = {
    "task_id": "weekly-1",
    "prompt_sft": "Push keys.\n```python\nclass Solution:\n    def push(self, word: str) -> int:\n```",
    "test": 'my_solution = Solution()\n\ntest_input = { "word": "ab" }\nassert my_solution.push(**test_input) == 2\n',
}
CASES = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]
LIVE = {
    "question_id": "abc_1",
    "question_content": "Add two numbers.",
    "contest_date": "2024-01-06T00:00:00",
    "starter_code": "",
    "public_test_cases": json.dumps(CASES),
    "private_test_cases": "[]",
    "metadata": "{}",
}


def problem(row: Mapping[str, Any] | None) -> Problem:
    assert row is not None
    return problem_of(row, default_id="0", default_kind="math", source="test")


def said(made: Problem) -> str:
    """The user's words."""
    assert not isinstance(made.prompt, str)
    return made.prompt[-1].content


def packed(text: str, protocol: int) -> str:
    """Test cases as LiveCodeBench hides them."""
    return base64.b64encode(zlib.compress(pickle.dumps(text, protocol))).decode()


@pytest.mark.parametrize(
    "row",
    [
        {"id": "m", "problem": "How much?", "answer": "4", "solution": "It is \\boxed{5}."},
        {"unique_id": "m", "problem": "How much?", "answer": "4"},
        {"id": "m", "question": "How much?", "answer": "2 + 2 = 4\n#### 4"},
        {"id": "m", "question": "How much?", "final_answer": ["4"], "solution": ["long"]},
        {"id": "m", "problem": "How much?", "answer": 4.0},
    ],
)
def test_mathematics_of_every_benchmark(row: dict[str, Any]):
    made = problem(rows.mathematics(row))
    assert (made.id, made.kind, made.answer, said(made)) == ("m", "math", "4", "How much?")


def test_a_row_without_an_answer_is_refused():
    with pytest.raises(ValueError, match="answer"):
        problem(rows.mathematics({"problem": "How much?"}))


def test_aime_of_one_year():
    row = {"id": 1, "problem": "x", "answer": "007", "url": "https://x.org/index.php/2024_AIME_I_Problems/Problem_1"}
    assert problem(rows.aime_2024(row)).answer == "007"
    assert rows.aime_2024({**row, "url": row["url"].replace("2024", "2023")}) is None


@pytest.fixture(scope="module")
def programs():
    if sandbox_level() < 2:
        pytest.skip("no sandbox of level 2 here")
    verifier = ProgramVerifier(workers=1, partial=False)
    yield verifier
    verifier.close()


def score(verifier: ProgramVerifier, made: Problem, program: str) -> float:
    (verdict,) = verifier.verify([(made, f"Here it is.\n```python\n{program}\n```")])
    assert isinstance(verdict, Verdict), verdict
    return verdict.score


@pytest.mark.parametrize(
    ("row", "right", "wrong"),
    [
        (rows.humaneval(HUMANEVAL), "def twice(x):\n    return 2 * x", "def twice(x):\n    return x * x"),
        (
            rows.humaneval(
                {**HUMANEVAL, "test": PLUS, "prompt": 'def tenth(x):\n    """Tenth."""\n', "entry_point": "tenth"}
            ),
            "def tenth(x):\n    return [y / 10 for y in x] if isinstance(x, list) else 0.1 * x",
            "def tenth(x):\n    return x / 10 + (0 if isinstance(x, list) else 1e-4)",
        ),
        (rows.mbpp(MBPP), "def square(x):\n    return x * x", "def square(x):\n    return 9"),
        (
            rows.leetcode(LEETCODE),
            "class Solution:\n    def push(self, word: str) -> int:\n        return len(Counter(word))",
            "class Solution:\n    def push(self, word: str) -> int:\n        return 3",
        ),
        (rows.livecodebench(LIVE), "print(sum(map(int, input().split())))", "print(4)"),
        (
            rows.livecodebench(
                {
                    **LIVE,
                    "starter_code": "class Solution:\n    def add(self, a: int, b: List[int]) -> int:\n        ",
                    "metadata": '{"func_name": "add"}',
                    "public_test_cases": json.dumps([{"input": "1\n[2, 3]", "output": "6", "testtype": "functional"}]),
                }
            ),
            "class Solution:\n    def add(self, a: int, b: List[int]) -> int:\n        return a + sum(b)",
            "class Solution:\n    def add(self, a: int, b: List[int]) -> int:\n        return a",
        ),
    ],
    ids=["humaneval", "humaneval+", "mbpp", "leetcode", "livecodebench stdin", "livecodebench call"],
)
def test_programs_are_judged_by_their_tests(programs: ProgramVerifier, row: rows.Row, right: str, wrong: str):
    made = problem(row)
    assert made.kind == "code"
    assert score(programs, made, right) == 1.0
    assert score(programs, made, wrong) < 0.99


def test_the_model_is_shown_what_it_has_to_write():
    assert HUMANEVAL["prompt"].rstrip() in said(problem(rows.humaneval(HUMANEVAL)))
    assert "assert square(3) == 9" in said(problem(rows.mbpp(MBPP)))
    assert "assert square(math.pi)" not in said(problem(rows.mbpp(MBPP)))
    assert said(problem(rows.leetcode(LEETCODE))) == LEETCODE["prompt_sft"]
    assert "standard input" in said(problem(rows.livecodebench(LIVE)))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_private_test_cases_are_read_without_unpickling(protocol: int):
    hidden = json.dumps([{"input": "5 6\n", "output": "11\n"}])
    made = problem(rows.livecodebench({**LIVE, "private_test_cases": packed(hidden, protocol)}))
    assert made.extra["tests"]["inputs"] == ["1 2\n", "5 6\n"]
    assert made.extra["tests"]["outputs"] == ["3\n", "11\n"]


def test_a_pickle_that_would_run_something_is_refused():
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.putenv, ("CREDO_WAS_HERE", "1")

    hostile = base64.b64encode(zlib.compress(pickle.dumps(Hostile()))).decode()
    with pytest.raises(ValueError, match="pickle"):
        rows.livecodebench({**LIVE, "private_test_cases": hostile})


def test_the_months_of_the_paper():
    dates = ("2023-04-30", "2023-05-01", "2024-05-31", "2024-06-01")
    kept = [rows.livecodebench_of_the_paper({**LIVE, "contest_date": f"{date}T02:30:00"}) for date in dates]
    assert [row is not None for row in kept] == [False, True, True, False]


@pytest.mark.parametrize(
    ("read", "row", "named"),
    [
        (rows.livecodebench, {**LIVE, "public_test_cases": "[]"}, "without test cases"),
        (rows.humaneval, {**HUMANEVAL, "test": " "}, "test"),
        (rows.mbpp, {**MBPP, "test_list": "assert square(3) == 9"}, "test_list"),
        (rows.leetcode, {"task_id": "x", "prompt": "x"}, "test"),
    ],
)
def test_a_task_that_cannot_be_judged_is_refused(read: Any, row: dict[str, Any], named: str):
    with pytest.raises(ValueError, match=named):
        read(row)
