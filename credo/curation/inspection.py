"""``credo data inspect``: is every row of a data set fit to be graded against?

Each gold answer is graded against itself by the verifier, and held against what else the row says: its own solution by
a second, independent grader that compares normalised text and numbers, and the labels of its responses by both. It
changes no data set; rows that fail are listed in a quarantine file, with the reason. Prompts are not tokenized.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from credo.data.generated import gym_problem, gym_rows
from credo.data.rows import answer_of, problem_of, prompt_of
from credo.data.sources import QUARANTINE, GeneratedSource, as_object, expand, file_rows
from credo.types import Kind, Problem, Verdict
from credo.verify.verifier import Verifier

if TYPE_CHECKING:
    from credo.options.curation import InspectOptions

_REFERENCES = ("reference_solutions", "reference_solution", "canonical_solution", "solutions", "solution", "code")
_LAYOUT = re.compile(r"\\(?:left|right|displaystyle|text|mathrm|mathbf|[,;:! ()\[\]])|[\s${}]|\\boxed")
_SHOWN = 10
_CHUNK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a source that states a problem."""

    line: int
    problem: Problem
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a row is not fit."""

    id: str
    line: int
    reason: str


@dataclass(slots=True, kw_only=True)
class Inspection:
    """What was found in one source."""

    source: str
    rows: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    golds: Counter[str] = field(default_factory=Counter)
    """How the golds did against themselves: ``correct``, ``wrong``, ``unknown``, ``unchecked``."""
    labels: Counter[str] = field(default_factory=Counter)
    """Labelled responses: ``verifier`` and ``text`` agree with the label so often, of ``all``."""
    long_prompts: int = 0
    faults: list[Fault] = field(default_factory=list)


def inspect_data(options: InspectOptions) -> None:
    """Inspects, prints a summary and writes the quarantine. Raises ValueError for what the user can mend."""
    from credo.console import Console
    from credo.verify.router import verifier_for

    console = Console()
    origins = {label: origin for label, origin in expand(options.sources).items() if not label.endswith(QUARANTINE)}
    kinds = {"code"} if options.kind == "code" else _kinds(options.sources)
    verifier = verifier_for(kinds, workers=options.workers, deadline=options.deadline, sandbox_url=options.sandbox_url)
    quarantine: dict[Path, list[dict[str, Any]]] = defaultdict(list)
    try:
        for label, origin in origins.items():
            with console.stage(label, "rows") as advance:
                rows = gym_rows(origin) if not isinstance(origin, Path) else file_rows(origin)
                parse = partial(_problem, kind=options.kind, origin=origin, label=label)
                found = inspect_rows(label, rows, parse, verifier, long_prompt=options.long_prompt, progress=advance)
            console.say(described(found, long_prompt=options.long_prompt))
            own = origin.with_suffix(QUARANTINE) if isinstance(origin, Path) else Path(f"{origin.family}{QUARANTINE}")
            listed = quarantine[options.quarantine or own]
            listed += [{"source": label, "id": f.id, "line": f.line, "reason": f.reason} for f in found.faults]
    finally:
        verifier.close()
    for path, faults in quarantine.items():
        path.write_text("".join(json.dumps(fault) + "\n" for fault in faults), encoding="utf-8")
        console.say(f"{len(faults):,} rows quarantined in {path}.")


def inspect_rows(
    label: str,
    rows: Iterable[tuple[str, int, object]],
    parse: Callable[[Any, str], Problem],
    verifier: Verifier,
    *,
    long_prompt: int,
    progress: Callable[[int], None] = lambda count: None,
) -> Inspection:
    """Reads every row of a source, whatever some hold, and grades what can be graded in them."""
    found = Inspection(source=label)
    prompts: dict[str, Row] = {}
    ids: set[str] = set()
    pending: list[Row] = []
    for _, number, raw in rows:
        found.rows += 1
        own_id = f"{label}:{number}"
        try:
            problem = parse(raw, own_id)
        except ValueError as error:
            found.faults.append(Fault(id=own_id, line=number, reason=f"unreadable row: {error}"))
            continue
        row = Row(line=number, problem=problem, raw=raw if isinstance(raw, Mapping) else as_object(raw))
        _count(found, row, prompts, ids, long_prompt)
        pending.append(row)
        if len(pending) == _CHUNK:
            _grade(found, pending, verifier)
            progress(len(pending))
            pending = []
    _grade(found, pending, verifier)
    progress(len(pending))
    found.faults.sort(key=lambda fault: fault.line)
    return found


def described(found: Inspection, *, long_prompt: int) -> str:
    """A summary for people, with the first faults."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in found.kinds.most_common())
    golds = ", ".join(f"{found.golds[state]:,} {state}" for state in ("correct", "wrong", "unknown", "unchecked"))
    lines = [f"{found.source}: {found.rows:,} rows ({kinds or 'none readable'})", f"  gold against itself: {golds}"]
    if len(found.sources) > 1:
        lines.append(
            "  sources: " + ", ".join(f"{count:,} {name}" for name, count in found.sources.most_common(_SHOWN))
        )
    if found.labels["all"]:
        verifier, text = (found.labels[grader] / found.labels["all"] for grader in ("verifier", "text"))
        lines.append(
            f"  labelled responses: {found.labels['all']:,}; the verifier agrees with {verifier:.2%} of the labels, "
            f"comparing text alone with {text:.2%}"
        )
    if found.long_prompts:
        lines.append(f"  prompts over {long_prompt:,} characters: {found.long_prompts:,}")
    reasons = Counter(re.split(r"[:;'\"\d]", fault.reason)[0].strip() for fault in found.faults)
    lines += [f"  {count:,} x {reason}" for reason, count in reasons.most_common()]
    lines += [f"    line {fault.line} ({fault.id}): {fault.reason}" for fault in found.faults[:_SHOWN]]
    if len(found.faults) > _SHOWN:
        lines.append(f"    and {len(found.faults) - _SHOWN:,} more")
    return "\n".join(lines)


