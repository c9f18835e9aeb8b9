from __future__ import annotations

import string
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from credo.data.prompts import encode_conversation, encode_response, render
from credo.types import Message

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
BOS, EOS = 1, 2
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'system' and not loop.first %}"
    "{{ raise_exception('The system message comes first') }}{% endif %}"
    "[{{ message.role }}]{{ message.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
CHAT = (
    Message(role="system", content="Be brief."),
    Message(role="user", content="1+1?"),
    Message(role="assistant", content="2"),
    Message(role="user", content="And 2+2?"),
)


def character_tokenizer(single: str, *, template: str | None = None, **named: str) -> PreTrainedTokenizerFast:
    """One token per printable character; ``single`` says where special tokens go, as in ``<s> $A``."""
    vocabulary = {token: index for index, token in enumerate(SPECIAL + list(string.printable))}
    tokenizer: Any = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    special = [(token, index) for index, token in enumerate(SPECIAL) if token in single]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=None, special_tokens=special)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"} | named
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{key: name for key, name in names.items() if name})
    fast.chat_template = template
    return fast


def spelt(text: str) -> tuple[int, ...]:
    return tuple(len(SPECIAL) + string.printable.index(character) for character in text)


@pytest.fixture(scope="module")
def plain() -> PreTrainedTokenizerFast:
    return character_tokenizer("$A")


@pytest.fixture(scope="module")
def chatty() -> PreTrainedTokenizerFast:
    return character_tokenizer("<s> $A", template=TEMPLATE)


@pytest.mark.parametrize(
    ("single", "prefix"),
    [("$A", ()), ("<s> $A", (BOS,)), ("<s> $A </s>", (BOS,)), ("$A </s>", ()), ("<unk> <s> $A </s>", (3, BOS))],
)
def test_plain_text_begins_as_the_tokenizer_begins_and_does_not_end(single, prefix):
    tokenizer = character_tokenizer(single)
    assert render("12+45=", tokenizer, template="auto") == (*prefix, *spelt("12+45="))
    assert render("</s>", tokenizer, template="plain") == (*prefix, EOS)


def test_the_beginning_is_never_doubled(chatty):
    assert render("<s>12+45=", chatty, template="plain") == (BOS, *spelt("12+45="))
    assert render(CHAT, chatty, template="chat").count(BOS) == 1


def test_one_token_for_beginning_and_end():
    both = character_tokenizer("</s> $A", bos_token="</s>")
    assert render("1=", both, template="plain") == (EOS, *spelt("1="))
    assert render("1=", character_tokenizer("$A </s>", bos_token="</s>"), template="plain") == spelt("1=")


def test_messages_go_through_the_chat_template(chatty):
    written = "[system]Be brief.[user]1+1?[assistant]2[user]And 2+2?[assistant]"
    expected = (BOS, *spelt(written))
    assert render(CHAT, chatty, template="auto") == expected
    assert render(CHAT, chatty, template="chat") == expected


def test_messages_without_a_template_are_joined_by_newlines(plain, chatty):
    expected = spelt("Be brief.\n1+1?\n2\nAnd 2+2?")
    assert render(CHAT, plain, template="auto") == expected
    assert render(CHAT, chatty, template="plain") == (BOS, *expected)


def test_a_string_is_continued_unless_a_chat_is_asked_for(chatty):
    assert render("1+1?", chatty, template="auto") == (BOS, *spelt("1+1?"))
    assert render("1+1?", chatty, template="chat") == (BOS, *spelt("[user]1+1?[assistant]"))


def test_the_suffix_follows_the_last_words_of_the_user(plain, chatty):
    assert render("1=", plain, template="auto", suffix="!") == spelt("1=!")
    closed = (Message(role="user", content="1+1?"), Message(role="assistant", content="2"))
    assert render(closed, plain, template="auto", suffix="!") == spelt("1+1?!\n2")
    assert render(CHAT[3:], chatty, template="auto", suffix="\n\nBox it.") == (
        BOS,
        *spelt("[user]And 2+2?\n\nBox it.[assistant]"),
    )


