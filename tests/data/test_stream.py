from __future__ import annotations

import json
from collections import Counter
from itertools import chain

import pytest

from credo.data.stream import ProblemStream
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


def test_two_ranks_share_out_each_epoch():
    streams = [ProblemStream(problems(20), seed=3, rank=rank, world_size=2) for rank in range(2)]
    for _ in range(3):
        shares = [ids(stream.take(10)) for stream in streams]
        assert sorted(shares[0] + shares[1]) == sorted(ids(problems(20)))


def test_ranks_of_unequal_shares_cover_an_epoch_too():
    shares = [
        ids(ProblemStream(problems(8), seed=3, rank=rank, world_size=3).take(2 + (rank < 2))) for rank in range(3)
    ]
    assert sorted(chain.from_iterable(shares)) == sorted(ids(problems(8)))


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


def test_other_problems_seeds_and_ranks_are_refused():
    saved = ProblemStream(problems(10), seed=4).state()
    for other, named in [
        (ProblemStream(problems(10, "q"), seed=4), "problems"),
        (ProblemStream(problems(10)[::-1], seed=4), "problems"),
        (ProblemStream(problems(11), seed=4), "problems"),
        (ProblemStream(problems(10), seed=5), "seed"),
        (ProblemStream(problems(10), seed=4, rank=0, world_size=2), "world_size"),
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
    small = ProblemStream(problems(3), seed=8, rank=1, world_size=2)
    assert len(set(ids(small.take(3)))) == 3


def test_problems_are_found_by_id():
    stream = ProblemStream(problems(3), seed=1)
    assert stream.problem("p2") == problems(3)[2]
    with pytest.raises(ValueError, match="p3"):
        stream.problem("p3")


def test_too_few_problems_and_shared_ids_are_refused():
    with pytest.raises(ValueError, match="0 problem"):
        ProblemStream([], seed=1)
    with pytest.raises(ValueError, match="2 rank"):
        ProblemStream(problems(1), seed=1, rank=0, world_size=2)
    with pytest.raises(ValueError, match="share an id"):
        ProblemStream(problems(2) + problems(1), seed=1)
