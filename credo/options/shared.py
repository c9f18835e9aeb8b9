"""What several commands ask in the same words: how to compute, which model samples, how answers are judged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from credo.config import Extract, Template


@dataclass(frozen=True, kw_only=True)
class ComputeOptions:
    """Where models live, and how they compute."""

    threads: int = 0
    """CPU threads; 0 takes every core this process may use."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models live."""
    compute: Literal["fp32", "bf16", "auto"] = "fp32"
    """Precision of the forward passes; auto takes bf16 where it is measured to be faster."""


@dataclass(frozen=True, kw_only=True)
class SamplerOptions(ComputeOptions):
    """A model that answers problems."""

    model: str
    """A Hugging Face folder or hub id, a .gguf file, or package:NAME."""
    engine: Literal["torch", "vllm"] = "torch"
    """What samples: the model itself, or vLLM with a copy of it (the extra of that name)."""
    concurrent: int = 256
    """Sequences decoded at once."""
    limit: int = 0
    """Use the first so many problems; 0 uses all."""
    seed: int = 0
    """The same seed gives the same responses."""
    template: Template = "auto"
    """Chat template or plain text."""


@dataclass(frozen=True, kw_only=True)
class DrawOptions(SamplerOptions):
    """How responses are drawn, and what stands around a prompt."""

    samples: int = 8
    """Responses to each problem."""
    temperature: float = 1.0
    """Sampling temperature; 0 is greedy."""
    top_p: float = 1.0
    """Nucleus sampling; 1 is off."""
    max_tokens: int = 1024
    """Longest response, in tokens."""
    stop: tuple[str, ...] = ()
    """Texts that end a response and are its last ones, as in rollout.stop."""
    system: str = ""
    """System message put before every conversation."""
    suffix: str = ""
    """Text put after every prompt."""


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """Where answers are found."""

    extract: Extract = "auto"
    """Where the answer stands in a response."""
    pattern: str = ""
    """Regular expression for --extract regex; the last match counts, its first group if it has one."""


@dataclass(frozen=True, kw_only=True)
class SandboxOptions:
    """Where programs run."""

    sandbox_url: str = ""
    """Run programs on the SandboxFusion server at http://HOST:PORT instead of here."""


@dataclass(frozen=True, kw_only=True)
class KindOptions:
    """What rows are that do not say."""

    kind: Literal["math", "code", "exact", "regex"] = "math"
    """How answers of files are judged where a row does not say."""


@dataclass(frozen=True, kw_only=True)
class JudgeOptions(SandboxOptions, ExtractOptions, KindOptions):
    """How responses are judged."""

    verify: str = "auto"
    """By the kind of each problem, or all by a function of yours: python:MODULE:FUNCTION, trl:.., verl:FILE.py."""


@dataclass(frozen=True, kw_only=True)
class SourcesOptions(KindOptions):
    """What is read."""

    sources: tuple[str, ...]
    """Files (.jsonl, .parquet), folders of them, or gym:FAMILY?size=..&parameter=.."""


@dataclass(frozen=True, kw_only=True)
class RewriteOptions(SourcesOptions):
    """What is read and written."""

    output: Path
    """JSONL file to write. One that exists is left alone, and has to hold the same rows."""


def check_folder_of(output: Path | None) -> None:
    """Raises ValueError for a file in a folder that is not there, before any work is done for it."""
    if output is not None and not output.parent.is_dir():
        raise ValueError(f"There is no folder {output.parent} for --output {output}; make it first.")
