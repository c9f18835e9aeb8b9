"""The options of the commands that read no recipe. Importable without torch, so that their ``--help`` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from credo.config import Extract, Template


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Avg@k of a model, with 95 % bootstrap intervals over problems."""

    model: str
    """A Hugging Face folder or hub id, a .gguf file, or package:NAME."""
    benchmarks: str
    """Sources, separated by commas: .jsonl or .parquet files, or gym:FAMILY?size=..&parameter=.."""
    samples: int = 4
    """Responses to each problem."""
    temperature: float = 1.0
    """Sampling temperature; 0 is greedy."""
    top_k: int = 0
    """Only so many of the most likely tokens; 0 is off."""
    top_p: float = 1.0
    """Nucleus sampling; 1 is off."""
    min_p: float = 0.0
    """Only tokens at least so many times as likely as the most likely one; 0 is off."""
    max_tokens: int = 256
    """Longest response, in tokens."""
    stop: tuple[str, ...] = ()
    """Texts that end a response and are its last ones, as in rollout.stop."""
    limit: int = 0
    """Use the first so many problems of each benchmark; 0 uses all."""
    seed: int = 0
    """The same seed gives the same responses."""
    kind: Literal["math", "code", "exact", "regex"] = "math"
    """How answers of files are judged where a row does not say."""
    verify: str = "auto"
    """By the kind of each problem, or all by a function of yours: python:MODULE:FUNCTION, trl:.., verl:FILE.py."""
    sandbox_url: str = ""
    """Run programs on the SandboxFusion server at http://HOST:PORT instead of here."""
    extract: Extract = "auto"
    """Where the answer stands in a response."""
    pattern: str = ""
    """Regular expression for --extract regex."""
    template: Template = "auto"
    """Chat template or plain text."""
    system: str = ""
    """System message put before every conversation."""
    suffix: str = ""
    """Text put after every prompt."""
    concurrent: int = 256
    """Sequences decoded at once."""
    threads: int = 0
    """CPU threads; 0 takes every core this process may use."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model lives."""
    compute: Literal["fp32", "bf16", "auto"] = "fp32"
    """Precision of the forward passes; auto takes bf16 where it is measured to be faster."""
    output: Path | None = None
    """Also write the results, with every response, to this JSON file."""


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


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Is every row of a data set fit to be graded against?

    Grades each gold answer against itself, against the row's own solution and labelled responses, finds duplicates and
    unreadable rows, and lists what fails in FILE.quarantine.jsonl. Programs run if a row has tests.
    """

    sources: tuple[str, ...]
    """Files (.jsonl, .parquet), folders of them, or gym:FAMILY?size=..&parameter=.."""
    kind: Literal["math", "code", "exact", "regex"] = "math"
    """How rows are graded that do not say."""
    quarantine: Path | None = None
    """Write the rows that fail to this file instead of one beside each source."""
    long_prompt: int = 8000
    """Characters from which a prompt counts as long."""
    workers: int = 2
    """Verifier processes."""
    deadline: float = 5.0
    """Seconds for one grading, or for one test of a program."""
    sandbox_url: str = ""
    """Run programs on the SandboxFusion server at http://HOST:PORT instead of here."""
