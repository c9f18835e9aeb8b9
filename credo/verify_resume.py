"""Whether a run that is killed and goes on is the run that was not: made twice, and compared bit by bit.

The runs are processes of their own, which are told nothing of it but when to die. One process each: ranks are not its
business.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from credo.checkpoint import newest_whole
from credo.checkpoint.folder import STATE, name_of
from credo.checkpoint.snapshot import ADAPTER, AVERAGE, CRITIC_WEIGHTS, OPTIMIZERS, RANDOM
from credo.config import CheckpointConfig, TrainConfig, TrainRecipe
from credo.config.checks import unread
from credo.dist.device import choose_device
from credo.run_folder import EVALUATION, LOG, METRICS
from credo.train import train

UNDISTURBED, KILLED = "undisturbed", "killed"
TIMED = ("time/", "perf/", "mem/")
"""How the names of metrics begin that differ between two runs that are the same."""
PATIENCE = 3600.0
"""Seconds without a word or a step after which a run counts as stuck."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One thing that two runs have in common, or not."""

    what: str
    count: int
    """Tensors, or numbers and words, that were compared; 0 if this recipe has no such thing."""
    difference: str | None
    """The first one found."""


def verify_resume(recipe: TrainRecipe, *, steps: int = 2, output: Path | None = None) -> Path:
    """Makes twice ``steps`` steps of ``recipe`` and one more, undisturbed and killed in the step after ``steps``.

    Prints what was compared and writes it to ``output``, by default beside the run's folder; returns that path. Raises
    ValueError for what the user can mend, RuntimeError if a run ends otherwise than it should, or if anything differs:
    then both runs stay for inspection.
    """
    if steps < 1:
        raise ValueError(f"--steps is {steps}; a run needs at least one step to be resumed after.")
    said = [option.name for option in fields(recipe.launch)]
    unread(recipe.launch, "launch", *said, cause="in verify-resume, which runs in one process")
    config = recipe.config
    folder = Path(config.run.folder) / f"{config.run.name}-verify-resume"
    output = output or folder.with_suffix(".json")
    shutil.rmtree(folder, ignore_errors=True)
    whole, killed = (_altered(config, folder, name, steps) for name in (UNDISTURBED, KILLED))
    _say(f"1 of 3: {whole.run.steps} steps without a disturbance")
    _made(whole, fresh=True)
    _say(f"2 of 3: the same, killed in step {steps + 1}")
    _made(killed, fresh=True, killed_after=steps)
    found = newest_whole(folder / KILLED / "checkpoints", _say)
    if found is None or found.step != steps:
        raise RuntimeError(f"The run in {folder / KILLED} was killed, but left no checkpoint of step {steps}.")
    _say(f"3 of 3: resumed after step {steps}")
    _made(killed)
    compared = compare(folder / UNDISTURBED, folder / KILLED, 2 * steps)
    _say(table(compared))
    different = [comparison.what for comparison in compared if comparison.difference]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(_account(config, steps, compared), indent=1) + "\n", encoding="utf-8")
    if different:
        raise RuntimeError(
            f"Resumed is not undisturbed: {', '.join(different)}. See {output}; both runs are in {folder}."
        )
    shutil.rmtree(folder)
    _say(f"A run killed in step {steps + 1} and resumed is the run that was not. Written to {output}.")
    return output


def compare(one: Path, other: Path, step: int) -> list[Comparison]:
    """What the runs in the folders ``one`` and ``other`` were after ``step``, and the batch of the step after it."""
    saved = [run / "checkpoints" / name_of(step) for run in (one, other)]
    states = [json.loads((folder / STATE).read_text(encoding="utf-8")) for folder in saved]
    moments = [folder / OPTIMIZERS for folder in saved]

    def weights(what: str, *names: str) -> Comparison:
        return _tensors(what, *([folder / name for name in names] for folder in saved))

    def kept(what: str, prefix: str) -> Comparison:
        return _tensors(what, *([folder] for folder in moments), prefix=prefix)

    def collected(what: str, *names: str) -> Comparison:
        return _values(what, *({name: state["collector"].get(name) for name in names} for state in states))

    return [
        weights("policy: weights", "policy", f"policy{ADAPTER}"),
        kept("policy: optimiser", "policy/"),
        weights("PRM: weights", "prm", f"prm{ADAPTER}"),
        weights("PRM: average of weights", AVERAGE),
        kept("PRM: optimiser", "prm/"),
        kept("critic: weights", CRITIC_WEIGHTS),
        kept("critic: optimiser", "critic/"),
        kept("random state", RANDOM),
        collected("data stream", "stream"),
        collected("surplus groups", "surplus", "surplus_version"),
        collected("batch sampled ahead", "ahead"),
        _values("watch and gate", *({name: state[name] for name in ("watch", "gate")} for state in states)),
        _values("metrics", *(_rows(run / METRICS, step) for run in (one, other))),
        _values("evaluations", *(_rows(run / EVALUATION, step) for run in (one, other))),
        _values("rollouts", *(_rollouts(run, range(step + 1)) for run in (one, other))),
        _values("next batch", *(_rollouts(run, range(step + 1, step + 2)) for run in (one, other))),
    ]


