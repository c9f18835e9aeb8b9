"""``credo prm best-of-n``: what choosing among N responses is worth, by luck, by votes and by scores.

It samples nothing: the responses and their stored scores come from a file, scores of a PRM are computed.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from credo.assemble import build_verifier
from credo.config import SandboxConfig, VerifyConfig
from credo.console import Console
from credo.data.responses import Response, by_problem, load_responses
from credo.data.rows import problem_of
from credo.measures.intervals import mean_interval, paired_gain
from credo.measures.voting import Ties, best_of_k, majority_at_k, pass_at_k
from credo.offline.scorer import open_scorer, refuse_inert
from credo.options.offline import BestOfNOptions
from credo.options.shared import check_folder_of
from credo.types import Kind, Problem, Verdict
from credo.verify.extraction import Extraction, extract
from credo.verify.same_answers import answer_classes, other_text, same_in_maths
from credo.verify.verifier import Verifier

SCORE_COLUMNS = ("prm_score", "rm_score")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The judged responses to one problem."""

    problem: str
    correct: tuple[float, ...]
    answers: tuple[int | None, ...]
    """Equal numbers are the same answer; None is a response without one."""
    scores: Mapping[str, tuple[float, ...]]
    """By where they come from."""


Curve = dict[int, dict[str, list[float]]]
"""For each N and each way of choosing, the worth of the choice in every problem with N responses."""


def best_of_n(options: BestOfNOptions) -> None:
    """Prints the curve over N. Raises ValueError for what the user can mend."""
    console = Console()
    _check(options)
    responses = load_responses([str(options.input)], labelled=False)
    column = _score_column(responses, options.scores)
    verify = VerifyConfig(extract=options.extract, pattern=options.pattern, workers=options.workers)
    problems = _problems(responses, options.kind)
    verifier = build_verifier(verify, SandboxConfig(), {problem.kind for problem in problems if problem is not None})
    try:
        outcomes = _outcomes(responses, problems, verifier, options, console)
        extraction = Extraction(kind=options.extract, pattern=options.pattern)
        answers = _answers(responses, problems, extraction, options.kind, verifier)
    finally:
        verifier.close()
    scores = {} if column is None else {column: [float(response.row[column]) for response in responses]}
    if options.scorer.prm:
        scorer = open_scorer(options.scorer, console)
        with console.stage("scoring", "responses", len(responses)) as progress:
            scores["PRM"] = [one.score for one in scorer.scored(responses, options.aggregation, progress)]
    candidates = _candidates(responses, outcomes, answers, scores)
    curve = curve_over_n(candidates, options.n, options.ties)
    for line in in_words(curve):
        console.say(line)
    if options.output is not None:
        options.output.write_text(json.dumps(as_json(curve), indent=1) + "\n", encoding="utf-8")
        console.say(f"The figures of every problem are in {options.output}.")


def curve_over_n(candidates: Sequence[Candidates], sizes: Sequence[int], ties: Ties = "share") -> Curve:
    """The worth of every way of choosing, in every problem with that many responses; see :mod:`credo.measures.voting`.

    Without ``sizes`` these are the powers of 2 up to the largest number of responses, and that number. A vote weighted
    by scores gives each response the weight ``sigmoid(score)`` (Implicit PRM, section 4). Raises ValueError if no
    problem has as many responses.
    """
    most = max(len(one.correct) for one in candidates)
    sizes = sizes or sorted({2**power for power in range(most.bit_length())} | {most})
    curve: Curve = {}
    for size in sizes:
        chosen = [one for one in candidates if len(one.correct) >= size]
        if not chosen:
            raise ValueError(f"No problem has {size} judged responses; the most is {most}. Choose smaller numbers.")
        majority = partial(majority_at_k, k=size, ties=ties)
        ways: dict[str, list[float]] = {
            "mean@1": [statistics.fmean(one.correct) for one in chosen],
            "pass@N": [
                pass_at_k(sum(Verdict(score=v).correct for v in one.correct), len(one.correct), size) for one in chosen
            ],
            "majority": [majority(one.answers, one.correct) for one in chosen],
        }
        for name in chosen[0].scores:
            ways[f"best by {name}"] = [best_of_k(one.scores[name], one.correct, size, ties=ties) for one in chosen]
            ways[f"vote weighted by {name}"] = [
                majority(one.answers, one.correct, weights=[_sigmoid(z) for z in one.scores[name]]) for one in chosen
            ]
        curve[size] = ways
    return curve


def in_words(curve: Curve) -> list[str]:
    """A line for each N and way, and at the largest N what choosing by scores gains over votes and over luck."""
    lines = []
    for size, ways in curve.items():
        lines.append(f"N = {size}, {len(ways['mean@1']):,} problems, 95 % intervals over problems")
        for name, values in ways.items():
            low, high = mean_interval(values)
            lines.append(f"  {name:<32} {statistics.fmean(values):.4f} ({low:.4f} to {high:.4f})")
    size, ways = list(curve.items())[-1]
    for name in ways:
        if name.startswith(("best by", "vote weighted")):
            for against in ("majority", "mean@1"):
                gain, low, high = paired_gain(ways[against], ways[name])
                lines.append(f"N = {size}: {name} minus {against} {gain:+.4f} ({low:+.4f} to {high:+.4f})")
    return lines


