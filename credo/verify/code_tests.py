"""The forms in which the tests of a program come, and where the program is in a response. It runs nothing.

The forms: the source of assertions; inputs with the expected standard outputs; inputs with the expected results of a
function (APPS, TACO and what PRIME's data took from them).
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_FENCE = re.compile(r"(?P<indent>^[ \t]*)?```(?P<language>[^\n`]*)(?:\n|$)", re.MULTILINE)
_PYTHON = ("python", "python3", "py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assertions:
    """Python source that asserts."""

    source: str
    entry_point: str = ""
    """What ``check(candidate)`` is called with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scripts:
    """Standard inputs, each with the expected standard output."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Argument lists of one function, each with the expected result."""

    function: str
    pairs: tuple[tuple[list[Any], Any], ...]
    wrapped: bool
    """Every expected result is a list of one, so the result itself may be meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tests:
    """What judges a program."""

    form: Assertions | Scripts | Calls
    imports: str = ""
    """Source in front of the program and of assertions."""
    prompt: str = ""
    """Source that the program continues or repeats; helpers in it are the tests' own."""
    time_limit: float | None = None
    """Seconds for one test."""
    memory_mb: int | None = None

    __test__ = False  # for pytest: not a test class


def read_tests(tests: Any) -> Tests:
    """The tests of one problem. ValueError: they are in none of the forms, or there are none."""
    if not isinstance(tests, Mapping):
        raise ValueError(f"the tests are a {type(tests).__name__}, not an object with `asserts` or `inputs`, `outputs`")
    form = _read_assertions(tests) if "asserts" in tests else _read_pairs(tests)
    return Tests(
        form=form,
        imports=_text_of(tests, "imports"),
        prompt=_text_of(tests, "prompt"),
        time_limit=_number_of(tests, "time_limit"),
        memory_mb=None if tests.get("memory_mb") is None else int(_number_of(tests, "memory_mb") or 0),
    )


def _read_assertions(tests: Mapping[str, Any]) -> Assertions:
    source = tests["asserts"]
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "\n".join(source)
    if not isinstance(source, str) or not source.strip():
        raise ValueError("`asserts` holds no source")
    return Assertions(source=source, entry_point=_text_of(tests, "entry_point"))


def _read_pairs(tests: Mapping[str, Any]) -> Scripts | Calls:
    inputs, outputs = tests.get("inputs"), tests.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise ValueError("the tests have neither `asserts` nor lists of `inputs` and `outputs`")
    if not inputs or len(inputs) != len(outputs):
        raise ValueError(f"the tests have {len(inputs)} inputs and {len(outputs)} outputs; as many are needed")
    function = _text_of(tests, "fn_name")
    if not function:
        return Scripts(pairs=tuple(zip(map(_lines, inputs), map(_lines, outputs), strict=True)))
    as_text = all(isinstance(given, str) for given in inputs)  # one JSON value a line; the results are JSON text too
    wanted = [json.loads(output) if as_text and isinstance(output, str) else output for output in outputs]
    return Calls(
        function=function,
        pairs=tuple(zip(map(_arguments, inputs), wanted, strict=True)),
        wrapped=all(isinstance(output, list) and len(output) == 1 for output in wanted),
    )


def _arguments(given: Any) -> list[Any]:
    if isinstance(given, str):
        return [json.loads(line) for line in given.splitlines() if line.strip()]
    if not isinstance(given, list):
        raise ValueError(f"an input of `fn_name` tests is a list of arguments, not a {type(given).__name__}")
    return given


def _lines(text: Any) -> str:
    if isinstance(text, list):
        return "\n".join(str(line) for line in text)
    if not isinstance(text, str):
        raise ValueError(f"an input or output of a script is text, not a {type(text).__name__}")
    return text


def _text_of(tests: Mapping[str, Any], name: str) -> str:
    text = tests.get(name) or ""
    if not isinstance(text, str):
        raise ValueError(f"`{name}` of the tests is a {type(text).__name__}, not text")
    return text


def _number_of(tests: Mapping[str, Any], name: str) -> float | None:
    number = tests.get(name)
    if number is not None and not (isinstance(number, int | float) and 0 < number < 1e6):
        raise ValueError(f"`{name}` of the tests is {number!r}, not a positive number")
    return None if number is None else float(number)


def extract_program(response: str) -> str:
    """The program in ``response``: the last block fenced as Python, else the last fenced block, else all of it.

    A block whose fence is never closed reaches to the end.
    """
    fences = list(_FENCE.finditer(response))
    marked = [fence for fence in fences if fence["language"].strip().lower() in _PYTHON]
    opening = marked[-1] if marked else fences[(len(fences) - 1) // 2 * 2] if fences else None
    if opening is None:
        return response
    rest = response[opening.end() :]
    closing = re.search(r"^[ \t]*```", rest, re.MULTILINE) or re.search("```", rest)
    program = rest[: closing.start()] if closing else rest
    return textwrap.dedent(program) if opening["indent"] else program
