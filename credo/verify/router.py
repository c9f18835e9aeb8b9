"""Mixed data sets: every problem to the verifier of its kind, and the counts by kind. It judges nothing itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from credo.types import Problem, Unknown, Verdict
from credo.verify.custom import function_pool
from credo.verify.extraction import Extraction
from credo.verify.http import SandboxVerifier
from credo.verify.pool import JudgePool
from credo.verify.programs import ProgramVerifier
from credo.verify.strictness import Strictness
from credo.verify.verifier import Verifier


class Router:
    """A verifier made of verifiers. Each is called once for all tasks of its kinds, one after the other."""

    def __init__(self, verifiers: Mapping[str, Verifier]) -> None:
        """``verifiers`` by the kind of problem they judge; one verifier may stand under several kinds."""
        self._verifiers = dict(verifiers)

    def verify(self, tasks: Sequence[tuple[Problem, str]]) -> list[Verdict | Unknown]:
        """One judgement for each task, in their order; unknown where no verifier is there for its kind."""
        judged: dict[int, Verdict | Unknown] = {}
        shares: dict[int, list[int]] = {}
        for index, (problem, _) in enumerate(tasks):
            verifier = self._verifiers.get(problem.kind)
            if verifier is None:
                known = ", ".join(sorted(self._verifiers)) or "none"
                judged[index] = Unknown(reason=f"no verifier for kind '{problem.kind}'; there are {known}")
            else:
                shares.setdefault(id(verifier), []).append(index)
        for verifier in self._distinct():
            share = shares.get(id(verifier), [])
            if share:
                judged.update(zip(share, verifier.verify([tasks[index] for index in share]), strict=True))
        return [judged[index] for index in range(len(tasks))]

    def close(self) -> None:
        """Close every verifier, even if one of them fails to."""
        failures: list[Exception] = []
        for verifier in self._distinct():
            try:
                verifier.close()
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _distinct(self) -> list[Verifier]:
        return list({id(verifier): verifier for verifier in self._verifiers.values()}.values())


def verifier_for(
    kinds: Collection[str],
    *,
    kind: str = "auto",
    extraction: Extraction | None = None,
    strictness: Strictness | None = None,
    workers: int = 2,
    deadline: float = 5.0,
    memory_mb: int = 2048,
    sandbox_url: str = "",
    min_level: int = 2,
    partial: bool = True,
    float_tolerance: float = 0.0,
) -> Verifier:
    """What judges problems of ``kinds``: each by its kind's verifier, or all by the user's function in ``kind``.

    Programs run in a local sandbox of at least ``min_level``, or on the server at ``sandbox_url``; it is started only
    for the kind that needs it. ``deadline`` bounds one response, and one test of a program. ``partial`` is about
    programs: the share of tests passed in place of all or nothing. Raises ValueError for what cannot judge here.
    """
    if kind != "auto":
        return function_pool(kind, workers=workers, deadline=deadline, memory_mb=memory_mb)
    pool = JudgePool(extraction, strictness=strictness, workers=workers, deadline=deadline, memory_mb=memory_mb)
    verifiers: dict[str, Verifier] = dict.fromkeys(("math", "gym", "exact", "regex"), pool)
    limits: dict[str, Any] = {
        "seconds": deadline,
        "total_seconds": max(60.0, deadline),
        "memory_mb": memory_mb,
        "partial": partial,
        "float_tolerance": float_tolerance,
    }
    if "code" in kinds and sandbox_url:
        verifiers["code"] = SandboxVerifier(sandbox_url, **limits)
    elif "code" in kinds:
        verifiers["code"] = ProgramVerifier(workers=workers, min_level=min_level, **limits)
    return Router(verifiers)


def kind_metrics(judged: Iterable[tuple[str, Verdict | Unknown]]) -> dict[str, float]:
    """For each kind of problem the mean score of what was judged and the count of what was not.

    ``judged`` are kinds with their judgements. A kind of which nothing was judged has no accuracy.
    """
    scores: dict[str, list[float]] = {}
    unknown: Counter[str] = Counter()
    for kind, judgement in judged:
        scores.setdefault(kind, [])
        if isinstance(judgement, Verdict):
            scores[kind].append(judgement.score)
        else:
            unknown[kind] += 1
    accuracies = {f"verify/accuracy_{kind}": sum(of) / len(of) for kind, of in sorted(scores.items()) if of}
    return accuracies | {f"verify/unknown_{kind}": float(unknown[kind]) for kind in sorted(scores)}
