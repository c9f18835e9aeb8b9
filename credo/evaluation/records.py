"""What was said to each problem of an evaluation and what it was worth, in a folder that a killed evaluation resumes.

``results.json`` holds what the evaluation was asked for and the numbers; ``NAME.jsonl`` has a line a problem, in the
order of the problems. This module judges nothing and computes no number.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

RESULTS = "results.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The responses to one problem, and what was found of each. One line of a file."""

    id: str
    responses: tuple[str, ...]
    finish: tuple[str, ...]
    """``stop``, or ``length`` where it ran into the limit."""
    lengths: tuple[int, ...]
    """In tokens."""
    scores: tuple[float | None, ...]
    """0 wrong, 1 correct; None is unknown."""
    reasons: tuple[str, ...]
    """Of the verdicts."""
    answers: tuple[str | None, ...]
    """What a response votes for; None votes for nothing."""
    rewards: tuple[float, ...] = ()
    """Of a PRM, if there was one."""

    @property
    def known(self) -> list[int]:
        """The places of the responses that were judged."""
        return [place for place, score in enumerate(self.scores) if score is not None]

    @property
    def mean_score(self) -> float | None:
        """Over the judged responses; None if there is none."""
        judged = [score for score in self.scores if score is not None]
        return sum(judged) / len(judged) if judged else None


class EvaluationFolder:
    """The folder of an evaluation, locked until its ``with`` block ends.

    Raises ValueError where it cannot be used, or another process is using it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / ".lock").open("w")
        except OSError as error:
            raise ValueError(f"The folder {folder} of --output cannot be used: {error}.") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise ValueError(f"Another process is writing to {folder}; choose another --output.") from None

    def __enter__(self) -> EvaluationFolder:
        return self

    def __exit__(self, *raised: object) -> None:
        self._lock.close()

    def begin(self, settings: Mapping[str, Any], free: Iterable[str] = ()) -> None:
        """Writes down what the evaluation is asked for; see :meth:`refuse_other`."""
        self.refuse_other(settings, free)
        begun = (self.folder / RESULTS).exists()
        before = self.results() if begun else {"sources": {}, "results": {}}
        self._write({**before, "settings": dict(settings)})

    def refuse_other(self, settings: Mapping[str, Any], free: Iterable[str] = ()) -> None:
        """Raises ValueError if the folder holds an evaluation with other settings, naming the first that differs and
        is not in ``free``, or records of no evaluation."""
        wanted = json.loads(json.dumps(dict(settings)))
        if not (self.folder / RESULTS).exists():
            if any(self.folder.glob("*.jsonl")):
                raise ValueError(f"{self.folder} holds .jsonl files of no evaluation; choose another --output.")
            return
        before = self.results()["settings"]
        for name in sorted(wanted.keys() | before.keys()):
            old, new = before.get(name), wanted.get(name)
            if old != new and name not in free:
                raise ValueError(
                    f"{self.folder} holds an evaluation with {name} = {old!r}, and {new!r} is asked for now; its "
                    "numbers would be of both. Set it back or choose another --output."
                )

    def results(self) -> dict[str, Any]:
        """What ``results.json`` holds. Raises ValueError if it holds no evaluation."""
        return read_results(self.folder)

    def begin_source(self, key: str, source: Mapping[str, Any]) -> None:
        """Writes down which problems ``key`` stands for. Raises ValueError if it stood for others here."""
        results = self.results()
        before = results["sources"].setdefault(key, dict(source))
        if before["sha256"] != source["sha256"]:
            raise ValueError(
                f"{self.folder} holds answers to other problems under '{key}' ({before['source']} with sha256 "
                f"{before['sha256']}, now {source['sha256']}); choose another --output."
            )
        self._write(results)

    def finish_source(self, key: str, numbers: Mapping[str, Any]) -> None:
        """Writes down the numbers of ``key``."""
        results = self.results()
        results["results"][key] = dict(numbers)
        self._write(results)

    def records(self, key: str) -> list[Record]:
        """The records of ``key`` so far; a line that was being written when the process was killed is cut off."""
        path = self.file(key)
        if not path.exists():
            return []
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        return read_records(path)

    def append(self, key: str, records: Sequence[Record]) -> None:
        """More lines of ``key``, on the disk when this returns."""
        with self.file(key).open("ab") as file:
            file.write(_lines(records))
            file.flush()
            os.fsync(file.fileno())

    def rewrite(self, key: str, records: Sequence[Record]) -> None:
        """All lines of ``key`` anew, at once."""
        _replace(self.file(key), _lines(records))

    def file(self, key: str) -> Path:
        """Where the records of ``key`` are."""
        return self.folder / f"{key}.jsonl"

    def _write(self, results: Mapping[str, Any]) -> None:
        _replace(self.folder / RESULTS, json.dumps(results, indent=1).encode("ascii"))


def read_results(folder: Path) -> dict[str, Any]:
    """What ``results.json`` in ``folder`` holds. Raises ValueError if it holds no evaluation."""
    path = folder / RESULTS
    try:
        results = json.loads(path.read_bytes())
        if not {"settings", "sources", "results"} <= results.keys():
            raise ValueError("it lacks settings, sources or results")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} holds no evaluation ({error}); name the --output of credo evaluate.") from None
    return results


def read_records(path: Path) -> list[Record]:
    """The records of a file, but for half a line at its end. Raises ValueError for lines that are none."""
    return [_record(line, path) for line in path.read_bytes().split(b"\n")[:-1]]


def _record(line: bytes, path: Path) -> Record:
    try:
        values: dict[str, Any] = json.loads(line)
        listed: dict[str, Any] = {name: tuple(value) for name, value in values.items() if name != "id"}
        return Record(id=values["id"], **listed)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        known = ", ".join(field.name for field in fields(Record))
        raise ValueError(f"{path} holds a line that is no record of {known} ({error}); remove the file.") from None


def _lines(records: Iterable[Record]) -> bytes:
    return b"".join(json.dumps(asdict(record)).encode("ascii") + b"\n" for record in records)


def _replace(path: Path, content: bytes) -> None:
    aside = path.with_suffix(".tmp")
    aside.write_bytes(content)
    os.replace(aside, path)
