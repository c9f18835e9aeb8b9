"""Collecting a batch: the filter by hand, bounded refills, the surplus, unknown verdicts, and a state that goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from credo.collect import Collector, judged_group, why_dropped
from credo.config import FilterConfig
from credo.data.stream import ProblemStream
from credo.rollout.engine import SamplingParams, ScriptedEngine
from credo.types import Group, Problem, Rollout, Unknown, Verdict
from credo.verify.verifier import ScriptedVerifier

EOS = 0
Judge = Callable[[Problem, str], Verdict | Unknown]


def problem(index: int) -> Problem:
    return Problem(
        id=f"p{index}", kind="exact", prompt=str(index), answer="", source="made", extra={"of": {"n": index}}
    )


def rollout(*response: int, finish: Any = "stop") -> Rollout:
    return Rollout(prompt_ids=(1,), response_ids=response, logprobs=(-0.5,) * len(response), finish=finish)


def group(*scores: float, truncated: int = 0) -> Group:
    ends = ["length"] * truncated + ["stop"] * (len(scores) - truncated)
    return Group(
        problem=problem(0),
        rollouts=tuple(rollout(5, finish=end) for end in ends),
        responses=("",) * len(scores),
        verdicts=tuple(Verdict(score=float(score)) for score in scores),
    )


def by_table(table: Mapping[str, Sequence[float | None]]) -> Judge:
    """Response ``k`` of a problem gets the ``k``-th score of its row (None: unknown), 1 where there is no row."""

    def judge(problem: Problem, response: str) -> Verdict | Unknown:
        scores = table.get(problem.id, (1.0,) * 9)
        score = scores[int(response.split()[1])]
        return Unknown(reason="worker died") if score is None else Verdict(score=float(score), seconds=0.25)

    return judge


def by_chance(problem: Problem, response: str) -> Verdict | Unknown:
    """A verdict that depends on the seed of the prompt, as those of a real engine do."""
    _, k, seed = map(int, response.split())
    number = (seed >> k * 7) % 100
    return Unknown(reason="died") if number < 4 else Verdict(score=float(number < 50), seconds=number / 100)


class Scripts:
    """A collector over ``count`` problems, and what its engine was asked for: (problem, seed) in order."""

    def __init__(self, count: int, judge: Judge, *, per_prompt: int = 4, max_tokens: int = 9, **options: Any) -> None:
        self.asked: list[tuple[str, int]] = []
        max_unknown_share, seed = options.pop("max_unknown_share", 1.0), options.pop("seed", 5)
        self.collector = Collector(
            stream=ProblemStream([problem(index) for index in range(count)], seed=1),
            engine=ScriptedEngine(self._respond, eos_id=EOS),
            verifier=ScriptedVerifier(judge),
            encode=lambda problem: (int(str(problem.prompt)),),
            decode=lambda ids: " ".join(map(str, ids[:3])),
            config=FilterConfig(**options),
            params=SamplingParams(max_tokens=max_tokens),
            per_prompt=per_prompt,
            seed=seed,
            max_unknown_share=max_unknown_share,
        )

    def _respond(self, prompt: tuple[int, ...], k: int, seed: int) -> tuple[int, ...]:
        if k == 0:
            self.asked.append((f"p{prompt[0]}", seed))
        return (*prompt, k, seed, EOS)


def names(groups: Sequence[Group]) -> list[str]:
    return [group.problem.id for group in groups]


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ((0, 0, 0, 0), "too_hard"),
        ((1, 0, 0, 0), None),
        ((1, 1, 1, 0), None),
        ((1, 1, 1, 1), "too_easy"),
        ((0.5, 0.5, 0, 0), None),
        ((0.5, 0.25, 0, 0), "too_hard"),
        ((1, 0.75, 1, 0.5), "too_easy"),
    ],
)
def test_a_quarter_to_three_quarters_of_four_is_inclusive(scores: tuple[float, ...], reason: str | None):
    assert why_dropped(group(*scores), FilterConfig(accuracy_low=0.25, accuracy_high=0.75)) == reason


@pytest.mark.parametrize(("right", "reason"), [(0, "too_hard"), (1, None), (4, None), (5, "too_easy")])
def test_a_fifth_to_four_fifths_of_five_is_inclusive(right: int, reason: str | None):
    scores = [1.0] * right + [0.0] * (5 - right)
    assert why_dropped(group(*scores), FilterConfig(accuracy_low=0.2, accuracy_high=0.8)) == reason


def test_the_band_is_inclusive_although_sums_are_rounded():
    config = FilterConfig(accuracy_low=1 / 3, accuracy_high=2 / 3)
    assert [why_dropped(group(*([1.0] * n + [0.0] * (3 - n))), config) for n in range(4)] == [
        "too_hard",
        None,
        None,
        "too_easy",
    ]
    assert sum([0.7] * 3) / 3 < 0.7
    assert why_dropped(group(*[0.7] * 3), FilterConfig(accuracy_low=0.7, accuracy_high=0.8)) is None
    assert sum([0.1] * 3) / 3 > 0.1
    assert why_dropped(group(*[0.1] * 3), FilterConfig(accuracy_low=0.0, accuracy_high=0.1)) is None


def test_truncated_groups_are_dropped_on_request_only():
    assert why_dropped(group(1, 0, truncated=1), FilterConfig(drop_truncated=True)) == "truncated"
    assert why_dropped(group(1, 0, truncated=1), FilterConfig()) is None
    assert why_dropped(group(1, 0), FilterConfig(drop_truncated=True)) is None


def test_one_judged_response_has_nothing_to_be_compared_with():
    wide = FilterConfig(accuracy_low=0.0, accuracy_high=1.0, drop_truncated=True)
    assert why_dropped(group(), wide) == "unjudged"
    assert why_dropped(group(1.0, truncated=1), wide) == "unjudged"
    assert why_dropped(group(1.0, 1.0), wide) is None


def test_unknown_verdicts_leave_the_group():
    rollouts = [rollout(k) for k in range(4)]
    verdicts = [Verdict(score=1.0, seconds=3.0), Unknown(reason="died"), Verdict(score=0.0), Unknown(reason="late")]
    judged = judged_group(problem(3), rollouts, ["a", "b", "c", "d"], verdicts)
    assert judged.problem == problem(3)
    assert judged.rollouts == (rollouts[0], rollouts[2])
    assert judged.responses == ("a", "c")
    assert judged.verdicts == (Verdict(score=1.0), Verdict(score=0.0)), "how long it took is no fact about the response"
    assert judged.accuracy == 0.5


HALF = (1.0, 1.0, 0.0, 0.0)


def test_a_full_batch_in_one_round():
    made = Scripts(6, by_table({f"p{index}": HALF for index in range(6)}))
    collection = made.collector.collect(4, policy_version=0)
    assert names(collection.groups) == [name for name, _ in made.asked]
    assert len(collection.groups) == 4
    for one in collection.groups:
        index = int(one.problem.id[1:])
        assert [each.prompt_ids for each in one.rollouts] == [(index,)] * 4
        assert [text.split()[:2] for text in one.responses] == [[str(index), str(k)] for k in range(4)]
        assert [verdict.score for verdict in one.verdicts] == [1, 1, 0, 0]
    assert (collection.metrics["filter/rounds"], collection.metrics["filter/surplus"]) == (1, 0)


def test_it_refills_until_the_batch_is_full_and_counts_every_reason():
    table: dict[str, Sequence[float | None]] = {f"p{index}": HALF for index in range(12)}
    table |= {"p0": (0, 0, 0, 0), "p1": (1, 1, 1, 1), "p2": (1, 1, 1, 1), "p3": (1, None, None, None)}
    made = Scripts(12, by_table(table), max_rounds=20)
    collection = made.collector.collect(8, policy_version=0)
    metrics = collection.metrics
    drawn = [name for name, _ in made.asked]
    assert names(collection.groups) == [name for name in drawn if name not in ("p0", "p1", "p2", "p3")][:8]
    assert metrics["filter/drawn"] == len(drawn)
    assert metrics["filter/rounds"] > 1
    assert metrics["filter/too_hard"] == drawn.count("p0")
    assert metrics["filter/too_easy"] == drawn.count("p1") + drawn.count("p2")
    assert metrics["filter/unjudged"] == drawn.count("p3") == metrics["verify/unknown"] / 3
    assert metrics["filter/truncated"] == 0
    assert metrics["filter/kept"] == 8 + metrics["filter/surplus"]
    reasons = ("too_hard", "too_easy", "unjudged", "truncated")
    assert metrics["filter/drawn"] == metrics["filter/kept"] + sum(metrics[f"filter/{reason}"] for reason in reasons)


def test_rounds_are_bounded_and_fewer_groups_are_no_error():
    table = {f"p{index}": (0.0,) * 4 for index in range(10)} | {"p7": HALF}
    made = Scripts(10, by_table(table), max_rounds=3)
    collection = made.collector.collect(2, policy_version=0)
    assert names(collection.groups) == ["p7"] * [name for name, _ in made.asked].count("p7")
    assert collection.metrics["filter/rounds"] == 3
    assert collection.metrics["filter/drawn"] == len(made.asked) <= 6

    hopeless = Scripts(10, by_table({f"p{index}": (0.0,) * 4 for index in range(10)}), max_rounds=3)
    collection = hopeless.collector.collect(2, policy_version=0)
    assert collection.groups == ()
    assert (collection.metrics["filter/drawn"], collection.metrics["filter/too_hard"]) == (6, 6)


def test_a_round_never_asks_for_more_than_a_batch():
    tokens: list[int] = []
    made = Scripts(50, by_table({}), max_rounds=6)
    made.collector.collect(5, 0, tokens.append)
    assert tokens == [5 * 4 * 4] * 6, "prompts, responses, tokens"


def test_metrics_by_hand():
    """Two problems of two responses: four tokens each, cut to three, so that none of them ends."""
    made = Scripts(
        2,
        by_table({"p0": (1.0, 0.0), "p1": (1.0, None)}),
        per_prompt=2,
        max_tokens=3,
        drop_truncated=True,
        max_rounds=1,
    )
    counts: list[int] = []
    metrics = made.collector.collect(2, 0, counts.append).metrics
    assert sum(counts) == 12
    expected = {
        "rollout/accuracy": 2 / 3,
        "rollout/responses": 4,
        "rollout/tokens": 12,
        "rollout/mean_length": 3,
        "rollout/max_length": 3,
        "rollout/truncated_share": 1,
        "verify/unknown": 1,
        "filter/rounds": 1,
        "filter/drawn": 2,
        "filter/kept": 0,
        "filter/reused": 0,
        "filter/surplus": 0,
        "filter/too_easy": 0,
        "filter/too_hard": 0,
        "filter/truncated": 1,
        "filter/unjudged": 1,
    }
    assert {key: metrics[key] for key in expected} == pytest.approx(expected)
    timed = set(metrics) - set(expected)
    assert timed == {"time/sample", "time/verify", "perf/tokens_per_second"}
    assert all(metrics[key] >= 0 for key in timed)


def test_some_unknown_verdicts_are_borne_and_more_stop_the_run():
    table: dict[str, Sequence[float | None]] = {f"p{index}": (1.0, 0.0, 1.0, None) for index in range(4)}
    borne = Scripts(4, by_table(table), max_unknown_share=0.25).collector.collect(4, policy_version=0)
    assert [len(one.rollouts) for one in borne.groups] == [3, 3, 3, 3]
    assert [one.accuracy for one in borne.groups] == pytest.approx([2 / 3] * 4)
    with pytest.raises(RuntimeError, match=r"4 of 16 responses.*worker died.*max_unknown_share = 0\.24"):
        Scripts(4, by_table(table), max_unknown_share=0.24).collector.collect(4, policy_version=0)


def test_every_draw_has_a_seed_of_its_own():
    """Also where one problem is drawn again, and with the surplus of an older policy."""
    made = Scripts(3, by_chance)
    for version in range(6):
        made.collector.collect(2, policy_version=version)
    seeds = [seed for _, seed in made.asked]
    assert len(seeds) > 12
    assert len(set(seeds)) == len(seeds)
    again, elsewhere = Scripts(3, by_chance), Scripts(3, by_chance, seed=6)
    for version in range(6):
        again.collector.collect(2, policy_version=version)
        elsewhere.collector.collect(2, policy_version=version)
    assert again.asked == made.asked
    assert not set(seeds) & {seed for _, seed in elsewhere.asked}


def with_surplus() -> Scripts:
    """A collector whose first batch of 4 leaves 2 groups over: of the first 4 problems only 2 can be used."""
    order = [each.id for each in ProblemStream([problem(index) for index in range(20)], seed=1).take(20)]
    useless: dict[str, Sequence[float]] = dict.fromkeys(order[:2], (1.0,) * 4)
    made = Scripts(20, by_table(dict.fromkeys(order, HALF) | useless))
    collection = made.collector.collect(4, policy_version=7)
    assert names(collection.groups) == order[2:6]
    assert names(made.collector.surplus) == order[6:8]
    assert collection.metrics["filter/surplus"] == 2
    return made


def test_the_surplus_comes_first_while_the_policy_is_the_same():
    made = with_surplus()
    surplus, asked = made.collector.surplus, len(made.asked)
    collection = made.collector.collect(3, policy_version=7)
    assert collection.groups[:2] == surplus
    assert len(made.asked) == asked + 1
    assert (collection.metrics["filter/reused"], collection.metrics["filter/drawn"]) == (2, 1)


def test_a_small_batch_leaves_some_of_the_surplus_over():
    made = with_surplus()
    surplus, asked = made.collector.surplus, len(made.asked)
    collection = made.collector.collect(1, policy_version=7)
    assert (collection.groups, made.collector.surplus) == (surplus[:1], surplus[1:])
    assert len(made.asked) == asked
    assert collection.metrics["rollout/responses"] == collection.metrics["filter/rounds"] == 0


def test_the_surplus_of_an_older_policy_is_sampled_anew():
    made = with_surplus()
    stale = made.collector.surplus
    asked = len(made.asked)
    collection = made.collector.collect(3, policy_version=8)
    assert names(collection.groups)[:2] == names(stale)
    assert not [one for one in collection.groups if one in stale]
    assert [name for name, _ in made.asked[asked:]][:2] == names(stale)
    assert collection.metrics["filter/reused"] == 0
    assert made.collector.surplus == ()


def run(collector: Collector, versions: Sequence[int]) -> list[tuple[Group, ...]]:
    return [collector.collect(3, policy_version=version).groups for version in versions]


CHOOSY = {"accuracy_low": 0.4, "accuracy_high": 0.7, "max_rounds": 5}
# Versions stand still where the policy did not learn, so that the surplus is reused and put back.
VERSIONS = (0, 0, 1, 2, 2, 2, 3, 4, 4, 5)


@pytest.mark.parametrize("stop", range(len(VERSIONS)))
def test_a_restored_collector_goes_on_as_if_nothing_had_happened(stop: int):
    whole, stopped, resumed = (Scripts(9, by_chance, **CHOOSY) for _ in range(3))
    expected = run(whole.collector, VERSIONS)
    assert run(stopped.collector, VERSIONS[:stop]) == expected[:stop]
    resumed.collector.restore(json.loads(json.dumps(stopped.collector.state())))
    assert resumed.collector.state() == stopped.collector.state()
    assert run(resumed.collector, VERSIONS[stop:]) == expected[stop:]
    assert resumed.collector.state() == whole.collector.state()


def test_the_runs_above_reuse_a_surplus_and_put_one_back():
    made = Scripts(9, by_chance, **CHOOSY)
    reused = 0.0
    put_back = 0
    for version in VERSIONS:
        put_back += made.collector.surplus_version != version and len(made.collector.surplus)
        reused += made.collector.collect(3, policy_version=version).metrics["filter/reused"]
    assert reused > 0
    assert put_back > 0


class Stop(Exception):
    pass


def test_what_ends_with_the_error_never_happened():
    calm, shaken = Scripts(9, by_chance, **CHOOSY), Scripts(9, by_chance, **CHOOSY)
    run(calm.collector, VERSIONS[:4])
    run(shaken.collector, VERSIONS[:4])
    before = shaken.collector.state()

    def stop(count: int) -> None:
        raise Stop

    with pytest.raises(Stop), shaken.collector.undone_by(Stop):
        shaken.collector.collect(3, policy_version=99, progress=stop)
    assert shaken.collector.state() == before
    assert run(shaken.collector, VERSIONS[4:]) == run(calm.collector, VERSIONS[4:])


def test_what_ends_well_or_with_another_error_stands():
    collector = Scripts(9, by_chance).collector

    def collect_and(error: type[Exception] | None) -> None:
        with collector.undone_by(Stop):
            collector.collect(3, policy_version=0)
            if error is not None:
                raise error

    states = [collector.state()]
    collect_and(None)
    states.append(collector.state())
    with pytest.raises(KeyError):
        collect_and(KeyError)
    states.append(collector.state())
    with pytest.raises(Stop):
        collect_and(Stop)
    assert collector.state() == states[2]
    assert states[0] != states[1] != states[2]
