"""What counts as the expected output."""

from __future__ import annotations

from typing import Any

import pytest

from credo.verify import wire
from credo.verify.outputs import texts_agree, values_agree


@pytest.mark.parametrize(
    ("expected", "actual", "agree"),
    [
        ("1 2\n", "1 2", True),
        ("1 2\n3\n", "  1\t2  \r\n3\n\n", True),
        ("1 2", "2 1", False),
        ("1\n2", "1 2", False),
        ("a\n\nb", "a\nb", False),
        ("", "\n \n", True),
        ("", "0", False),
        ("YES", "yes", False),
        ("0.5", "0.50", False),
    ],
)
def test_texts(expected: str, actual: str, agree: bool):
    assert texts_agree(expected, actual) == agree


@pytest.mark.parametrize(
    ("expected", "actual", "agree"),
    [
        ("0.5", "0.50", True),
        ("1000.0", "1000.9", True),
        ("1000.0", "1001.1", False),
        ("0.0", "0.0009", True),
        ("100000", "100001", False),
        ("3", "3.0", True),
        ("inf", "1e300", False),
        ("nan", "0", False),
        ("x", "0.5", False),
    ],
)
def test_texts_with_a_tolerance(expected: str, actual: str, agree: bool):
    assert texts_agree(expected, actual, 1e-3) == agree


@pytest.mark.parametrize(
    ("expected", "given", "agree"),
    [
        ([1, [2]], (1, (2,)), True),
        ([1, 2], [2, 1], False),
        ([1, 2], {1, 2}, False),
        ({"1": [2]}, {1: (2,)}, True),
        ({"1": 2}, {1: 2, "2": 3}, False),
        ({"1": 2, "2": 2}, {1: 2, "1": 2}, False),
        ({"true": 1, "null": 0}, {True: 1, None: 0}, True),
        (1 << 80, 1 << 80, True),
        (2.0, 2, True),
        ("2", 2, False),
        (0.3, 0.1 + 0.2, False),
        (None, None, True),
        (None, 0, False),
        ([[]], [()], True),
    ],
)
def test_values(expected: Any, given: Any, agree: bool):
    assert values_agree(expected, wire.encode(given)) == agree


def test_values_with_a_tolerance():
    assert values_agree([0.3], wire.encode([0.1 + 0.2]), 1e-9)
    assert not values_agree([100000000000], wire.encode([100000000001]), 1e-3)
    assert not values_agree(0.5, wire.encode(float("nan")), 1e-3)


@pytest.mark.parametrize("forged", [{"tuple": 1}, {}, {"a": 1, "b": 2}, {"dict": 3}, {"dict": [[[], 1]]}, {"int": 7}])
def test_what_is_no_value_agrees_with_nothing(forged: Any):
    assert not any(values_agree(expected, forged) for expected in (None, 1, [], {"a": 1}))
