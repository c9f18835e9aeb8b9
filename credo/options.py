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
    top_p: float = 1.0
    """Nucleus sampling; 1 is off."""
    max_tokens: int = 256
    """Longest response, in tokens."""
    limit: int = 0
    """Use the first so many problems of each benchmark; 0 uses all."""
    seed: int = 0
    """The same seed gives the same responses."""
    kind: Literal["math", "exact"] = "math"
    """How answers of files are judged where a row does not say."""
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
