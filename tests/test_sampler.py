"""Responses depend on the seed and on a problem's number alone, and impossible numbers are refused before the model."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tiny import PAIRS, tiny_model

from credo.console import Console
from credo.models.precision import choose_compute
from credo.options.evaluation import EvaluateOptions
from credo.options.shared import ComputeOptions, DrawOptions
from credo.sampler import Sampler, compute_of, open_model, open_sampler, refuse_impossible
from credo.types import Problem

PROBLEMS = [Problem(id=str(i), kind="exact", prompt=p, answer=a, source="made") for i, (p, a) in enumerate(PAIRS[:6])]


def options(folder: Path, **changes: Any) -> DrawOptions:
    model = str(tiny_model(folder / "model"))
    values: dict[str, Any] = {"model": model, "samples": 3, "max_tokens": 4, "threads": 1, "device": "cpu"}
    return DrawOptions(**values | changes)


def opened(chosen: DrawOptions, problems: Iterable[Problem]) -> Sampler:
    return open_sampler(open_model(chosen), chosen, problems, Console())


def test_what_else_is_asked_does_not_matter(tmp_path: Path):
    with closing(opened(options(tmp_path), PROBLEMS)) as sampler:
        whole = sampler.draw(PROBLEMS, 0)
        assert sampler.draw(PROBLEMS[:2], 0) + sampler.draw(PROBLEMS[2:], 2) == whole
        assert sampler.draw(PROBLEMS[2:], 0) != whole[2:]
    assert [len(of) for of in whole] == [3] * 6
    assert {(one.finish, one.length == 4) for of in whole for one in of} <= {
        ("length", True),
        ("stop", False),
        ("stop", True),
    }
    with closing(opened(options(tmp_path, seed=1), PROBLEMS)) as other:
        assert other.draw(PROBLEMS, 0) != whole


def test_the_words_around_a_prompt_reach_the_model(tmp_path: Path):
    with closing(opened(options(tmp_path, suffix="ab"), PROBLEMS)) as sampler:
        longer = sampler.encode(PROBLEMS[0])
    with closing(opened(options(tmp_path), PROBLEMS)) as sampler:
        assert len(longer) == len(sampler.encode(PROBLEMS[0])) + 2


def test_lengths_are_not_asked_of_an_engine_that_makes_no_room(tmp_path: Path):
    """Streamed sources are read once, when they are sampled from."""
    unread = (pytest.fail("read") for _ in range(1))
    opened(options(tmp_path), unread).close()


def test_the_precision_is_the_one_asked_for_or_the_one_measured():
    assert compute_of(ComputeOptions(compute="bf16", device="cpu"), Console()) == "bf16"
    measured = compute_of(ComputeOptions(compute="auto", device="cpu", threads=1), Console())
    assert measured == choose_compute("cpu", lambda line: None)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"samples": 0}, "--samples"),
        ({"max_tokens": 0}, "--max-tokens"),
        ({"concurrent": 0}, "--concurrent"),
        ({"limit": -1}, "--limit"),
        ({"top_p": 0.0}, "--top-p"),
        ({"top_p": 1.1}, "--top-p"),
        ({"temperature": -0.1}, "--temperature"),
        ({"stop": ("\n", "")}, "--stop"),
    ],
)
def test_impossible_numbers(change: dict[str, Any], named: str):
    with pytest.raises(ValueError, match=named):
        refuse_impossible(DrawOptions(model="absent", **change))
    with pytest.raises(ValueError, match=named):
        refuse_impossible(EvaluateOptions(model="absent", benchmarks="x", **change))
    refuse_impossible(EvaluateOptions(model="absent", benchmarks="x"))
