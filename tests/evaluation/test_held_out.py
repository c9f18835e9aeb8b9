"""Avg@k by hand, and what is done with responses that could not be judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from credo.evaluation.held_out import Evaluation, evaluate_policy
from credo.measures.intervals import mean_interval
from credo.rollout.engine import SamplingParams, ScriptedEngine
from credo.types import Group, Problem, Rollout, Unknown, Verdict
from credo.verify.verifier import ScriptedVerifier

EOS = 0


def problem(index: int) -> Problem:
    return Problem(id=f"p{index}", kind="exact", prompt=str(index), answer="", source="made")


def group(*scores: float, length: int = 2, truncated: bool = False) -> Group:
    finish = "length" if truncated else "stop"
    rollout = Rollout(prompt_ids=(1,), response_ids=(5,) * length, logprobs=(0.0,) * length, finish=finish)
    return Group(
        problem=problem(0),
        rollouts=(rollout,) * len(scores),
        responses=("",) * len(scores),
        verdicts=tuple(Verdict(score=score) for score in scores),
    )


def evaluate(scores: Sequence[Sequence[float | None]], seed: int = 3, **options: Any) -> Evaluation:
    """An evaluation in which response ``k`` to problem ``i`` gets ``scores[i][k]``; None is unknown."""

    def judge(problem: Problem, response: str) -> Verdict | Unknown:
        index, k = map(int, response.split()[:2])
        assert problem.id == f"p{index}"
        score = scores[index][k]
        return Unknown(reason="died") if score is None else Verdict(score=score)

    return evaluate_policy(
        [problem(index) for index in range(len(scores))],
        engine=ScriptedEngine(lambda prompt, k, seed: (*prompt, k, seed, EOS), eos_id=EOS),
        verifier=ScriptedVerifier(judge),
        encode=lambda problem: (int(str(problem.prompt)),),
        decode=lambda ids: " ".join(map(str, ids)),
        params=SamplingParams(max_tokens=8),
        samples=len(scores[0]),
        seed=seed,
        **options,
    )


def test_avg_at_k_by_hand():
    evaluation = evaluate([[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.5, 1.0, 0.0, 0.0]])
    assert evaluation.scores == [0.75, 0.0, 0.375]
    assert evaluation.accuracy == 0.375
    assert [one.problem.id for one in evaluation.groups] == ["p0", "p1", "p2"]
    summary = evaluation.summary()
    low, high = mean_interval([0.75, 0.0, 0.375])
    assert summary == {
        "eval/accuracy": 0.375,
        "eval/accuracy_low": low,
        "eval/accuracy_high": high,
        "eval/problems": 3,
        "eval/samples": 4,
        "eval/unknown": 0,
        "eval/truncated_share": 0,
        "eval/mean_length": 4,
    }


def test_what_is_unknown_is_neither_right_nor_wrong():
    evaluation = evaluate([[1.0, None, 0.0], [None, None, None], [1.0, 1.0, None]])
    assert evaluation.scores == [0.5, None, 1.0]
    assert evaluation.accuracy == 0.75
    assert evaluation.unknown == 1 + 3 + 1
    assert evaluation.summary()["eval/unknown"] == 5
    assert evaluation.summary()["eval/problems"] == 3


def test_problems_weigh_alike_however_many_of_their_responses_were_judged():
    assert evaluate([[1.0, 1.0, 1.0, 1.0], [0.0, None, None, None]]).accuracy == 0.5


def test_nothing_judged_is_not_a_number():
    evaluation = evaluate([[None], [None]])
    assert evaluation.scores == [None, None]
    summary = evaluation.summary()
    assert all(math.isnan(summary[f"eval/{key}"]) for key in ("accuracy", "accuracy_low", "accuracy_high"))
    assert (summary["eval/unknown"], summary["eval/mean_length"], summary["eval/truncated_share"]) == (2, 0, 0)


def test_lengths_and_truncation_are_those_of_the_judged_responses():
    groups = (group(1.0, 0.0, length=3), group(1.0, length=9, truncated=True), group())
    summary = Evaluation(groups=groups, samples=2).summary()
    assert summary["eval/mean_length"] == 5
    assert summary["eval/truncated_share"] == pytest.approx(1 / 3)


def test_the_seed_decides_and_problems_have_different_ones():
    scores = [[1.0, 0.0]] * 3
    first, again, other = evaluate(scores), evaluate(scores), evaluate(scores, seed=4)
    assert first == again
    seeds = [[one.rollouts[0].response_ids[2] for one in each.groups] for each in (first, other)]
    assert len({*seeds[0], *seeds[1]}) == 6


def test_progress_is_passed_on():
    counts: list[int] = []
    evaluate([[1.0, 0.0]] * 3, progress=counts.append)
    assert sum(counts) == 3 * 2 * 4
