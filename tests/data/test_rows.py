from __future__ import annotations

import pytest

from credo.data.rows import answer_of, demonstration_of, has_several_answers, problem_of, prompt_of
from credo.types import Message

USER = (Message(role="user", content="2+2?"),)
CHAT = [{"role": "user", "content": "2+2?"}]
REPLY = [{"role": "assistant", "content": "4"}]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "2+2="}, "2+2="),
        ({"question": "2+2?"}, USER),
        ({"problem": "2+2?"}, USER),
        ({"prompt": CHAT}, USER),
        ({"messages": [{"role": "user", "content": "2+2?", "name": "Ann"}]}, USER),
        ({"prompt": None, "question": "2+2?"}, USER),
        ({"prompt": "2+2=", "question": "other"}, "2+2="),
    ],
)
def test_prompts_in_every_schema(row, prompt):
    assert prompt_of(row) == prompt


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"answer": " 4 "}, "4"),
        ({"answer": 4}, "4"),
        ({"answer": 4.0}, "4"),
        ({"answer": -0.5}, "-0.5"),
        ({"answer": ["4"]}, "4"),
        ({"ground_truth": "4"}, "4"),
        ({"answer": None, "solution": "4"}, "4"),
        ({"answer": "4", "solution": "5"}, "4"),
        ({"answer": "2 and 2 is <<2+2=4>>4\n#### 4"}, "4"),
        ({"answer": "#### 3 is the first part.\n#### 4"}, "4"),
        ({"answer": "Tom pays 57,500.\n#### 57,500\n"}, "57,500"),
        ({"solution": r"First \boxed{3}, then $\boxed{\frac{1}{2}}$."}, r"\frac{1}{2}"),
        ({"solution": r"an open box \boxed{3"}, r"an open box \boxed{3"),
        ({"answer": r"\boxed{4} apples"}, r"\boxed{4} apples"),
        ({"reward_model": {"style": "rule", "ground_truth": "4"}}, "4"),
    ],
)
def test_answers_in_every_schema(row, answer):
    assert answer_of(row) == answer


def test_infinite_numbers_are_no_answers():
    with pytest.raises(ValueError, match="finite"):
        answer_of({"answer": float("inf")})


def test_id_and_kind_of_the_row_go_before_the_defaults():
    row = {"prompt": "2+2=", "answer": 4}
    plain = problem_of(row, default_id="f:1", default_kind="exact", source="f")
    assert (plain.id, plain.kind, plain.source) == ("f:1", "exact", "f")
    own = problem_of({**row, "id": 7, "kind": "math"}, default_id="f:1", default_kind="exact", source="f")
    assert (own.id, own.kind) == ("7", "math")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "2+2=", "response": "4"}, ("2+2=", "4")),
        ({"prompt": "2+2=", "completion": "4"}, ("2+2=", "4")),
        ({"question": "2+2?", "response": "4"}, (USER, "4")),
        ({"prompt": CHAT, "completion": REPLY}, (USER, "4")),
        ({"messages": CHAT + REPLY}, (USER, "4")),
        ({"messages": CHAT + REPLY + CHAT + REPLY}, ((*USER, Message(role="assistant", content="4"), *USER), "4")),
    ],
)
def test_demonstrations_in_every_schema(row, expected):
    assert demonstration_of(row) == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": (CHAT + REPLY) * 2}, True),
        ({"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}] * 2}, True),
        ({"messages": CHAT + REPLY}, False),
        ({"messages": CHAT + REPLY + CHAT, "completion": REPLY}, False),
        ({"prompt": CHAT + REPLY + CHAT, "response": "4"}, False),
        ({"prompt": "2+2=", "response": "4"}, False),
    ],
)
def test_several_answers_are_those_of_a_conversation_without_a_response_apart(row, expected):
    assert has_several_answers(row) == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "2+2="}, "none of response, completion"),
        ({"response": "4"}, "none of prompt"),
        ({"prompt": "2+2=", "response": ""}, "response: is empty"),
        ({"prompt": "2+2=", "response": 4}, "response"),
        ({"messages": CHAT}, "ends with a message of the assistant"),
        ({"messages": REPLY}, "ends with a message of the assistant"),
        ({"messages": REPLY + REPLY}, "from the assistant"),
        ({"prompt": CHAT, "completion": CHAT}, "one message of the assistant"),
        ({"prompt": CHAT, "completion": REPLY + REPLY}, "one message of the assistant"),
    ],
)
def test_what_is_no_demonstration(row, reason):
    with pytest.raises(ValueError, match=reason):
        demonstration_of(row)
