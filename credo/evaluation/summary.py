"""What the records of an evaluation come to: avg@k, pass@k, maj@k, best@k with intervals. It judges nothing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from credo.evaluation.records import Record
from credo.measures.intervals import mean_interval
from credo.measures.voting import best_of_k, majority_at_k, pass_at_k
from credo.types import Problem, Verdict
from credo.verify.extraction import Extraction, extract
from credo.verify.latex import cleaned, unspaced
from credo.verify.same_answers import LONGEST


def measures(records: Sequence[Record], samples: int) -> dict[str, dict[str, float | int]]:
    """``avg@n``, and for k = 1, 2, 4 .. up to n ``pass@k``, from 2 on also ``maj@k`` and ``best@k``; 95 % intervals.

    n is ``samples``, k the size of a set of responses drawn from a problem's own without replacement. What is unknown
    is left out, and a problem with fewer than k judged responses has no part in a measure of k; ``problems`` says how
    many have. ``maj@k`` needs answers to vote on, ``best@k`` the rewards of a PRM.
    """
    values = {f"avg@{samples}": [record.mean_score for record in records]}
    sizes = sorted({2**power for power in range(samples.bit_length())} | {samples}) if samples > 1 else []
    votes = any(answer is not None for record in records for answer in record.answers)
    rewarded = any(record.rewards for record in records)
    for k in sizes:
        usable = [record for record in records if len(record.known) >= k]
        values[f"pass@{k}"] = [pass_at_k(sum(_correct(record)), len(record.known), k) for record in usable]
        if votes and k > 1:
            values[f"maj@{k}"] = [
                majority_at_k(_known(record, record.answers), _correct(record), k) for record in usable
            ]
        if rewarded and k > 1:
            values[f"best@{k}"] = [best_of_k(_known(record, record.rewards), _correct(record), k) for record in usable]
    return {name: _with_interval([value for value in of if value is not None]) for name, of in values.items()}


def counts(records: Sequence[Record]) -> dict[str, float | int]:
    """Problems, responses that could not be judged, the share of responses that were cut off, their mean length."""
    finish = [one for record in records for one in record.finish]
    lengths = [length for record in records for length in record.lengths]
    return {
        "problems": len(records),
        "unknown": sum(len(record.scores) - len(record.known) for record in records),
        "truncated_share": finish.count("length") / max(1, len(finish)),
        "mean_length": sum(lengths) / max(1, len(lengths)),
    }


def vote_of(problem: Problem, response: str, extraction: Extraction) -> str | None:
    """What ``response`` votes for: its answer as text, cleaned. None from programs, and where nothing marks an answer.

    A user's pattern is searched for here, so give only responses that a verifier got through in its time.
    """
    answer = None if problem.kind == "code" else extract(response, problem.kind, extraction)
    if answer is None or problem.kind != "math" or len(answer) > LONGEST:
        return answer
    return unspaced(cleaned(answer))


def _correct(record: Record) -> list[bool]:
    """Whether each judged response has full marks."""
    return [Verdict(score=score).correct for score in record.scores if score is not None]


def _known(record: Record, values: Sequence[Any]) -> list[Any]:
    return [values[place] for place in record.known]


def _with_interval(values: Sequence[float]) -> dict[str, float | int]:
    low, high = mean_interval(values)
    mean = statistics.fmean(values) if values else float("nan")
    return {"value": mean, "low": low, "high": high, "problems": len(values)}