def table(compared: Sequence[Comparison]) -> str:
    """A line for each comparison."""
    width = max(len(comparison.what) for comparison in compared) + 2
    verdicts = [
        "this recipe has none" if not found.count and not found.difference else found.difference or "equal"
        for found in compared
    ]
    return "\n".join(
        f"  {found.what:<{width}}{found.count or '-':>9}  {verdict}"
        for found, verdict in zip(compared, verdicts, strict=True)
    )


def _altered(config: TrainConfig, folder: Path, name: str, steps: int) -> TrainConfig:
    """``config`` in a folder of its own, with a checkpoint after ``steps``, not judged, and all roles learning."""
    run = replace(config.run, folder=str(folder), name=name, steps=2 * steps + 1, trackers=())
    checkpoint = CheckpointConfig(every=steps, keep=3, asynchronous=config.checkpoint.asynchronous, rollouts_every=1)
    prm = replace(config.prm, warmup_steps=min(config.prm.warmup_steps, steps - 1))
    critic = replace(config.critic, warmup_steps=min(config.critic.warmup_steps, steps - 1))
    return replace(config, run=run, checkpoint=checkpoint, prm=prm, critic=critic)


def _account(config: TrainConfig, steps: int, compared: Sequence[Comparison]) -> dict[str, Any]:
    from credo import __version__

    device = choose_device(config.run.device)
    return {
        "equal": not any(comparison.difference for comparison in compared),
        "run": config.run.name,
        "policy_learns_after_step": min(config.policy_starts, steps - 1),
        "killed_in_step": steps + 1,
        "resumed_after_step": steps,
        "compared_after_step": 2 * steps,
        "versions": {"credo": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "device": torch.cuda.get_device_name() if device == "cuda" else f"cpu ({platform.machine()})",
        "compared": [asdict(found) | {"equal": found.difference is None} for found in compared],
    }


def _made(config: TrainConfig, *, fresh: bool = False, killed_after: int | None = None) -> None:
    """Runs ``config`` in a process of its own, which does not outlive this call.

    Runs that are ``fresh`` begin with the same random state; one that is resumed has to find it in the checkpoint.
    Raises what the run raised, or RuntimeError if it ended, or did not end, in another way than was asked for.
    """
    starter = multiprocessing.get_context("spawn")
    here, there = starter.Pipe(duplex=False)
    process = starter.Process(target=_child, args=(there, config, fresh, killed_after))
    process.start()
    there.close()
    try:
        folder = Path(config.run.folder) / config.run.name
        size, moved = -1, time.monotonic()
        while process.is_alive():
            process.join(0.2)
            written = sum(path.stat().st_size for name in (LOG, METRICS) if (path := folder / name).exists())
            if written != size:
                size, moved = written, time.monotonic()
            elif time.monotonic() - moved > PATIENCE:
                raise RuntimeError(f"The run in {folder} has been silent for {PATIENCE:.0f} s and was ended.")
    finally:
        process.kill()
        process.join()
    error = _heard(here)
    if error is not None:
        raise error
    if process.exitcode != (0 if killed_after is None else -signal.SIGKILL):
        raise RuntimeError(f"The run in {folder} ended with status {process.exitcode}; its last words are above.")


def _heard(connection: Connection) -> Exception | None:
    try:
        return connection.recv() if connection.poll() else None
    except EOFError:
        return None


def _child(connection: Connection, config: TrainConfig, fresh: bool, killed_after: int | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if fresh:
        torch.manual_seed(config.run.seed)
    try:
        train(config, report=None if killed_after is None else _Killer(config, killed_after))
    except (ValueError, RuntimeError, OSError) as error:
        connection.send(error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)


class _Killer:
    """Ends its own process half a step after the checkpoint of the step ``after`` is on disk.

    Should the next step be faster than that, it dies with its metrics written and its rollouts not.
    """

    def __init__(self, config: TrainConfig, after: int) -> None:
        self.after = after
        self.saved = Path(config.run.folder) / config.run.name / "checkpoints" / name_of(after)

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        """Told of the metrics of every step."""
        if step == self.after:
            threading.Thread(target=self._kill, args=(metrics["time/step"] / 2,), daemon=True).start()
        elif step > self.after:
            self._kill(0.0)

    def _kill(self, delay: float) -> None:
        while not self.saved.is_dir():
            time.sleep(0.01)
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGKILL)


def _tensors(what: str, one: Sequence[Path], other: Sequence[Path], *, prefix: str = "") -> Comparison:
    """The tensors whose names begin with ``prefix`` in the safetensors files of two lists of folders."""
    here, there = (
        {key: path for folder in folders for key, path in _places(folder, prefix)} for folders in (one, other)
    )
    return Comparison(what=what, count=len(here), difference=_first_tensor(here, there))


def _places(folder: Path, prefix: str) -> Iterator[tuple[tuple[str, str], Path]]:
    """The tensors of ``folder``, by folder and file on the one hand and name on the other, and where each stands."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118, it is no dict
                if name.startswith(prefix):
                    yield (f"{folder.name}/{path.name}", name), path


def _first_tensor(here: Mapping[tuple[str, str], Path], there: Mapping[tuple[str, str], Path]) -> str | None:
    for file, name in sorted(here.keys() | there.keys()):
        key = file, name
        if key not in here or key not in there:
            return f"{name} is in one alone"
        one, other = (_tensor(places[key], name) for places in (here, there))
        if one.dtype != other.dtype or one.shape != other.shape:
            return f"{name} is {tuple(one.shape)} {one.dtype} and {tuple(other.shape)} {other.dtype}"
        if not torch.equal(one.flatten().view(torch.uint8), other.flatten().view(torch.uint8)):
            return f"{name}: {_distance(one, other)}"
    return None


def _tensor(path: Path, name: str) -> Tensor:
    with safe_open(path, "pt") as file:
        return file.get_tensor(name)


def _distance(one: Tensor, other: Tensor) -> str:
    one, other = one.flatten().double(), other.flatten().double()
    places = (one != other).nonzero().flatten()
    if not len(places):
        return "the same numbers in other bits"
    at = int(places[0])
    most = (one - other).abs().max().item()
    return f"{len(places)} of {len(one)} numbers, first {one[at]:.9g} and {other[at]:.9g}, at most {most:.3g} apart"


def _values(what: str, one: Any, other: Any) -> Comparison:
    one, other = _untimed(one), _untimed(other)
    return Comparison(what=what, count=_leaves(one), difference=_first_value(one, other, ""))


def _first_value(one: Any, other: Any, place: str) -> str | None:
    """Where two trees of JSON values first differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        absent = sorted(one.keys() ^ other.keys())
        if absent:
            return f"{place}.{absent[0]} is in one alone".lstrip(".")
        pairs = [(one[key], other[key], f"{place}.{key}".lstrip(".")) for key in one]
    elif isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return f"{place}: {len(one)} and {len(other)} entries".lstrip(": ")
        pairs = [
            (mine, theirs, f"{place}[{index}]") for index, (mine, theirs) in enumerate(zip(one, other, strict=True))
        ]
    else:
        return None if repr(one) == repr(other) else f"{place}: {one!r} and {other!r}"
    return next((found for pair in pairs if (found := _first_value(*pair)) is not None), None)


def _leaves(value: Any) -> int:
    """Numbers and words in a tree of JSON values."""
    if isinstance(value, dict | list):
        return sum(map(_leaves, value.values() if isinstance(value, dict) else value))
    return int(value is not None)


def _untimed(value: Any) -> Any:
    """A tree of JSON values without the metrics that differ between two runs that are the same."""
    if isinstance(value, dict):
        return {key: _untimed(entry) for key, entry in value.items() if not key.startswith(TIMED)}
    return [_untimed(entry) for entry in value] if isinstance(value, list) else value


def _rows(path: Path, last: int | None = None) -> list[dict[str, Any]]:
    """The JSON lines of a file, up to the step ``last``; none if it is not there."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    rows = [json.loads(line) for line in text.split("\n") if line]
    return rows if last is None else [row for row in rows if row["step"] <= last]


def _rollouts(run: Path, steps: range) -> dict[str, Any]:
    paths = (run / "rollouts" / f"{name_of(step)}.jsonl" for step in steps)
    return {path.stem: _rows(path) for path in paths if path.exists()}


def _say(line: str) -> None:
    print(line, flush=True)
