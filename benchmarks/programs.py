"""How well and how fast programs are judged: agreement with published labels, throughput, time of one verdict.

Run ``python benchmarks/programs.py [FOLDER]``; the folder holds ``code_agreement_dev.jsonl`` (programs of several
models for HumanEval and MBPP with EvalPlus's base labels), ``code_tasks.jsonl``, ``reference_solutions.jsonl`` and
``apps_dev.jsonl``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from credo.types import Problem, Unknown
from credo.verify.programs import ProgramVerifier

FOLDER = Path("../shared/data/code")
Row = tuple[str, dict[str, Any], str, bool]
"""Name, tests, program, and whether it is right."""

TRIVIAL: dict[str, tuple[dict[str, Any], str]] = {
    "script": ({"inputs": ["3\n"], "outputs": ["6\n"]}, "print(int(input()) * 2)"),
    "call": ({"inputs": [[3]], "outputs": [6], "fn_name": "f"}, "def f(x): return 2 * x"),
    "assertions": ({"asserts": "assert f(3) == 6\nassert f(2) == 4"}, "def f(x): return 2 * x"),
}


def rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def assertions(task: dict[str, Any]) -> dict[str, Any]:
    """HumanEval's tests need the prompt in front; MBPP's prompt is prose."""
    tests = {"asserts": task["test"], "entry_point": task["entry_point"] or ""}
    return tests | ({"prompt": task["prompt"]} if "def check" in task["test"] else {})


def agreement(folder: Path) -> list[Row]:
    """The labelled programs of models."""
    tasks = {row["task_id"].lower(): row for row in rows(folder / "code_tasks.jsonl")}
    found = [row for row in rows(folder / "code_agreement_dev.jsonl") if row["label"] is not None]
    return [(row["id"], assertions(tasks[row["task_id"].lower()]), row["code"], row["label"]) for row in found]


def references(folder: Path) -> list[Row]:
    """Solutions that must pass, in all three forms."""
    found = rows(folder / "reference_solutions.jsonl")
    forms = [assertions(row) if row["style"] == "assert" else json.loads(row["test"]) for row in found]
    return [(row["id"], tests, row["code"], True) for row, tests in zip(found, forms, strict=True)]


def apps(folder: Path) -> list[Row]:
    """The references of APPS. Two tasks there accept several answers, of which exact comparison knows one."""
    return [
        (row["task_id"], {name: row[name] for name in ("inputs", "outputs", "fn_name") if row[name]}, solution, True)
        for row in rows(folder / "apps_dev.jsonl")
        for solution in row["reference_solutions"]
    ]


def measure(name: str, cases: list[Row], verifier: ProgramVerifier) -> None:
    """Judge ``cases`` and print how that went."""
    tasks = [
        (Problem(id=case, kind="code", prompt="", answer="", source="", extra={"tests": tests}), program)
        for case, tests, program, _ in cases
    ]
    begun = time.monotonic()
    verdicts = verifier.verify(tasks)
    took = time.monotonic() - begun
    seconds = sorted(verdict.seconds for verdict in verdicts)
    wrong = [
        (case, verdict)
        for (case, _, _, right), verdict in zip(cases, verdicts, strict=True)
        if isinstance(verdict, Unknown) or verdict.correct != right
    ]
    print(
        f"{name:12} {len(cases):4} programs  agree {100 * (1 - len(wrong) / len(cases)):6.2f} %  "
        f"{len(cases) / took:6.1f}/s  p50 {seconds[len(seconds) // 2]:.3f} s  "
        f"p99 {seconds[int(0.99 * len(seconds))]:.3f} s  max {seconds[-1]:.1f} s"
    )
    for case, verdict in wrong[:10]:
        print(f"    {case}: {verdict}")


def main() -> None:
    """All of it, with as many workers as processors."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    verifier = ProgramVerifier(workers=os.cpu_count() or 1)
    print(f"sandbox level {verifier.level}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    for name, (tests, program) in TRIVIAL.items():
        measure(name, [(name, tests, program, True)] * 200, verifier)
    sources: dict[str, Callable[[Path], list[Row]]] = {"references": references, "apps": apps, "agreement": agreement}
    for name, read in sources.items():
        try:
            cases = read(folder)
        except FileNotFoundError as error:
            print(f"{name}: skipped, there is no {error.filename}")
            continue
        measure(name, cases, verifier)
    verifier.close()


if __name__ == "__main__":
    main()
