"""Collecting a batch: bounded refills, surplus, unknown verdicts, greedy baselines, memory, a state that goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pytest

from credo.collect import Collector, judged_group
from credo.config import FilterConfig
from credo.data.memory import SolveRates
from credo.data.stream import ProblemStream
from credo.filtering import DROP_REASONS
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


class RecordingEngine(ScriptedEngine):
    """A scripted engine that keeps what each call asked for: (prompts, responses to each, params)."""

    def __init__(self, respond: Any) -> None:
        super().__init__(respond, eos_id=EOS)
        self.calls: list[tuple[list[str], int, SamplingParams]] = []

    def sample(self, prompts: Any, n: int, params: SamplingParams, seeds: Any, progress: Any = None) -> Any:
        self.calls.append(([f"p{prompt[0]}" for prompt in prompts], n, params))
        return super().sample(prompts, n, params, seeds, progress)


class Scripts:
    """A collector over ``count`` problems, and what its engine was asked for: (problem, seed) in order.

    The responses whose numbers are in ``endless`` never end.
    """

    def __init__(
        self,
        count: int,
        judge: Judge,
        *,
        per_prompt: int = 4,
        max_tokens: int = 9,
        max_unknown_share: float = 1.0,
        seed: int = 5,
        least_judged: int = 2,
        greedy: bool = False,
        memory: SolveRates | None = None,
        endless: Collection[int] = (),
        **options: Any,
    ) -> None:
        self.asked: list[tuple[str, int]] = []
        self.endless = endless
        self.engine = RecordingEngine(self._respond)
        self.collector = Collector(
            stream=ProblemStream([problem(index) for index in range(count)], seed=1, memory=memory),
            engine=self.engine,
            verifier=ScriptedVerifier(judge),
            encode=lambda problem: (int(str(problem.prompt)),),
            decode=lambda ids: " ".join(map(str, ids[:3])),
            config=FilterConfig(**options),
            params=SamplingParams(temperature=0.7, top_p=0.9, max_tokens=max_tokens),
            per_prompt=per_prompt,
            seed=seed,
            max_unknown_share=max_unknown_share,
            least_judged=least_judged,
            greedy=greedy,
        )

    def _respond(self, prompt: tuple[int, ...], k: int, seed: int) -> tuple[int, ...]:
        if k == 0:
            self.asked.append((f"p{prompt[0]}", seed))
        return (*prompt, k, seed, 7 if k in self.endless else EOS)


def names(groups: Sequence[Group]) -> list[str]:
    return [group.problem.id for group in groups]


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
    dropped = sum(metrics[f"filter/{reason}"] for reason in DROP_REASONS)
    assert metrics["filter/drawn"] == metrics["filter/kept"] + dropped


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
        truncated="drop_group",
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
        "verify/accuracy_exact": 2 / 3,
        "verify/unknown_exact": 1,
        "filter/rounds": 1,
        "filter/drawn": 2,
        "filter/kept": 0,
        "filter/reused": 0,
        "filter/surplus": 0,
        "filter/too_easy": 0,
        "filter/too_hard": 0,
        "filter/truncated": 1,
        "filter/truncated_responses": 0,
        "filter/unanimous": 0,
        "filter/unjudged": 1,
        "filter/unmatched": 0,
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


def test_truncated_responses_are_left_out_and_counted():
    """Response 1 never ends: without it p0 has nothing wrong and p1 two of three."""
    table: dict[str, Sequence[float | None]] = {"p0": (1, 0, 1, 1), "p1": (1, 0, 0, 1), "p2": (1, None, 1, 0)}
    options: dict[str, Any] = {"truncated": "drop_response", "max_rounds": 1}
    made = Scripts(3, by_table(table), endless={1}, **options)
    collection = made.collector.collect(3, policy_version=0)
    assert sorted(names(collection.groups)) == ["p1", "p2"]
    assert [one.accuracy for one in collection.groups] == pytest.approx([2 / 3] * 2)
    assert not any(one.truncated for one in collection.groups)
    metrics = collection.metrics
    assert metrics["filter/truncated_responses"] == 2, "the third was not judged"
    assert (metrics["filter/too_easy"], metrics["filter/truncated"], metrics["verify/unknown"]) == (1, 0, 1)
    assert (metrics["rollout/accuracy"], metrics["rollout/truncated_share"]) == (7 / 11, 3 / 12)

    again = Scripts(3, by_table(table), endless={1}, truncated="drop_response", max_rounds=8)
    rounds = again.collector.collect(6, policy_version=0).metrics
    drawn = [name for name, _ in again.asked]
    assert rounds["filter/rounds"] > 1
    assert rounds["filter/truncated_responses"] == drawn.count("p0") + drawn.count("p1")

    kept = Scripts(3, by_table(table), endless={1}, max_rounds=1).collector.collect(3, policy_version=0)
    assert len(kept.groups) == 3
    assert kept.metrics["filter/truncated_responses"] == 0


def test_a_single_response_will_do_where_nothing_is_compared():
    one: dict[str, Any] = {"per_prompt": 1, "accuracy_low": 0.0, "accuracy_high": 1.0, "max_rounds": 1}
    table: dict[str, Sequence[float | None]] = {"p0": (1,), "p1": (0,), "p2": (None,)}
    collection = Scripts(3, by_table(table), least_judged=1, **one).collector.collect(3, policy_version=0)
    assert sorted(names(collection.groups)) == ["p0", "p1"]
    assert collection.metrics["filter/unjudged"] == 1
    assert Scripts(3, by_table(table), **one).collector.collect(3, policy_version=0).groups == ()


def test_length_matching_keeps_pairs():
    """All responses are as long as each other, so one wrong one of p0 leaves a pair; p1 has no right one."""
    table: dict[str, Sequence[float | None]] = {"p0": (1, 1, 0, 1), "p1": (0.5, 0.5, 0.25, 0)}
    made = Scripts(2, by_table(table), length_matched=True, max_rounds=1)
    collection = made.collector.collect(2, policy_version=0)
    assert [[verdict.score for verdict in one.verdicts] for one in collection.groups] == [[1, 0]]
    assert collection.metrics["filter/unmatched"] == 1


def greedy_by(table: Mapping[str, float | None], judge: Judge) -> Judge:
    """Greedy responses, which have seed 0, get the score of the table, others what ``judge`` says."""

    def judged(problem: Problem, response: str) -> Verdict | Unknown:
        if response.split()[2] != "0":
            return judge(problem, response)
        score = table[problem.id]
        return Unknown(reason="worker died") if score is None else Verdict(score=float(score), seconds=0.5)

    return judged


def test_groups_that_pass_get_a_greedy_baseline_in_one_call():
    table: dict[str, Sequence[float | None]] = {"p0": HALF, "p1": (0,) * 4, "p2": HALF, "p3": HALF}
    judge = greedy_by({"p0": 1, "p2": 0, "p3": None}, by_table(table))
    made = Scripts(4, judge, greedy=True, max_rounds=1)
    tokens: list[int] = []
    collection = made.collector.collect(4, 0, tokens.append)
    (drawn, k, params), (based, one, greedy) = made.engine.calls
    assert (k, params) == (4, SamplingParams(temperature=0.7, top_p=0.9, max_tokens=9))
    assert (one, greedy) == (1, SamplingParams(temperature=0.0, top_p=1.0, max_tokens=9))
    assert based == [name for name in drawn if name != "p1"]
    assert sorted(names(collection.groups)) == ["p0", "p2"]
    for each in collection.groups:
        assert each.greedy is not None
        index = int(each.problem.id[1:])
        assert each.greedy.rollout.response_ids == (index, 0, 0, EOS)
        assert each.greedy.verdict == Verdict(score=float(index == 0))
        assert len(each.rollouts) == 4
    metrics = collection.metrics
    assert (metrics["filter/unjudged"], metrics["filter/too_hard"], metrics["verify/unknown"]) == (1, 1, 1)
    assert (metrics["filter/drawn"], metrics["filter/kept"]) == (4, 2)
    assert (metrics["rollout/responses"], metrics["rollout/tokens"]) == (16, 64)
    assert metrics["rollout/accuracy"] == 6 / 16
    assert tokens == [64, 12]
    assert metrics["perf/tokens_per_second"] * metrics["time/sample"] == pytest.approx(76)


def test_nothing_greedy_is_sampled_where_nothing_passes_or_nobody_asks():
    hopeless = Scripts(4, by_table({}), greedy=True, max_rounds=3)
    hopeless.collector.collect(2, policy_version=0)
    assert [k for _, k, _ in hopeless.engine.calls] == [4, 4, 4]
    plain = Scripts(4, by_table(dict.fromkeys(("p0", "p1", "p2", "p3"), HALF)))
    assert [one.greedy for one in plain.collector.collect(4, policy_version=0).groups] == [None] * 4
    assert len(plain.engine.calls) == 1


def test_unknown_greedy_verdicts_count_towards_the_limit():
    names = [f"p{index}" for index in range(4)]
    judge = greedy_by(dict.fromkeys(names), by_table(dict.fromkeys(names, HALF)))
    options: dict[str, Any] = {"greedy": True, "max_rounds": 1}
    made = Scripts(4, judge, max_unknown_share=0.2, **options)
    assert made.collector.collect(4, policy_version=0).groups == ()
    with pytest.raises(RuntimeError, match=r"4 of 20 responses.*worker died"):
        Scripts(4, judge, max_unknown_share=0.19, **options).collector.collect(4, policy_version=0)


def rates(floor: float = 0.05) -> SolveRates:
    return SolveRates(floor=floor, per_prompt=4, low=0.2, high=0.8)


def test_the_memory_sees_every_judged_score():
    """Also those of groups that are dropped and of responses that were cut, but no greedy one."""
    table: dict[str, Sequence[float | None]] = {"p0": (0,) * 4, "p1": (1,) * 4, "p2": HALF, "p3": (1, None, None, None)}
    judge = greedy_by({"p2": 1}, by_table(table))
    memory = rates()
    made = Scripts(4, judge, memory=memory, greedy=True, max_rounds=1, truncated="drop_response", endless={0})
    metrics = made.collector.collect(4, policy_version=0).metrics
    expected = rates()
    for name, scores in table.items():
        expected.see(name, [float(score) for score in scores if score is not None])
    assert memory.state() == expected.state()
    assert (metrics["filter/never_solved"], metrics["filter/always_solved"]) == (1 / 4, 2 / 4)
    assert metrics["filter/passed_over"] == 0


def test_the_memory_spares_what_teaches_nothing():
    """Of 20 problems 4 are of use: with a memory a batch takes fewer draws, and what is passed over is counted."""
    table = {f"p{index}": (0.0,) * 4 for index in range(20)} | {f"p{index}": HALF for index in range(4)}
    plain, sparing = (Scripts(20, by_table(table), max_rounds=50, memory=memory) for memory in (None, rates(0.01)))
    drawn = []
    for made in (plain, sparing):
        counts = [made.collector.collect(3, policy_version=version).metrics for version in range(30)]
        assert all(each["filter/kept"] >= 3 for each in counts)
        drawn.append([each["filter/drawn"] for each in counts])
    assert sum(drawn[1][10:]) < 0.75 * sum(drawn[0][10:])
    assert "filter/passed_over" not in plain.collector.collect(3, policy_version=99).metrics
    assert sum(each["filter/passed_over"] for each in counts) == sparing.collector.stream.passed_over > 100
    assert counts[-1]["filter/never_solved"] == 16 / 20


WHOLE: dict[str, Any] = {"greedy": True, "truncated": "drop_response", "endless": {3}, **CHOOSY}


def whole_scripts() -> Scripts:
    """Everything that has a state: surplus with greedy baselines, and a memory."""
    baselines = {f"p{index}": float(index % 2) for index in range(8)} | {"p8": None}
    return Scripts(9, greedy_by(baselines, by_chance), memory=rates(0.3), **WHOLE)


@pytest.mark.parametrize("stop", range(len(VERSIONS)))
def test_it_goes_on_with_baselines_and_memory(stop: int):
    whole, stopped, resumed = whole_scripts(), whole_scripts(), whole_scripts()
    expected = run(whole.collector, VERSIONS)
    run(stopped.collector, VERSIONS[:stop])
    resumed.collector.restore(json.loads(json.dumps(stopped.collector.state())))
    assert resumed.collector.state() == stopped.collector.state()
    assert run(resumed.collector, VERSIONS[stop:]) == expected[stop:]
    assert resumed.collector.state() == whole.collector.state()


def test_the_runs_above_carry_baselines_and_pass_problems_over():
    made, carried = whole_scripts(), 0
    for version in VERSIONS:
        made.collector.collect(3, policy_version=version)
        assert all(one.greedy is not None for one in made.collector.surplus)
        carried += len(made.collector.surplus)
    assert carried > 0
    assert made.collector.stream.passed_over > 0


@pytest.mark.parametrize("calls", [0, 1, 2, 3])
def test_an_interruption_takes_the_memory_back_too(calls: int):
    calm, shaken = whole_scripts(), whole_scripts()
    run(calm.collector, VERSIONS[:4])
    run(shaken.collector, VERSIONS[:4])
    before = json.dumps(shaken.collector.state())
    counts: list[int] = []

    def stop(count: int) -> None:
        counts.append(count)
        if len(counts) > calls:
            raise Stop

    with pytest.raises(Stop), shaken.collector.undone_by(Stop):
        for version in (99, 100):
            shaken.collector.collect(3, policy_version=version, progress=stop)
    assert json.dumps(shaken.collector.state()) == before
    assert run(shaken.collector, VERSIONS[4:]) == run(calm.collector, VERSIONS[4:])
