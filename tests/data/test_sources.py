from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from credo.data.problems import load_problems
from credo.data.sources import GeneratedSource, as_object, expand, file_rows, parse_generated, sift

ROW = {"question": "2+2?", "answer": "4"}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"question": "2+2?", "answer": ', "malformed JSON"),
        (b'{"question": "\xff", "answer": "4"}', "not UTF-8 at byte 14"),
        (b"[1, 2]", "expected a JSON object, got list"),
        (b'{"question": "2+2?", "answer": NaN}', "NaN"),
        (b"[" * 100_000, "nested too deeply"),
        ({"question": "2+2?"}, "has none of answer"),
        ({"answer": "4"}, "has none of prompt"),
        ({"question": "2+2?", "answer": ""}, "answer: is empty"),
        ({"question": "2+2?", "answer": " \n"}, "answer: is empty"),
        ({"question": "2+2?", "answer": "so it is 4 ####"}, "final answer"),
        ({"question": "2+2?", "answer": True}, "got bool"),
        ({"question": "2+2?", "answer": {"value": 4}}, "got dict"),
        ({"question": "2+2?", "answer": ["4", "5"]}, "got list"),
        ({"question": "2+2?", "answer": "\ud800"}, "surrogate"),
        ({"question": 4, "answer": "4"}, "got int"),
        ({"question": "", "answer": "4"}, "question: is empty"),
        ({"messages": "2+2?", "answer": "4"}, "list of messages"),
        ({"prompt": [], "answer": "4"}, "list of messages"),
        ({"prompt": ["2+2?"], "answer": "4"}, "a message needs"),
        ({"prompt": [{"role": "tool", "content": "2+2?"}], "answer": "4"}, "unknown role 'tool'"),
        ({"prompt": [{"role": "user", "content": None}], "answer": "4"}, "prompt.content"),
        ({"prompt": [{"role": "assistant", "content": "Four."}], "answer": "4"}, "ends with the user's"),
        ({**ROW, "id": 1.5}, "id: expected"),
        ({**ROW, "kind": "maths"}, "Did you mean 'math'"),
        ({**ROW, "kind": "gym"}, "extra.family"),
        ({**ROW, "kind": "code"}, "tests: a programming task needs"),
        ({**ROW, "ability": "code"}, "tests: a programming task needs"),
        ({**ROW, "extra": [1]}, "extra: expected an object"),
        ({"question": "2+2?", "reward_model": "rule"}, "reward_model"),
    ],
)
def test_a_bad_row_is_named_with_line_and_reason(jsonl, bad, reason):
    path = jsonl([ROW, b"", bad, {"question": "3+3?", "answer": "6"}])
    with pytest.raises(ValueError, match=rf"train\.jsonl, line 3: .*{reason}"):
        load_problems([path])
    problems, report = load_problems([path], max_bad_share=0.5)
    assert [problem.id for problem in problems] == ["train.jsonl:1", "train.jsonl:4"]
    assert report.counts == {"train.jsonl": 2}
    assert len(report.bad_rows) == 1
    assert reason in report.bad_rows[0]


def test_the_share_of_bad_rows_is_a_limit(jsonl):
    rows = [{"id": index, **ROW} for index in range(98)] + [b"{", b"}"]
    problems, report = load_problems([jsonl(rows)], max_bad_share=0.02)
    assert (len(problems), len(report.bad_rows)) == (98, 2)
    with pytest.raises(ValueError, match=r"2 of 100 rows of train\.jsonl.*line 99"):
        load_problems([jsonl(rows)], max_bad_share=0.019)
    with pytest.raises(ValueError, match="max_bad_share"):
        load_problems([jsonl(rows)], max_bad_share=1.0)


def test_marks_and_line_ends_of_other_systems_are_fine(jsonl):
    plain = load_problems([jsonl([ROW, {"question": "3+3?", "answer": "6"}])])
    odd = [
        b'\xef\xbb\xbf{"question": "2+2?", "answer": "4"}\r',
        b'{"question": "3+3?", "answer": "6"}\r',
        b"\r",
        b"",
        b"",
    ]
    assert load_problems([jsonl(odd)]) == plain


def test_unusual_line_separators_inside_a_string_do_not_split_a_row(jsonl):
    problems, _ = load_problems([jsonl(['{"prompt": "a\u2028b\x85c", "answer": "4"}'.encode()])])
    assert problems[0].prompt == "a\u2028b\x85c"


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path, content):
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"train\.jsonl holds no rows"):
        load_problems([str(path)], max_bad_share=0.5)


