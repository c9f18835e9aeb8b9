"""``credo data difficulty``: how often a model solves each problem, written into its row. Filters nothing itself.

Rows are written chunk by chunk; what a killed command wrote is gone on from, and the numbers do not depend on where it
was killed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, BinaryIO

from credo.console import Console
from credo.curation.entries import Entry, Refusal, read_entries
from credo.curation.passes import check_output, json_line
from credo.models.causal import fingerprint
from credo.sampler import open_model, open_sampler, open_verifier, refuse_impossible
from credo.types import Problem, Verdict

if TYPE_CHECKING:
    from credo.options.curation import DifficultyOptions

CHUNK = 64
"""Problems that are sampled, judged and written together."""
Rates = list[tuple[float | None, int]]
"""Mean score of each problem, None where nothing could be judged, and how many responses could."""
Solve = Callable[[Sequence[Problem], int], Rates]
"""From problems and the number of their chunk."""


def difficulty(options: DifficultyOptions) -> None:
    """Prints how hard the problems are. Raises ValueError for what the user can mend."""
    refuse_impossible(options)
    check_output(options.output, options.sources)
    kinds = {entry.problem.kind for entry in _problems(options)}
    console = Console()
    problems = (entry.problem for entry in _problems(options))
    with (
        closing(open_verifier(options, kinds)) as verifier,
        closing(open_sampler(open_model(options), options, problems, console)) as sampler,
        console.stage(", ".join(options.sources), "problems") as advance,
    ):

        def solve(problems: Sequence[Problem], chunk: int) -> Rates:
            drawn = sampler.draw(problems, chunk * CHUNK)
            tasks = [(problem, one.text) for problem, of in zip(problems, drawn, strict=True) for one in of]
            verdicts = iter(verifier.verify(tasks))
            judged = [[v.score for v in islice(verdicts, options.samples) if isinstance(v, Verdict)] for _ in problems]
            return [(fmean(scores) if scores else None, len(scores)) for scores in judged]

        settings = _settings(options, fingerprint(sampler.start))
        rates = measure(_problems(options), options.output, solve, settings=settings, progress=advance)
    console.say(described(rates, options))


def measure(
    entries: Iterator[Entry],
    output: Path,
    solve: Solve,
    *,
    settings: str,
    progress: Callable[[int], None] = lambda count: None,
) -> list[float | None]:
    """Writes each row with ``solve_rate``, ``solve_samples`` and ``solve_by`` to ``output``, and gives all the rates.

    Whole chunks that are there already are kept, the rest is done again. Raises ValueError if they are of other rows
    or ``settings``.
    """
    rates: list[float | None] = []
    output.touch()
    with output.open("r+b") as file:
        going_on, kept, number = True, 0, 0
        while chunk := list(islice(entries, CHUNK)):
            saved = _saved(file, chunk, settings) if going_on else None
            if saved is None:
                if going_on:
                    going_on = False
                    file.seek(kept)
                    file.truncate()
                saved = solve([entry.problem for entry in chunk], number)
                lines = (_line(entry, *rate, settings) for entry, rate in zip(chunk, saved, strict=True))
                file.write(b"".join(lines))
                file.flush()
            kept = file.tell()
            rates += [rate for rate, _ in saved]
            progress(len(chunk))
            number += 1
        if file.read(1):
            raise ValueError(f"{output} holds more rows than the sources; remove it or name another output.")
    return rates


def described(rates: Sequence[float | None], options: DifficultyOptions) -> str:
    """A summary for people: the spread of the rates, and what the usual band would keep."""
    known = [rate for rate in rates if rate is not None]
    bands = {
        "never solved": sum(rate == 0 for rate in known),
        "always solved": sum(rate == 1 for rate in known),
        "within 0.2..0.8": sum(0.2 <= rate <= 0.8 for rate in known),
        "not judged": len(rates) - len(known),
    }
    mean = f"{sum(known) / len(known):.3f}" if known else "unknown"
    listed = ", ".join(f"{count:,} {band}" for band, count in bands.items())
    return (
        f"{len(rates):,} problems, {options.samples} samples each: mean solve rate {mean}; {listed}. Rows with their "
        f"rates are in {options.output}; credo data filter --steps solve_rate=0.2..0.8 chooses by them."
    )


def _problems(options: DifficultyOptions) -> Iterator[Entry]:
    """The problems to solve. Raises ValueError for a row that is none: a rate must not go missing in silence."""
    for entry in islice(read_entries(options.sources, kind=options.kind), options.limit or None):
        if isinstance(entry, Refusal):
            raise ValueError(
                f"{entry.source}:{entry.line}: {entry.reason}. Take such rows out by credo data import or filter."
            )
        if entry.response is not None:
            raise ValueError(f"{entry.source}:{entry.line} is a demonstration: no answer can be judged against it.")
        yield entry


def _saved(file: BinaryIO, chunk: Sequence[Entry], settings: str) -> Rates | None:
    """What the next lines of ``file`` say of ``chunk``; None if they are not all there, or the last is torn.

    Raises ValueError for lines of other problems or settings: nothing of another's file is overwritten.
    """
    rates: Rates = []
    for entry in chunk:
        line = file.readline()
        if not line.endswith(b"\n"):
            return None
        try:
            row = json.loads(line)
            mine = line == _line(entry, row["solve_rate"], row["solve_samples"], settings)
        except (ValueError, TypeError, KeyError):
            mine = False
        if not mine:
            raise ValueError(
                f"The output has another row where that of {entry.problem.id} should be, or one of other settings, so "
                "this command cannot go on from it; remove it or name another output."
            )
        rates.append((row["solve_rate"], row["solve_samples"]))
    return rates


def _line(entry: Entry, rate: float | None, judged: int, settings: str) -> bytes:
    return json_line({**entry.row, "solve_rate": rate, "solve_samples": judged, "solve_by": settings})


def _settings(options: DifficultyOptions, sha256: str) -> str:
    """What the rates depend on, as it stands in the rows."""
    asked = [options.template, options.system, options.suffix]
    drawing = [options.engine, options.compute, options.max_tokens, options.top_p, *options.stop]
    judged = [options.kind, options.verify, options.extract, options.pattern, options.sandbox_url]
    others = hashlib.sha256(json.dumps([asked, drawing, judged]).encode()).hexdigest()[:8]
    drawn = f"{options.samples} samples, temperature {options.temperature:g}, seed {options.seed}"
    return f"{options.model}, weights {sha256[:8]}, {drawn}, other options {others}"
