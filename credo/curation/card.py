"""What is in a data set, counted in one pass, and as Markdown and HTML. What rows say is shown as text and never as
markup: neither page runs or fetches anything."""

from __future__ import annotations

import html
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from credo.curation.entries import Entry, Refusal
from credo.curation.text import exact_key
from credo.types import Problem

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
_SHOWN = 20
_EXAMPLE = 2000
"""Characters of an example that are shown."""
_ANSWERS = (
    ("integer", re.compile(r"[-+]?\d[\d,]*|[-+]?\d+\.0*")),
    ("decimal", re.compile(r"[-+]?[\d,]*\.\d+")),
    ("percent", re.compile(r"[-+]?[\d.,]+\s*\\?%")),
    ("fraction", re.compile(r"[-+]?(?:\d+\s*/\s*\d+|\\[dt]?frac\s*(?:\{\d+\}|\d)\s*(?:\{\d+\}|\d))")),
    ("letter of a choice", re.compile(r"(?:\\text\w*\{)?\(?[A-J]\)?\}?")),
    ("tuple, interval or set", re.compile(r"(?:\\left)?\s*(?:[(\[]|\\?\{).*,.*(?:[)\]]|\\?\})", re.DOTALL)),
    ("several values", re.compile(r"[^,]+(?:,[^,]+)+|.+\\pm.+", re.DOTALL)),
    ("equation", re.compile(r"[^=]+=[^=]+", re.DOTALL)),
    ("words", re.compile(r"(?:\\text\w*\{)?[A-Za-z][A-Za-z' .-]*\}?")),
)
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left}"
    "td+td{text-align:right}pre{background:#f4f4f4;padding:1em;white-space:pre-wrap;overflow-wrap:anywhere}"
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A heading and rows of text, the first row its header."""

    title: str
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What both pages show."""

    title: str
    tables: Sequence[Table]
    examples: Sequence[tuple[str, str]]
    """Heading and text of each."""


@dataclass(slots=True, kw_only=True)
class Survey:
    """Counts over the rows of a file."""

    rows: int = 0
    refused: int = 0
    first_refusal: str = ""
    kinds: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, array[int]] = field(default_factory=dict)
    """What is measured, to one number a row."""
    solve_rates: array[float] = field(default_factory=lambda: array("d"))
    repeated_prompts: int = 0
    repeated_ids: int = 0


def survey(entries: Iterable[Entry | Refusal], count_tokens: Callable[[str], int] | None = None) -> Survey:
    """Counts what the rows hold. Memory: some 200 bytes a row, for repeated prompts, ids and lengths."""
    found = Survey()
    prompts: set[bytes] = set()
    ids: set[bytes] = set()
    for entry in entries:
        found.rows += 1
        if isinstance(entry, Refusal):
            found.refused += 1
            found.first_refusal = found.first_refusal or f"{entry.source}:{entry.line}: {entry.reason}"
            continue
        found.kinds[entry.kind] += 1
        found.sources[entry.origin] += 1
        found.answers[answer_type(entry.problem)] += 1
        found.repeated_prompts += _seen(exact_key(entry.text), prompts)
        found.repeated_ids += _seen(entry.problem.id, ids)
        _measure(found, entry, count_tokens)
    return found


def answer_type(problem: Problem) -> str:
    """What an answer looks like: a guess from its form, for a table."""
    answer = problem.answer.strip().strip("$").strip()
    if not answer:
        return "tests" if problem.kind == "code" else "none"
    return next((name for name, pattern in _ANSWERS if pattern.fullmatch(answer)), "expression")


def card_of(
    found: Survey, *, title: str, facts: Sequence[tuple[str, str]], examples: Sequence[tuple[str, str]]
) -> Card:
    """The tables of a survey, after ``facts`` about the file."""
    readable = max(1, found.rows - found.refused)
    counts = [*facts, ("rows", f"{found.rows:,}"), ("rows that cannot be read", f"{found.refused:,}")]
    counts += [("the first of them", found.first_refusal)] if found.refused else []
    counts += [("prompts said before", f"{found.repeated_prompts:,} ({found.repeated_prompts / readable:.2%})")]
    counts += [("ids used before", f"{found.repeated_ids:,}")]
    tables = [Table(title="The file", rows=[("", ""), *counts])]
    for heading, counter in (("Kinds", found.kinds), ("Sources", found.sources), ("Answers", found.answers)):
        tables.append(Table(title=heading, rows=_counted(counter, readable)))
    header = ("", *(f"{share:.0%}" for share in QUANTILES), "mean", "sum")
    lengths = [(name, *_spread(values)) for name, values in found.lengths.items()]
    tables.append(Table(title="Lengths (quantiles over the rows)", rows=[header, *lengths]))
    if found.solve_rates:
        bins = Counter(min(9, int(rate * 10)) for rate in found.solve_rates)
        rates = [(f"{step / 10:.1f} to {(step + 1) / 10:.1f}", f"{bins[step]:,}") for step in range(10)]
        tables.append(Table(title="Solve rates", rows=[("rate", "rows"), *rates]))
    return Card(title=title, tables=tables, examples=examples)


