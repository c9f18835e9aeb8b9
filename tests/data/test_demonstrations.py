from __future__ import annotations

import pytest

from credo.data.demonstrations import Demonstration, load_demonstrations, split_off, without
from credo.types import Message

ASKED = {"role": "user", "content": "1+1?"}
SAID = {"role": "assistant", "content": "2"}


def demonstrations(*prompts: str) -> list[Demonstration]:
    return [
        Demonstration(prompt=prompt, response=str(line), source="a.jsonl", line=line)
        for line, prompt in enumerate(prompts, start=1)
    ]


def test_sources_follow_each_other_in_order(jsonl):
    one = jsonl([{"prompt": "1+1=", "response": "2"}], "one.jsonl")
    two = jsonl([{"question": "1+2?", "completion": "3"}], "two.jsonl")
    assert load_demonstrations([two, one]) == [
        Demonstration(prompt=(Message(role="user", content="1+2?"),), response="3", source="two.jsonl", line=1),
        Demonstration(prompt="1+1=", response="2", source="one.jsonl", line=1),
    ]


def test_bad_rows_are_named_or_skipped(jsonl):
    path = jsonl([{"prompt": "1+1=", "response": "2"}, {"prompt": "1+1="}])
    with pytest.raises(ValueError, match=r"train\.jsonl, line 2: .*response"):
        load_demonstrations([path])
    heard: list[str] = []
    assert len(load_demonstrations([path], max_bad_share=0.5, warn=heard.append)) == 1
    (sentence,) = heard
    assert "1 of 2" in sentence
    assert "train.jsonl, line 2" in sentence


@pytest.mark.parametrize(
    ("row", "every_turn"),
    [
        ({"messages": [ASKED, SAID, ASKED, SAID]}, True),
        ({"messages": [ASKED, SAID]}, False),
        ({"prompt": [ASKED, SAID, ASKED], "completion": [SAID]}, False),
        ({"prompt": "1+1=", "response": "2"}, False),
    ],
)
def test_all_answers_of_a_conversation_are_learnt_and_those_of_a_prompt_are_not(jsonl, row, every_turn):
    (demonstration,) = load_demonstrations([jsonl([row])])
    assert demonstration.every_turn == every_turn


def test_the_schema_of_eurus_2_sft_data(jsonl):
    row = {
        "dataset": "MathInstruct",
        "task": "Math",
        "system": "Plan first.",
        "conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "[OUTPUT] 2"}],
    }
    (demonstration,) = load_demonstrations([jsonl([row])])
    assert demonstration.prompt == (Message(role="system", content="Plan first."), Message(role="user", content="1+1?"))
    assert demonstration.response == "[OUTPUT] 2"


def test_what_is_split_off_has_no_prompt_in_common_with_the_rest():
    rows = demonstrations("a", "b", "a", "c", "d", "b")
    training, held_out = split_off(rows, 0.5, seed=1)
    assert sorted([*training, *held_out], key=lambda row: row.line) == rows
    prompts = [{row.prompt for row in side} for side in (training, held_out)]
    assert [len(side) for side in prompts] == [2, 2]
    assert not prompts[0] & prompts[1]
    assert split_off(rows, 0.5, seed=1) == (training, held_out)
    assert any(split_off(rows, 0.5, seed=seed) != (training, held_out) for seed in range(2, 6))


@pytest.mark.parametrize(("share", "held_out"), [(0.01, 1), (0.99, 3)])
def test_something_is_learnt_and_something_held_out(share: float, held_out: int):
    sides = split_off(demonstrations("a", "b", "c", "d"), share, seed=0)
    assert [len(side) for side in sides] == [4 - held_out, held_out]


def test_a_single_prompt_cannot_be_split():
    with pytest.raises(ValueError, match="same prompt"):
        split_off(demonstrations("a", "a"), 0.5, seed=0)


def test_what_is_held_out_is_not_learnt():
    rows = demonstrations("a", "b", "a")
    assert without(rows, demonstrations("a")) == rows[1:2]
    with pytest.raises(ValueError, match="nothing is left"):
        without(rows, demonstrations("b", "a"))
