"""Problems from any mixture of sources, with a report of what was read. It renders no prompt and draws no order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from credo.data.generated import gym_problem, gym_rows
from credo.data.rows import problem_of
from credo.data.sources import GeneratedSource, as_object, expand, file_rows, sift
from credo.types import Kind, Message, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What became of the rows of all sources."""

    counts: Mapping[str, int]
    """Problems by source, the source named as in :func:`credo.data.sources.expand`."""
    bad_rows: tuple[str, ...]
    """A sentence with source, place and reason for every row that was left out."""
    sha256: str
    """:func:`fingerprint` of the problems."""


def load_problems(
    sources: Sequence[str], *, kind: Kind = "math", max_bad_share: float = 0.0
) -> tuple[list[Problem], LoadReport]:
    """The problems of ``sources`` in the order given: .jsonl and .parquet files, folders of them, and
    ``gym:FAMILY?size=..&seed=..&parameter=..&prompt=question|expression``.

    ``kind`` judges the rows of files that name no kind. Rows that cannot be used are skipped and reported up to the
    share ``max_bad_share`` of their source. Raises ValueError above it, with the place and the reason of the first.
    """
    problems: list[Problem] = []
    bad_rows: list[str] = []
    counts: dict[str, int] = {}
    seen: set[str] = set()
    for label, origin in expand(sources).items():
        rows = file_rows(origin) if isinstance(origin, Path) else gym_rows(_problem_source(origin))
        parse = partial(_problem, origin=origin, label=label, kind=kind, seen=seen)
        found, bad = sift(rows, parse, label=label, max_bad_share=max_bad_share)
        problems += found
        bad_rows += bad
        counts[label] = len(found)
    return problems, LoadReport(counts=counts, bad_rows=tuple(bad_rows), sha256=fingerprint(problems))


def without(problems: Sequence[Problem], held_out: Sequence[Problem]) -> tuple[list[Problem], int]:
    """The problems whose prompt does not stand in ``held_out``, and how many were dropped.

    Prompts are the same if their users' words are, however they are spaced, and whether they are messages or text.
    """
    forbidden = {_words(problem) for problem in held_out}
    kept = [problem for problem in problems if _words(problem) not in forbidden]
    return kept, len(problems) - len(kept)


def asked(prompt: str | tuple[Message, ...]) -> str:
    """What the user says in a prompt."""
    return prompt if isinstance(prompt, str) else "\n".join(turn.content for turn in prompt if turn.role == "user")


def fingerprint(problems: Sequence[Problem]) -> str:
    """SHA-256 of what the problems say, in their order; where they were read from does not enter."""
    digest = hashlib.sha256()
    for problem in problems:
        prompt = problem.prompt
        turns = prompt if isinstance(prompt, str) else [[message.role, message.content] for message in prompt]
        said = [problem.id, problem.kind, turns, problem.answer, dict(problem.extra)]
        digest.update(json.dumps(said, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _problem(
    number: int, raw: object, *, origin: Path | GeneratedSource, label: str, kind: Kind, seen: set[str]
) -> Problem:
    own_id = f"{label}:{number}"
    if isinstance(origin, GeneratedSource):
        problem = gym_problem(cast(Mapping[str, Any], raw), source=origin, id=own_id)
    else:
        problem = problem_of(as_object(raw), default_id=own_id, default_kind=kind, source=label)
    if problem.id in seen:
        raise ValueError(f"the id '{problem.id}' belongs to an earlier row; ids tell problems apart")
    seen.add(problem.id)
    return problem


def _problem_source(source: GeneratedSource) -> GeneratedSource:
    if source.scheme == "trace":
        raise ValueError(f"{source.name} makes demonstrations for SFT, not problems; use gym:{source.family}.")
    return source


def _words(problem: Problem) -> str:
    return " ".join(asked(problem.prompt).split())
