"""What is learnt from and what is held out have no problem in common, however files name their problems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import LETTERS, tiny_model

from credo.config import OfflineConfig
from credo.models.causal import load_model
from credo.offline.material import Split, load_split

PROMPTS = [f"{first}{second}=" for first in LETTERS for second in LETTERS]


def split_of(folder: Path, *rows: dict[str, Any], **options: Any) -> Split:
    """Of ``rows``, which are all right and wrong once."""
    said = [row | {"response": letter, "label": letter == "a"} for row in rows for letter in "ab"]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in said))
    tokenizer = load_model(str(tiny_model(folder / "model"))).tokenizer
    return load_split(OfflineConfig(sources=(str(path),), **options), tokenizer)


def prompts(split: Split) -> tuple[set[Any], set[Any]]:
    """Those to learn from, and those held out."""
    learnt, held_out = ({response.prompt for response in part.responses} for part in (split.training, split.held_out))
    return learnt, held_out


def test_equal_prompts_under_several_groups_are_learnt_from_or_held_out(tmp_path: Path):
    rows = [{"prompt": prompt, "group": f"made:{place}"} for place, prompt in enumerate(PROMPTS * 3)]
    split = split_of(tmp_path, *rows, held_out_share=0.25)
    learnt, held_out = prompts(split)
    assert learnt.isdisjoint(held_out)
    assert (len(learnt), len(held_out)) == (12, 4)
    assert (split.training.problems, split.held_out.problems) == (12, 4)
    assert (len(split.training.rows), len(split.held_out.rows)) == (72, 24)


def test_a_file_of_held_out_responses_takes_their_prompts_and_their_groups(tmp_path: Path):
    said = [{"prompt": "aa=", "response": "a", "label": 1, "group": 1}, {"prompt": "ab=", "response": "b", "label": 0}]
    (tmp_path / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    rows = [{"prompt": "aa="}, {"prompt": "ab=", "group": 2}, {"prompt": "ba=", "group": 1}, {"prompt": "bb="}]
    rows += [{"prompt": "ca=", "group": 2}, {"prompt": "cb=", "group": 3}]
    learnt, held_out = prompts(split_of(tmp_path, *rows, held_out=(str(tmp_path / "validation.jsonl"),)))
    assert learnt == {"bb=", "cb="}
    assert held_out == {"aa=", "ab="}, "the responses of the file, and no others"


def test_responses_to_other_prompts_are_compared_only_within_a_group(tmp_path: Path):
    rows = [{"id": "rows:1", "prompt": prompt} for prompt in PROMPTS[:8]]
    problems = split_of(tmp_path, *rows, held_out_share=0.01).training.judged.problems.tolist()
    assert problems == [number for number in range(7) for _ in range(2)]
    joined = split_of(tmp_path, *rows, {"prompt": "da=", "group": 1}, {"prompt": "db=", "group": 1}, loss="dpo")
    assert joined.training.problems + joined.held_out.problems == 9


@pytest.mark.parametrize("balance", ["dataset", "instruction"])
def test_a_balance_that_would_leave_nothing_is_refused(balance: str, tmp_path: Path):
    for name, letter in (("right.jsonl", "a"), ("wrong.jsonl", "b")):
        said = [{"prompt": f"{letter}{p}", "response": letter, "label": letter == "a"} for p in PROMPTS]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in said))
    sources = (str(tmp_path / "right.jsonl"), str(tmp_path / "wrong.jsonl"))
    tokenizer = load_model(str(tiny_model(tmp_path / "model"))).tokenizer
    config = OfflineConfig(sources=sources, balance=balance)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=f"balance = '{balance}'"):
        load_split(config, tokenizer)
    assert load_split(OfflineConfig(sources=sources, balance="class"), tokenizer).training.rows