def same_text(left: str, right: str) -> bool:
    """The second grader: the same text without layout, or the same number. It knows no mathematics."""
    plain = [_LAYOUT.sub("", text).rstrip(".").casefold().replace("\\dfrac", "\\frac") for text in (left, right)]
    if plain[0] == plain[1]:
        return True
    try:
        numbers = [Fraction(text.replace(",", "").removesuffix("%")) for text in plain if len(text) <= 50]
    except (ValueError, ZeroDivisionError):
        return False
    return len(numbers) == 2 and numbers[0] == numbers[1]


def _problem(raw: Any, id: str, *, kind: str, origin: Path | GeneratedSource, label: str) -> Problem:
    """The problem of a row; of a programming task only prompt and tests are needed."""
    if isinstance(origin, GeneratedSource):
        return gym_problem(raw, source=origin, id=id)
    row = as_object(raw)
    row = row if "answer" in row or "gold" not in row else {**row, "answer": row["gold"]}
    tests = row.get("tests") or (row.get("extra") or {}).get("tests")
    if tests and row.get("kind") in (None, "code"):
        own_id, prompt = str(row.get("id", id)), prompt_of(row)
        return Problem(
            id=own_id, kind=cast(Kind, "code"), prompt=prompt, answer="", source=label, extra={"tests": tests}
        )
    if "code" in (kind, row.get("kind")):
        raise ValueError("a programming task without tests")
    return problem_of(row, default_id=id, default_kind=cast(Kind, kind), source=label)


def _kinds(sources: Sequence[str]) -> set[str]:
    """``code`` if a file seems to hold such rows: a sandbox is started for nothing else."""
    for origin in expand(sources).values():
        for _, _, raw in file_rows(origin) if isinstance(origin, Path) else ():
            if (isinstance(raw, bytes) and b'"tests"' in raw) or (isinstance(raw, dict) and "tests" in raw):
                return {"code"}
    return set()


