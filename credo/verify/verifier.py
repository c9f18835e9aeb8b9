"""The verification seam: what judges responses, and its test double. It knows problems and text; it ignores tokens,
models and training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from credo.types import Problem, Unknown, Verdict


@runtime_checkable
class Verifier(Protocol):
    """Judges responses. Knows problems and text; knows nothing of tokens, models or training."""

    def verify(self, tasks: Sequence[tuple[Problem, str]]) -> list[Verdict | Unknown]:
        """One judgement for each problem and response, in the order of ``tasks``."""
        ...

    def close(self) -> None:
        """Give back what the verifier holds. Closing twice is harmless."""
        ...


class ScriptedVerifier:
    """A verifier for tests: it answers what a function answers."""

    def __init__(self, judge: Callable[[Problem, str], Verdict | Unknown]) -> None:
        self._judge = judge

    def verify(self, tasks: Sequence[tuple[Problem, str]]) -> list[Verdict | Unknown]:
        """One call of the function for each task."""
        return [self._judge(problem, response) for problem, response in tasks]

    def close(self) -> None:
        """Nothing to give back."""