def test_the_system_text_comes_first_and_replaces_that_of_the_row(plain, chatty):
    expected = (BOS, *spelt("[system]Think.[user]1+1?[assistant]2[user]And 2+2?[assistant]"))
    assert render(CHAT, chatty, template="auto", system="Think.") == expected
    assert render(CHAT[1:], chatty, template="auto", system="Think.") == expected
    assert render("1=", plain, template="auto", system="Think.") == spelt("Think.\n1=")


def test_what_cannot_be_rendered(plain, chatty):
    with pytest.raises(ValueError, match="no chat template"):
        render("1=", plain, template="chat")
    with pytest.raises(ValueError, match="The system message comes first"):
        render(CHAT[1::-1], chatty, template="chat")
    dropping = character_tokenizer("$A")
    dropping.backend_tokenizer.normalizer = __import__("tokenizers").normalizers.Replace(Regex(r"\d"), "")
    with pytest.raises(ValueError, match="no token"):
        render("12", dropping, template="plain")


ENDING = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}]{{ message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
TALK = (*CHAT, Message(role="assistant", content="4"))


def said(pieces: tuple[tuple[int, ...], ...]) -> list[str]:
    """Pieces of text, as a test can be read."""
    letters = [*SPECIAL, *string.printable]
    return ["".join(letters[token] for token in piece) for piece in pieces]


def test_a_conversation_is_learnt_wherever_the_assistant_speaks():
    tokenizer = character_tokenizer("$A", template=ENDING)
    pieces = encode_conversation(TALK, tokenizer, ends=frozenset({EOS}))
    expected = ["<s>[system]Be brief.[user]1+1?[assistant]", "2</s>", "\n[user]And 2+2?[assistant]", "4</s>"]
    assert said(pieces) == expected
    pieces = encode_conversation(TALK, tokenizer, ends=frozenset({EOS}), system="Think.", suffix="!")
    assert said(pieces)[::2] == ["<s>[system]Think.[user]1+1?![assistant]", "\n[user]And 2+2?![assistant]"]


def test_what_comes_before_an_answer_is_its_prompt():
    tokenizer = character_tokenizer("$A", template=ENDING)
    pieces = encode_conversation(TALK, tokenizer, ends=frozenset({EOS}))
    for turn in (1, 3):
        asked = tuple(token for piece in pieces[:turn] for token in piece)
        assert asked == render(TALK[: turn + 1], tokenizer, template="chat")
        assert pieces[turn] == encode_response(TALK[turn + 1].content, tokenizer)


def test_what_the_assistant_says_unasked_is_given():
    tokenizer = character_tokenizer("$A", template=ENDING)
    turns = (Message(role="assistant", content="Hello"), *TALK[1:])
    pieces = encode_conversation(turns, tokenizer, ends=frozenset({EOS}))
    assert said(pieces)[:2] == ["<s>[assistant]Hello</s>\n[user]1+1?[assistant]", "2</s>"]


def test_a_turn_ends_with_the_last_of_its_end_tokens():
    tokenizer = character_tokenizer("$A", template=ENDING)
    newline = spelt("\n")[0]
    pieces = encode_conversation(TALK, tokenizer, ends=frozenset({EOS, newline}))
    assert said(pieces)[1::2] == ["2</s>\n", "4</s>\n"]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (ENDING.replace("message.content", "(message.content if loop.last else '..')"), "message 3 otherwise"),
        (ENDING.replace("[assistant]", "[answer]"), "message 3 otherwise"),
        (ENDING.replace("{{ eos_token }}", ""), "message 3 with none"),
    ],
    ids=["earlier turns are rewritten", "turns begin otherwise than they are asked for", "turns do not end"],
)
def test_conversations_whose_prompts_would_be_others(template: str, reason: str):
    tokenizer = character_tokenizer("$A", template=template)
    with pytest.raises(ValueError, match=reason):
        encode_conversation(TALK, tokenizer, ends=frozenset({EOS}))


@pytest.mark.parametrize("single", ["$A", "<s> $A", "<s> $A </s>"])
def test_a_response_ends_with_one_end_token(single):
    tokenizer = character_tokenizer(single)
    assert encode_response("#50", tokenizer) == (*spelt("#50"), EOS)
    assert encode_response("#50</s>", tokenizer) == (*spelt("#50"), EOS)


def test_a_tokenizer_without_an_end_token_is_refused():
    with pytest.raises(ValueError, match="end-of-sequence"):
        encode_response("#50", character_tokenizer("$A", eos_token=""))
