"""The options of ``credo evaluate`` and ``credo compare-evaluations``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from credo.options.shared import JudgeOptions, SamplerOptions


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(JudgeOptions, SamplerOptions):
    """avg@k, pass@k, maj@k and, with a PRM, best@k of a model on benchmarks, with 95 % intervals."""

    benchmarks: str
    """Separated by commas: names such as math500 (an unknown one lists them), .jsonl or .parquet files, addresses of
    them, or gym:FAMILY?size=..&parameter=..; #sha256=.. behind one holds it to that checksum."""
    data_folder: Path | None = None
    """Where the files of named benchmarks are, as in docs/benchmarks.md; without it they come from the hub."""
    preset: Literal["none", "paper"] = "none"
    """What holds where an option is not given: paper asks and draws as PRIME's paper did, benchmark by benchmark."""
    samples: int | None = None
    """Responses to each problem; 4 without a preset."""
    temperature: float | None = None
    """Sampling temperature, 0 is greedy; 1 without a preset."""
    top_k: int = 0
    """Only so many of the most likely tokens; 0 is off."""
    top_p: float | None = None
    """Nucleus sampling, 1 is off; 1 without a preset."""
    min_p: float = 0.0
    """Only tokens at least so many times as likely as the most likely one; 0 is off."""
    max_tokens: int | None = None
    """Longest response, in tokens; 256 without a preset."""
    stop: tuple[str, ...] | None = None
    """Texts that end a response and are its last ones, as in rollout.stop."""
    system: str | None = None
    """System message put before every conversation; none without a preset."""
    suffix: str | None = None
    """Text put after every prompt; none without a preset."""
    prm: str = ""
    """A PRM, named as --model: adds best@k, by the sum of its log-ratios to --reference over a response."""
    reference: str = "auto"
    """What --prm is measured against: a model, none, or auto for the one that its prm.json names."""
    output: Path | None = None
    """Folder for results.json and for every response, a .jsonl a benchmark; the same command goes on where it was."""
    save_every: int = 0
    """Problems after which responses are judged and saved; 0 is as many as fill --concurrent twice."""
    regrade: bool = False
    """Judge the responses in --output again, by new grading options, without the model."""


@dataclass(frozen=True, kw_only=True)
class CompareEvaluationsOptions:
    """Is one model better than another? Paired by problem, with a 95 % interval and a permutation test.

    Both folders are what credo evaluate wrote to --output; benchmarks that both have are compared by avg@k.
    """

    before: Path
    """The evaluation to compare with."""
    after: Path
    """The evaluation of interest; a positive difference speaks for it."""
    output: Path | None = None
    """Also write the numbers to this JSON file."""
