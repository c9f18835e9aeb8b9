"""One pass over the rows of sources: kept rows into one file, dropped ones with their reasons into another beside it.

Which rows are dropped is decided by the function that :func:`run_pass` is given. Files appear whole or not at all.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from credo.curation.entries import Entry, Refusal
from credo.data.sources import DROPPED, expand
from credo.options.shared import check_folder_of

UNREADABLE = "unreadable"
_SHOWN = 5
_CHUNK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Why a row is left out."""

    step: str
    """What found it, for the counts."""
    reason: str
    details: Mapping[str, Any] = field(default_factory=dict)
    """More about it for the file of dropped rows (JSON values only)."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of the rows."""

    rows: int = 0
    kept: int = 0
    by_source: Counter[str] = field(default_factory=Counter)
    """Kept rows by the source they name."""
    by_kind: Counter[str] = field(default_factory=Counter)
    """Kept rows by what judges them; ``demonstration`` where nothing does."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Dropped rows by step."""
    examples: list[str] = field(default_factory=list)
    """The first dropped rows of each step: place and reason."""


class RowFile:
    """A JSONL file that appears under its name once it is whole. Where there is a file of that name already, the rows
    have to be those of that file, and nothing is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(f"{path.name}.partial")
        self.earlier: BinaryIO | None = None
        self.file: BinaryIO | None = None

    def __enter__(self) -> RowFile:
        if self.path.exists():
            self.earlier = self.path.open("rb")
        else:
            self.file = self.partial.open("wb")
        return self

    def write(self, row: Mapping[str, Any]) -> None:
        """Raises ValueError if the file that is there says something else."""
        line = json_line(row)
        if self.file is not None:
            self.file.write(line)
        elif self.earlier is None or self.earlier.readline() != line:
            self._refuse()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.earlier is not None:
            with self.earlier:
                if kind is None and self.earlier.read(1):
                    self._refuse()
        if self.file is not None:
            self.file.close()
            if kind is None:
                self.partial.replace(self.path)
            else:
                self.partial.unlink()

    def _refuse(self) -> None:
        raise ValueError(f"{self.path} exists and holds other rows; remove it or name another output.")


def json_line(row: Mapping[str, Any]) -> bytes:
    """A row as a line; letters stay letters unless one of them is half a surrogate pair, which UTF-8 cannot hold."""
    try:
        return json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n"
    except UnicodeEncodeError:
        return json.dumps(row).encode("ascii") + b"\n"


def run_pass(
    entries: Iterable[Entry | Refusal],
    output: Path,
    decide: Callable[[Entry], Drop | None],
    *,
    written: Callable[[Entry], Mapping[str, Any]] = lambda entry: entry.row,
    progress: Callable[[int], None] = lambda count: None,
) -> Tally:
    """Writes the rows that ``decide`` lets pass to ``output``, the others to :func:`dropped_file`.

    Raises ValueError if no row passes, or if a file of one of the two names holds something else already.
    """
    tally = Tally()
    with RowFile(dropped_file(output)) as left_out, RowFile(output) as kept:
        for entry in entries:
            tally.rows += 1
            if tally.rows % _CHUNK == 0:
                progress(_CHUNK)
            drop = Drop(step=UNREADABLE, reason=entry.reason) if isinstance(entry, Refusal) else decide(entry)
            if drop is not None:
                left_out.write(_dropped_row(entry, drop))
                _note(tally, entry, drop)
            elif isinstance(entry, Entry):
                kept.write(written(entry))
                tally.kept += 1
                tally.by_source[entry.origin] += 1
                tally.by_kind[entry.kind] += 1
        if tally.kept == 0:
            raise ValueError(f"None of the {tally.rows:,} rows is left, so nothing is written. {_first_reason(tally)}")
    return tally


def check_output(output: Path, sources: Sequence[str]) -> None:
    """Raises ValueError for a file that no other command could read, or that is one of the sources."""
    if output.suffix != ".jsonl" or output.name.endswith(DROPPED):
        raise ValueError(f"--output {output} has to be a .jsonl file: that is what is written, and its name says so.")
    check_folder_of(output)
    read = {origin.resolve() for origin in expand(sources).values() if isinstance(origin, Path)}
    for path in (output, dropped_file(output)):
        if path.resolve() in read:
            raise ValueError(f"{path} would be both input and output; name another output.")


def dropped_file(output: Path) -> Path:
    """Where the rows stand that are not in ``output``."""
    return output.with_suffix(DROPPED)


def told(tally: Tally, output: Path) -> str:
    """A summary for people, with the first rows of each reason."""
    gone = tally.rows - tally.kept
    lines = [f"{tally.rows:,} rows, {tally.kept:,} kept in {output}, {gone:,} dropped in {dropped_file(output)}."]
    lines.append("  kept: " + _listed(tally.by_kind))
    if len(tally.by_source) > 1:
        lines.append("  by source: " + _listed(tally.by_source))
    lines += [f"  {count:,} x {step} ({count / tally.rows:.2%})" for step, count in tally.dropped.most_common()]
    return "\n".join([*lines, *(f"    {example}" for example in tally.examples)])


def _listed(counts: Counter[str]) -> str:
    listed = ", ".join(f"{count:,} {name}" for name, count in counts.most_common(10))
    return listed + (f" and {len(counts) - 10:,} more" if len(counts) > 10 else "")


def _note(tally: Tally, entry: Entry | Refusal, drop: Drop) -> None:
    tally.dropped[drop.step] += 1
    if tally.dropped[drop.step] <= _SHOWN:
        tally.examples.append(f"{entry.source}:{entry.line}: {drop.step}: {drop.reason}")


def _dropped_row(entry: Entry | Refusal, drop: Drop) -> dict[str, Any]:
    row: dict[str, Any] = {"source": entry.source, "line": entry.line, "step": drop.step, "reason": drop.reason}
    row |= drop.details
    return row | ({"row": entry.row} if isinstance(entry, Entry) else {})


def _first_reason(tally: Tally) -> str:
    return f"The first: {tally.examples[0]}." if tally.examples else ""
