"""Problems put to a model, its responses judged and saved as they come, so that a killed evaluation goes on.

It knows neither options nor which benchmark it is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from credo.console import Console, duration
from credo.data.responses import Response
from credo.evaluation.records import EvaluationFolder, Record
from credo.evaluation.summary import vote_of
from credo.offline.scorer import Scorer
from credo.sampler import Drawn, Sampler
from credo.types import Problem, Unknown, Verdict
from credo.verify.extraction import Extraction
from credo.verify.same_answers import Same, answer_classes, other_text
from credo.verify.verifier import Verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Makes records of responses."""

    verifier: Verifier
    extraction: Extraction
    scorer: Scorer | None
    """The PRM by which the best of several responses is chosen."""
    same: Same
    """Which wrong answers in mathematics are one for a vote."""

    def records(self, problems: Sequence[Problem], drawn: Sequence[Sequence[Drawn]]) -> list[Record]:
        """One record a problem, in their order; ``drawn`` has the responses to each."""
        tasks = [(problem, one) for problem, group in zip(problems, drawn, strict=True) for one in group]
        verdicts = self.verifier.verify([(problem, one.text) for problem, one in tasks])
        rewards = self._rewards(tasks)
        records, end = [], 0
        for problem, group in zip(problems, drawn, strict=True):
            start, end = end, end + len(group)
            judged = verdicts[start:end]
            records.append(
                Record(
                    id=problem.id,
                    responses=tuple(one.text for one in group),
                    finish=tuple(one.finish for one in group),
                    lengths=tuple(one.length for one in group),
                    scores=tuple(verdict.score if isinstance(verdict, Verdict) else None for verdict in judged),
                    reasons=tuple(verdict.reason for verdict in judged),
                    answers=tuple(self._votes(problem, group, judged)),
                    rewards=tuple(rewards[start:end]),
                )
            )
        return records

    def again(self, problems: Sequence[Problem], records: Sequence[Record]) -> list[Record]:
        """The records of the same responses, judged anew."""
        drawn = [
            [
                Drawn(text=text, finish=finish, length=length)
                for text, finish, length in zip(record.responses, record.finish, record.lengths, strict=True)
            ]
            for record in records
        ]
        return self.records(problems, drawn)

    def _votes(self, problem: Problem, group: Sequence[Drawn], judged: Sequence[Verdict | Unknown]) -> list[str | None]:
        """What each response votes for: its answer, as the first who gave the same wrote it. Right ones are all one."""
        texts = [
            vote_of(problem, one.text, self.extraction) if isinstance(verdict, Verdict) else None
            for one, verdict in zip(group, judged, strict=True)
        ]
        right = [isinstance(verdict, Verdict) and verdict.correct for verdict in judged]
        others = [None if correct else text for text, correct in zip(texts, right, strict=True)]
        [numbers] = answer_classes([others], self.same if problem.kind == "math" else other_text)
        first: dict[int | None, str] = {}
        return [
            None if text is None else first.setdefault(number, text)
            for text, number in zip(texts, numbers, strict=True)
        ]

    def _rewards(self, tasks: Sequence[tuple[Problem, Drawn]]) -> list[float]:
        """The PRM's reward of each whole response; none without a PRM."""
        if self.scorer is None:
            return []
        responses = [
            Response(
                prompt=problem.prompt,
                text=one.text,
                score=None,
                problem=problem.id,
                source=problem.source,
                finished=one.finish != "length",
                row={},
            )
            for problem, one in tasks
        ]
        return self.scorer.totals(responses)


def examine(
    key: str,
    problems: Sequence[Problem],
    sampler: Sampler,
    judge: Judge,
    folder: EvaluationFolder,
    *,
    chunk: int,
    console: Console,
) -> list[Record]:
    """A record of every problem: those that ``folder`` holds under ``key``, and new ones for the rest.

    Responses are judged and saved after every ``chunk`` problems. Raises ValueError if the folder holds records of
    other problems.
    """
    records = saved_records(key, problems, folder)
    earlier, started = len(records), time.perf_counter()
    while len(records) < len(problems):
        first = len(records)
        asked = problems[first : (first // chunk + 1) * chunk]
        with console.stage(f"{key}, problems {first + 1:,} to {first + len(asked):,}", "tokens") as progress:
            drawn = sampler.draw(asked, first, progress)
        made = judge.records(asked, drawn)
        folder.append(key, made)
        records += made
        if len(records) < len(problems):
            rate = (len(records) - earlier) / (time.perf_counter() - started)
            left = duration((len(problems) - len(records)) / rate)
            console.say(f"{key}: {len(records):,} of {len(problems):,} problems, {rate:.2g}/s, {left} left")
    return records


def saved_records(key: str, problems: Sequence[Problem], folder: EvaluationFolder) -> list[Record]:
    """What ``folder`` holds of the first problems. Raises ValueError if it is of other problems."""
    records = folder.records(key)[: len(problems)]
    for place, (record, problem) in enumerate(zip(records, problems, strict=False), start=1):
        if record.id != problem.id:
            raise ValueError(
                f"Line {place} of {folder.file(key)} is of the problem '{record.id}', and '{problem.id}' comes there; "
                "choose another --output."
            )
    return records
