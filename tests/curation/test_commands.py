"""The data commands from options to files, on rows of our own and on real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_model

from credo.curation.commands import benchmark_prompts, card, decontaminate, deduplicate, filter_data, import_data
from credo.data.problems import load_problems
from credo.options.curation import CardOptions, DecontaminateOptions, DeduplicateOptions, FilterOptions, ImportOptions

Rows = Callable[..., Path]
SHARED = Path(__file__).parents[3] / "shared" / "data"
HELD_OUT = "A train leaves the station at 7 and travels 60 miles an hour for 4 hours. How far does it go?"
here = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def imported(output: Path, *sources: Path, **changes: Any) -> list[dict[str, Any]]:
    import_data(ImportOptions(sources=tuple(map(str, sources)), output=output, **changes))
    return read(output)


def test_import_lists_what_it_refuses(rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = rows(
        {"id": 1, "question": "a", "answer": "1"},
        {"id": 1, "question": "b", "answer": "2"},
        {"prompt": "c", "response": "d"},
        "[1]",
    )
    kept = imported(tmp_path / "out.jsonl", source)
    assert [row["id"] for row in kept] == ["1"]
    dropped = read(tmp_path / "out.dropped.jsonl")
    assert [(row["line"], row["step"]) for row in dropped] == [
        (2, "id_used_before"),
        (3, "other_form"),
        (4, "unreadable"),
    ]
    said = capsys.readouterr().out
    assert "rows.jsonl:4: unreadable: expected a JSON object, got list" in said
    assert "1 math" in said
    placed = imported(tmp_path / "placed.jsonl", source, ids="place")
    assert [row["id"] for row in placed] == ["rows.jsonl:1", "rows.jsonl:2"]


def test_import_of_nothing(rows: Rows, tmp_path: Path):
    with pytest.raises(ValueError, match="no rows"):
        imported(tmp_path / "out.jsonl", rows(""))
    with pytest.raises(ValueError, match=r"None of the 1 rows.*malformed"):
        imported(tmp_path / "out.jsonl", rows("{broken"))
    with pytest.raises(ValueError, match="both input and output"):
        imported(tmp_path / "rows.jsonl", tmp_path / "rows.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_chain_of_commands(rows: Rows, tmp_path: Path):
    long = "Bob picks {} apples a day for {} days and gives half of all of them to Ann. How many are left for Bob?"
    source = rows(
        {"prompt": long.format(8, 3), "answer": "12"},
        {"prompt": long.format(8, 3).upper(), "answer": "12"},
        {"prompt": HELD_OUT, "answer": "240"},
        {"prompt": "Prove that 1 = 1.", "answer": "1"},
        {"prompt": "What is 2+2?", "answer": "4"},
    )
    bench = rows({"task_id": "b/7", "prompt": f"{HELD_OUT}\n"}, name="bench.jsonl")
    filtered, unique, clean = (tmp_path / f"{name}.jsonl" for name in ("filtered", "unique", "clean"))
    filter_data(FilterOptions(sources=(str(source),), output=filtered, steps="no_proof"))
    deduplicate(DeduplicateOptions(sources=(str(filtered),), output=unique))
    decontaminate(DecontaminateOptions(sources=(str(unique),), output=clean, against=(str(bench),)))
    problems, _ = load_problems([str(clean)])
    assert [problem.id for problem in problems] == ["rows.jsonl:1", "rows.jsonl:5"]
    (dropped,) = read(tmp_path / "clean.dropped.jsonl")
    assert (dropped["benchmark"], dropped["benchmark_id"], dropped["overlap"]) == ("bench.jsonl", "b/7", 1.0)
    assert dropped["benchmark_prompt"] == f"{HELD_OUT}\n"
    assert dropped["row"]["answer"] == "240"


def test_a_benchmark_needs_prompts_and_has_to_be_known(rows: Rows):
    with pytest.raises(ValueError, match=r"bench.jsonl, line 2.*needs a prompt"):
        list(benchmark_prompts([str(rows({"prompt": "a"}, {"text": "b"}, name="bench.jsonl"))], None))
    with pytest.raises(ValueError, match="math500"):
        list(benchmark_prompts(["math50"], None))


def test_the_card_of_a_file(rows: Rows, tmp_path: Path):
    path = rows(*({"prompt": f"ab{'ab' * n}=", "answer": "a", "id": f"<b>{n}"} for n in range(9)))
    card(CardOptions(file=path, examples=3, kind="exact", model=str(tiny_model(tmp_path / "model"))))
    text, html = ((tmp_path / f"rows.card.{suffix}").read_text() for suffix in ("md", "html"))
    for shown in (text, html):
        assert sha256(path.read_bytes()).hexdigest() in shown
        assert "prompt, tokens" in shown
        assert all(f"rows.jsonl, row {line}" in shown for line in (1, 5, 9))
    assert "| prompt, tokens | 3 |" in text
    assert "<td>rows</td><td>9</td>" in html


def test_what_is_generated_has_a_card_without_a_hash(tmp_path: Path):
    card(CardOptions(file=Path("gym:chain_sum?size=3"), output=tmp_path / "card.md"))
    text = (tmp_path / "card.md").read_text()
    assert "| rows | 3 |" in text
    assert "sha256" not in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"examples": -1}, "--examples"),
        ({"output": Path("card.txt")}, r"\.md"),
        ({"output": Path("absent/card.md")}, "absent"),
        ({"file": Path("absent.jsonl")}, "absent"),
    ],
)
def test_cards_that_cannot_be_made(rows: Rows, changes: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        card(CardOptions(**{"file": rows({"prompt": "a", "answer": "1"}), **changes}))


@here
def test_real_files_of_every_schema_are_imported(tmp_path: Path):
    counts = {"math/gsm8k_test.jsonl": 1319, "math/amc83.jsonl": 83, "reasoning_gym/rg_easy_dev.jsonl": 1200}
    for name, count in counts.items():
        output = tmp_path / Path(name).name
        assert len(imported(output, SHARED / name)) == count
        again, _ = load_problems([str(output)])
        first, _ = load_problems([str(SHARED / name)])
        assert [(p.id, p.prompt, p.answer, p.extra) for p in again] == [
            (p.id, p.prompt, p.answer, p.extra) for p in first
        ]
    simplelr = imported(tmp_path / "simplelr.jsonl", SHARED / "math" / "math_train_simplelr.jsonl")
    assert len(simplelr) == 8507, "two answers are empty"
    assert len(read(tmp_path / "simplelr.dropped.jsonl")) == 2


@here
def test_code_benchmarks_have_prompts():
    prompts = list(benchmark_prompts([str(SHARED / "code" / "code_tasks.jsonl")], None))
    assert len(prompts) == 542
    assert prompts[0].id.startswith(("HumanEval/", "MBPP/"))
    assert len(list(benchmark_prompts(["math500", "gsm8k"], SHARED))) == 1819
