"""The first of the rows that ask the same stays, exactly or nearly, and other numbers make another problem."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from credo.curation.duplicates import Duplicates
from credo.curation.entries import Entry, read_entries
from credo.curation.text import ngrams, words
from credo.types import Problem

SHARED = Path(__file__).parents[3] / "shared" / "data" / "math"
LONG = (
    "A farmer has 12 cows and 7 horses in a large field behind the old red barn. Every cow eats 3 bales of hay a day "
    "and every horse eats 2 bales of hay a day. How many bales does the farmer need for a week?"
)


def entry(text: str, line: int = 1, *, answer: str = "1", response: str | None = None) -> Entry:
    problem = Problem(id=str(line), kind="math", prompt=text, answer=answer, source="s")
    return Entry(source="s", line=line, problem=problem, response=response, row={})


def found(duplicates: Duplicates, texts: list[str]) -> list[str | None]:
    drops = [duplicates.check(entry(text, line)) for line, text in enumerate(texts, start=1)]
    return [drop and f"{drop.step} {drop.details['duplicate_of']}" for drop in drops]


def test_other_spellings_are_exact_duplicates_of_the_first():
    texts = ["Find $x$.", "find  x", "Find y.", r"Find \(x\)", "Find y"]
    exact = [None, "exact_duplicate s:1", None, "exact_duplicate s:1", "exact_duplicate s:3"]
    assert found(Duplicates(near=0.0), texts) == exact
    assert found(Duplicates(), texts) == exact


def test_near_duplicates_have_the_same_numbers():
    close = LONG.replace("old red barn", "old barn")
    assert found(Duplicates(near=0.7), [LONG, close]) == [None, "near_duplicate s:1"]
    assert found(Duplicates(near=0.95), [LONG, close]) == [None, None]
    assert found(Duplicates(near=0.0), [LONG, close]) == [None, None]
    assert found(Duplicates(near=0.7), [LONG, LONG.replace("12 cows", "13 cows")]) == [None, None]


def test_the_similarity_is_the_jaccard_index_of_word_trigrams():
    close = LONG.replace("old red barn", "old barn")
    left, right = (ngrams(words(text), 3) for text in (LONG, close))
    duplicates = Duplicates(near=0.5)
    assert duplicates.check(entry(LONG)) is None
    drop = duplicates.check(entry(close, 2))
    assert drop is not None
    assert drop.details["similarity"] == pytest.approx(len(left & right) / len(left | right), abs=1e-4)


def test_another_answer_is_named():
    duplicates = Duplicates(near=0.0)
    duplicates.check(entry("a", answer="1"))
    same, other = (duplicates.check(entry("a", 2, answer=answer)) for answer in ("1", "2"))
    assert same is not None
    assert other is not None
    assert "another answer" in other.reason
    assert "another answer" not in same.reason


def test_two_responses_to_one_prompt_are_two_demonstrations():
    duplicates = Duplicates()
    checked = [duplicates.check(entry("a", response=response)) for response in ("b", "c", "B.")]
    assert [drop is None for drop in checked] == [True, True, False]


def test_texts_too_short_for_an_ngram_are_not_all_alike():
    assert found(Duplicates(), ["a", "b", "", "c d", "a"]) == [None, None, None, None, "exact_duplicate s:1"]


def test_against_a_slow_oracle():
    draw = random.Random(3)
    vocabulary = [f"{letter}{letter}" for letter in "abcdefghijklmnop"]
    texts = []
    for _ in range(60):
        base = [draw.choice(vocabulary) for _ in range(60)]
        texts += [" ".join(base), " ".join([*base[:58], "zz", "yy"])]  # 56 of 60 trigrams shared: 0.93
    kept: list[set[str]] = []
    expected = []
    for text in texts:
        grams = ngrams(words(text), 3)
        alike = any(len(grams & other) / len(grams | other) >= 0.8 for other in kept)
        expected.append(alike)
        if not alike:
            kept.append(grams)
    assert sum(expected) == 60
    assert [drop is not None for drop in found(Duplicates(near=0.8), texts)] == expected


@pytest.mark.parametrize(("near", "n"), [(-0.1, 3), (1.1, 3), (0.5, 0)])
def test_settings_out_of_range(near: float, n: int):
    with pytest.raises(ValueError, match="--near"):
        Duplicates(near=near, n=n)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here")
def test_the_duplicates_that_are_known_of():
    def dropped(name: str, near: float) -> int:
        duplicates = Duplicates(near=near)
        entries = [e for e in read_entries([str(SHARED / name)], kind="math") if isinstance(e, Entry)]
        return sum(duplicates.check(one) is not None for one in entries)

    assert dropped("mawps2065.jsonl", 0.0) >= 190
    assert dropped("mawps2065.jsonl", 0.8) > dropped("mawps2065.jsonl", 0.0)
    assert dropped("amc83.jsonl", 0.8) == 0
