from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from credo.data.memory import SolveRates
from credo.data.stream import ProblemStream
from credo.seeds import mixed_seed, uniform
from credo.types import Problem


def problems(count: int, prefix: str = "p") -> list[Problem]:
    return [
        Problem(id=f"{prefix}{index}", kind="exact", prompt=f"{index}=", answer=str(index), source="made")
        for index in range(count)
    ]


def ids(taken: list[Problem]) -> list[str]:
    return [problem.id for problem in taken]


def test_every_epoch_shows_every_problem_once_in_a_new_order():
    stream = ProblemStream(problems(50), seed=1)
    first, second = ids(stream.take(50)), ids(stream.take(50))
    everything = set(ids(problems(50)))
    assert set(first) == set(second) == everything
    assert first != second
    assert first != ids(problems(50))
    assert stream.drawn == 100


def test_the_seed_decides_the_order():
    assert ids(ProblemStream(problems(50), seed=1).take(50)) == ids(ProblemStream(problems(50), seed=1).take(50))
    assert ids(ProblemStream(problems(50), seed=1).take(50)) != ids(ProblemStream(problems(50), seed=2).take(50))


@pytest.mark.parametrize("before", [0, 1, 7, 10, 23])
def test_resume_is_exact_to_the_row(before):
    whole = ProblemStream(problems(10), seed=4)
    for _ in range(before):
        whole.take(1)
    whole.put_back(whole.take(2)[:1])
    saved = json.loads(json.dumps(whole.state()))
    resumed = ProblemStream(problems(10), seed=4)
    resumed.take(5)
    resumed.restore(saved)
    assert resumed.drawn == before + 2
    for count in (1, 3, 10, 4, 25):
        assert resumed.take(count) == whole.take(count)
    assert resumed.state() == whole.state()


def test_a_state_is_a_copy():
    stream = ProblemStream(problems(10), seed=4)
    stream.put_back(stream.take(3))
    state = stream.state()
    copy = json.loads(json.dumps(state))
    stream.take(5)
    assert state == copy
    stream.restore(state)
    stream.take(5)
    assert state == copy


def test_other_problems_seeds_are_refused():
    saved = ProblemStream(problems(10), seed=4).state()
    for other, named in [
        (ProblemStream(problems(10, "q"), seed=4), "problems"),
        (ProblemStream(problems(10)[::-1], seed=4), "problems"),
        (ProblemStream(problems(11), seed=4), "problems"),
        (ProblemStream(problems(10), seed=5), "seed"),
    ]:
        before = other.state()
        with pytest.raises(ValueError, match=named):
            other.restore(saved)
        assert other.state() == before


def test_what_is_put_back_comes_first_in_its_order():
    stream = ProblemStream(problems(10), seed=5)
    taken = stream.take(4)
    stream.put_back(taken[2:])
    stream.put_back(taken[:1])
    following = stream.take(10)
    assert following[:3] == [taken[0], taken[2], taken[3]]
    with pytest.raises(ValueError, match="q0"):
        stream.put_back(problems(1, "q"))


def test_no_call_repeats_a_problem_and_none_is_lost():
    stream = ProblemStream(problems(10), seed=6)
    counts: Counter[str] = Counter()
    for _ in range(100):
        taken = ids(stream.take(7))
        assert len(set(taken)) == 7
        counts.update(taken)
    assert all(67 <= counts[problem.id] <= 72 for problem in problems(10))


def test_no_call_repeats_a_problem_that_was_put_back():
    stream = ProblemStream(problems(6), seed=7)
    for _ in range(20):
        taken = stream.take(6)
        assert len(set(ids(taken))) == 6
        stream.put_back(taken[:2])


def test_a_call_for_more_than_there_is_repeats_evenly():
    taken = Counter(ids(ProblemStream(problems(5), seed=8).take(15)))
    assert set(taken.values()) == {3}
    small = ProblemStream(problems(3), seed=8)
    assert len(set(ids(small.take(3)))) == 3


def test_problems_are_found_by_id():
    stream = ProblemStream(problems(3), seed=1)
    assert stream.problem("p2") == problems(3)[2]
    with pytest.raises(ValueError, match="p3"):
        stream.problem("p3")


def test_no_problems_and_shared_ids_are_refused():
    with pytest.raises(ValueError, match="no problems"):
        ProblemStream([], seed=1)
    with pytest.raises(ValueError, match="share an id"):
        ProblemStream(problems(2) + problems(1), seed=1)


def remembering(count: int, *, floor: float = 0.2, seed: int = 4, useless: tuple[str, ...] = ()) -> ProblemStream:
    """A stream with a memory in which the problems ``useless`` were never solved, so that the floor is their chance."""
    memory = SolveRates(floor=floor, per_prompt=4, low=0.2, high=0.8)
    for id in useless:
        memory.see(id, [0.0] * 400)
    return ProblemStream(problems(count), seed=seed, memory=memory)


