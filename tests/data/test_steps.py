"""Steps end where their text does, whatever a tokenizer makes of spaces and of characters of several bytes."""

from __future__ import annotations

import re
import time
from functools import cache

import pytest
import torch
from jaxtyping import config as jaxtyping_config
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from credo.data.steps import Boundary, step_ends, step_pattern
from credo.models.small_tokenizers import byte_tokenizer, character_tokenizer

STORY = "Let x = 3.14. Then\n\n  y is “naïve”!  数学很难。对吗？是 🙂\r\nDone (really.) ok? a.b\n"


@cache
def byte_level() -> PreTrainedTokenizerBase:
    """Byte-level BPE with tokens of parts of characters, and of several characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # pyright: ignore
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([STORY.swapcase(), "数字 数。\n\n\n数。\n\n\n x. y. z. 是难。"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", clean_up_tokenization_spaces=False)


@cache
def metaspace() -> PreTrainedTokenizerBase:
    """As Llama's: pieces begin with their space, the unknown falls back to bytes, decoding drops the first space."""
    pieces = [("<unk>", 0.0), ("<eos>", 0.0), *((f"<0x{byte:02X}>", -9.0) for byte in range(256))]
    pieces += [(piece, -1.0) for piece in ("▁", "▁Let", "▁x", "Then", "▁is", "!▁▁", "数", "▁a.b", *"Dabdeklnorsxy.=()")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)  # pyright: ignore
    tokenizer.decoder = decoders.Sequence(  # pyright: ignore
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", clean_up_tokenization_spaces=False)


TOKENIZERS = {
    "characters": lambda: character_tokenizer("".join(sorted(set(STORY)))),
    "bytes": byte_tokenizer,
    "byte-level": byte_level,
    "metaspace": metaspace,
}


def encoded(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]  # pyright: ignore


def ends_of(ids: list[int], tokenizer: PreTrainedTokenizerBase, pattern: str) -> list[int]:
    """The places of the step ends of one response."""
    tokens = torch.tensor([ids])
    return step_ends(tokens, torch.ones_like(tokens, dtype=torch.bool), tokenizer, pattern)[0].nonzero()[:, 0].tolist()


def steps_of(text: str, boundary: Boundary, pattern: str = "") -> list[str]:
    """The text cut after each step end, with a token a byte."""
    raw = text.encode()
    ends = [
        end + 1 for end in ends_of(encoded(text, byte_tokenizer()), byte_tokenizer(), step_pattern(boundary, pattern))
    ]
    return [raw[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]


def slow_ends(ids: list[int], tokenizer: PreTrainedTokenizerBase, pattern: str) -> list[int]:
    """Decodes every beginning of the response: a match has ended with the first that has all of its text."""
    begun = [str(tokenizer.decode(ids[: count + 1])) for count in range(len(ids))]
    text = begun[-1]
    ends = {
        next(i for i, part in enumerate(begun) if part[:end] == text[:end])
        for end in map(re.Match.end, re.finditer(pattern, text))
    }
    return sorted(ends | {len(ids) - 1})


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("a\nb", ["a\n", "b"]),
        ("a\n\n\nb\n", ["a\n\n\n", "b\n"]),
        ("a \n \t\n  b", ["a \n \t\n", "  b"]),
        ("a\r\nb", ["a\r\n", "b"]),
        ("\n\na", ["\n\n", "a"]),
        ("a. b", ["a. b"]),
    ],
)
def test_lines(text: str, steps: list[str]):
    assert steps_of(text, "newline") == steps


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("It is 3.14. So? Yes!", ["It is 3.14.", " So?", " Yes!"]),
        ("Wait... what?! a.b\n", ["Wait...", " what?!", " a.b\n"]),
        ('He said "no." (Really.) Ok', ['He said "no."', " (Really.)", " Ok"]),
        ("好。真的？是！完", ["好。", "真的？", "是！", "完"]),
        ("1. e.g. this", ["1.", " e.g.", " this"]),
    ],
)
def test_sentences(text: str, steps: list[str]):
    assert steps_of(text, "sentence") == steps


