"""Rows that ask what an earlier row asks: in the same words however they are written, or in nearly the same.

Nearly the same is a Jaccard similarity of word n-grams, found by MinHash and LSH and then computed exactly. A problem
with other numbers is another problem, however alike the words are. The first row of its kind is kept.
"""

from __future__ import annotations

import zlib
from hashlib import blake2b
from typing import TYPE_CHECKING, cast

from credo.curation.entries import Entry
from credo.curation.passes import Drop
from credo.curation.text import exact_key, ngrams, words

if TYPE_CHECKING:
    from numpy import uint32
    from numpy.typing import NDArray

PERMUTATIONS = 128
"""Of a MinHash; a pair at the threshold is missed now and then, one above it hardly ever."""


class Duplicates:
    """Remembers rows as they come, so its memory grows with them: see docs/data.md."""

    def __init__(self, *, near: float = 0.8, n: int = 3) -> None:
        """``near`` is the least Jaccard similarity of n-grams of ``n`` words; 0 finds exact duplicates only.

        Raises ValueError for settings out of range, and if ``near`` is on without the datasketch package.
        """
        if not 0 <= near <= 1 or n < 1:
            raise ValueError(f"--near is from 0 to 1 and --n is 1 word or more, got {near} and {n}.")
        self.n = n
        self._exact: dict[bytes, int] = {}
        self._places: list[tuple[str, int, int]] = []
        """Source, line and hash of the answer of each kept row."""
        self._similar = _Similar(near) if near else None

    def check(self, entry: Entry) -> Drop | None:
        """A reason to drop ``entry`` if a row before it asks the same; else it is remembered.

        Demonstrations are the same if prompt and response are.
        """
        text = entry.text if entry.response is None else f"{entry.text}\n{entry.response}"
        digest = blake2b(exact_key(text).encode("utf-8", "replace"), digest_size=16).digest()
        first = self._exact.get(digest)
        if first is not None:
            return self._drop("exact_duplicate", entry, first, 1.0)
        if self._similar is not None:
            found = self._similar.find_or_add(_shingles(text, self.n), len(self._places))
            if found is not None:
                return self._drop("near_duplicate", entry, *found)
        self._exact[digest] = len(self._places)
        self._places.append((entry.source, entry.line, hash(entry.problem.answer)))
        return None

    def _drop(self, step: str, entry: Entry, first: int, similarity: float) -> Drop:
        source, line, answer = self._places[first]
        other = "" if answer == hash(entry.problem.answer) else ", which has another answer"
        alike = "" if step == "exact_duplicate" else f" ({similarity:.2f} alike)"
        return Drop(
            step=step,
            reason=f"the prompt of {source}:{line}{alike}{other}",
            details={"duplicate_of": f"{source}:{line}", "similarity": round(similarity, 4)},
        )


class _Similar:
    """Sets of numbers that can be looked up by their similarity."""

    def __init__(self, threshold: float) -> None:
        try:
            from datasketch import MinHash, MinHashLSH
        except ModuleNotFoundError as error:
            raise ValueError(
                "Near duplicates need the datasketch package; install credo with its extra: data, or give --near 0."
            ) from error
        self.threshold = threshold
        self._blank = MinHash(num_perm=PERMUTATIONS, hashfunc=int)
        # Candidates are compared exactly, so one too many costs time only: misses weigh more.
        self._index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, weights=(0.1, 0.9))
        self._sets: dict[int, NDArray[uint32]] = {}

    def find_or_add(self, members: NDArray[uint32], number: int) -> tuple[int, float] | None:
        """The number of the most similar set so far and the Jaccard similarity, if that is enough; else ``members``
        are added as ``number``. An empty set is like no other."""
        if len(members) == 0:
            return None
        sketch = self._blank.copy()
        sketch.update_batch(members)
        near = cast("list[int]", self._index.query(sketch))
        alike = [(_jaccard(members, self._sets[other]), -other) for other in near]
        best, other = max(alike, default=(0.0, 0))
        if best >= self.threshold:
            return -other, best
        self._index.insert(number, sketch)
        self._sets[number] = members
        return None


def _shingles(text: str, n: int) -> NDArray[uint32]:
    """Hashes of the n-grams of ``text``, each together with all of its numbers; the same in every process."""
    import numpy

    sequence = words(text)
    numbers = " ".join(sorted(word for word in sequence if word[0].isdigit()))
    grams = (f"{gram}|{numbers}".encode("utf-8", "replace") for gram in ngrams(sequence, n))
    return numpy.array(sorted({zlib.crc32(gram) for gram in grams}), dtype=numpy.uint32)


def _jaccard(left: NDArray[uint32], right: NDArray[uint32]) -> float:
    import numpy

    shared = len(numpy.intersect1d(left, right, assume_unique=True))
    return shared / (len(left) + len(right) - shared)
