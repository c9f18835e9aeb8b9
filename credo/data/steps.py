"""Where the steps of a response end, as tokens: a regular expression on its text, carried back to the tokens.

It knows nothing of rewards. A token's text is its bytes, since a tokenizer may split a character over several tokens.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from jaxtyping import Bool, Int
from torch import Tensor

from credo.algo.rewards import last_token
from credo.config.checks import compiles

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Boundary = Literal["newline", "sentence", "regex"]

NEWLINE = r"[\r\n](?:\s*[\r\n])?"
SENTENCE = r"""[.!?]["'”’)\]]*(?!\S)|[。｡！？]"""


def step_pattern(boundary: Boundary, pattern: str = "") -> str:
    """The regular expression of `prm.step_boundary`; ``pattern`` is the one of ``regex``.

    ``newline`` is a run of line breaks with the blank space between them; what indents the next line belongs to that
    line, since tokens carry their leading space. ``sentence`` is ``.``, ``!`` or ``?``, with the quotes and brackets
    that close there, before white space or the end, or a CJK full stop, exclamation or question mark anywhere: 3.14
    goes on, but ``e.g.`` and the number of a list item (``1.``) end a sentence. Raises ValueError for a ``pattern``
    that is no regular expression or matches the empty string.
    """
    match boundary:
        case "newline":
            return NEWLINE
        case "sentence":
            return SENTENCE
        case "regex":
            return _checked(pattern)
        case _:
            raise ValueError(f"Unknown step boundary {boundary!r}. Choose newline, sentence or regex.")


def step_ends(
    tokens: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"], tokenizer: PreTrainedTokenizerBase, pattern: str
) -> Bool[Tensor, "B S"]:
    """True at the last token of each step of a response, False off the mask.

    That is the token with the last character before the end of a match, so a match that is a mere place, as
    ``(?=Step \\d)``, ends a step too; and always the last response token. An end-of-sequence token behind a match is
    thus a step of its own. Raises ValueError for a ``pattern`` that is none or matches the empty string.
    """
    expression = re.compile(_checked(pattern))
    spelled = _spelled(tokens[mask].unique().tolist(), tokenizer)
    ends = last_token(mask).cpu()
    for row, (ids, responding) in enumerate(zip(tokens.cpu(), mask.cpu(), strict=True)):
        pieces = [spelled[token] for token in ids[responding].tolist()]
        reached = list(accumulate(map(len, pieces)))
        hits = [bisect_left(reached, position) for position in _match_ends(expression, b"".join(pieces))]
        ends[row, responding.nonzero().flatten()[hits]] = True
    return ends.to(mask.device)


def _checked(pattern: str) -> str:
    compiles("prm.step_pattern", pattern)
    if re.search(pattern, ""):
        raise ValueError(
            f"prm.step_pattern: '{pattern}' matches the empty string, so a step would end everywhere; ask for at least "
            "one character or place."
        )
    return pattern


def _match_ends(expression: re.Pattern[str], response: bytes) -> Iterator[int]:
    """Where matches end, in bytes. A byte that is not UTF-8 becomes a lone surrogate, which no response can hold."""
    text = response.decode("utf-8", "surrogateescape")
    position = end = 0
    for match in expression.finditer(text):
        position += len(text[end : match.end()].encode("utf-8", "surrogateescape"))
        end = match.end()
        if position:
            yield position


def _spelled(ids: Iterable[int], tokenizer: PreTrainedTokenizerBase) -> dict[int, bytes]:
    """The bytes that each token adds to a text; special tokens add none."""
    alphabet = _byte_alphabet()
    return {token: _bytes(token, tokenizer, alphabet) for token in ids}


def _bytes(token: int, tokenizer: PreTrainedTokenizerBase, alphabet: dict[str, int]) -> bytes:
    """The text of the second of two such tokens, because decoding strips the space in front of the first.

    A part of a character decodes to U+FFFD; its bytes stand in its name, as ``<0xE2>`` or in byte-level's alphabet.
    """
    once, twice = (str(tokenizer.decode([token] * count, skip_special_tokens=True)) for count in (1, 2))
    if "\N{REPLACEMENT CHARACTER}" in once:
        name = str(tokenizer.convert_ids_to_tokens(token))
        if fallback := re.fullmatch(r"<0x([0-9A-F]{2})>", name):
            return bytes.fromhex(fallback[1])
        if alphabet.keys() >= set(name):
            return bytes(alphabet[character] for character in name)
    return twice[len(once) :].encode()


def _byte_alphabet() -> dict[str, int]:
    """The byte behind each character of byte-level BPE: printable Latin-1 is itself, the others count up from 256."""
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    printable = {character: ord(character) for character in alphabet if ord(character) < 256}
    others = sorted(set(range(256)) - set(printable.values()))
    return printable | dict(zip(alphabet[len(printable) :], others, strict=True))