@pytest.mark.parametrize(
    ("pattern", "steps"),
    [
        ("[;,]", ["a;", "b,", ",", "c"]),
        ("[;,]+", ["a;", "b,,", "c"]),
        (r"(?=b)", ["a;", "b,,c"]),
        (r"(?=a)", ["a;b,,c"]),
    ],
)
def test_a_pattern_of_one_s_own(pattern: str, steps: list[str]):
    assert steps_of("a;b,,c", "regex", pattern) == steps


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("pattern", [step_pattern("newline"), step_pattern("sentence"), r"\S ", "[.数🙂“]", r"\w\b"])
def test_matches_end_where_decoding_says(name: str, pattern: str):
    tokenizer = TOKENIZERS[name]()
    ids = encoded(STORY, tokenizer)
    assert ends_of(ids, tokenizer, pattern) == slow_ends(ids, tokenizer, pattern)


def test_the_tokenizers_are_as_awkward_as_they_should_be():
    pieces = [
        [str(tokenizer.decode([token])) for token in encoded(STORY, tokenizer)]
        for tokenizer in (byte_level(), metaspace())
    ]
    assert all("�" in parts for parts in pieces)
    assert ["".join(parts) != STORY for parts in pieces] == [True, True]
    assert any(len(part) > 1 and "。" in part for part in pieces[0])


def test_a_leading_space_belongs_to_its_token():
    tokenizer = metaspace()
    ids = encoded("Let x is", tokenizer)
    assert tokenizer.convert_ids_to_tokens(ids) == ["▁Let", "▁x", "▁is"]
    assert ends_of(ids, tokenizer, "x") == [1, 2]
    assert ends_of(ids, tokenizer, " i") == [2]
    assert ends_of(ids, tokenizer, "t ") == [1, 2]


def test_many_matches_in_one_token_are_one_end():
    tokenizer = byte_level()
    ids = encoded("数。\n\n\n x", tokenizer)
    pieces = [str(tokenizer.decode([token])) for token in ids]
    (place,) = [i for i, piece in enumerate(pieces) if piece.count("\n") == 3]
    assert ends_of(ids, tokenizer, "\n") == [place, len(ids) - 1]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_special_tokens_have_no_text(name: str):
    tokenizer = TOKENIZERS[name]()
    end = tokenizer.eos_token_id
    assert isinstance(end, int)
    one = encoded("x", tokenizer)
    assert ends_of([*one, end, *one, end, end], tokenizer, "eos|<|>") == [2 * len(one) + 2]
    stop = encoded("x.", tokenizer)
    assert ends_of([*stop, end], tokenizer, step_pattern("sentence")) == [len(stop) - 1, len(stop)]


def test_broken_characters_end_nothing_and_shift_nothing():
    tokenizer = byte_tokenizer()
    ids = encoded("数\n学\n", tokenizer)
    broken = [*ids[:2], *ids[3:6], *ids[7:]]
    assert ends_of(broken, tokenizer, "\n") == [2, 5]
    assert ends_of(broken, tokenizer, "�") == [5]


def test_prompt_and_padding_do_not_matter():
    tokenizer = character_tokenizer("ab\n")
    a, b, newline = (encoded(text, tokenizer)[0] for text in "ab\n")
    tokens = torch.tensor([[newline, newline, a, newline, b, -100], [a, b, newline, a, 10**6, newline], [newline] * 6])
    mask = torch.tensor([[0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0], [0] * 6]).bool()
    expected = torch.tensor([[0, 0, 0, 1, 1, 0], [0, 0, 1, 1, 0, 0], [0] * 6]).bool()
    pattern = step_pattern("newline")
    assert torch.equal(step_ends(tokens, mask, tokenizer, pattern), expected)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(step_ends(tokens[order], mask[order], tokenizer, pattern), expected[order])


def test_long_responses_are_quick():
    tokenizer = byte_tokenizer()
    garbage = torch.randint(3, 259, (64, 3000), generator=torch.Generator().manual_seed(0))
    blank = encoded("\n" + " " * 60_000 + "." * 60_000 + "x", tokenizer)
    began = time.perf_counter()
    assert ends_of(blank, tokenizer, step_pattern("newline")) == [0, len(blank) - 1]
    assert ends_of(blank, tokenizer, step_pattern("sentence")) == [len(blank) - 1]
    step_ends(garbage, torch.ones_like(garbage, dtype=torch.bool), tokenizer, step_pattern("newline"))
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("pattern", ["", "x*", "(", "$", "a|"])
def test_a_pattern_has_to_match_something(pattern: str):
    with pytest.raises(ValueError, match=r"prm\.step_pattern"):
        step_pattern("regex", pattern)
    with pytest.raises(ValueError, match=r"prm\.step_pattern"):
        step_ends(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool), byte_tokenizer(), pattern)


def test_other_boundaries_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="newline, sentence or regex"):
        step_pattern("paragraph")  # pyright: ignore
