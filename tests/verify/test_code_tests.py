"""Where the program is, and which tests can be read."""

from __future__ import annotations

from typing import Any

import pytest

from credo.verify.code_tests import Assertions, Calls, Scripts, extract_program, read_tests


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("x = 1\n", "x = 1\n"),
        ("So:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```python\nold\n```\nbetter\n```Python\nnew\n```", "new\n"),
        ("```python\nx = 1\n```\nOutput:\n```\n1\n```", "x = 1\n"),
        ("```\nfirst\n```\n```\nsecond\n```", "second\n"),
        ("```\nfirst\n```\n```\nsecond", "second"),
        ("```python\nx = '''\n```'''", "x = '''\n"),
        ("text ```py\nx = 1", "x = 1"),
        ("1.\n    ```python\n    if x:\n        y\n    ```", "if x:\n    y\n"),
        ("    return a + b\n", "    return a + b\n"),
        ("", ""),
    ],
)
def test_extraction(response: str, program: str):
    assert extract_program(response) == program


def test_the_forms():
    assert read_tests({"asserts": "assert f()", "entry_point": None}).form == Assertions(source="assert f()")
    assert read_tests({"asserts": ["assert f()", "assert g()"]}).form == Assertions(source="assert f()\nassert g()")
    assert read_tests({"inputs": ["1\n"], "outputs": [["2", "3"]]}).form == Scripts(pairs=(("1\n", "2\n3"),))
    calls = Calls(function="f", pairs=(([1, 2], [3]),), wrapped=True)
    assert read_tests({"inputs": [[1, 2]], "outputs": [[3]], "fn_name": "f"}).form == calls
    assert read_tests({"inputs": ["1\n2"], "outputs": ["[3]"], "fn_name": "f"}).form == calls
    limits = read_tests({"asserts": "assert f()", "time_limit": 2, "memory_mb": 512})
    assert (limits.time_limit, limits.memory_mb) == (2, 512)


@pytest.mark.parametrize(
    "tests",
    [
        None, "assert f()", {}, {"asserts": "  "}, {"asserts": 3}, {"inputs": [], "outputs": []}, {"inputs": ["1"]},
        {"inputs": ["1"], "outputs": ["1", "2"]}, {"inputs": [1], "outputs": ["1"]},
        {"inputs": [1], "outputs": [1], "fn_name": "f"}, {"inputs": ["{"], "outputs": ["1"], "fn_name": "f"},
        {"asserts": "assert f()", "time_limit": -1}, {"asserts": "assert f()", "entry_point": 3},
    ],
)  # fmt: skip
def test_what_is_no_test_is_refused(tests: Any):
    with pytest.raises(ValueError):  # noqa: PT011  json's own too
        read_tests(tests)
