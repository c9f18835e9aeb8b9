"""Records go to disk and come back whole, half a line is dropped, and a folder belongs to one evaluation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from credo.evaluation.records import EvaluationFolder, Record, read_records, read_results

RECORD = Record(
    id="p1",
    responses=("a\nb", "😀\ud800"),
    finish=("stop", "length"),
    lengths=(3, 4),
    scores=(1.0, None),
    reasons=("", "died"),
    answers=("1/2", None),
    rewards=(0.1, -2.5),
)
SOURCE = {"source": "x.jsonl", "sha256": "12", "registered": False, "conditions": {}}


def settings(**changes: Any) -> dict[str, Any]:
    return {"model": "m", "stop": ("a",), "seed": 0} | changes


def test_records_come_back_as_they_were(tmp_path: Path):
    with EvaluationFolder(tmp_path) as folder:
        assert folder.records("x") == []
        folder.append("x", [RECORD])
        folder.append("x", [replace(RECORD, id="p2", rewards=()), replace(RECORD, id="p3")])
        assert [one.id for one in folder.records("x")] == ["p1", "p2", "p3"]
        assert folder.records("x")[0] == RECORD
        folder.rewrite("x", [RECORD])
        assert read_records(folder.file("x")) == [RECORD]


def test_a_half_written_line_is_dropped_for_good(tmp_path: Path):
    with EvaluationFolder(tmp_path) as folder:
        folder.append("x", [RECORD])
        whole = folder.file("x").read_bytes()
        for torn in (b"{", whole[:-1], b'{"id": "p2", "responses": ["\xf0'):
            folder.file("x").write_bytes(whole + torn)
            assert read_records(folder.file("x")) == [RECORD]
            assert folder.records("x") == [RECORD]
            assert folder.file("x").read_bytes() == whole
        folder.file("x").write_bytes(b'{"id"')
        assert folder.records("x") == []


@pytest.mark.parametrize("line", ["[]", "{}", '{"id": "p", "answer": "1"}', "nonsense", '{"id": "p", "scores": 1}'])
def test_another_file_is_not_taken_for_records(tmp_path: Path, line: str):
    (tmp_path / "x.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"x\.jsonl"):
        read_records(tmp_path / "x.jsonl")


def test_what_is_known_and_its_mean():
    assert (RECORD.known, RECORD.mean_score) == ([0], 1.0)
    assert replace(RECORD, scores=(None, None)).mean_score is None
    assert replace(RECORD, scores=(0.0, 1.0)).mean_score == 0.5


def test_an_evaluation_goes_on_with_the_same_settings_only(tmp_path: Path):
    with EvaluationFolder(tmp_path) as folder:
        folder.begin(settings())
        folder.begin(settings())
        for changes, named in (
            ({"seed": 1}, "seed = 0"),
            ({"stop": ()}, "stop"),
            ({"engine": "vllm"}, "engine = None"),
        ):
            with pytest.raises(ValueError, match=named):
                folder.begin(settings(**changes))
        with pytest.raises(ValueError, match="seed"):
            folder.begin(settings(seed=1), {"model"})
        folder.begin(settings(seed=1), {"seed"})
        assert read_results(tmp_path)["settings"]["seed"] == 1


def test_sources_and_numbers_stay_beside_each_other(tmp_path: Path):
    with EvaluationFolder(tmp_path) as folder:
        folder.begin(settings())
        folder.begin_source("x", SOURCE)
        folder.begin_source("y", SOURCE)
        folder.finish_source("y", {"problems": 3})
        folder.begin_source("x", SOURCE)
        folder.begin(settings())
        results = folder.results()
        assert (list(results["sources"]), results["results"]) == (["x", "y"], {"y": {"problems": 3}})
        with pytest.raises(ValueError, match=r"other problems under 'x'.*12.*13"):
            folder.begin_source("x", {**SOURCE, "sha256": "13"})


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "problems.jsonl").write_text("{}\n")
    with EvaluationFolder(tmp_path) as folder, pytest.raises(ValueError, match="no evaluation"):
        folder.begin(settings())
    for content in ("[]", "{}", "nonsense"):
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(ValueError, match="holds no evaluation"):
            read_results(tmp_path)
    with pytest.raises(ValueError, match="holds no evaluation"):
        read_results(tmp_path / "absent")


def test_two_processes_do_not_write_to_one_folder(tmp_path: Path):
    with EvaluationFolder(tmp_path), pytest.raises(ValueError, match="Another process"):
        EvaluationFolder(tmp_path)
    with EvaluationFolder(tmp_path):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be used"):
        EvaluationFolder(tmp_path / "file")


def test_lines_are_plain_json(tmp_path: Path):
    with EvaluationFolder(tmp_path) as folder:
        folder.append("x", [RECORD])
        (row,) = [json.loads(line) for line in folder.file("x").read_text().splitlines()]
    assert row["scores"] == [1.0, None]
    assert row["responses"] == list(RECORD.responses)
