"""Which benchmark problem a text contains, by the runs of words they share. Paraphrases are not found; a variant with
other numbers is, if the words around them are many.

The overlap of two texts is the share of the shorter one's n-grams that the longer one has too, so that a problem is
found inside a longer text, and what is left of it after a sentence was taken away.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from credo.curation.text import exact_key, ngrams, words

_PLAIN_WORDS = 2
"""A benchmark prompt of fewer than n words is looked for inside others if so many of them are words of two letters or
more; one such as "12 + 45 =" counts only where it is the whole text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A problem of a benchmark."""

    benchmark: str
    id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What a text was found to contain."""

    prompt: Prompt
    overlap: float
    """From the share asked for up to 1."""


@dataclass(slots=True)
class _Indexed:
    prompt: Prompt
    grams: int = 0
    """Its n-grams that are not common."""
    length: int = 0
    """Its words."""


class BenchmarkIndex:
    """The n-grams of benchmark prompts. Looking a text up costs its length, however many prompts there are."""

    def __init__(self, prompts: Iterable[Prompt], *, n: int = 8, share: float = 0.3, common: int = 10) -> None:
        """N-grams in more than ``common`` different prompts are phrases of their benchmark and do not count.

        Raises ValueError for settings out of range, and if there are no prompts.
        """
        if n < 2 or not 0 < share <= 1 or common < 1:
            raise ValueError(
                f"--n is 2 words or more, --share in (0, 1], --common 1 or more; got {n}, {share} and {common}."
            )
        self.n, self.share = n, share
        self._prompts: list[_Indexed] = []
        self._whole: dict[str, int] = {}
        self._short: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        self._grams: dict[str, list[int]] = defaultdict(list)
        for prompt in prompts:
            self._add(prompt)
        if not self._prompts:
            raise ValueError("There are no benchmark prompts, so nothing can be found in them.")
        self._grams = {gram: owners for gram, owners in self._grams.items() if len(owners) <= common}
        for owners in self._grams.values():
            for index in owners:
                self._prompts[index].grams += 1

    def __len__(self) -> int:
        return len(self._prompts)

    def match(self, text: str) -> Match | None:
        """The benchmark prompt that ``text`` overlaps with most, if it does by the share asked for."""
        key = exact_key(text)
        if key in self._whole:
            return Match(prompt=self._prompts[self._whole[key]].prompt, overlap=1.0)
        sequence = words(text)
        grams = ngrams(sequence, self.n)
        shared = Counter(index for gram in grams for index in self._grams.get(gram, ()))
        ranked = [(self._overlap(index, count, len(grams), len(sequence)), index) for index, count in shared.items()]
        overlap, index = max(ranked, default=(0.0, -1))
        if overlap < self.share:
            overlap, index = self._short_match(sequence, key)
        return Match(prompt=self._prompts[index].prompt, overlap=overlap) if index >= 0 else None

    def _add(self, prompt: Prompt) -> None:
        key = exact_key(prompt.text)
        if not key or key in self._whole:
            return
        index = self._whole[key] = len(self._prompts)
        sequence = words(prompt.text)
        self._prompts.append(_Indexed(prompt, length=len(sequence)))
        for gram in ngrams(sequence, self.n):
            self._grams[gram].append(index)
        if len(sequence) < self.n and sum(_plain(word) for word in sequence) >= _PLAIN_WORDS:
            self._short[len(sequence)][" ".join(sequence)].append(index)

    def _overlap(self, index: int, shared: int, grams: int, length: int) -> float:
        """The larger of both shares. Of a text below 2 n words only all of it counts: one n-gram is too much of it."""
        indexed = self._prompts[index]
        inside = shared / indexed.grams
        if indexed.length < 2 * self.n and inside < 1:
            inside = 0.0
        remains = shared / grams
        if length < 2 * self.n and remains < 1:
            remains = 0.0
        return max(inside, remains)

    def _short_match(self, sequence: Sequence[str], key: str) -> tuple[float, int]:
        """A prompt of fewer than n words inside a longer text, with its brackets."""
        for length, prompts in self._short.items():
            for start in range(len(sequence) - length + 1):
                for index in prompts.get(" ".join(sequence[start : start + length]), ()):
                    if f" {exact_key(self._prompts[index].prompt.text)} " in f" {key} ":
                        return 1.0, index
        return 0.0, -1


def _plain(word: str) -> bool:
    return len(word) > 1 and word.isalpha()
