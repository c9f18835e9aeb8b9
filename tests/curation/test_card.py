"""The card's numbers are those of the rows, and nothing a row says becomes markup."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from credo.curation.card import Card, Survey, Table, answer_type, card_of, example_of, markdown, page, survey
from credo.curation.entries import Entry, read_entries
from credo.types import Problem

Rows = Callable[..., Path]
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)> | `x` [a](javascript:b) \u202e \x1b[31m ```\n# h\n</pre>"
)


def surveyed(path: Path, count_tokens: Callable[[str], int] | None = None) -> Survey:
    return survey(read_entries([str(path)], kind="math"), count_tokens)


def test_counts(rows: Rows):
    path = rows(
        {"id": "a", "prompt": "one two", "answer": "1", "source": "x", "solve_rate": 0.25},
        {"id": "a", "prompt": "One  two.", "answer": "1/2", "source": "x", "solve_rate": 1.0},
        {"prompt": "three", "response": "so \\boxed{yes}"},
        {"prompt": "four", "tests": {"asserts": "assert f()"}},
        "{broken",
    )
    found = surveyed(path, lambda text: len(text.split()))
    assert (found.rows, found.refused, found.repeated_prompts, found.repeated_ids) == (5, 1, 1, 1)
    assert found.kinds == {"math": 2, "demonstration": 1, "code": 1}
    assert found.sources == {"x": 2, "rows.jsonl": 2}
    assert found.answers == {"integer": 1, "fraction": 1, "words": 1, "tests": 1}
    assert found.lengths["prompt, characters"] == array("q", [7, 9, 5, 4])
    assert found.lengths["prompt, tokens"] == array("q", [2, 2, 1, 1])
    assert found.lengths["response, characters"] == array("q", [14])
    card = card_of(found, title="t", facts=[("sha256", "abc")], examples=[])
    tables = {table.title: [tuple(row) for row in table.rows] for table in card.tables}
    assert ("sha256", "abc") in tables["The file"]
    assert ("prompts said before", "1 (25.00%)") in tables["The file"]
    assert ("math", "2", "50.00%") in tables["Kinds"]
    assert ("prompt, characters", "4", "4", "7", "9", "9", "6.2", "25") in next(
        rows for title, rows in tables.items() if title.startswith("Lengths")
    )
    assert ("0.2 to 0.3", "1") in tables["Solve rates"]
    assert ("0.9 to 1.0", "1") in tables["Solve rates"]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("12", "integer"),
        ("-1,234", "integer"),
        ("0.5", "decimal"),
        ("35\\%", "percent"),
        ("1/2", "fraction"),
        (r"\frac{3}{4}", "fraction"),
        (r"\text{(C)}", "letter of a choice"),
        (r"\left( 3, \frac{\pi}{2} \right)", "tuple, interval or set"),
        ("1, 2, 3", "several values"),
        ("x = 5", "equation"),
        (r"\text{east}", "words"),
        (r"2\sqrt{3}", "expression"),
        ("", "none"),
    ],
)
def test_types_of_answers(answer: str, kind: str):
    problem = Problem(id="1", kind="math", prompt="p", answer=answer, source="s")
    assert answer_type(problem) == kind


def hostile_card() -> Card:
    return Card(
        title=HOSTILE, tables=[Table(title=HOSTILE, rows=[("", "n"), (HOSTILE, "1")])], examples=[(HOSTILE, HOSTILE)]
    )


class Tags(HTMLParser):
    """The tags of a page, and the text it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.shown = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.shown += data


def test_hostile_text_is_text_in_html():
    tags = Tags()
    text = page(hostile_card())
    tags.feed(text)
    assert tags.tags == {"html", "head", "meta", "title", "style", "body", "h1", "h2", "table", "tr", "td", "th", "pre"}
    assert tags.attributes == {"lang", "charset", "http-equiv", "content"}
    assert tags.shown.count("<script>alert(1)</script>") == 6, "shown as it is"
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "default-src 'none'" in text


def test_hostile_text_is_text_in_markdown():
    text = markdown(hostile_card())
    fence = re.search(r"^(`{4,})text\n(.*?)\n\1$", text, re.MULTILINE | re.DOTALL)
    assert fence is not None
    outside = text.replace(fence[0], "")
    assert "<script" in fence[2]
    assert "<" not in outside
    assert len(re.findall(r"^#+ ", outside, re.MULTILINE)) == 3, "title, table, example"
    assert not re.search(r"(?<!\\)\]\(", outside), "no link"
    table = [line for line in outside.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {3}


def test_long_examples_are_cut(rows: Rows):
    (entry,) = read_entries([str(rows({"prompt": "x" * 5000, "answer": "1"}))], kind="math")
    assert isinstance(entry, Entry)
    heading, text = example_of(entry)
    assert heading == "rows.jsonl, row 1"
    assert "(5,000 characters)" in text
    assert text.endswith("[answer]\n1")
    assert len(text) < 2200
