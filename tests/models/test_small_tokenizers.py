"""One token a character or a byte: text comes back as it was, and what is unknown shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from credo.models.small_tokenizers import SPECIAL_TOKENS, byte_tokenizer, character_tokenizer

TEXTS = ["", "12+3=15", "  two  spaces\n\ta tab\r\n", "naïve — 数学 🙂 e\u0301", "x" * 300, "\x00\x7f"]


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text)["input_ids"]


def test_characters_are_numbered_after_the_special_tokens():
    tokenizer = character_tokenizer("ab+ \né")
    assert SPECIAL_TOKENS == ("<pad>", "<eos>", "<unk>")
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert ids(tokenizer, "ba +é\n b") == [4, 3, 6, 5, 8, 7, 6, 4]
    assert len(tokenizer) == 9
    assert tokenizer.bos_token_id is None


def test_other_characters_are_unknown_one_by_one():
    assert ids(character_tokenizer("ab"), "axxb🙂") == [3, 2, 2, 4, 2]


def test_characters_come_back_as_they_were():
    tokenizer = character_tokenizer("0123456789+=;# \n")
    for text in ("1 + 2=3;3+4=7#7", " 1  2 ", "\n\n", "0 ;#"):
        assert tokenizer.decode(ids(tokenizer, text)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_come_back_as_they_were(text: str):
    tokenizer = byte_tokenizer()
    assert len(ids(tokenizer, text)) == len(text.encode())
    assert tokenizer.decode(ids(tokenizer, text)) == text


def test_every_byte_has_a_token():
    tokenizer = byte_tokenizer()
    assert len(tokenizer) == 3 + 256
    seen = {token for character in map(chr, range(0x800)) for token in ids(tokenizer, character)}
    assert tokenizer.unk_token_id not in seen


@pytest.mark.parametrize("tokenizer", [character_tokenizer("12+="), byte_tokenizer()], ids=["characters", "bytes"])
def test_special_tokens_leave_the_text_and_nothing_is_added(tokenizer):
    response = [*ids(tokenizer, "1+2="), tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert len(response) == 6
    assert tokenizer.decode(response, skip_special_tokens=True) == "1+2="


@pytest.mark.parametrize("tokenizer", [character_tokenizer("12+= "), byte_tokenizer()], ids=["characters", "bytes"])
def test_a_saved_tokenizer_is_the_same(tmp_path: Path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert ids(loaded, "1 +2 = ?") == ids(tokenizer, "1 +2 = ?")
    assert loaded.decode(ids(loaded, " 1 +2=")) == " 1 +2="
    assert (loaded.eos_token_id, loaded.pad_token_id) == (1, 0)


@pytest.mark.parametrize("alphabet", ["abca", "", "++"])
def test_an_alphabet_has_different_characters(alphabet: str):
    with pytest.raises(ValueError, match=r"architecture\.alphabet"):
        character_tokenizer(alphabet)
