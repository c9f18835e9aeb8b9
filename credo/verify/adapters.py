"""Functions that users bring along, called as they expect it: ours, TRL's reward functions, verl's ``compute_score``.

It runs in the pool's child processes and ignores deadlines. What a function fails to say is unknown with the reason,
never a score.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, SupportsFloat

Style = Literal["python", "trl", "verl"]
Task = Mapping[str, Any]
"""The fields of a Problem as JSON values, and ``response``."""

_RESCALE = (
    "credo's outcomes lie in [0, 1]; rescale it in the function: (reward - lowest) / (highest - lowest), "
    "and clip to [0, 1] if it has no bounds"
)
_MODULE = "credo_user_function"
_NOT_COLUMNS = ("prompt", "completion", "completion_ids")
_ANSWER_COLUMNS = ("answer", "solution", "ground_truth")


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionPlace:
    """Which function of which module or file is called in which style, from which working directory."""

    style: Style
    module: str
    """A dotted name, or the path of a .py file."""
    name: str
    folder: str
    """Where modules and relative paths are looked for, and where the function runs."""

    def __str__(self) -> str:
        return f"{self.style}:{self.module}:{self.name}"


class _AbsentError(ValueError):
    """There is no such module or file."""


class FunctionJudge:
    """Loads the function at the first ``prepare`` and calls it once for each task."""

    def __init__(self, place: FunctionPlace, environment: Mapping[str, str]) -> None:
        self._place, self._environment = place, environment
        self._function: Callable[..., Any] | None = None

    def prepare(self) -> None:
        """Load the function. ValueError: there is no such function, or it cannot be called in its style."""
        if self._function is None:
            for name, value in self._environment.items():
                os.environ.setdefault(name, value)
            os.chdir(self._place.folder)
            with _silence():
                function = load(self._place)
            refuse_signature(self._place, function)
            if self._place.style == "python":
                importlib.import_module("credo.types")  # now, not at the expense of the first response
            self._function = function

    def judge(self, task: Task) -> dict[str, Any]:
        """``{"score", "reason"}`` or ``{"unknown": reason}``; nothing the function raises gets through."""
        assert self._function
        call = {"python": call_python, "trl": call_trl, "verl": call_verl}[self._place.style]
        try:
            with _silence():
                return call(self._function, task)
        except MemoryError:
            return {"unknown": f"{self._place} ran out of memory"}
        except (Exception, SystemExit) as error:
            return {"unknown": f"{self._place} failed: {type(error).__name__}: {error}"}


def load(place: FunctionPlace) -> Callable[..., Any]:
    """The function at ``place``. ValueError: it is not there, is not callable, or its module fails."""
    try:
        module = _from_file(place) if place.module.endswith(".py") else _from_name(place)
    except _AbsentError:
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(f"verify.kind = '{place}': its module fails with {type(error).__name__}: {error}") from error
    if not hasattr(module, place.name):
        from difflib import get_close_matches

        near = get_close_matches(place.name, vars(module), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"verify.kind = '{place}': {place.module} has no function '{place.name}'.{hint}")
    function = getattr(module, place.name)
    if not callable(function):
        raise ValueError(
            f"verify.kind = '{place}': {place.name} is a {type(function).__name__}, which cannot be called; name a "
            "function."
        )
    return function


def refuse_signature(place: FunctionPlace, function: Callable[..., Any]) -> None:
    """Raises ValueError if no call in the style of ``place`` could ever succeed."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions written in C do not tell
        return
    try:
        match place.style:
            case "python":
                signature.bind("", "", None)
                return
            case "verl":
                signature.bind(data_source="", solution_str="", ground_truth="", extra_info=None)
                return
            case "trl":
                beyond = {"completion_ids", "environments"} & {
                    name for name, parameter in signature.parameters.items() if parameter.default is parameter.empty
                }
    except TypeError as error:
        expected = "(response, answer, problem)"
        if place.style == "verl":
            expected = "(data_source, solution_str, ground_truth, extra_info)"
        raise ValueError(
            f"verify.kind = '{place}': {place.name}{signature} does not take {expected}: {error}."
        ) from error
    if beyond:
        raise ValueError(
            f"verify.kind = '{place}': {place.name} needs {' and '.join(sorted(beyond))}, which a verifier does not "
            "have; it judges text."
        )


