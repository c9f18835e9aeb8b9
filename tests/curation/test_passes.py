"""Files appear whole or not at all, nothing is overwritten, and every row is in one of the two."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from credo.curation.entries import Entry, read_entries
from credo.curation.passes import Drop, RowFile, Tally, check_output, dropped_file, run_pass, told

Rows = Callable[..., Path]


def odd(entry: Entry) -> Drop | None:
    if int(entry.problem.answer) % 2 == 0:
        return Drop(step="even", reason=f"{entry.problem.answer} is even", details={"half": 1})
    return None


def passed(source: Path, output: Path) -> Tally:
    return run_pass(read_entries([str(source)], kind="math"), output, odd)


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_row_is_kept_or_dropped_with_its_reason(rows: Rows, tmp_path: Path):
    source = rows(*({"prompt": f"ü{n}", "answer": n, "data_source": "é"} for n in range(1, 6)), "{broken")
    output = tmp_path / "odd.jsonl"
    tally = passed(source, output)
    assert [row["answer"] for row in read(output)] == [1, 3, 5]
    assert read(output)[1] == {"prompt": "ü3", "answer": 3, "data_source": "é", "id": "rows.jsonl:3"}
    dropped = read(dropped_file(output))
    assert [(row["line"], row["step"]) for row in dropped] == [(2, "even"), (4, "even"), (6, "unreadable")]
    assert dropped[0]["half"] == 1
    assert dropped[0]["row"] == {"prompt": "ü2", "answer": 2, "data_source": "é", "id": "rows.jsonl:2"}
    assert (tally.rows, tally.kept, dict(tally.dropped)) == (6, 3, {"even": 2, "unreadable": 1})
    assert (tally.by_source, tally.by_kind) == ({"é": 3}, {"math": 3})
    said = told(tally, output)
    assert "6 rows, 3 kept" in said
    assert "rows.jsonl:2: even: 2 is even" in said
    assert "ü3" in output.read_text(encoding="utf-8"), "letters stay letters"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd.dropped.jsonl", "odd.jsonl", "rows.jsonl"]


def test_the_same_rows_again_change_nothing_and_others_are_refused(rows: Rows, tmp_path: Path):
    source = rows({"prompt": "a", "answer": 1}, {"prompt": "b", "answer": 2}, {"prompt": "c", "answer": 3})
    output = tmp_path / "odd.jsonl"
    passed(source, output)
    before = output.read_bytes()
    passed(source, output)
    for content in (b"{}\n", before[: len(before) // 2], before + b"{}\n", b""):
        output.write_bytes(content)
        with pytest.raises(ValueError, match=r"odd\.jsonl exists"):
            passed(source, output)
        assert output.read_bytes() == content
    assert not list(tmp_path.glob("*.partial"))


def test_nothing_is_left_behind_by_an_error(rows: Rows, tmp_path: Path):
    source = rows({"prompt": "a", "answer": 1}, {"prompt": "b", "answer": "x"})
    with pytest.raises(ValueError, match="invalid literal"):
        passed(source, tmp_path / "odd.jsonl")
    with pytest.raises(ValueError, match=r"None of the 1 rows is left.*2 is even"):
        passed(rows({"prompt": "a", "answer": 2}), tmp_path / "odd.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_half_a_surrogate_pair_can_be_written_and_read(tmp_path: Path):
    with RowFile(tmp_path / "a.jsonl") as file:
        file.write({"a": "\ud800"})
    assert read(tmp_path / "a.jsonl") == [{"a": "\ud800"}]


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("rows.jsonl", "both input and output"),
        ("other.json", r"has to be a \.jsonl"),
        ("other.dropped.jsonl", r"has to be a \.jsonl"),
        ("absent/other.jsonl", "no folder"),
    ],
)
def test_outputs_that_are_none(rows: Rows, tmp_path: Path, output: str, said: str):
    with pytest.raises(ValueError, match=said):
        check_output(tmp_path / output, [str(rows({"prompt": "a", "answer": 1}))])


def test_the_file_of_dropped_rows_is_an_output_too(rows: Rows, tmp_path: Path):
    source = rows({"prompt": "a", "answer": 1}, name="x.dropped.jsonl")
    with pytest.raises(ValueError, match="both input and output"):
        check_output(tmp_path / "x.jsonl", [str(source)])


def test_dropped_rows_are_no_source_of_their_folder(rows: Rows, tmp_path: Path):
    rows({"prompt": "a", "answer": 1})
    rows({"prompt": "b", "answer": 1}, name="x.dropped.jsonl")
    assert [entry.source for entry in read_entries([str(tmp_path)], kind="math")] == ["rows.jsonl"]
