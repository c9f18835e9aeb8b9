"""Rows of every schema are read for what they state, and our own form reads back as the same problem."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from credo.curation.entries import Entry, Form, Refusal, own_row, read_entries
from credo.data.demonstrations import load_demonstrations
from credo.data.problems import load_problems

Rows = Callable[..., Path]
EURUS_RL = {
    "data_source": "numina_olympiads",
    "prompt": [
        {"role": "system", "content": "Think in steps."},
        {"role": "user", "content": "What is $1+1$?\n\nPresent the answer in LaTex format: \\boxed{Your answer}"},
    ],
    "ability": "math",
    "reward_model": {"ground_truth": "2", "style": "rule"},
    "extra_info": {"index": 0, "split": "dummy"},
}
EURUS_CODE = {
    "data_source": "taco",
    "prompt": [{"role": "user", "content": "Read a number and print it."}],
    "ability": "code",
    "reward_model": {"ground_truth": json.dumps({"inputs": ["1\n"], "outputs": ["1\n"]}), "style": "rule"},
    "extra_info": {"index": 0, "split": "dummy"},
}
EURUS_SFT = {
    "id": "sft-1",
    "task": "Math",
    "dataset": "NuminaMath",
    "system": "Think in steps.",
    "conversations": [{"from": "human", "value": "What is 1+1?"}, {"from": "gpt", "value": "[OUTPUT] \\boxed{2}"}],
}


def only(path: Path, **options: Any) -> Entry:
    (entry,) = read_entries([str(path)], kind="math", **options)
    assert isinstance(entry, Entry), entry
    return entry


@pytest.mark.parametrize("row", [EURUS_RL, EURUS_CODE])
def test_eurus_rl_rows_as_parquet(tmp_path: Path, row: dict[str, Any]):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "train.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    entry = only(path)
    assert entry.origin == row["data_source"]
    assert entry.problem.kind == row["ability"]
    assert entry.problem.id == "train.parquet:1"
    if row is EURUS_RL:
        assert entry.problem.answer == "2"
        assert entry.text.startswith("What is $1+1$?")
    else:
        assert entry.problem.extra["tests"] == {"inputs": ["1\n"], "outputs": ["1\n"]}


def test_eurus_sft_rows_are_demonstrations_with_their_system_message(rows: Rows):
    entry = only(rows(EURUS_SFT))
    assert (entry.problem.id, entry.origin, entry.response) == ("sft-1", "NuminaMath", "[OUTPUT] \\boxed{2}")
    assert [turn.role for turn in entry.problem.prompt if not isinstance(turn, str)] == ["system", "user"]
    assert (entry.problem.kind, entry.problem.answer) == ("math", "2")
    assert entry.problem.extra == {"task": "Math", "dataset": "NuminaMath"}


@pytest.mark.parametrize(
    ("row", "demonstrates"),
    [
        ({"prompt": "a", "completion": "b"}, True),
        ({"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}, True),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, True),
        ({"prompt": "a", "response": "b", "answer": "c"}, False),
        ({"prompt": [{"role": "user", "content": "a"}], "solution": "so \\boxed{4}"}, False),
        ({"question": "a", "answer": "#### 3"}, False),
    ],
)
def test_a_row_with_a_response_and_no_answer_is_a_demonstration(rows: Rows, row: dict[str, Any], demonstrates: bool):
    assert (only(rows(row)).response == "b") is demonstrates


def test_the_form_can_be_said(rows: Rows):
    path = rows({"prompt": "a", "response": "b", "answer": "c"})
    assert only(path, form="demonstrations").response == "b"
    assert only(path, form="problems").response is None
    (refusal,) = read_entries([str(rows({"prompt": "a", "response": "b"}))], kind="math", form="problems")
    assert isinstance(refusal, Refusal)
    assert "answer" in refusal.reason


def test_unreadable_rows_come_out_with_their_place(rows: Rows):
    path = rows({"prompt": "a", "answer": "1"}, "{broken", "", {"prompt": "a"}, {"prompt": "b", "answer": "2"})
    found = list(read_entries([str(path)], kind="math"))
    assert [(entry.line, isinstance(entry, Refusal)) for entry in found] == [
        (1, False),
        (2, True),
        (4, True),
        (5, False),
    ]
    assert "malformed JSON" in found[1].reason  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("conversations", ["text", [1], [{"from": 3, "value": "a"}], [{"from": "human", "value": 4}]])
def test_broken_conversations_are_refused(rows: Rows, conversations: object):
    (found,) = read_entries([str(rows({"conversations": conversations}))], kind="math", form="demonstrations")
    assert isinstance(found, Refusal)


def test_an_empty_file_is_an_error(rows: Rows):
    with pytest.raises(ValueError, match="no rows"):
        list(read_entries([str(rows(""))], kind="math"))


ROWS = [
    ({"id": 7, "question": "a", "answer": "1/2", "solution": "so \\boxed{1/2}", "subject": "x"}, "auto"),
    ({"prompt": "12+3=", "answer": 15, "source": "sums", "extra": {"a": [1]}}, "auto"),
    (EURUS_RL, "auto"),
    (EURUS_CODE, "auto"),
    (EURUS_SFT, "auto"),
    ({"prompt": "a", "response": "b", "answer": "c", "extra": {"d": 1}}, "demonstrations"),
]


@pytest.mark.parametrize(("row", "form"), ROWS)
def test_our_own_form_reads_back_as_the_same_problem(rows: Rows, row: dict[str, Any], form: Form):
    entry = only(rows(row), form=form)
    written = own_row(entry)
    again = only(rows(written, name="again.jsonl"), form=form)
    assert replace(again.problem, source=entry.problem.source, kind=entry.problem.kind) == entry.problem
    assert again.problem.kind == entry.problem.kind
    assert (again.response, again.origin) == (entry.response, entry.origin)
    assert own_row(again) == written
    assert written.get("solution") == row.get("solution")


def test_what_is_written_can_be_trained_on(rows: Rows):
    problems = [own_row(only(rows(row, name=f"{index}.jsonl"))) for index, (row, _) in enumerate(ROWS[:4])]
    assert len(load_problems([str(rows(*problems))])[0]) == 4
    (demonstration,) = load_demonstrations([str(rows(own_row(only(rows(EURUS_SFT)))))])
    assert demonstration.response == "[OUTPUT] \\boxed{2}"


@pytest.mark.parametrize("kept", [{}, {"completion": "8"}])
def test_a_conversation_stays_one(rows: Rows, kept: dict[str, Any]):
    turns = [{"role": role, "content": text} for role, text in (("user", "1+1?"), ("assistant", "2"))]
    row = {"messages": [*turns, *turns[:1], *([] if kept else turns[1:])]} | kept
    (before,) = load_demonstrations([str(rows(row))])
    (after,) = load_demonstrations([str(rows(own_row(only(rows(row))), name="again.jsonl"))])
    assert after == replace(before, source="again.jsonl")
    assert after.every_turn == (not kept)


def test_generated_problems_can_be_written_down(rows: Rows):
    pytest.importorskip("reasoning_gym")
    entries = [e for e in read_entries(["gym:chain_sum?size=3&seed=5"], kind="math") if isinstance(e, Entry)]
    again, _ = load_problems([str(rows(*(own_row(entry) for entry in entries)))])
    assert [(p.id, p.prompt, p.answer, dict(p.extra)) for p in again] == [
        (e.problem.id, e.problem.prompt, e.problem.answer, dict(e.problem.extra)) for e in entries
    ]


def test_traces_are_not_a_source_here():
    with pytest.raises(ValueError, match="trace:chain_sum"):
        list(read_entries(["trace:chain_sum?size=1"], kind="math"))