def call_python(function: Callable[..., Any], task: Task) -> dict[str, Any]:
    """``function(response, answer, problem)`` gives a number in [0, 1], a bool, a Verdict or an Unknown."""
    from credo.types import Message, Problem, Unknown, Verdict

    fields = {name: value for name, value in task.items() if name != "response"}
    if not isinstance(task["prompt"], str):
        fields["prompt"] = tuple(Message(**message) for message in task["prompt"])
    match _waited_for(function(task["response"], task["answer"], Problem(**fields))):
        case Unknown(reason=reason):
            return {"unknown": str(reason)}
        case Verdict(score=score, reason=reason):
            return scored(score) | {"reason": str(reason)}
        case score:
            return scored(score)


def call_trl(function: Callable[..., Any], task: Task) -> dict[str, Any]:
    """``function(prompts=[..], completions=[..], **columns)`` gives ``[reward]``: a batch of one, whatever it was.

    Columns are the problem's ``extra``; the answer is there as ``answer``, ``solution`` and ``ground_truth`` unless
    ``extra`` says otherwise. After a prompt of messages the completion is a list with the assistant's message.
    """
    prompt, response = task["prompt"], task["response"]
    columns = dict.fromkeys(_ANSWER_COLUMNS, task["answer"]) | task["extra"]
    given: dict[str, Any] = {name: [value] for name, value in columns.items() if name not in _NOT_COLUMNS}
    given |= {"trainer_state": None, "log_extra": _ignore, "log_metric": _ignore}
    given["prompts"] = [prompt]
    given["completions"] = [response if isinstance(prompt, str) else [{"role": "assistant", "content": response}]]
    rewards = _waited_for(function(**_accepted(function, given)))
    try:
        (reward,) = rewards
    except (TypeError, ValueError):  # not a sequence, or not of one
        return {"unknown": f"it returned {_what(rewards)} for one completion, expected a list of one reward"}
    return {"unknown": "it returned None, so it does not judge this response"} if reward is None else scored(reward)


def call_verl(function: Callable[..., Any], task: Task) -> dict[str, Any]:
    """``compute_score(data_source=.., solution_str=.., ground_truth=.., extra_info=..)`` gives a number, a mapping with
    ``score``, or a sequence that begins with the score.

    ``data_source`` and ``extra_info`` come from the problem's ``extra``; without them they are its source and all of
    its ``extra``.
    """
    extra = task["extra"]
    result = _waited_for(
        function(
            data_source=extra["data_source"] if "data_source" in extra else task["source"],
            solution_str=task["response"],
            ground_truth=task["answer"],
            extra_info=extra["extra_info"] if "extra_info" in extra else dict(extra),
        )
    )
    if isinstance(result, Mapping):
        if "score" not in result:
            return {"unknown": f"it returned a mapping without 'score': {', '.join(map(str, result)) or 'empty'}"}
        result = result["score"]
    elif isinstance(result, list | tuple) and result:
        result = result[0]
    return scored(result)


def scored(value: object) -> dict[str, Any]:
    """``value`` as a reply, if it is a number in [0, 1] and nothing else."""
    if not isinstance(value, SupportsFloat):
        return {"unknown": f"it returned {_what(value)}, expected a number in [0, 1]"}
    score = float(value)
    if score != score:
        return {"unknown": "its score is not a number (NaN)"}
    if not 0.0 <= score <= 1.0:
        return {"unknown": f"its score is {score:g}; {_RESCALE}"}
    return {"score": score, "reason": ""}


def _from_file(place: FunctionPlace) -> Any:
    path = Path(place.folder, Path(place.module).expanduser())
    if not path.is_file():
        raise _AbsentError(f"verify.kind = '{place}': there is no file {path}.")
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module
    spec.loader.exec_module(module)
    return module


def _from_name(place: FunctionPlace) -> Any:
    sys.path.insert(0, place.folder)
    try:
        return importlib.import_module(place.module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place.module}.".startswith(f"{error.name}."):
            raise
        raise _AbsentError(
            f"verify.kind = '{place}': there is no module '{error.name}', neither installed nor in {place.folder}; "
            "install it, start credo where it is, or give the path of its .py file."
        ) from error


def _accepted(function: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """What ``function`` can be given: everything if it has ``**kwargs``, else what it names."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return given
    return {name: value for name, value in given.items() if name in parameters}


def _waited_for(result: Any) -> Any:
    return asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result


async def _awaited(result: Any) -> Any:
    return await result


def _ignore(*arguments: Any, **options: Any) -> None:
    """Stands in for TRL's logging."""


def _what(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__} ({str(value)[:60]!r})"


@contextmanager
def _silence() -> Iterator[None]:
    """What is printed goes nowhere: the child's error file is small, and full it would raise."""
    with open(os.devnull, "w", errors="replace") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
