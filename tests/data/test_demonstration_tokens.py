"""Demonstrations as tokens, with a tokenizer of one token per character."""

from __future__ import annotations

from typing import Any

import pytest

from credo.config import DemonstrationConfig
from credo.data.demonstration_tokens import Pieces, encode, fingerprint, learnt_tokens, length
from credo.data.demonstrations import Demonstration
from tests.data.test_prompts import BOS, ENDING, EOS, TALK, TEMPLATE, character_tokenizer, spelt

SUM = Demonstration(prompt="1+1=", response="2", source="sums.jsonl", line=7)
TALKED = Demonstration(prompt=TALK[:-1], response="4", source="talks.jsonl", line=3, every_turn=True)


def encoded(*demonstrations: Demonstration, chat: str | None = ENDING, **options: Any) -> tuple[list[Pieces], int]:
    tokenizer = character_tokenizer("$A", template=chat)
    config = DemonstrationConfig(sources=("x",), **options)
    return encode(demonstrations, config, tokenizer, ends=frozenset({EOS}))


def test_a_prompt_is_given_and_its_response_learnt_with_its_end():
    (row,), truncated = encoded(SUM)
    assert [tuple(piece) for piece in row] == [spelt("1+1="), (*spelt("2"), EOS)]
    assert (length(row), learnt_tokens([row, row]), truncated) == (6, 4, 0)


def test_a_conversation_is_learnt_at_every_turn_and_a_prompt_with_answers_at_its_end():
    (row,), _ = encoded(TALKED)
    assert [tuple(piece) for piece in row[1::2]] == [(*spelt("2"), EOS), (*spelt("4"), EOS)]
    apart = Demonstration(prompt=TALKED.prompt, response="4", source="talks.jsonl", line=3)
    (other,), _ = encoded(apart)
    assert [tuple(piece) for piece in other[1::2]] == [(*spelt("4"), EOS)]
    assert [token for piece in row for token in piece] == [token for piece in other for token in piece]


@pytest.mark.parametrize("every_turn", [True, False])
def test_system_and_suffix_reach_both(every_turn: bool):
    demonstration = Demonstration(prompt=TALK[:-1], response="4", source="x", line=1, every_turn=every_turn)
    (row,), _ = encoded(demonstration, system="Think.", suffix="!")
    begun, asked = (BOS, *spelt("[system]Think.[user]")), spelt("2+2?![assistant]")
    assert tuple(row[0])[: len(begun)] == begun
    assert tuple(row[-2])[-len(asked) :] == asked


def test_a_demonstration_that_is_too_long_is_refused_by_its_place():
    assert encoded(SUM, max_tokens=6)[0]
    with pytest.raises(ValueError, match=r"^sums\.jsonl:7: has 6 tokens, over sft\.max_tokens = 5"):
        encoded(SUM, max_tokens=5)


def test_or_dropped():
    longer = Demonstration(prompt="1+1+1=", response="3", source="sums.jsonl", line=8)
    rows, truncated = encoded(longer, SUM, max_tokens=6, too_long="drop")
    assert [length(row) for row in rows] == [6]
    assert truncated == 0


def test_or_truncated_unless_nothing_is_left_to_learn():
    longer = Demonstration(prompt="1+1+1=", response="3", source="sums.jsonl", line=8)
    rows, truncated = encoded(SUM, longer, max_tokens=5, too_long="truncate")
    assert [[tuple(piece) for piece in row] for row in rows] == [[spelt("1+1="), spelt("2")]]
    assert truncated == 1


def test_a_conversation_is_cut_within_whatever_piece():
    (whole,), _ = encoded(TALKED)
    first = len(whole[0]) + len(whole[1])
    (row,), _ = encoded(TALKED, max_tokens=first + 3, too_long="truncate")
    assert [len(piece) for piece in row] == [len(whole[0]), len(whole[1]), 3, 0]
    assert learnt_tokens([row]) == 2
    assert encoded(TALKED, max_tokens=len(whole[0]), too_long="truncate") == ([], 0)


@pytest.mark.parametrize(
    ("chat", "options", "reason"),
    [
        (None, {}, "several times"),
        (ENDING, {"template": "plain"}, "several times"),
        (TEMPLATE, {}, "ends message 3 with none"),
        (ENDING.replace("message.content", "message.content if loop.last else ''"), {}, "message 3 otherwise"),
    ],
)
def test_a_conversation_that_cannot_be_told_apart_is_refused_by_its_place(chat, options, reason):
    with pytest.raises(ValueError, match=rf"^talks\.jsonl:3: .*{reason}"):
        encoded(TALKED, chat=chat, **options)


def test_characters_that_the_tokenizer_does_not_know_are_refused_by_their_place():
    with pytest.raises(ValueError, match=r"^sums\.jsonl:9: .*architecture\.alphabet"):
        encoded(SUM, Demonstration(prompt="1+1=", response="é", source="sums.jsonl", line=9))


def test_the_fingerprint_is_of_tokens_their_places_and_what_is_learnt():
    row: Pieces = ((1, 2), (3, 4))
    others: list[list[Pieces]] = [[((1, 2), (3, 5))], [((1,), (2, 3, 4))], [row, row], []]
    assert fingerprint([row]) == fingerprint([((1, 2), (3, 4))])
    assert len({fingerprint(rows) for rows in [[row], *others]}) == 5


def test_progress_is_told_of_every_demonstration():
    told: list[int] = []
    tokenizer = character_tokenizer("$A")
    config = DemonstrationConfig(sources=("x",), max_tokens=4, too_long="drop")
    encode([SUM, SUM], config, tokenizer, ends=frozenset({EOS}), advance=told.append)
    assert told == [1, 1]
