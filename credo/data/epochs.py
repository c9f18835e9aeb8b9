"""What an epoch consists of, and epochs cut into batches; of labelled responses single ones or pairs. Pure functions.

They know outcomes, problems and sources as numbers; texts and tokens are not known here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import product
from typing import Literal, TypeVar

from jaxtyping import Float
from torch import Tensor

Balance = Literal["none", "class", "dataset", "instruction"]
Pairing = Literal["matched", "all"]
Unit = tuple[int, ...]
"""Rows that stay together: one, or a better one and a worse one."""
Shown = TypeVar("Shown")


def balanced(outcomes: Float[Tensor, " N"], strata: Sequence[Hashable], draw: random.Random) -> list[int]:
    """As many rows with an outcome above 0.5 as others in each stratum: the larger class is drawn from."""
    chosen: list[int] = []
    for rows in _groups(strata):
        correct = [row for row in rows if outcomes[row] > 0.5]
        wrong = [row for row in rows if outcomes[row] <= 0.5]
        size = min(len(correct), len(wrong))
        chosen += draw.sample(correct, size) + draw.sample(wrong, size)
    return sorted(chosen)


def paired(
    outcomes: Float[Tensor, " N"], problems: Sequence[Hashable], pairing: Pairing, draw: random.Random
) -> list[Unit]:
    """Pairs (better, worse) of responses to one problem, outcomes above 0.5 with others.

    ``all`` is each with each, as the code of Implicit PRM has it; ``matched`` is one to one, as its paper says, with
    the larger class drawn from.
    """
    pairs: list[Unit] = []
    for rows in _groups(problems):
        correct = [row for row in rows if outcomes[row] > 0.5]
        wrong = [row for row in rows if outcomes[row] <= 0.5]
        if pairing == "all":
            pairs += product(correct, wrong)
        else:
            size = min(len(correct), len(wrong))
            pairs += zip(draw.sample(correct, size), draw.sample(wrong, size), strict=True)
    return pairs


def partners(problems: Sequence[Hashable], draw: random.Random) -> list[int]:
    """For each row a row of another problem, at random; itself where there is only one problem."""
    found = []
    for row, problem in enumerate(problems):
        others = (draw.randrange(len(problems)) for _ in range(64))
        found.append(next((other for other in others if problems[other] != problem), row))
    return found


def batches(epoch: Callable[[int], list[Shown]], size: int, steps: int) -> Iterator[list[Shown]]:
    """``steps`` batches of ``size``, across epochs; ``epoch`` makes that of a number. ValueError where one is empty."""
    waiting: list[Shown] = []
    number = 0
    for _ in range(steps):
        while len(waiting) < size:
            if not (shown := epoch(number)):
                raise ValueError(f"Epoch {number} shows nothing, so no batch can be filled; give more to learn from.")
            waiting, number = waiting + shown, number + 1
        yield waiting[:size]
        waiting = waiting[size:]


def _groups(keys: Sequence[Hashable]) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    return list(groups.values())
