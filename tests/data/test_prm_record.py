"""What stands beside the weights of a PRM comes back as it was written, and damage is named."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from credo.data.prm_record import RECORD, PrmRecord, Prompting, read_record, write_record

SAID = PrmRecord(
    beta=0.1,
    loss="ce",
    reference="start",
    reference_sha256="ab",
    prompting=Prompting(template="plain", suffix="="),
    steps=3,
    training={"sources": ["a.jsonl"]},
    held_out={"auc": 0.5},
)


def test_it_comes_back_as_it_was_written(tmp_path: Path):
    write_record(tmp_path, SAID)
    assert read_record(str(tmp_path)) == SAID
    assert read_record(str(tmp_path / "elsewhere")) is None


def test_what_is_no_number_is_null(tmp_path: Path):
    write_record(tmp_path, replace(SAID, held_out={"auc": math.nan, "all": [math.inf, 1]}))
    assert json.loads((tmp_path / RECORD).read_text())["held_out"] == {"auc": None, "all": [None, 1]}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "beta": 0.1}'])
def test_a_damaged_one_is_refused_by_name(text: str, tmp_path: Path):
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(ValueError, match=r"prm\.json is damaged"):
        read_record(str(tmp_path))
