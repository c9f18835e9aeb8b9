"""Problems made by the generators of reasoning-gym, and the ways of writing them down. It does not judge answers.

Many families build item ``i`` of seed ``s`` from the number ``s + i``: seeds closer to each other than ``size`` share
items, and small families repeat them. Keep training and test apart with :func:`credo.data.problems.without`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from enum import Enum
from typing import Any, get_args

from credo.data.sources import GeneratedSource, near
from credo.types import Message, Problem

EXPRESSION_FAMILIES = ("chain_sum", "products")
"""Families whose question is one arithmetic expression, evaluated from left to right."""
STYLES = ("question", "expression")
OWN_PARAMETERS = ("prompt", "partial")
"""Of a source, and not of its family."""


def gym_rows(source: GeneratedSource, own: tuple[str, ...] = OWN_PARAMETERS) -> Iterator[tuple[str, int, object]]:
    """The items of a source as ("item", number from 0, entry of JSON values), for :func:`credo.data.sources.sift`.

    ``own`` names the parameters that are ours; all others belong to the family's configuration. The seed is 0 where
    none is given. Raises ValueError for an unknown family or parameter, for values the family refuses, and for a family
    whose entries do not survive being written as JSON.
    """
    dataset = _dataset(source, own)
    for index in range(len(dataset)):
        try:
            entry = dataset[index]
            readable = json.loads(json.dumps(entry))
        except Exception as error:  # a generator fails as it likes when its parameters do not go together
            raise ValueError(f"{source.name} cannot make item {index} of these parameters: {error}.") from error
        if index == 0 and _score(dataset, readable) != _score(dataset, entry):
            raise ValueError(f"{source.name} cannot be used: its scorer fails on entries that were stored as JSON.")
        yield "item", index, readable


def gym_problem(entry: Mapping[str, Any], *, source: GeneratedSource, id: str) -> Problem:
    """The problem of a reasoning-gym entry. Families with many right answers have none to show: their answer is empty.

    Raises ValueError for a question or an answer without text.
    """
    answer = entry["answer"]
    if not entry["question"].strip() or (answer is not None and not answer.strip()):
        raise ValueError("the generator made an item without question or answer; narrow its parameters")
    return Problem(
        id=id,
        kind="gym",
        prompt=gym_prompt(entry, source),
        answer=answer or "",
        source=source.name,
        extra={"family": source.family, "entry": dict(entry)} | ({"partial": True} if scores_partly(source) else {}),
    )


def scores_partly(source: GeneratedSource) -> bool:
    """Whether the family's partial scores are rewards, as ``partial=true`` asks; else only full marks count.

    Many scorers give a little for a wrong answer or a substring, so the default is off. Raises ValueError for other
    values than true and false.
    """
    partial = dict(source.parameters).get("partial", "false")
    if partial not in ("true", "false"):
        raise ValueError(f"{source.name}: partial is true or false, not '{partial}'.")
    return partial == "true"


def style_of(source: GeneratedSource) -> str:
    """How the source writes its prompts down.

    ``prompt=question`` (the default) is the generator's question as a user's message; ``prompt=expression`` is the bare
    text ``12+45-7=``, short enough for models that read characters. Raises ValueError for other styles, and for
    families without an expression.
    """
    style = dict(source.parameters).get("prompt", "question")
    if style not in STYLES:
        raise ValueError(f"{source.name}: unknown style prompt={style}.{near(style, STYLES)}")
    if style == "expression" and source.family not in EXPRESSION_FAMILIES:
        raise ValueError(f"{source.name} has no prompt=expression; only {' and '.join(EXPRESSION_FAMILIES)} have.")
    return style


def gym_prompt(entry: Mapping[str, Any], source: GeneratedSource) -> str | tuple[Message, ...]:
    """The prompt of an entry in the style of its source."""
    if style_of(source) == "expression":
        return entry["metadata"]["expression"].replace(" ", "") + "="
    return (Message(role="user", content=entry["question"]),)


def _dataset(source: GeneratedSource, own: tuple[str, ...]) -> Any:
    try:
        import reasoning_gym
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{source.name} needs the reasoning-gym package; install credo with its extra: gym."
        ) from error
    from reasoning_gym.factory import DATASETS

    if source.family not in DATASETS:
        raise ValueError(f"{source.name}: reasoning-gym has no such family.{near(source.family, DATASETS)}")
    style_of(source)
    scores_partly(source)
    known = {field.name: field for field in fields(DATASETS[source.family][1])}
    settings: dict[str, Any] = {"seed": 0}
    for name, text in source.parameters:
        if name in own:
            continue
        if name not in known:
            raise ValueError(f"{source.name} has no parameter '{name}'.{near(name, {*known, *own})}")
        settings[name] = _setting(source, known[name], text)
    try:
        return reasoning_gym.create_dataset(source.family, **settings)
    except (AssertionError, ValueError, TypeError) as error:
        raise ValueError(f"{source.name} refuses its parameters: {str(error) or 'they do not go together'}.") from error


def _setting(source: GeneratedSource, field: Field[Any], text: str) -> object:
    """``text`` as a value of the type of ``field``; lists are written with commas."""
    default = field.default if field.default_factory is MISSING else field.default_factory()
    try:
        if isinstance(default, list | tuple):
            return type(default)(_scalar(part, type(default[0])) for part in text.split(","))
        if default is None:
            return _scalar(text, get_args(field.type)[0])
        return _scalar(text, float if field.type is float else type(default))
    except (ValueError, IndexError) as error:
        raise ValueError(f"{source.name}: '{text}' is no value of its parameter '{field.name}'.") from error


def _scalar(text: str, kind: type) -> object:
    if kind is bool and text in ("true", "false"):
        return text == "true"
    if kind in (int, float, str) or issubclass(kind, Enum):
        return kind(text)
    raise ValueError(text)


def _score(dataset: Any, entry: Mapping[str, Any]) -> object:
    try:
        return dataset.score_answer(entry["answer"], entry)
    except Exception:  # whatever the family's scorer raises on its own answer, it must raise it on both entries
        return None
