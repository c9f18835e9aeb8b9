"""The options of ``credo verify`` and ``credo diff-semantics``, which read one file each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from credo.options.shared import ExtractOptions, SandboxOptions


@dataclass(frozen=True, kw_only=True)
class GradeOptions(SandboxOptions, ExtractOptions):
    """Judge the responses of a file.

    Input rows are {"id", "response", "answer"}; for gym {"id", "response", "family"} with either "entry" or "answer"
    and "metadata"; for code {"id", "tests"} with "program" or "response". Output rows are {"id", "verdict", "score",
    "reason", "seconds"}, in the same order.
    """

    kind: str
    """How the responses are judged: math, code, gym, exact, regex (the answer is a regular expression for the whole
    response), or by a function of yours: python:MODULE:FUNCTION, trl:MODULE:FUNCTION, verl:FILE.py[:FUNCTION]."""
    input: Path
    """JSONL file of responses."""
    output: Path
    """JSONL file of verdicts. If it holds the verdicts of the first rows already, the command goes on after them."""
    workers: int = 2
    """Verifier processes."""
    deadline: float = 5.0
    """Seconds for one response, or for one test of a program; past them the verdict is unknown, the test failed."""
    memory_mb: int = 2048
    """Memory limit of one verifier process, and of a program."""
    min_level: Literal[1, 2, 3] = 2
    """Refuse to run programs here in a weaker sandbox: 1 has limits, 2 also namespaces, 3 also a system-call filter."""
    partial: bool = True
    """The score of a program is the share of its tests that pass; otherwise all or nothing."""


@dataclass(frozen=True, kw_only=True)
class DiffSemanticsOptions:
    """Advantages of the same responses under the official, the paper's and verl's semantics.

    The file is a JSON object {"log_ratios": [[..], ..], "outcomes": [..], "group_ids": [..]} with an entry for each
    response, or the rollouts/step-000012.jsonl of a run.
    """

    file: Path
    """Log-ratios and outcomes."""
    tokens: int = 0
    """Below each response where a sign contradicts the outcome, show so many of its tokens."""
    beta: float = 0.05
    """As prm.beta; only the paper's semantics feels it."""
    process_coef: float = 1.0
    """As advantage.process_coef: weight of the process return."""
