"""The options of the ``credo data`` commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from credo.options.shared import (
    DrawOptions,
    JudgeOptions,
    KindOptions,
    RewriteOptions,
    SandboxOptions,
    SourcesOptions,
)


@dataclass(frozen=True, kw_only=True)
class InspectOptions(SandboxOptions, SourcesOptions):
    """Is every row of a data set fit to be graded against?

    Grades each gold answer against itself, against the row's own solution and labelled responses, finds duplicates and
    unreadable rows, and lists what fails in FILE.quarantine.jsonl. Programs run if a row has tests.
    """

    quarantine: Path | None = None
    """Write the rows that fail to this file instead of one beside each source."""
    long_prompt: int = 8000
    """Characters from which a prompt counts as long."""
    workers: int = 2
    """Verifier processes."""
    deadline: float = 5.0
    """Seconds for one grading, or for one test of a program."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions(RewriteOptions):
    """Any source of problems or demonstrations as our own JSONL.

    Reads the schemas of Eurus-2-RL-Data, Eurus-2-SFT-Data, verl, TRL, GSM8K and our own. Rows that cannot be read are
    listed in OUTPUT.dropped.jsonl with their reasons.
    """

    form: Literal["auto", "problems", "demonstrations"] = "auto"
    """What the rows are; auto takes one with a response and without an answer for a demonstration."""
    ids: Literal["own", "place"] = "own"
    """Keep the rows' own ids, or name every row FILE:LINE, where several files count from 0."""


@dataclass(frozen=True, kw_only=True)
class FilterOptions(RewriteOptions):
    """The filters of the paper's data, and others, one after the other.

    Steps: no_figure, no_proof, no_underline, no_multiple_choice, numeric_answer, or paper for these five;
    solve_rate=LOW..HIGH (after credo data difficulty); length=LOW..HIGH in characters. Rows that are dropped are listed
    in OUTPUT.dropped.jsonl with their reasons.
    """

    steps: str = "paper"
    """Names of steps, separated by commas."""


@dataclass(frozen=True, kw_only=True)
class DeduplicateOptions(RewriteOptions):
    """Of rows that ask the same, the first.

    Capitals, spacing, sentence marks and LaTeX layout make no difference. Of demonstrations prompt and response count.
    The others are listed in OUTPUT.dropped.jsonl with the row that they repeat.
    """

    near: float = 0.8
    """Least Jaccard similarity of two prompts with the same numbers that counts as the same; 0 wants the same words."""
    n: int = 3
    """Words in an n-gram."""


@dataclass(frozen=True, kw_only=True)
class DecontaminateOptions(RewriteOptions):
    """Rows that hold no problem of a benchmark.

    Compares prompts by the word n-grams they share, whatever their capitals, spacing, sentence marks and LaTeX layout.
    The others are listed in OUTPUT.dropped.jsonl with the benchmark's row and the overlap.
    """

    against: tuple[str, ...]
    """Files of benchmarks, whose rows need a prompt only, or names as credo evaluate knows them, such as math500."""
    data_folder: Path | None = None
    """Where the files of named benchmarks are, as for credo evaluate."""
    n: int = 8
    """Words in an n-gram."""
    share: float = 0.3
    """Share of the shorter text's n-grams that the longer has to have."""
    common: int = 10
    """N-grams in more different benchmark prompts than this do not count."""


@dataclass(frozen=True, kw_only=True)
class DifficultyOptions(JudgeOptions, DrawOptions, SourcesOptions):
    """How often a model solves each problem, written into its row as solve_rate.

    The same command goes on where it was stopped. credo data filter --steps solve_rate=0.2..0.8 chooses by the rates.
    """

    output: Path
    """JSONL file to write: the rows with solve_rate, solve_samples and solve_by."""


@dataclass(frozen=True, kw_only=True)
class CardOptions(KindOptions):
    """What is in a data set, as Markdown and as one HTML page: counts, lengths, sources, answers, duplicates, hash."""

    file: Path
    """A .jsonl or .parquet file."""
    output: Path | None = None
    """The Markdown file to write, the page beside it in .html; FILE.card.md without it."""
    model: str = ""
    """Also count tokens, by the tokenizer of this Hugging Face folder or hub id."""
    examples: int = 3
    """Rows to show, spread over the file."""
