"""Source strings to raw rows: files, folders of files, and the names of generated sources. It knows neither schemas nor
problems; what a row means is decided by the function that :func:`sift` is given."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import unquote

Value = TypeVar("Value")
SUFFIXES = (".jsonl", ".parquet")
QUARANTINE = ".quarantine.jsonl"
"""What `credo data inspect` writes beside a file, which is not a source."""
DROPPED = ".dropped.jsonl"
"""What the other `credo data` commands leave out of a file, beside it; not a source of its folder either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedSource:
    """A source made by a program, written ``gym:FAMILY?name=value&name=value`` or ``trace:FAMILY?...``."""

    scheme: Literal["gym", "trace"]
    family: str
    parameters: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """The source without its parameters, e.g. ``gym:chain_sum``."""
        return f"{self.scheme}:{self.family}"


def expand(sources: Sequence[str]) -> dict[str, Path | GeneratedSource]:
    """What the source strings name, by a label for messages: a file's name (its path where two files share a name), or
    the source as written. A folder stands for its .jsonl and .parquet files, in order of their names.

    Raises ValueError for a file that is missing or of another format, an empty folder, and a source listed twice.
    """
    if not sources:
        raise ValueError("No source was given: name a .jsonl or .parquet file, a folder of those, or gym:FAMILY.")
    origins: list[tuple[str, Path | GeneratedSource]] = []
    for source in sources:
        if source.startswith(("gym:", "trace:")):
            origins.append((source, parse_generated(source)))
        else:
            origins.extend((path.name, path) for path in _files(source))
    names = Counter(name for name, _ in origins)
    expanded: dict[str, Path | GeneratedSource] = {}
    resolved: set[object] = set()
    for name, origin in origins:
        identity = origin.resolve() if isinstance(origin, Path) else origin
        if identity in resolved:
            raise ValueError(f"The source '{name}' is listed twice, so its rows would count twice; remove one.")
        resolved.add(identity)
        expanded[str(origin) if isinstance(origin, Path) and names[name] > 1 else name] = origin
    return expanded


def parse_generated(source: str) -> GeneratedSource:
    """``gym:chain_sum?size=100&seed=1`` in parts; percent signs escape as in a URL, a plus sign stays a plus sign."""
    scheme, _, rest = source.partition(":")
    assert scheme in ("gym", "trace")
    family, _, query = rest.partition("?")
    parameters: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        name, equals, value = pair.partition("=")
        if not equals or not name or name in parameters:
            fault = "stands twice" if name in parameters else "is not name=value"
            raise ValueError(f"'{source}': '{pair}' {fault}; write {scheme}:FAMILY?size=100&seed=1.")
        parameters[name] = unquote(value)
    return GeneratedSource(scheme=scheme, family=family, parameters=tuple(sorted(parameters.items())))


def near(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for a close match of ``word``, otherwise what is known, at most 20 of it."""
    choices = sorted(known)
    match = get_close_matches(word, choices, n=1)
    if match:
        return f" Did you mean '{match[0]}'?"
    more = f" and {len(choices) - 20} more" if len(choices) > 20 else ""
    return f" Known: {', '.join(choices[:20])}{more}."


def file_rows(path: Path) -> Iterator[tuple[str, int, object]]:
    """Every row of a file as ("line" or "row", its number from 1, raw content); blank lines are left out.

    Raises ValueError if the file cannot be read.
    """
    try:
        match path.suffix:
            case ".parquet":
                yield from _parquet_rows(path)
            case ".json" if _begins_with(path, b"["):
                yield from _array_rows(path)
            case _:
                yield from _lines(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}); check the file.") from error


def as_object(raw: object) -> dict[str, Any]:
    """A raw row of :func:`file_rows` as a JSON object. Raises ValueError saying what is wrong with it."""
    if isinstance(raw, bytes):
        try:
            raw = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8 at byte {error.start}") from error
        except json.JSONDecodeError as error:
            raise ValueError(f"malformed JSON ({error.msg} at column {error.colno})") from error
        except RecursionError as error:
            raise ValueError("JSON nested too deeply") from error
    if not isinstance(raw, dict):
        raise ValueError(f"expected a JSON object, got {type(raw).__name__}")
    return raw


def sift(
    rows: Iterable[tuple[str, int, object]],
    parse: Callable[[int, object], Value],
    *,
    label: str,
    max_bad_share: float,
) -> tuple[list[Value], list[str]]:
    """The parsed rows, and a sentence with place and reason for every row that ``parse`` refused with a ValueError.

    Raises ValueError at the first bad row if ``max_bad_share`` is 0, for a larger share of bad rows than that, and if
    there are no rows at all.
    """
    if not 0.0 <= max_bad_share < 1.0:
        raise ValueError(f"max_bad_share is a share of the rows, from 0 to below 1, got {max_bad_share}.")
    parsed: list[Value] = []
    bad: list[str] = []
    for unit, number, raw in rows:
        try:
            parsed.append(parse(number, raw))
        except ValueError as error:
            bad.append(f"{label}, {unit} {number}: {error}")
            if max_bad_share == 0.0:
                raise ValueError(f"{bad[0]}. Mend the row, or allow a max_bad_share.") from error
    total = len(parsed) + len(bad)
    if total == 0:
        raise ValueError(f"{label} holds no rows; check that it is the file you mean.")
    if len(bad) > max_bad_share * total:
        raise ValueError(
            f"{len(bad)} of {total} rows of {label} are unusable, more than max_bad_share = {max_bad_share} allows. "
            f"The first: {bad[0]}."
        )
    return parsed, bad


def _files(source: str) -> list[Path]:
    path = Path(source).expanduser()
    if path.is_dir():
        found = (file for file in path.iterdir() if file.suffix in SUFFIXES)
        files = sorted(file for file in found if not file.name.endswith((QUARANTINE, DROPPED)))
        if not files:
            raise ValueError(f"The folder {source} holds no .jsonl or .parquet file; name the folder that does.")
        return files
    if not path.is_file():
        raise ValueError(f"There is no file or folder '{source}'; give a path, gym:FAMILY or trace:FAMILY (%2C for ,).")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{source} is neither .jsonl nor .parquet; convert it, or rename it if it is one of them.")
    return [path]


def _lines(path: Path) -> Iterator[tuple[str, int, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            content = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
            if content:
                yield "line", number, content


def _begins_with(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(64).lstrip().startswith(mark)


def _array_rows(path: Path) -> Iterator[tuple[str, int, object]]:
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not one JSON array ({error}); write it anew.") from error
    for number, row in enumerate(rows, start=1):
        yield "row", number, row


def _parquet_rows(path: Path) -> Iterator[tuple[str, int, object]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield "row", number, row
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a readable parquet file; write it anew.") from error


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON value")
