"""The endless, resumable order in which a run meets the problems, with a memory of solve rates if it is given one.

It samples and judges nothing.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence, Set
from typing import Any

from credo.data.memory import SolveRates
from credo.data.problems import fingerprint
from credo.seeds import mixed_seed, uniform
from credo.types import Problem


class ProblemStream:
    """Every epoch is a new shuffle, made from the seed and the epoch's number.

    With a memory, a problem that comes up is taken with the chance that the memory gives it, else passed over until its
    turn in the next epoch. What was put back is always taken.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        *,
        seed: int,
        memory: SolveRates | None = None,
    ) -> None:
        """Raises ValueError without problems, and for two problems of one id."""
        if not problems:
            raise ValueError("There are no problems to train on.")
        self._problems = tuple(problems)
        self._positions = {problem.id: index for index, problem in enumerate(self._problems)}
        if len(self._positions) < len(self._problems):
            raise ValueError(
                "Two problems share an id, so a resumed run could not tell them apart; give them other ids."
            )
        self._identity = {
            "problems": fingerprint(self._problems),
            "seed": seed,
        }
        self.memory = memory
        self.passed_over = 0
        """How many turns the memory has made problems miss since this object was made."""
        self._epoch, self._next = 0, 0
        self._order = self._deal(epoch=0)
        self._front: deque[int] = deque()
        self._drawn = 0

    @property
    def drawn(self) -> int:
        """How many problems have been taken in all, those put back and taken again included."""
        return self._drawn

    def problem(self, id: str) -> Problem:
        """The problem of that id. Raises ValueError if the stream has none."""
        return self._problems[self._position(id)]

    def take(self, count: int) -> list[Problem]:
        """The next ``count`` problems, different ones unless there are fewer than ``count``.

        A problem that comes up twice waits at the front for the next call.
        """
        taken: list[int] = []
        seen: set[int] = set()
        repeated: list[int] = []
        while len(taken) < count:
            index = self._front.popleft() if self._front else self._next_worthwhile(seen, repeated)
            if index in seen and len(seen) < len(self._problems):
                repeated.append(index)
            else:
                taken.append(index)
                seen.add(index)
        self._front.extendleft(reversed(repeated))
        self._drawn += count
        return [self._problems[index] for index in taken]

    def put_back(self, problems: Sequence[Problem]) -> None:
        """Puts ``problems`` before everything else, to be taken again in this order."""
        self._front.extendleft([self._position(problem.id) for problem in reversed(problems)])

    def state(self) -> dict[str, Any]:
        """Where the stream stands, as JSON values."""
        place = {"epoch": self._epoch, "next": self._next, "front": list(self._front), "drawn": self._drawn}
        remembered = {} if self.memory is None else {"memory": self.memory.state()}
        return {**self._identity, **place, **remembered}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from where ``state`` was taken; a memory that was not kept then begins empty.

        Raises ValueError if the problems or the seed differ.
        """
        changed = [name for name, value in self._identity.items() if state[name] != value]
        if changed:
            raise ValueError(
                f"The saved data order was made with other {', '.join(changed)}, so it cannot be continued to the row; "
                "resume with the same sources and seed, or start a new run."
            )
        self._epoch, self._next = state["epoch"], state["next"]
        self._order = self._deal(epoch=self._epoch)
        self._front = deque(state["front"])
        self._drawn = state["drawn"]
        if self.memory is not None:
            self.memory.restore(state.get("memory", {}))

    def _position(self, id: str) -> int:
        if id not in self._positions:
            raise ValueError(f"No problem here has the id '{id}'; load the sources that it came from.")
        return self._positions[id]

    def _next_worthwhile(self, taken: Set[int], waiting: Sequence[int]) -> int:
        """The next problem that the memory lets by; after a whole epoch without one, the next that is not in ``taken``.

        Those ``waiting`` to be put in front need no second turn. Without a memory, the next problem.
        """
        if self.memory is None:
            return self._advance()
        first_whole_epoch = self._epoch + (self._next > 0)
        free = len(taken) == len(self._problems)
        while True:
            index = self._advance()
            desperate = self._epoch > first_whole_epoch and (free or index not in taken)
            if index not in waiting and (desperate or self._lets_by(index, self.memory)):
                return index
            self.passed_over += index not in waiting

    def _lets_by(self, index: int, memory: SolveRates) -> bool:
        draw = uniform(mixed_seed(self._identity["seed"], self._epoch), index)
        return draw < memory.chance(self._problems[index].id)

    def _advance(self) -> int:
        if self._next == len(self._order):
            self._epoch, self._next = self._epoch + 1, 0
            self._order = self._deal(epoch=self._epoch)
        self._next += 1
        return self._order[self._next - 1]

    def _deal(self, *, epoch: int) -> list[int]:
        order = list(range(len(self._problems)))
        random.Random(f"{self._identity['seed']} {epoch}").shuffle(order)
        return order