def _count(found: Inspection, row: Row, prompts: dict[str, Row], ids: set[str], long_prompt: int) -> None:
    """Notes kinds, sources and lengths, and rows that repeat another."""
    problem = row.problem
    prompt = problem.prompt if isinstance(problem.prompt, str) else "\n".join(m.content for m in problem.prompt)
    found.kinds[problem.kind] += 1
    found.sources[str(row.raw.get("source") or row.raw.get("data_source") or problem.source)] += 1
    found.long_prompts += len(prompt) > long_prompt
    if problem.id in ids:
        found.faults.append(Fault(id=problem.id, line=row.line, reason="the id of an earlier row"))
    ids.add(problem.id)
    first = prompts.setdefault(" ".join(prompt.split()), row)
    if first is not row and "label" not in row.raw:  # of a file of responses, several answer one prompt
        same = first.problem.answer == problem.answer
        other = "" if same else f", with another answer ({first.problem.answer[:40]!r} there)"
        found.faults.append(Fault(id=problem.id, line=row.line, reason=f"the prompt of line {first.line}{other}"))


def _grade(found: Inspection, rows: Sequence[Row], verifier: Verifier) -> None:
    """Grades golds against themselves, solutions and labelled responses, all in one call."""
    asked: list[tuple[Row, str, object, str]] = []
    for row in rows:
        golds = list(_own_responses(row))
        asked += [(row, "gold", None, response) for response in golds]
        if not golds:
            found.golds["unchecked"] += 1
        solution = _stated_in_solution(row)
        if solution is not None and not same_text(solution, row.problem.answer):
            asked.append((row, "solution", solution, rf"\boxed{{{solution}}}"))
        asked += [(row, "label", label, response) for response, label in _labelled(row.raw)]
    judged = verifier.verify([(row.problem, response) for row, _, _, response in asked])
    for (row, what, known, response), judgement in zip(asked, judged, strict=True):
        right = judgement.correct if isinstance(judgement, Verdict) else None
        match what:
            case "gold":
                found.golds[{True: "correct", False: "wrong", None: "unknown"}[right]] += 1
                reason = "" if right else f"gold {'judged wrong' if right is False else 'unknown'}: {judgement.reason}"
            case "solution":
                reason = "" if right else f"another answer than its solution: {str(known)[:60]!r}"
            case _:
                found.labels["all"] += 1
                found.labels["verifier"] += right is known
                found.labels["text"] += same_text(_ending(response), row.problem.answer) is known
                reason = "" if right in (known, None) else f"labelled response judged otherwise: label {known}"
        if reason:
            found.faults.append(Fault(id=row.problem.id, line=row.line, reason=reason))


def _own_responses(row: Row) -> Iterator[str]:
    """Responses that have to be right if anything is."""
    problem = row.problem
    match problem.kind:
        case "math":
            yield rf"\boxed{{{problem.answer}}}"
        case "exact":
            yield problem.answer
        case "gym" if problem.answer:
            yield f"<answer>{problem.answer}</answer>"
        case kind if kind == "code":
            references = next((row.raw[key] for key in _REFERENCES if row.raw.get(key)), None)
            for program in [references] if isinstance(references, str) else references or ():
                yield f"```python\n{program}\n```" if "```" not in program else str(program)


def _stated_in_solution(row: Row) -> str | None:
    """The final answer of a worked solution that stands in the row beside its answer."""
    solution = row.raw.get("solution")
    marked = isinstance(solution, str) and ("\\boxed" in solution or "####" in solution)
    if row.problem.kind != "math" or row.raw.get("answer") is None or not marked:
        return None
    try:
        return answer_of({"solution": solution})
    except ValueError:
        return None


def _labelled(raw: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Responses in the row that come with a verdict, as ``response`` and ``label`` or as lists of both."""
    responses, labels = raw.get("responses"), raw.get("labels")
    if isinstance(raw.get("response"), str) and "label" in raw:
        responses, labels = [raw["response"]], [raw["label"]]
    if isinstance(responses, list) and isinstance(labels, list) and len(responses) == len(labels):
        for response, label in zip(responses, labels, strict=True):
            if isinstance(response, str) and label in (0, 1):
                yield response, bool(label)


def _ending(response: str) -> str:
    """Where text alone would look for the answer: the last box, else the last number."""
    from credo.verify.extraction import Extraction, extract

    boxed = extract(response, "math", Extraction(kind="boxed"))
    return boxed or extract(response, "math", Extraction(kind="last_number")) or ""