def example_of(entry: Entry) -> tuple[str, str]:
    """A row to show: its place, and what it says."""
    prompt = entry.problem.prompt
    turns = prompt if isinstance(prompt, str) else "\n\n".join(f"[{turn.role}]\n{turn.content}" for turn in prompt)
    said = (
        f"\n\n[response]\n{entry.response}" if entry.response is not None else f"\n\n[answer]\n{entry.problem.answer}"
    )
    return f"{entry.source}, row {entry.line}", "".join(_cut(part) for part in (turns, said))


def markdown(card: Card) -> str:
    """The card as Markdown; text of rows stands in code blocks whose fences it cannot close."""
    parts = [f"# {_cell(card.title)}"]
    for table in card.tables:
        head, *rows = [[_cell(text) for text in row] for row in table.rows]
        lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
        parts.append(f"## {_cell(table.title)}\n\n" + "\n".join(lines))
    for heading, text in card.examples:
        fence = "`" * (max((len(run) for run in re.findall(r"`+", text)), default=0) + 3)
        parts.append(f"## Example: {_cell(heading)}\n\n{fence}text\n{_visible(text)}\n{fence}")
    return "\n\n".join(parts) + "\n"


def page(card: Card) -> str:
    """The card as one HTML page that needs no other file and may load none."""

    def escaped(text: str) -> str:
        return html.escape(_visible(text), quote=True)

    parts = [f"<h1>{escaped(card.title)}</h1>"]
    for table in card.tables:
        head, *rows = ["".join(f"<td>{escaped(text)}</td>" for text in row) for row in table.rows]
        body = "".join(f"<tr>{row}</tr>\n" for row in (head.replace("td>", "th>"), *rows))
        parts.append(f"<h2>{escaped(table.title)}</h2>\n<table>\n{body}</table>")
    parts += [f"<h2>Example: {escaped(heading)}</h2>\n<pre>{escaped(text)}</pre>" for heading, text in card.examples]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escaped(card.title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _measure(found: Survey, entry: Entry, count_tokens: Callable[[str], int] | None) -> None:
    texts = {"prompt": entry.text, "answer": entry.problem.answer, "response": entry.response or ""}
    for name, text in texts.items():
        if text:
            found.lengths.setdefault(f"{name}, characters", array("q")).append(len(text))
        if text and count_tokens is not None and name != "answer":
            found.lengths.setdefault(f"{name}, tokens", array("q")).append(count_tokens(text))
    rate = entry.problem.extra.get("solve_rate")
    if isinstance(rate, (int, float)) and 0 <= rate <= 1:
        found.solve_rates.append(rate)


def _seen(text: str, before: set[bytes]) -> bool:
    digest = blake2b(text.encode("utf-8", "replace"), digest_size=12).digest()
    known = digest in before
    before.add(digest)
    return known


def _counted(counter: Counter[str], total: int) -> list[tuple[str, ...]]:
    rows = [(name, f"{count:,}", f"{count / total:.2%}") for name, count in counter.most_common(_SHOWN)]
    others = counter.total() - sum(count for _, count in counter.most_common(_SHOWN))
    rows += [(f"{len(counter) - _SHOWN:,} others", f"{others:,}", f"{others / total:.2%}")] if others else []
    return [("", "rows", "share"), *rows]


def _spread(values: array[int]) -> tuple[str, ...]:
    ordered = sorted(values)
    quantiles = [ordered[round(share * (len(ordered) - 1))] for share in QUANTILES]
    return *(f"{value:,}" for value in quantiles), f"{sum(ordered) / len(ordered):,.1f}", f"{sum(ordered):,}"


def _cut(text: str) -> str:
    return text if len(text) <= _EXAMPLE else f"{text[:_EXAMPLE]} ... ({len(text):,} characters)"


def _cell(text: str) -> str:
    """Text for a Markdown heading or cell: no line break, no markup."""
    plain = html.escape(" ".join(_visible(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", plain)


def _visible(text: str) -> str:
    """Control characters, and those that turn the direction of writing, by their number."""
    return "".join(
        character if character in "\n\t" or character.isprintable() else f"\\u{ord(character):04x}"
        for character in text
    )
