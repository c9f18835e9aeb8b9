from __future__ import annotations

import pytest

from credo.data.demonstrations import Demonstration, load_demonstrations
from credo.types import Message


def test_sources_follow_each_other_in_order(jsonl):
    one = jsonl([{"prompt": "1+1=", "response": "2"}], "one.jsonl")
    two = jsonl([{"question": "1+2?", "completion": "3"}], "two.jsonl")
    assert load_demonstrations([two, one]) == [
        Demonstration(prompt=(Message(role="user", content="1+2?"),), response="3", source="two.jsonl"),
        Demonstration(prompt="1+1=", response="2", source="one.jsonl"),
    ]


def test_bad_rows_are_named_or_skipped(jsonl):
    path = jsonl([{"prompt": "1+1=", "response": "2"}, {"prompt": "1+1="}])
    with pytest.raises(ValueError, match=r"train\.jsonl, line 2: .*response"):
        load_demonstrations([path])
    assert len(load_demonstrations([path], max_bad_share=0.5)) == 1
