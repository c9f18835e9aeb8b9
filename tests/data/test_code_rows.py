from __future__ import annotations

import json
from typing import Any

import pytest

from credo.data.code_rows import program_tests, states_tests
from credo.data.rows import problem_of

ASSERTS = {"asserts": "assert add(1, 2) == 3"}
STDIN = {"inputs": ["1 2\n"], "outputs": ["3\n"]}


def problem(**row: Any):
    return problem_of({"prompt": "Add.", **row}, default_id="0", default_kind="math", source="x.jsonl")


@pytest.mark.parametrize("tests", [ASSERTS, STDIN, {**STDIN, "fn_name": "add", "inputs": [[1, 2]], "outputs": [3]}])
def test_a_row_with_tests_is_a_programming_task(tests: dict[str, Any]):
    made = problem(tests=tests)
    assert (made.kind, made.answer, made.extra["tests"]) == ("code", "", tests)
    assert problem(tests=json.dumps(tests)).extra == made.extra


def test_eurus_rows_carry_their_tests_as_text():
    truth = json.dumps({"inputs": ["1 2"], "outputs": ["3"], "fn_name": None})
    row = {"ability": "code", "reward_model": {"style": "rule", "ground_truth": truth}}
    assert problem(**row).extra["tests"] == {"inputs": ["1 2"], "outputs": ["3"]}


def test_arguments_written_as_text_become_values():
    truth = {"inputs": ['[1, 2]\n"a"', "3\nb"], "outputs": ["[3]", "b"], "fn_name": "f"}
    made = program_tests({"ground_truth": json.dumps(truth)})
    assert made["inputs"] == [[[1, 2], "a"], [3, "b"]]
    assert made["outputs"] == [[3], "b"]


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        (None, "needs"),
        ([], "needs"),
        ("{", "not JSON"),
        ({}, "as many"),
        ({"asserts": " "}, "as many"),
        ({"inputs": [], "outputs": []}, "at least one"),
        ({"inputs": ["1"], "outputs": []}, "as many"),
        ({**STDIN, "timeout": 3}, "'timeout'"),
    ],
)
def test_no_program_is_judged_without_tests(tests: Any, said: str):
    with pytest.raises(ValueError, match=said):
        problem(kind="code", tests=tests)


def test_other_rows_are_none():
    assert not states_tests({"prompt": "1 + 1 =", "answer": "2"})
    assert problem(answer="2").kind == "math"