def as_json(curve: Curve) -> list[dict[str, Any]]:
    """The curve as JSON has it."""
    rows = []
    for size, ways in curve.items():
        for name, values in ways.items():
            low, high = mean_interval(values)
            mean = statistics.fmean(values)
            rows.append({"n": size, "way": name, "mean": mean, "low": low, "high": high, "problems": values})
    return rows


def _problems(responses: Sequence[Response], kind: Kind) -> list[Problem | None]:
    """What each response answers; None where its row has no answer to grade against."""
    found: list[Problem | None] = []
    for index, response in enumerate(responses):
        row = {key: value for key, value in response.row.items() if key != "solution"}
        if row.get("answer") is None and row.get("gold") is not None:
            row["answer"] = row["gold"]
        graded = row.get("answer") is not None or row.get("kind") == "gym"
        found.append(
            problem_of(row, default_id=str(index), default_kind=kind, source=response.source) if graded else None
        )
    return found


def _outcomes(
    responses: Sequence[Response],
    problems: Sequence[Problem | None],
    verifier: Verifier,
    options: BestOfNOptions,
    console: Console,
) -> list[float | None]:
    """The label that counts for each response, after the file's and the grader's were compared."""
    stated = [response.score for response in responses]
    has_labels = any(score is not None for score in stated)
    tasks = [(p, r.text) for p, r in zip(problems, responses, strict=True) if p is not None]
    if not tasks and (not has_labels or options.labels == "grader"):
        raise ValueError(f"{options.input} has no answers to grade against, and labels are missing or not wanted.")
    verdicts = iter(verifier.verify(tasks))
    found = [next(verdicts) if problem is not None else None for problem in problems]
    judged = [verdict.score if isinstance(verdict, Verdict) else None for verdict in found]
    if has_labels and tasks:
        both = [(a, b) for a, b in zip(stated, judged, strict=True) if a is not None and b is not None]
        agreeing = sum((a > 0.5) == (b > 0.5) for a, b in both)
        console.say(f"The grader agrees with {agreeing:,} of {len(both):,} labels of the file.")
    counted = judged if options.labels == "grader" or not has_labels else stated
    console.say(
        f"{len(responses):,} responses to {len(by_problem(responses)):,} problems, labels by the "
        f"{'grader' if counted is judged else 'file'}, {counted.count(None):,} unknown and left out."
    )
    return counted


def _answers(
    responses: Sequence[Response],
    problems: Sequence[Problem | None],
    extraction: Extraction,
    kind: Kind,
    verifier: Verifier,
) -> dict[str, list[int | None]]:
    """The numbered answers of the responses to each problem."""
    kinds = [kind if problem is None else problem.kind for problem in problems]
    numbered: dict[str, list[int | None]] = {}
    for problem, rows in by_problem(responses).items():
        texts = [extract(responses[row].text, kinds[row], extraction) for row in rows]
        same = partial(same_in_maths, verifier) if all(kinds[row] == "math" for row in rows) else other_text
        [numbered[problem]] = answer_classes([texts], same)
    return numbered


def _candidates(
    responses: Sequence[Response],
    outcomes: Sequence[float | None],
    answers: Mapping[str, Sequence[int | None]],
    scores: Mapping[str, Sequence[float]],
) -> list[Candidates]:
    """The responses of known outcome, by problem."""
    found = []
    for problem, rows in by_problem(responses).items():
        known = [(place, row) for place, row in enumerate(rows) if outcomes[row] is not None]
        if known:
            correct = tuple(outcome for _, row in known if (outcome := outcomes[row]) is not None)
            numbered = tuple(answers[problem][place] for place, _ in known)
            by_name = {name: tuple(values[row] for _, row in known) for name, values in scores.items()}
            found.append(Candidates(problem=problem, correct=correct, answers=numbered, scores=by_name))
    if not found:
        raise ValueError("No response has a known label, so no choice can be judged; give labels or answers.")
    return found


def _score_column(responses: Sequence[Response], wanted: str) -> str | None:
    """The column of stored scores, if there is one."""
    column = wanted or next((name for name in SCORE_COLUMNS if name in responses[0].row), None)
    if column is not None:
        for index, response in enumerate(responses, start=1):
            value = response.row.get(column)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"Response {index} of {response.source} has no number in the column '{column}'.")
    return column


def _sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z > -700 else 0.0


def _check(options: BestOfNOptions) -> None:
    refuse_inert(options.aggregation)
    if options.workers < 1 or any(size < 1 for size in options.n):
        raise ValueError("--workers is 1 or more, and so is every number of --n.")
    check_folder_of(options.output)
