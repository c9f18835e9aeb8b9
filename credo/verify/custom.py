"""Judging with a function of the user's, in the pool's killable child processes.

``verify.kind`` names it: ``python:MODULE:FUNCTION`` with our signature, ``trl:MODULE:FUNCTION`` for a reward function
of TRL's GRPOTrainer, ``verl:FILE.py[:FUNCTION]`` for verl's ``compute_score``. A MODULE is a dotted name, found among
installed packages and in the working directory, or the path of a .py file.

Ours is ``function(response: str, answer: str, problem: Problem) -> float | bool | Verdict | Unknown``. Scores lie in
[0, 1]; from 0.99 on a response counts as correct. A function is called for one response at a time. It sees the
environment and the working directory, but what it prints is lost and a file that it writes may have 1 MiB. What it
raises, times out on or returns in error is unknown with the reason.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from selectors import EVENT_READ, DefaultSelector
from time import monotonic
from typing import Any, cast, get_args

from credo.verify.adapters import FunctionPlace, Style
from credo.verify.pool import JudgePool
from credo.verify.process import Process
from credo.verify.worker import START_SECONDS, pack

_FORMS = "python:MODULE:FUNCTION, trl:MODULE:FUNCTION or verl:FILE.py[:FUNCTION]"


def function_pool(kind: str, *, workers: int = 2, deadline: float = 5.0, memory_mb: int = 2048) -> JudgePool:
    """A pool in which the function that ``kind`` names judges every problem, whatever its kind.

    ``deadline`` is wall-clock seconds for one response; ``memory_mb`` bounds what a child takes beyond its imports.
    Raises ValueError if there is no such function or it cannot be called; this loads it once, in a child.
    """
    own = {"function": asdict(function_place(kind)), "environment": dict(os.environ)}
    pool = JudgePool(workers=workers, deadline=deadline, memory_mb=memory_mb, own=own)
    _refuse_unusable(kind, own | {"deadline": deadline, "memory_mb": memory_mb})
    return pool


def function_place(kind: str) -> FunctionPlace:
    """The parts of ``verify.kind``. ValueError: it does not name a function."""
    style, _, rest = kind.partition(":")
    module, _, name = rest.rpartition(":")
    if style == "verl" and not module:
        module, name = rest, "compute_score"
    if style not in get_args(Style) or not module or not name.isidentifier():
        raise ValueError(f"verify.kind: '{kind}' does not name a function; write {_FORMS}, or auto.")
    if "/" in module and not module.endswith(".py"):
        raise ValueError(f"verify.kind: '{module}' is neither a module's dotted name nor the path of a .py file.")
    return FunctionPlace(style=cast(Style, style), module=module, name=name, folder=os.getcwd())


def _refuse_unusable(kind: str, settings: dict[str, Any]) -> None:
    """Let one child load the function. Raises ValueError with what it says if it cannot."""
    process = Process(settings)
    try:
        process.send(pack({"warm": ""}))
        ends = monotonic() + START_SECONDS
        with DefaultSelector() as selector:
            selector.register(process.stdout, EVENT_READ)
            while process.receive() is None:
                if not selector.select(max(0.0, ends - monotonic())):
                    raise ValueError(f"verify.kind = '{kind}': it does not load within {START_SECONDS:g} s.")
    except EOFError as error:
        raise ValueError(process.last_words() or f"verify.kind = '{kind}': the process that loads it dies.") from error
    finally:
        process.kill()
