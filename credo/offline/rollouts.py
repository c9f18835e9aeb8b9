"""``credo prm rollouts``: responses to problems, sampled and judged, as rows that ``credo prm train`` learns from."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from credo.console import Console
from credo.data.problems import load_problems
from credo.models.causal import CausalModel, fingerprint
from credo.options.offline import PrmRolloutsOptions
from credo.options.shared import check_folder_of
from credo.sampler import Drawn, open_model, open_sampler, open_verifier, refuse_impossible
from credo.types import Problem, Unknown, Verdict


def make_rollouts(options: PrmRolloutsOptions) -> None:
    """Samples and judges what is not yet in the file. Raises ValueError for what the user can mend."""
    console = Console()
    _check(options)
    sources = [source for source in options.problems.split(",") if source]
    problems = load_problems(sources, kind=options.kind)[0][: options.limit or None]
    start = open_model(options)
    marked = _marked(options, problems, start)
    done = _kept(options, list(marked))
    if done:
        console.say(f"{done:,} of {len(problems):,} problems are in {options.output} already.")
    if done < len(problems):
        _extend(options, marked, done, start, console)
    with options.output.open(encoding="utf-8") as file:
        counts = Counter(json.loads(line)["score"] is None for line in file)
    console.say(f"{counts[False]:,} labelled responses and {counts[True]:,} of unknown label are in {options.output}.")


def _extend(
    options: PrmRolloutsOptions, marked: Mapping[str, Problem], done: int, start: CausalModel, console: Console
) -> None:
    """Appends the responses to the problems after the first ``done``."""
    marks, problems = list(marked), list(marked.values())
    waiting = (len(marks) - done) * options.samples
    with (
        closing(open_verifier(options, {problem.kind for problem in problems})) as verifier,
        closing(open_sampler(start, options, problems, console)) as sampler,
        console.stage("rollouts", "responses", waiting) as progress,
        options.output.open("a", encoding="utf-8") as file,
    ):
        for first in range(done, len(problems), options.at_once):
            chosen = marks[first : first + options.at_once]
            drawn = sampler.draw(problems[first : first + options.at_once], first)
            tasks = [(marked[mark], one.text) for mark, of in zip(chosen, drawn, strict=True) for one in of]
            verdicts = iter(verifier.verify(tasks))
            for mark, of in zip(chosen, drawn, strict=True):
                for sample, one in enumerate(of):
                    row = {"drawn_by": mark, "sample": sample} | _row(marked[mark], one, next(verdicts), options)
                    file.write(json.dumps(row) + "\n")
            file.flush()
            progress(len(tasks))


def _row(problem: Problem, drawn: Drawn, verdict: Verdict | Unknown, options: PrmRolloutsOptions) -> dict[str, Any]:
    prompt = problem.prompt
    turns = prompt if isinstance(prompt, str) else [{"role": turn.role, "content": turn.content} for turn in prompt]
    return {
        "id": problem.id,
        "prompt": turns,
        "response": drawn.text,
        "answer": problem.answer,
        "kind": problem.kind,
        "score": verdict.score if isinstance(verdict, Verdict) else None,
        "reason": verdict.reason,
        "finish": drawn.finish,
        "model": options.model,
        "seed": options.seed,
        "temperature": options.temperature,
        "extra": dict(problem.extra),
    }


def _marked(options: PrmRolloutsOptions, problems: Sequence[Problem], start: CausalModel) -> dict[str, Problem]:
    """The problems by a hash of all that their responses and labels depend on; ``--compute auto`` counts as it stands,
    whatever it comes to on a machine."""
    free = {"problems", "limit", "output", "at_once", "threads", "device", "concurrent"}
    asked = sorted((name, value) for name, value in vars(options).items() if name not in free), fingerprint(start)
    return {hashlib.sha256(repr((asked, problem)).encode()).hexdigest()[:16]: problem for problem in problems}


def _kept(options: PrmRolloutsOptions, marks: Sequence[str]) -> int:
    """How many problems the file has all responses to; what follows them, half a row or half a problem, is cut off.

    Raises ValueError if the file holds responses to other problems, of other weights or by other options.
    """
    if not options.output.exists():
        return 0
    done = keep = place = 0
    with options.output.open("rb+") as file:
        for number, line in enumerate(file):
            if not line.endswith(b"\n"):
                break
            index, sample = divmod(number, options.samples)
            mark = marks[index] if index < len(marks) else ""
            if not line.startswith(f'{{"drawn_by": "{mark}", "sample": {sample}, '.encode()):
                raise ValueError(
                    f"Row {number + 1} of {options.output} is not what this command makes there; other problems, other "
                    "weights or other options made it. Name another --output, or give the command that made it."
                )
            place += len(line)
            if sample == options.samples - 1:
                done, keep = index + 1, place
        file.truncate(keep)
    return done


def _check(options: PrmRolloutsOptions) -> None:
    refuse_impossible(options)
    if options.at_once < 1:
        raise ValueError("--at-once is 1 or more.")
    if options.temperature == 0:
        raise ValueError("--temperature 0 gives the same response each time; there is nothing to tell apart.")
    if not options.problems.strip(","):
        raise ValueError("--problems names no source; give files or gym:FAMILY, separated by commas.")
    check_folder_of(options.output)
