from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from credo.data.problems import fingerprint, load_problems, without
from credo.types import Message, Problem

SHARED = Path(__file__).parents[3] / "shared" / "data" / "math"
STDIN = {"inputs": ["2\n"], "outputs": ["4\n"]}
VERL_ROWS = [
    {
        "data_source": "numina_olympiads",
        "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": f"What is {n}+{n}?"}],
        "ability": ability,
        "reward_model": {"style": "rule", "ground_truth": json.dumps(STDIN) if ability == "code" else str(2 * n)},
        "extra_info": {"split": "train", "index": 0},
    }
    for n, ability in [(1, "math"), (2, "code"), (3, "math")]
]


@pytest.fixture
def eurus(tmp_path) -> str:
    path = tmp_path / "train.parquet"
    parquet.write_table(pa.Table.from_pylist(VERL_ROWS), path)
    return str(path)


def test_parquet_in_the_schema_of_verl(eurus):
    problems, _ = load_problems([eurus])
    columns = {"data_source": "numina_olympiads", "extra_info": {"split": "train", "index": 0}}
    assert (problems[1].kind, problems[1].answer, problems[1].extra["tests"]) == ("code", "", STDIN)
    assert problems[2] == Problem(
        id="train.parquet:3",
        kind="math",
        prompt=(Message(role="system", content="Think."), Message(role="user", content="What is 3+3?")),
        answer="6",
        source="train.parquet",
        extra={"ability": "math", **columns},
    )


def test_parquet_and_jsonl_say_the_same(eurus, jsonl):
    from_parquet, _ = load_problems([eurus])
    from_jsonl, _ = load_problems([jsonl(VERL_ROWS, "train.parquet.jsonl")])
    strip = [replace(problem, id="", source="") for problem in from_parquet]
    assert strip == [replace(problem, id="", source="") for problem in from_jsonl]


def test_an_empty_parquet_file_is_refused(tmp_path):
    path = tmp_path / "none.parquet"
    parquet.write_table(pa.table({"prompt": pa.array([], pa.string())}), path)
    with pytest.raises(ValueError, match="holds no rows"):
        load_problems([str(path)])


def test_numbers_that_are_missing_in_parquet_are_bad_rows(tmp_path):
    path = tmp_path / "numbers.parquet"
    parquet.write_table(pa.table({"prompt": ["1+1=", "1+2=", "1+3="], "answer": [2.0, float("nan"), None]}), path)
    problems, report = load_problems([str(path)], max_bad_share=0.7)
    assert [problem.answer for problem in problems] == ["2"]
    assert len(report.bad_rows) == 2


def test_our_own_rows_read_back_unchanged(jsonl):
    pytest.importorskip("reasoning_gym")
    written, _ = load_problems(["gym:gcd?size=3", "gym:propositional_logic?size=1"])
    read, report = load_problems([jsonl([asdict(problem) for problem in written])])
    assert read == [replace(problem, source="train.jsonl") for problem in written]
    assert report.sha256 == fingerprint(written)


def test_without_compares_the_words_of_the_user(jsonl):
    asked = ("What is  1?\n", "What is 2?", "What is 3?")
    train, _ = load_problems([jsonl([{"question": text, "answer": 1} for text in asked])])
    chat = [{"role": "system", "content": "Think."}, {"role": "user", "content": "What is 3?"}]
    rows = [{"prompt": "What is 1?", "answer": 1}, {"prompt": chat, "answer": 1}]
    held_out, _ = load_problems([jsonl(rows, "test.jsonl")])
    kept, dropped = without(train, held_out)
    assert ([problem.id for problem in kept], dropped) == (["train.jsonl:2"], 2)
    assert without(train, []) == (train, 0)


def test_the_fingerprint_sees_every_part_of_a_problem():
    problem = Problem(id="a", kind="math", prompt="1+1=", answer="2", source="f")
    changed = [
        replace(problem, id="b"),
        replace(problem, kind="exact"),
        replace(problem, prompt="1+2="),
        replace(problem, prompt=(Message(role="user", content="1+1="),)),
        replace(problem, answer="3"),
        replace(problem, extra={"x": 1}),
    ]
    prints = {fingerprint([other]) for other in [problem, *changed]}
    assert len(prints) == 7
    assert fingerprint([replace(problem, source="g")]) == fingerprint([problem])
    assert fingerprint([problem, changed[0]]) != fingerprint([changed[0], problem])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here")
def test_gsm8k_loads():
    problems, report = load_problems([str(SHARED / "gsm8k_test.jsonl")])
    assert report.counts == {"gsm8k_test.jsonl": 1319}
    assert report.bad_rows == ()
    assert problems[0].answer == "18"
    assert isinstance(problems[0].prompt, tuple)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here")
def test_gsm8k_as_first_published_gives_the_same_answers(jsonl):
    rows = [json.loads(line) for line in (SHARED / "gsm8k_test.jsonl").read_text().splitlines()[:200]]
    original, _ = load_problems([jsonl([{"question": row["problem"], "answer": row["solution"]} for row in rows])])
    assert [problem.answer.replace(",", "") for problem in original] == [row["answer"] for row in rows]
