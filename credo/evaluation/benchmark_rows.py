"""Rows of the field's benchmarks, as their authors publish them, in credo's own schema. It reads no file.

Each function takes a row and returns one that :func:`credo.data.rows.problem_of` understands, or None where the row is
not part of the benchmark. A row that lacks something raises ValueError.
"""

from __future__ import annotations

import base64
import json
import pickletools
import re
import zlib
from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]

USUAL_IMPORTS = """
import bisect, collections, copy, functools, heapq, itertools, math, operator, random, re, string, sys
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
"""
"""What the sites of programming contests import for everyone."""

NUMPY_IMPORT = re.compile(r"^import numpy as np$", re.MULTILINE)
CLOSENESS = '''
class np:
    """As much of numpy as the tests of EvalPlus use; the sandbox has none."""

    class ndarray:
        pass

    @staticmethod
    def allclose(a, b, rtol=1e-05, atol=1e-08):
        if isinstance(b, (list, tuple)):
            return len(a) == len(b) and all(np.allclose(x, y, rtol, atol) for x, y in zip(a, b))
        return a == b or abs(a - b) <= atol + rtol * abs(b)
'''


def mathematics(row: Row) -> Row:
    """A row with ``problem`` or ``question`` and its answer under any name that the benchmarks use."""
    answer = next((row[key] for key in ("answer", "final_answer") if row.get(key) is not None), None)
    return {**row, "answer": answer, "id": row.get("unique_id") or row.get("id")}


def aime_2024(row: Row) -> Row | None:
    """The 30 problems of 2024 among those of three years, told by their address."""
    return mathematics(row) if "/2024_AIME" in str(row.get("url")) else None


def humaneval(row: Row) -> Row:
    """HumanEval and HumanEval+: a function to complete, and a ``test`` that defines ``check(candidate)``."""
    prompt, entry_point = _text(row, "prompt"), _text(row, "entry_point")
    tests = {"asserts": _without_numpy(_text(row, "test")), "entry_point": entry_point, "prompt": prompt}
    question = f"Complete this Python function.\n\n```python\n{prompt.rstrip()}\n```"
    return _program(row, question, {**tests, "time_limit": 10})


def mbpp(row: Row) -> Row:
    """MBPP and MBPP+: a sentence with one assertion that names the function, and the assertions."""
    asserts = row.get("test") or "\n".join(_texts(row, "test_list"))
    question = row.get("instruction") or f"{_text(row, 'prompt')}\n{_texts(row, 'test_list')[0]}"
    imports = "\n".join(_texts(row, "test_imports"))
    return _program(row, question, {"asserts": _without_numpy(asserts), "imports": imports, "time_limit": 10})


def leetcode(row: Row) -> Row:
    """The LeetCode contests of DeepSeek-Coder: a class to complete, and assertions about an object of it."""
    question = row.get("prompt_sft") or _text(row, "prompt")
    return _program(row, question, {"asserts": _text(row, "test"), "imports": USUAL_IMPORTS, "time_limit": 10})


def livecodebench(row: Row) -> Row:
    """LiveCodeBench, code generation: public and private tests on standard input, or of a method of ``Solution``."""
    cases = [*_cases(row, "public_test_cases"), *_cases(row, "private_test_cases")]
    if not cases:
        raise ValueError("a row of LiveCodeBench without test cases; no program is judged without tests")
    tests: dict[str, Any] = {
        "inputs": [case["input"] for case in cases],
        "outputs": [case["output"] for case in cases],
        "imports": USUAL_IMPORTS,
        "time_limit": 6,
    }
    question, starter = _text(row, "question_content"), str(row.get("starter_code") or "").strip()
    if starter:
        metadata = row.get("metadata") or "{}"
        tests["fn_name"] = (json.loads(metadata) if isinstance(metadata, str) else metadata)["func_name"]
        question = f"{question}\n\nComplete this code:\n\n```python\n{starter}\n```"
    else:
        question = f"{question}\n\nThe program reads standard input and writes standard output."
    return _program({"id": row.get("question_id")}, question, tests)


def livecodebench_of_the_paper(row: Row) -> Row | None:
    """The contests from May 2023 to May 2024, which is what PRIME's paper reports."""
    return livecodebench(row) if "2023-05-01" <= _text(row, "contest_date")[:10] <= "2024-05-31" else None


def _program(row: Row, question: str, tests: dict[str, Any]) -> Row:
    id = row.get("id") if row.get("task_id") is None else row["task_id"]
    return {"id": id, "kind": "code", "question": question, "tests": tests}


def _cases(row: Row, key: str) -> list[dict[str, str]]:
    """Test cases: a list, its JSON text, or that text pickled, compressed and in base 64."""
    value = row.get(key) or []
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = json.loads(_unpickled_text(zlib.decompress(base64.b64decode(value))))
    return value


def _unpickled_text(pickled: bytes) -> str:
    """The one text in a pickle. Nothing is unpickled, because a pickle can run any program when it is."""
    operations = [(code.name, argument) for code, argument, _ in pickletools.genops(pickled)]
    texts = [str(argument) for name, argument in operations if "UNICODE" in name]
    harmless = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "STOP"}
    others = [name for name, _ in operations if "UNICODE" not in name and name not in harmless]
    if len(texts) != 1 or others:
        raise ValueError("the private test cases are a pickle of more than one text, so they are not read")
    return texts[0]


def _without_numpy(source: str) -> str:
    return NUMPY_IMPORT.sub(lambda _: CLOSENESS, source)


def _text(row: Row, key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key}: expected text, got {type(value).__name__}")
    return value


def _texts(row: Row, key: str) -> list[str]:
    value = row.get(key) or []
    if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
        raise ValueError(f"{key}: expected a list of texts, got {type(value).__name__}")
    return value