def test_a_memory_of_nothing_changes_nothing():
    plain, remembers = ProblemStream(problems(10), seed=4), remembering(10)
    for count in (3, 7, 1, 10, 5, 6):
        assert remembers.take(count) == plain.take(count)
    assert remembers.passed_over == 0
    assert remembers.state() == {**plain.state(), "memory": {}}


def test_useless_problems_are_taken_as_often_as_the_floor_says():
    useless = tuple(f"p{index}" for index in range(50))
    stream = remembering(100, floor=0.2, useless=useless)
    taken = Counter(ids([problem for _ in range(400) for problem in stream.take(10)]))
    epochs = taken["p99"]
    assert all(abs(taken[f"p{index}"] - epochs) <= 1 for index in range(50, 100))
    rarely = sum(taken[id] for id in useless)
    expected = 0.2 * 50 * epochs
    assert abs(rarely - expected) < 4 * (expected * 0.8) ** 0.5
    assert abs(stream.passed_over - (50 * epochs - rarely)) <= 50


def test_what_is_passed_over_is_decided_by_seed_epoch_and_problem():
    """The order is that of the plain stream without those whose draw is not below their chance."""
    stream, plain = (
        remembering(20, useless=tuple(f"p{index}" for index in range(20))),
        ProblemStream(problems(20), seed=4),
    )
    expected = []
    for epoch in range(10):
        dealt = ids(plain.take(20))
        expected += [id for id in dealt if uniform(mixed_seed(4, epoch), int(id[1:])) < 0.2]
    assert 20 < len(expected) < 60
    assert ids([stream.take(1)[0] for _ in expected]) == expected
    again = remembering(20, useless=tuple(f"p{index}" for index in range(20)))
    random.seed(17)
    assert ids([again.take(1)[0] for _ in expected]) == expected


def test_evidence_changes_what_comes_up():
    stream = remembering(10, floor=1e-9)
    stream.take(10)
    for index in range(9):
        assert stream.memory is not None
        stream.memory.see(f"p{index}", [1.0] * 400)
    assert set(ids([stream.take(1)[0] for _ in range(5)])) == {"p9"}


def test_what_is_put_back_is_always_taken():
    stream = remembering(10, floor=1e-9, useless=tuple(f"p{index}" for index in range(9)))
    stream.put_back(problems(4))
    assert ids(stream.take(5)) == ["p0", "p1", "p2", "p3", "p9"]


@pytest.mark.parametrize("count", [1, 3, 6, 7, 20])
def test_a_memory_against_every_problem_still_gives_problems(count: int):
    """After a whole epoch without a problem the next one is taken, and none twice in a call that need not."""
    stream = remembering(6, floor=1e-12, useless=tuple(f"p{index}" for index in range(6)))
    for _ in range(20):
        taken = Counter(ids(stream.take(count)))
        assert taken.total() == count
        assert len(taken) == min(count, 6)
    assert stream.drawn == 20 * count
    assert stream.state()["front"] == []


def test_a_call_for_nearly_everything_neither_repeats_nor_hoards():
    """While it looks for the rest p5 comes up again and again; it waits at the front once."""
    stream = remembering(6, floor=0.05, useless=("p0", "p1", "p2", "p3", "p4"))
    fronts = []
    for _ in range(20):
        assert set(ids(stream.take(6))) == set(ids(problems(6)))
        fronts.append(stream.state()["front"])
        assert len(set(fronts[-1])) == len(fronts[-1])
    assert [5] in fronts


def test_one_epoch_is_the_bound():
    stream = remembering(6, floor=1e-12, useless=tuple(f"p{index}" for index in range(6)))
    stream.take(1)
    assert stream.passed_over == 6
    assert (stream.state()["epoch"], stream.state()["next"]) == (1, 1)


@pytest.mark.parametrize("before", [0, 1, 7, 10, 23])
def test_resume_is_exact_with_a_memory(before: int):
    def go(stream: ProblemStream, counts: tuple[int, ...]) -> list[list[str]]:
        taken = []
        for count in counts:
            taken.append(ids(stream.take(count)))
            assert stream.memory is not None
            for id in taken[-1]:
                stream.memory.see(id, [float(int(id[1:]) % 3 == 0), float(len(taken) % 2), 0.0])
        return taken

    whole, resumed = remembering(10, floor=0.1), remembering(10, floor=0.1, useless=("p1", "p4"))
    go(whole, (1,) * before)
    whole.put_back(whole.take(2)[:1])
    go(resumed, (5, 3))
    resumed.restore(json.loads(json.dumps(whole.state())))
    assert go(resumed, (1, 3, 10, 4, 25)) == go(whole, (1, 3, 10, 4, 25))
    assert resumed.state() == whole.state()
    assert whole.passed_over > 0


def test_a_state_without_memory_begins_one():
    plain = ProblemStream(problems(10), seed=4)
    plain.take(3)
    stream = remembering(10, useless=("p1",))
    stream.restore(plain.state())
    assert stream.state() == {**plain.state(), "memory": {}}
    plain.restore(remembering(10, useless=("p1",)).state())
    assert plain.drawn == 0
