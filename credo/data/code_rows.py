"""The tests of a programming task as a row states them: in our own form, or as JSON text as in verl's and Eurus-2's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

FORMS = (
    '{"asserts": source, "entry_point": name}, {"inputs": [...], "outputs": [...]} or the latter with "fn_name"; '
    '"time_limit" and "memory_mb" may be added'
)
OPTIONAL = {"entry_point", "imports", "prompt", "fn_name", "time_limit", "memory_mb"}


def states_tests(row: Mapping[str, Any]) -> bool:
    """Whether the row is a programming task, even if it does not say its kind."""
    return row.get("ability") == "code" or row.get("kind") == "code" or row.get("tests") is not None


def program_tests(row: Mapping[str, Any]) -> dict[str, Any]:
    """The tests of a row as the program verifier takes them.

    They stand under ``tests``, or as JSON text under ``ground_truth`` or ``reward_model.ground_truth``. Raises
    ValueError with the reason if there are none, or if they are in no known form: no program is judged without tests.
    """
    tests = row.get("tests")
    if tests is None:
        reward_model = row.get("reward_model")
        truth = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
        tests = row.get("ground_truth") or truth
    if isinstance(tests, str):
        try:
            tests = json.loads(tests)
        except ValueError as error:
            raise ValueError(f"tests: not JSON ({error}); expected {FORMS}") from None
    if not isinstance(tests, dict):
        raise ValueError(f"tests: a programming task needs {FORMS}")
    tests = {key: value for key, value in tests.items() if value is not None}
    unknown = tests.keys() - OPTIONAL - {"asserts", "inputs", "outputs"}
    if unknown:
        raise ValueError(f"tests: unknown key '{min(unknown)}'; expected {FORMS}")
    if isinstance(tests.get("asserts"), str) and tests["asserts"].strip():
        return tests
    inputs, outputs = tests.get("inputs"), tests.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or not inputs or len(inputs) != len(outputs):
        raise ValueError(f"tests: expected as many inputs as outputs, and at least one; {FORMS}")
    return tests | (_called(inputs, outputs) if "fn_name" in tests else {})


def _called(inputs: list[Any], outputs: list[Any]) -> dict[str, Any]:
    """Arguments and results as values: some rows write them as text, one JSON value a line."""
    return {
        "inputs": [_values(item) if isinstance(item, str) else item for item in inputs],
        "outputs": [_value(item) if isinstance(item, str) else item for item in outputs],
    }


def _values(text: str) -> list[Any]:
    return [_value(line) for line in text.splitlines() if line.strip()]


def _value(text: str) -> Any:
    """The JSON value of a text; a text that is none stands for itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
