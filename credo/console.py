"""What a person sees: one line a step in the terminal and in log.txt, and a live bar where the output is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PIPE_INTERVAL = 15.0
"""Seconds between signs of life within a stage where the output is no terminal."""


class Console:
    """Prints lines, and copies them to ``log`` if there is one; ``quiet``, on all ranks but the first, neither."""

    def __init__(self, log: Path | None = None, *, quiet: bool = False) -> None:
        self.log, self.quiet = log, quiet
        self.live = sys.stdout.isatty()

    def say(self, line: str) -> None:
        """Prints ``line`` and logs it with the time of day, unless the disk refuses, which need not end a run."""
        if self.quiet:
            return
        print(line, flush=True)
        if self.log is not None:
            with suppress(OSError), self.log.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")

    def warn(self, line: str) -> None:
        """Says ``line`` so that it stands out."""
        self.say(f"warning: {line}")

    @contextmanager
    def stage(self, name: str, unit: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Shows that a long stage is alive: gives a function to be told of every so many ``unit`` done."""
        if self.quiet:
            yield lambda count: None
        elif self.live:
            with _live_bar(name, unit, total) as advance:
                yield advance
        else:
            yield _printed(name, unit, total)


def duration(seconds: float) -> str:
    """``seconds`` as people say them, e.g. ``2m05s``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{whole % 60:02d}s"


def first_line(error: BaseException) -> str:
    """What ``error`` says before its first line break, or its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _live_bar(name: str, unit: str, total: int | None) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f} " + unit)]
    columns += [TextColumn("{task.fields[rate]:.0f}/s"), TimeElapsedColumn()]
    if total is not None:
        columns.append(TimeRemainingColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task(name, total=total, rate=0.0)
        started = time.perf_counter()

        def advance(count: int) -> None:
            done = progress.tasks[0].completed + count
            progress.update(task, advance=count, rate=done / max(1e-9, time.perf_counter() - started))

        yield advance


def _printed(name: str, unit: str, total: int | None) -> Callable[[int], None]:
    started = printed = time.perf_counter()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, printed
        done += count
        now = time.perf_counter()
        if now - printed >= PIPE_INTERVAL:
            printed = now
            rate = done / (now - started)
            left = f" of {total:,}, {duration((total - done) / rate)} left" if total and rate else ""
            print(f"  {name}: {done:,} {unit}{left}, {rate:,.0f}/s", flush=True)

    return advance
