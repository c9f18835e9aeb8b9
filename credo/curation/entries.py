"""Rows of any source with what they state, read one at a time, and how they are written as our own JSONL. It judges
no row: what cannot be read comes out as a :class:`Refusal`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from credo.data.generated import gym_problem, gym_rows
from credo.data.problems import asked
from credo.data.rows import (
    ANSWER_KEYS,
    answer_of,
    demonstration_of,
    has_several_answers,
    is_json,
    other_columns,
    problem_of,
    row_id,
    with_messages,
)
from credo.data.sources import GeneratedSource, as_object, expand, file_rows
from credo.types import Kind, Message, Problem

Form = Literal["auto", "problems", "demonstrations"]
ORIGIN_KEYS = ("source", "data_source", "dataset")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row that can be read."""

    source: str
    """The label of its file, or of what generated it."""
    line: int
    problem: Problem
    """What it states. Of a demonstration the answer is what the response boxes, or empty."""
    response: str | None
    """What is to be learnt, if the row is a demonstration."""
    row: Mapping[str, Any]
    """The row as it stands, with its id."""

    @property
    def text(self) -> str:
        """What the user asks."""
        return asked(self.problem.prompt)

    @property
    def kind(self) -> str:
        """What judges its answers; ``demonstration`` where nothing does."""
        return self.problem.kind if self.response is None else "demonstration"

    @property
    def origin(self) -> str:
        """The source that the row itself names, else its file."""
        named = next((self.row[key] for key in ORIGIN_KEYS if isinstance(self.row.get(key), str)), "")
        return named.strip() or self.source


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A row that cannot be read, and why."""

    source: str
    line: int
    reason: str


def read_entries(sources: Sequence[str], *, kind: Kind, form: Form = "auto") -> Iterator[Entry | Refusal]:
    """Every row of ``sources`` in their order, whatever some hold; only one row is in memory.

    With ``form`` "auto" a row with a response and no answer is a demonstration. Raises ValueError for a source that is
    missing, cannot be read or holds no rows.
    """
    for label, origin in expand(sources).items():
        if isinstance(origin, GeneratedSource) and origin.scheme == "trace":
            raise ValueError(f"{origin.name} makes its demonstrations anew for each run; give files or gym:FAMILY.")
        rows = file_rows(origin) if isinstance(origin, Path) else gym_rows(origin)
        number = 0
        for _, number, raw in rows:
            try:
                yield _entry(raw, origin, label=label, number=number, kind=kind, form=form)
            except ValueError as error:
                yield Refusal(source=label, line=number, reason=str(error))
        if number == 0:
            raise ValueError(f"{label} holds no rows; check that it is the file you mean.")


def own_row(entry: Entry) -> dict[str, Any]:
    """``entry`` in the form of our own files: ``id``, ``source``, ``prompt``, ``kind`` and ``answer``, or ``response``
    (``messages`` where the assistant speaks several times), and ``extra``. It reads back as the same problem. A worked
    ``solution`` beside an answer is kept."""
    problem = entry.problem
    row: dict[str, Any] = {"id": problem.id, "source": entry.origin, "prompt": _turns(problem.prompt)}
    if entry.response is None:
        row |= {"kind": problem.kind} | ({"answer": problem.answer} if problem.answer else {})
        solution = entry.row.get("solution")
        row |= {"solution": solution} if problem.answer and isinstance(solution, str) and solution.strip() else {}
    elif has_several_answers(entry.row):
        row["messages"] = [*row.pop("prompt"), {"role": "assistant", "content": entry.response}]
    else:
        row["response"] = entry.response
    return row | ({"extra": dict(problem.extra)} if problem.extra else {})


def _entry(raw: object, origin: Path | GeneratedSource, *, label: str, number: int, kind: Kind, form: Form) -> Entry:
    own_id = f"{label}:{number}"
    if isinstance(origin, GeneratedSource):
        problem = gym_problem(cast(Mapping[str, Any], raw), source=origin, id=own_id)
        entry = Entry(source=label, line=number, problem=problem, response=None, row={"source": origin.name})
        return replace(entry, row=own_row(entry))
    row = as_object(raw)
    response = None
    if form == "demonstrations" or (form == "auto" and _demonstrates(row)):
        problem, response = _demonstration(row, default_id=own_id, source=label)
    else:
        problem = problem_of(row, default_id=own_id, default_kind=kind, source=label)
    row = {key: value for key, value in row.items() if is_json(value)}
    return Entry(source=label, line=number, problem=problem, response=response, row={**row, "id": problem.id})


def _demonstrates(row: Mapping[str, Any]) -> bool:
    """Whether the row holds a response, and nothing to grade one against."""
    if any(row.get(key) is not None for key in (*ANSWER_KEYS, "reward_model", "tests")):
        return False
    if row.get("response") is not None or row.get("completion") is not None:
        return True
    turns = with_messages(row).get("messages")
    last = turns[-1] if isinstance(turns, list) and turns else None
    return isinstance(last, dict) and last.get("role") == "assistant"


def _demonstration(row: Mapping[str, Any], *, default_id: str, source: str) -> tuple[Problem, str]:
    prompt, response = demonstration_of(row)
    try:
        answer = answer_of({"solution": response}) if "\\boxed{" in response else ""
    except ValueError:
        answer = ""
    spent = {"response", "completion"} | ({"system"} if "conversations" in row else set())
    extra = {key: value for key, value in other_columns(row).items() if key not in spent}
    kind: Kind = "math" if answer else "exact"
    own_id = row_id(row, default_id)
    return Problem(id=own_id, kind=kind, prompt=prompt, answer=answer, source=source, extra=extra), response


def _turns(prompt: str | tuple[Message, ...]) -> str | list[dict[str, str]]:
    if isinstance(prompt, str):
        return prompt
    return [{"role": turn.role, "content": turn.content} for turn in prompt]
