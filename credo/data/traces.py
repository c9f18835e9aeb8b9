"""Worked demonstrations of generated arithmetic, for SFT of very small models. It grades nothing.

``trace:chain_sum?size=..&seed=..&guess_share=0.6&prompt=expression`` takes the items of ``gym:chain_sum`` and answers
each one either step by step, ``12+45=57;57-7=50#50``, or, with probability ``guess_share``, with the bare ``#50``.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Mapping
from typing import Any

from credo.data.generated import EXPRESSION_FAMILIES, gym_prompt
from credo.data.sources import GeneratedSource
from credo.types import Message

OWN_PARAMETERS = ("prompt", "guess_share")
_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def worked_trace(expression: str) -> str:
    """``12 + 45 - 7`` (terms and signs parted by blanks) evaluated from left to right: ``12+45=57;57-7=50#50``."""
    terms = expression.split()
    total = int(terms[0])
    steps = []
    for sign, term in zip(terms[1::2], terms[2::2], strict=True):
        following = _OPERATIONS[sign](total, int(term))
        steps.append(f"{total}{sign}{term}={following}")
        total = following
    return f"{';'.join(steps)}#{total}"


def guess_share_of(source: GeneratedSource) -> float:
    """How often the source answers without working. Raises ValueError if it is no probability, or if our traces cannot
    work the family out."""
    if source.family not in EXPRESSION_FAMILIES:
        raise ValueError(f"{source.name}: there are traces for {' and '.join(EXPRESSION_FAMILIES)} only.")
    text = dict(source.parameters).get("guess_share", "0")
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"{source.name}: guess_share is a probability from 0 to 1, got '{text}'.")
    return share


def trace_of(entry: Mapping[str, Any], source: GeneratedSource, index: int) -> tuple[str | tuple[Message, ...], str]:
    """Prompt and response of item ``index``; whether it is a guess depends on the seed and the index only."""
    seed = dict(source.parameters).get("seed", "0")
    trace = worked_trace(entry["metadata"]["expression"])
    assert trace.endswith(f"#{entry['answer']}")
    guessed = random.Random(f"guess {seed} {index}").random() < guess_share_of(source)
    return gym_prompt(entry, source), f"#{entry['answer']}" if guessed else trace