def test_missing_and_unsuitable_paths_are_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "rows.csv").write_text("a,b")
    (tmp_path / "rows.parquet").write_bytes(b"this is not parquet")
    for source, seen in [
        ("missing.jsonl", "no file or folder"),
        ("-&size=2", "%2C"),
        ("folder", "holds no .jsonl"),
        ("rows.csv", "neither"),
        ("rows.parquet", "readable parquet"),
    ]:
        with pytest.raises(ValueError, match=seen):
            load_problems([str(tmp_path / source)])
    with pytest.raises(ValueError, match="No source"):
        load_problems([])


def test_a_folder_stands_for_its_files_in_order(jsonl, tmp_path):
    jsonl([ROW], "folder/b.jsonl")
    jsonl([ROW, ROW], "folder/a.jsonl")
    (tmp_path / "folder" / "README.md").write_text("not rows")
    problems, report = load_problems([str(tmp_path / "folder")])
    assert [problem.id for problem in problems] == ["a.jsonl:1", "a.jsonl:2", "b.jsonl:1"]
    assert report.counts == {"a.jsonl": 2, "b.jsonl": 1}


def test_files_of_one_name_are_told_apart_by_their_paths(jsonl):
    one, two = jsonl([ROW], "one/train.jsonl"), jsonl([ROW], "two/train.jsonl")
    problems, _ = load_problems([one, two])
    assert [problem.id for problem in problems] == [f"{one}:1", f"{two}:1"]


def test_a_source_listed_twice_is_refused(jsonl):
    path = Path(jsonl([ROW]))
    with pytest.raises(ValueError, match="listed twice"):
        expand([str(path), str(path.parent)])
    with pytest.raises(ValueError, match="listed twice"):
        expand(["gym:gcd?size=3&seed=1", "gym:gcd?seed=1&size=3"])


def test_an_id_given_twice_is_a_bad_row(jsonl):
    with pytest.raises(ValueError, match=r"line 2: the id 'x'"):
        load_problems([jsonl([{**ROW, "id": "x"}, {**ROW, "id": "x"}])])


def test_the_parts_of_a_generated_source():
    source = parse_generated("gym:basic_arithmetic?operators=+,-&size=20&whitespace=no%5Fspace")
    parameters = (("operators", "+,-"), ("size", "20"), ("whitespace", "no_space"))
    assert source == GeneratedSource(scheme="gym", family="basic_arithmetic", parameters=parameters)
    assert source.name == "gym:basic_arithmetic"
    assert parse_generated("trace:chain_sum").parameters == ()
    for wrong in ("gym:gcd?size", "gym:gcd?size=1&size=2", "gym:gcd?=1"):
        with pytest.raises(ValueError, match=r"name=value|twice"):
            parse_generated(wrong)


def test_sift_counts_only_refusals():
    rows = [("item", number, number) for number in range(4)]

    def reciprocal(number: int, raw: object) -> float:
        return 1 / number

    with pytest.raises(ZeroDivisionError):  # a defect of ours is not a bad row
        sift(rows, reciprocal, label="numbers", max_bad_share=0.5)


def test_rows_that_are_objects_already_pass_through():
    assert as_object({"a": 1}) == {"a": 1}
    assert as_object(b'{"a": 1}') == {"a": 1}


def test_heavy_packages_wait_until_they_are_needed():
    modules = "problems, demonstrations, stream, prompts, batching"
    heavy = "{'transformers', 'pyarrow', 'reasoning_gym', 'jinja2'}"
    script = f"import torch, sys; before = set(sys.modules); from credo.data import {modules}; "
    script += f"print(({heavy} & set(sys.modules)) - before)"
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_a_json_file_is_an_array_or_lines(tmp_path: Path):
    path = tmp_path / "set.json"
    path.write_text('\n [{"a": 1},\n {"a": 2}]')
    assert list(file_rows(path)) == [("row", 1, {"a": 1}), ("row", 2, {"a": 2})]
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert [as_object(raw) for _, _, raw in file_rows(path)] == [{"a": 1}, {"a": 2}]
    path.write_text('[{"a": 1}')
    with pytest.raises(ValueError, match="not one JSON array"):
        list(file_rows(path))
