"""``credo verify``: judge a JSONL file of responses or programs into a JSONL file of verdicts, row by row, resumable.

It decides nothing about answers; the verifier does. Rows are read and written in chunks, so a file may be larger than
memory. A row that cannot be judged is ``unknown`` and never stops the command.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

if TYPE_CHECKING:
    from credo.options.files import GradeOptions
    from credo.types import Kind, Problem, Unknown, Verdict
    from credo.verify.verifier import Verifier

LONGEST_ROW = 16 << 20
"""Bytes. A longer row is unknown, unread."""
_CHUNK_ROWS = 256
_CHUNK_BYTES = 32 << 20


KINDS = ("math", "code", "gym", "exact", "regex")


@dataclass(frozen=True, slots=True, kw_only=True)
class GradeSummary:
    """How many rows of the output, earlier runs included, came out how."""

    correct: int
    wrong: int
    unknown: int


def grade(options: GradeOptions) -> None:
    """Judges and prints a summary. Raises ValueError for what the user can mend."""
    from credo.console import Console
    from credo.verify.extraction import Extraction
    from credo.verify.router import verifier_for

    if options.kind not in KINDS and ":" not in options.kind:
        raise ValueError(
            f"--kind {options.kind} is none of {', '.join(KINDS)}, nor python:MODULE:FUNCTION or its like."
        )
    total = count_rows(options.input)
    verifier = verifier_for(
        {options.kind},
        kind="auto" if options.kind in KINDS else options.kind,
        extraction=Extraction(kind=options.extract, pattern=options.pattern),
        workers=options.workers,
        deadline=options.deadline,
        memory_mb=options.memory_mb,
        sandbox_url=options.sandbox_url,
        min_level=options.min_level,
        partial=options.partial,
    )
    console = Console()
    shown = 0
    try:
        with console.stage(options.input.name, "rows", total) as advance:

            def progress(done: int, _: int) -> None:
                nonlocal shown
                advance(done - shown)
                shown = done

            summary = grade_file(options.kind, options.input, options.output, verifier=verifier, progress=progress)
    finally:
        verifier.close()
    console.say(
        f"{total:,} rows: {summary.correct:,} correct, {summary.wrong:,} wrong, {summary.unknown:,} unknown. "
        f"Verdicts are in {options.output}."
    )


def grade_file(
    kind: str,
    input: Path,
    output: Path,
    *,
    verifier: Verifier,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> GradeSummary:
    """Writes a verdict to ``output`` for every row of ``input`` that has none yet; tells ``progress`` the rows done.

    Raises ValueError where the input is missing or empty, or the output holds verdicts of other rows.
    """
    total = count_rows(input)
    if output.resolve() == input.resolve():
        raise ValueError(f"{output} is both input and output; name another file for the verdicts.")
    counts, keep = _earlier(input, output)
    done = sum(counts.values())
    progress(done, total)
    with input.open("rb") as source, output.open("ab") as verdicts:
        verdicts.truncate(keep)
        rows = islice(_rows(source), done, None)
        while chunk := _chunk(rows):
            written = _judged(kind, chunk, verifier)
            verdicts.write(b"".join(json.dumps(row).encode("ascii") + b"\n" for row in written))
            verdicts.flush()
            counts.update(row["verdict"] for row in written)
            done += len(chunk)
            progress(done, total)
    return GradeSummary(correct=counts["correct"], wrong=counts["wrong"], unknown=counts["unknown"])


def count_rows(path: Path) -> int:
    """The number of rows of a JSONL file; blank lines are none. ValueError: there is no such file, or it is empty."""
    if not path.is_file():
        raise ValueError(f"There is no file {path}; name a JSONL file of responses.")
    with path.open("rb") as file:
        total = sum(1 for _ in _rows(file))
    if total == 0:
        raise ValueError(f"{path} holds no rows, so there is nothing to judge.")
    return total


def _rows(file: BinaryIO) -> Iterator[bytes]:
    """The lines that are not blank; of one that is too long only the beginning, without its newline."""
    while line := file.readline(LONGEST_ROW):
        part = line
        while part and not part.endswith(b"\n") and len(part) == LONGEST_ROW:
            part = file.readline(LONGEST_ROW)
        if line.strip():
            yield line


def _chunk(rows: Iterator[bytes]) -> list[bytes]:
    chunk, size = [], 0
    for row in rows:
        chunk.append(row)
        size += len(row)
        if len(chunk) == _CHUNK_ROWS or size >= _CHUNK_BYTES:
            break
    return chunk


def _earlier(input: Path, output: Path) -> tuple[Counter[str], int]:
    """The verdicts that ``output`` holds already, and their bytes; half a row at its end does not count."""
    counts: Counter[str] = Counter()
    keep = 0
    if not output.exists():
        return counts, keep
    with input.open("rb") as source, output.open("rb") as verdicts:
        rows = _rows(source)
        for number, line in enumerate(verdicts, start=1):
            if not line.endswith(b"\n"):
                break
            verdict, row = _parsed(line), next(rows, None)
            if row is None or not isinstance(verdict, dict) or verdict.get("id") != _id(_parsed(row)):
                raise ValueError(
                    f"Row {number} of {output} is not the verdict of row {number} of {input}, so it belongs to another "
                    "input; remove it or name another output."
                )
            counts[str(verdict.get("verdict"))] += 1
            keep += len(line)
    return counts, keep


def _judged(kind: str, chunk: list[bytes], verifier: Verifier) -> list[dict[str, Any]]:
    """The output rows of a chunk."""
    rows = [_parsed(line) for line in chunk]
    tasks: dict[int, tuple[Problem, str]] = {}
    faults: dict[int, str] = {}
    for index, row in enumerate(rows):
        try:
            tasks[index] = _task(kind, row)
        except ValueError as error:
            faults[index] = str(error)
    judgements = dict(zip(tasks, verifier.verify(list(tasks.values())), strict=True))
    return [
        _output_row(_id(row), judgements[index])
        if index in judgements
        else {"id": _id(row), "verdict": "unknown", "score": None, "reason": faults[index], "seconds": 0.0}
        for index, row in enumerate(rows)
    ]


def _output_row(id: object, judgement: Verdict | Unknown) -> dict[str, Any]:
    from credo.types import Verdict

    known = isinstance(judgement, Verdict)
    return {
        "id": id,
        "verdict": ("correct" if judgement.correct else "wrong") if known else "unknown",
        "score": judgement.score if known else None,
        "reason": judgement.reason,
        "seconds": round(judgement.seconds, 4),
    }


def _parsed(line: bytes) -> Any:
    """The JSON value of a line, or the ValueError that says why there is none."""
    if len(line) >= LONGEST_ROW:
        return ValueError(f"row longer than {LONGEST_ROW} bytes")
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return ValueError(f"not JSON: {error}")


def _id(row: Any) -> object:
    return row.get("id") if isinstance(row, dict) else None


def _task(kind: str, row: Any) -> tuple[Problem, str]:
    """What a row asks for. ValueError: it lacks something."""
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    source = "program" if kind == "code" and "program" in row else "response"
    needed = {"math": "answer", "exact": "answer", "regex": "answer", "gym": "family", "code": "tests"}
    missing = [key for key in ("id", source, *filter(None, [needed.get(kind)])) if key not in row]
    if missing:
        raise ValueError(f"no {' and no '.join(repr(key) for key in missing)} in this row")
    response = row[source]
    if not isinstance(response, str):
        raise ValueError(f"'{source}' is not a string")
    if source == "program" and "```" in response:  # it would be taken for a response around a program
        response = f"exec({ascii(response).replace('`', chr(92) + 'x60')})"
    return _problem(kind, row), response


def _problem(kind: str, row: dict[str, Any]) -> Problem:
    """The problem that a row answers. For a function of the user's everything else in the row is ``extra``."""
    from credo.data.rows import messages_of
    from credo.types import Problem

    answer, extra, prompt = row.get("answer"), {}, ""
    match kind:
        case "gym":
            extra = {"family": row["family"], "entry": _entry(row)}
            answer = extra["entry"].get("answer") or ""
        case "code":
            extra, answer = {"tests": row["tests"]}, ""
        case "math" | "exact" | "regex":
            pass
        case _:
            extra = {key: value for key, value in row.items() if key not in ("id", "response", "answer", "prompt")}
            prompt, kind, answer = row.get("prompt", ""), "exact", row.get("answer", "")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise ValueError("'answer' is neither a string nor a number")
    return Problem(
        id=str(row["id"]),
        kind=cast("Kind", kind),
        prompt=prompt if isinstance(prompt, str) else messages_of(prompt, "prompt"),
        answer=str(answer),
        source=str(row.get("source", "")),
        extra=extra,
    )


def _entry(row: dict[str, Any]) -> dict[str, Any]:
    """What reasoning-gym scores against: ``entry``, or the same laid flat in the row."""
    entry = row.get("entry", {key: row[key] for key in ("question", "answer", "metadata") if key in row})
    if not isinstance(entry, dict) or not {"answer", "metadata"} <= entry.keys():
        raise ValueError("neither 'entry' nor 'answer' and 'metadata' in this row")
    return entry
