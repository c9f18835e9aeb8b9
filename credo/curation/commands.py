"""The commands ``credo data import``, ``filter``, ``deduplicate``, ``decontaminate`` and ``card``: each reads sources
row by row, and says what it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from credo.console import Console, first_line
from credo.curation.card import card_of, example_of, markdown, page, survey
from credo.curation.contamination import BenchmarkIndex, Prompt
from credo.curation.duplicates import Duplicates
from credo.curation.entries import Entry, Form, own_row, read_entries
from credo.curation.filters import apply_steps, parse_steps
from credo.curation.passes import Drop, check_output, run_pass, told
from credo.data.fetch import sha256_of
from credo.data.problems import asked
from credo.data.rows import prompt_of, row_id
from credo.data.sources import as_object, expand, file_rows
from credo.evaluation.benchmarks import load_benchmark
from credo.options.shared import check_folder_of
from credo.types import Kind

if TYPE_CHECKING:
    from credo.options.curation import (
        CardOptions,
        DecontaminateOptions,
        DeduplicateOptions,
        FilterOptions,
        ImportOptions,
    )

Decide = Callable[[Entry], Drop | None]


def import_data(options: ImportOptions) -> None:
    """Writes the sources as our own JSONL."""
    ids: set[str] = set()
    forms: set[bool] = set()

    def decide(entry: Entry) -> Drop | None:
        demonstrates = entry.response is not None
        if forms and demonstrates not in forms:
            what = "a demonstration among problems" if demonstrates else "a problem among demonstrations"
            return Drop(step="other_form", reason=f"{what}; import it apart, with --form")
        named = _id(entry)
        if named in ids:
            return Drop(step="id_used_before", reason=f"the id '{named}' belongs to an earlier row; see --ids place")
        ids.add(named)
        forms.add(demonstrates)
        return None

    def _id(entry: Entry) -> str:
        return f"{entry.source}:{entry.line}" if options.ids == "place" else entry.problem.id

    def written(entry: Entry) -> Mapping[str, Any]:
        return own_row(replace(entry, problem=replace(entry.problem, id=_id(entry))))

    _pass(options.sources, options.output, decide, kind=options.kind, form=options.form, written=written)


def filter_data(options: FilterOptions) -> None:
    """Writes the rows that pass every step."""
    steps = parse_steps(options.steps)
    _pass(options.sources, options.output, lambda entry: apply_steps(entry, steps), kind=options.kind)


def deduplicate(options: DeduplicateOptions) -> None:
    """Writes the first row of those that ask the same."""
    duplicates = Duplicates(near=options.near, n=options.n)
    _pass(options.sources, options.output, duplicates.check, kind=options.kind)


def decontaminate(options: DecontaminateOptions) -> None:
    """Writes the rows that hold no benchmark's problem."""
    check_output(options.output, options.sources)
    prompts = benchmark_prompts(options.against, options.data_folder)
    index = BenchmarkIndex(prompts, n=options.n, share=options.share, common=options.common)
    Console().say(f"{len(index):,} different benchmark prompts in {', '.join(options.against)}.")

    def decide(entry: Entry) -> Drop | None:
        match = index.match(entry.text)
        if match is None:
            return None
        found = match.prompt
        return Drop(
            step="contaminated",
            reason=f"{match.overlap:.2f} of {found.benchmark}, {found.id}",
            details={
                "overlap": round(match.overlap, 4),
                "benchmark": found.benchmark,
                "benchmark_id": found.id,
                "benchmark_prompt": found.text,
            },
        )

    _pass(options.sources, options.output, decide, kind=options.kind)


def card(options: CardOptions) -> None:
    """Writes the card of a file as Markdown and as HTML."""
    if options.examples < 0:
        raise ValueError("--examples is 0 or more.")
    target = options.output or options.file.with_suffix(".card.md")
    if target.suffix != ".md":
        raise ValueError(f"--output {target} has to end in .md; the page beside it ends in .html.")
    check_folder_of(target)
    origins = expand([str(options.file)]).values()
    count_tokens = _counter(options.model) if options.model else None
    sources = [str(options.file)]
    found = survey(read_entries(sources, kind=options.kind), count_tokens)
    chosen = {round(step * (found.rows - 1) / max(1, options.examples - 1)) for step in range(options.examples)}
    entries = enumerate(read_entries(sources, kind=options.kind)) if chosen else ()
    examples = [example_of(entry) for place, entry in entries if place in chosen and isinstance(entry, Entry)]
    files = [origin for origin in origins if isinstance(origin, Path)]
    facts = [("file", options.file.name)]
    if files:
        facts += [("sha256", sha256_of(files)), ("bytes", f"{sum(path.stat().st_size for path in files):,}")]
    facts += [("tokens by", options.model)] if options.model else []
    shown = card_of(found, title=f"Data card of {options.file.name}", facts=facts, examples=examples)
    target.write_text(markdown(shown), encoding="utf-8")
    target.with_suffix(".html").write_text(page(shown), encoding="utf-8")
    Console().say(f"{found.rows:,} rows described in {target} and {target.with_suffix('.html')}.")


def benchmark_prompts(against: Sequence[str], folder: Path | None) -> Iterator[Prompt]:
    """The prompts of files, of which nothing else is read, and of benchmarks by name.

    Raises ValueError for a row without a prompt: its problem would be looked for in vain.
    """
    for source in against:
        if not Path(source).exists():
            for problem in load_benchmark(source, folder=folder).problems:
                yield Prompt(benchmark=source, id=problem.id, text=asked(problem.prompt))
            continue
        for label, origin in expand([source]).items():
            for unit, number, raw in file_rows(origin) if isinstance(origin, Path) else ():
                try:
                    row = as_object(raw)
                    named = row_id({"id": row.get("task_id"), **row}, f"{label}:{number}")
                    yield Prompt(benchmark=label, id=named, text=asked(prompt_of(row)))
                except ValueError as error:
                    raise ValueError(f"{label}, {unit} {number}: {error}. A benchmark's row needs a prompt.") from error


def _pass(
    sources: Sequence[str],
    output: Path,
    decide: Decide,
    *,
    kind: Kind,
    form: Form = "auto",
    written: Callable[[Entry], Mapping[str, Any]] = lambda entry: entry.row,
) -> None:
    check_output(output, sources)
    console = Console()
    with console.stage(output.name, "rows") as advance:
        entries = read_entries(sources, kind=kind, form=form)
        tally = run_pass(entries, output, decide, written=written, progress=advance)
    console.say(told(tally, output))


def _counter(model: str) -> Callable[[str], int]:
    """How many tokens the tokenizer of ``model`` makes of a text."""
    from transformers import AutoTokenizer

    from credo.models.location import resolve_path

    location, options = resolve_path(model, "--model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, **options)
    except Exception as error:  # a damaged file fails in whatever way its reader fails
        raise ValueError(f"No tokenizer could be loaded from '{model}': {first_line(error)}") from error
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])
