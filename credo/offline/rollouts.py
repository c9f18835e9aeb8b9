"""``credo prm rollouts``: responses to problems, sampled and judged, as rows that ``credo prm train`` learns from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from credo.console import Console
from credo.data.problems import load_problems
from credo.options.offline import PrmRolloutsOptions
from credo.options.shared import check_folder_of
from credo.sampler import Drawn, open_sampler, open_verifier, refuse_impossible
from credo.types import Problem, Unknown, Verdict


def make_rollouts(options: PrmRolloutsOptions) -> None:
    """Samples and judges what is not yet in the file. Raises ValueError for what the user can mend."""
    console = Console()
    _check(options)
    sources = [source for source in options.problems.split(",") if source]
    problems = load_problems(sources, kind=options.kind)[0][: options.limit or None]
    done = _kept(options, problems)
    if done:
        console.say(f"{done:,} of {len(problems):,} problems are in {options.output} already.")
    if done < len(problems):
        _extend(options, problems, done, console)
    with options.output.open(encoding="utf-8") as file:
        counts = Counter(json.loads(line)["score"] is None for line in file)
    console.say(f"{counts[False]:,} labelled responses and {counts[True]:,} of unknown label are in {options.output}.")


def _extend(options: PrmRolloutsOptions, problems: Sequence[Problem], done: int, console: Console) -> None:
    """Appends the responses to the problems after the first ``done``."""
    waiting = (len(problems) - done) * options.samples
    with (
        closing(open_verifier(options, {problem.kind for problem in problems})) as verifier,
        closing(open_sampler(options, problems, console)) as sampler,
        console.stage("rollouts", "responses", waiting) as progress,
        options.output.open("a", encoding="utf-8") as file,
    ):
        for first in range(done, len(problems), options.at_once):
            chosen = problems[first : first + options.at_once]
            drawn = sampler.draw(chosen, first)
            tasks = [(problem, one.text) for problem, of in zip(chosen, drawn, strict=True) for one in of]
            verdicts = iter(verifier.verify(tasks))
            for problem, of in zip(chosen, drawn, strict=True):
                for sample, one in enumerate(of):
                    file.write(json.dumps(_row(problem, sample, one, next(verdicts), options)) + "\n")
            file.flush()
            progress(len(tasks))


def _row(
    problem: Problem, sample: int, drawn: Drawn, verdict: Verdict | Unknown, options: PrmRolloutsOptions
) -> dict[str, Any]:
    prompt = problem.prompt
    turns = prompt if isinstance(prompt, str) else [{"role": turn.role, "content": turn.content} for turn in prompt]
    return {
        "id": problem.id,
        "group": f"{problem.source}:{problem.id}",
        "sample": sample,
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


def _kept(options: PrmRolloutsOptions, problems: Sequence[Problem]) -> int:
    """How many problems the file has all responses to; what follows them, half a row or half a problem, is cut off.

    Raises ValueError if the file holds responses to other problems, or of another model or seed.
    """
    if not options.output.exists():
        return 0
    done = keep = place = 0
    for number, (line, row) in enumerate(_whole_rows(options.output)):
        index, sample = divmod(number, options.samples)
        expected = (problems[index].id, sample) if index < len(problems) else None
        of_this = [row.get(key) == getattr(options, key) for key in ("model", "seed", "temperature")]
        if expected != (row.get("id"), row.get("sample")) or not all(of_this):
            raise ValueError(
                f"Row {number + 1} of {options.output} is not what this command makes there; it has other problems, "
                "samples, model, seed or temperature. Name another --output, or give the command that made it."
            )
        place += len(line)
        if sample == options.samples - 1:
            done, keep = index + 1, place
    with options.output.open("rb+") as file:
        file.truncate(keep)
    return done


def _whole_rows(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The lines that end, with what they say."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise ValueError(f"Row {number} of {path} is not a JSON object; name another --output.")
            yield line, row


def _check(options: PrmRolloutsOptions) -> None:
    refuse_impossible(options)
    if options.at_once < 1:
        raise ValueError("--at-once is 1 or more.")
    if options.temperature == 0:
        raise ValueError("--temperature 0 gives the same response each time; there is nothing to tell apart.")
    if not options.problems.strip(","):
        raise ValueError("--problems names no source; give files or gym:FAMILY, separated by commas.")
    check_folder_of(options.output)
