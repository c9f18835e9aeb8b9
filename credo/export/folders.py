"""``credo export``: the models of a checkpoint as Hugging Face folders, whole or not at all, and read back before.

A checkpoint is a run's memory and holds them already; here they get their cards, and the PRM what says how to read it.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from credo.checkpoint import Checkpoint, newest_whole, read, worths
from credo.checkpoint.folder import name_of, steps_in
from credo.checkpoint.snapshot import ADAPTER, AVERAGE
from credo.config import TrainConfig
from credo.console import Console
from credo.data.prm_record import PrmRecord, Prompting, found_anywhere, write_record
from credo.export.card import Origin, base_of, policy_card, prm_card
from credo.models.causal import fingerprint, load_model
from credo.models.lora import WEIGHTS
from credo.options.export import ExportOptions
from credo.recipe import build
from credo.run_folder import EVALUATION, METRICS

CARD = "README.md"
OF_THE_MODEL = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json")
"""Files beside an adapter's tokenizer that the whole model has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A folder that has been written and read back."""

    folder: Path
    sha256: str
    """The fingerprint of the weights that the role has, merged or not."""


def export(options: ExportOptions) -> None:
    """Writes DIR/policy and DIR/prm. Raises ValueError for what the user can mend; then nothing is left behind."""
    console = Console()
    target = _target(options)
    checkpoint = chosen(options, console)
    config = _config(checkpoint)
    kept = options.adapters == "kept"
    if kept and not config.lora.rank:
        raise ValueError("--adapters kept: this run has trained whole models (lora.rank = 0); leave it at merged.")
    aside = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        _write(checkpoint, config, aside, target, kept=kept)
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    names = " and ".join(str(path) for path in sorted(target.iterdir(), reverse=True))
    console.say(f"Step {checkpoint.step} of {options.run} is in {names}, read back and bit-equal.")


def chosen(options: ExportOptions, console: Console) -> Checkpoint:
    """The checkpoint that ``options`` ask for. Raises ValueError if there is none, or if it is damaged."""
    checkpoints = options.run / "checkpoints"
    steps = steps_in(checkpoints)
    if not steps:
        raise ValueError(f"{options.run} holds no checkpoints; name the folder of a run of credo train.")
    there = ", ".join(map(str, steps))
    if options.best and options.step is not None:
        raise ValueError("--step and --best both choose a checkpoint; give one of them.")
    if options.step is not None:
        if options.step not in steps:
            raise ValueError(f"{options.run} has no checkpoint of step {options.step}; it has {there}.")
        return read(checkpoints / name_of(options.step))
    newest = newest_whole(checkpoints, console.warn)
    assert newest is not None
    if not options.best:
        return newest
    metric = _config(newest).checkpoint.metric
    lines = _lines(options.run / METRICS) + _lines(options.run / EVALUATION)
    worth = {step: value for step, value in worths(lines, metric).items() if step in steps}
    if not worth:
        raise ValueError(f"No checkpoint of {options.run} has a {metric} (steps {there}); choose one by --step.")
    return read(checkpoints / name_of(max(worth, key=lambda step: (worth[step], step))))


def refuse_difference(copy: Path, source: Path) -> str:
    """Loads both models; the fingerprint of their weights. Raises RuntimeError unless they are bit-equal."""
    hashes = {fingerprint(load_model(str(folder))) for folder in (source, copy)}
    if len(hashes) > 1:
        raise RuntimeError(f"{copy} does not read back as what {source} holds; try again, on another disk.")
    return hashes.pop()


def refuse_other_adapter(copy: Path, source: Path, base: str, base_sha256: str) -> None:
    """Puts the adapter on its base. Raises ValueError without that base, RuntimeError unless it is bit-equal."""
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file

    start = load_model(base)
    if fingerprint(start) != base_sha256:
        raise ValueError(
            f"model.path = '{base}' holds other weights than when the run began, so its adapters fit nothing; put them "
            "back, or export --adapters merged."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about what PEFT asks it
        put_on: Any = get_peft_model_state_dict(PeftModel.from_pretrained(start.model, copy))
    saved = load_file(source / WEIGHTS)
    if put_on.keys() != saved.keys() or not all(torch.equal(put_on[name], saved[name]) for name in saved):
        raise RuntimeError(f"{copy} does not read back as what {source} holds; try again, on another disk.")


def _target(options: ExportOptions) -> Path:
    if options.to is None:
        raise ValueError("--to is missing: name the folder to make.")
    if options.to.exists():
        raise ValueError(f"--to {options.to} is there already; name a folder that is not, nothing is written over.")
    options.to.parent.mkdir(parents=True, exist_ok=True)
    return options.to


def _config(checkpoint: Checkpoint) -> TrainConfig:
    sections: dict[str, dict[str, Any]] = {}
    for key, value in checkpoint.state["config"].items():
        head, name = key.split(".")
        sections.setdefault(head, {})[name] = value
    try:
        return build(TrainConfig, sections)
    except ValueError as error:
        raise ValueError(f"{checkpoint.folder} was saved by another version of credo: {error}") from error


def _write(checkpoint: Checkpoint, config: TrainConfig, aside: Path, target: Path, *, kept: bool) -> None:
    """The folders, below ``aside`` as yet."""
    origin = _origin(checkpoint, config)
    policy = _copied(checkpoint, "policy", aside / "policy", config, kept=kept)
    (policy.folder / CARD).write_text(policy_card(origin, policy.sha256, adapter=kept), encoding="utf-8")
    if not config.prm.enabled:
        return
    scoring = AVERAGE if (checkpoint.folder / AVERAGE).is_dir() else "prm"
    prm = _copied(checkpoint, scoring, aside / "prm", config, kept=kept)
    reference, sha256 = _reference(config, checkpoint, policy.sha256, target)
    record = PrmRecord(
        beta=config.prm.beta,
        loss=config.prm.loss,
        reference=reference,
        reference_sha256=sha256,
        prompting=Prompting(template=config.data.template, system=config.data.system, suffix=config.data.suffix),
        steps=checkpoint.step,
        training=_facts(origin, prm.sha256, averaged=scoring == AVERAGE),
    )
    write_record(prm.folder, record)
    (prm.folder / CARD).write_text(prm_card(origin, record, prm.sha256, adapter=kept), encoding="utf-8")


def _copied(checkpoint: Checkpoint, role: str, folder: Path, config: TrainConfig, *, kept: bool) -> Exported:
    """The model of ``role`` in ``folder``, read back."""
    whole = checkpoint.folder / role
    if not kept:
        shutil.copytree(whole, folder)
        return Exported(folder=folder, sha256=refuse_difference(folder, whole))
    adapter = whole.with_name(role + ADAPTER)
    shutil.copytree(adapter, folder)
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns(*OF_THE_MODEL), dirs_exist_ok=True)
    refuse_other_adapter(folder, adapter, config.model.path, checkpoint.state["fingerprint"])
    return Exported(folder=folder, sha256=fingerprint(load_model(str(whole))))


def _reference(config: TrainConfig, checkpoint: Checkpoint, policy_sha256: str, target: Path) -> tuple[str, str]:
    """What the PRM is measured against, as ``prm.json`` names it, and its fingerprint."""
    match config.prm.reference:
        case "policy":
            return str((target / "policy").resolve()), policy_sha256
        case "own":
            path = config.prm.path
        case "initial":
            path = config.prm.reference_path or config.model.path
    found = checkpoint.state["fingerprint"] if path == config.model.path else fingerprint(load_model(path))
    return found_anywhere(path), found


def _facts(origin: Origin, sha256: str, *, averaged: bool) -> dict[str, Any]:
    """What ``prm.json`` says beyond what scoring needs."""
    config = origin.config
    return {
        "run": origin.run,
        "step": origin.step,
        "semantics": config.advantage.semantics,
        "granularity": config.prm.granularity,
        "averaged": averaged,
        "weights_sha256": sha256,
        "sources": list(config.data.train),
        "sha256": origin.problems_sha256,
    }


def _origin(checkpoint: Checkpoint, config: TrainConfig) -> Origin:
    step, path = checkpoint.step, config.model.path
    run = checkpoint.folder.parent.parent
    metrics: Mapping[str, Any] = next((row for row in _lines(run / METRICS) if row["step"] == step), {})
    return Origin(
        run=config.run.name,
        step=step,
        config=config,
        problems_sha256=checkpoint.state["collector"]["stream"]["problems"],
        start_sha256=checkpoint.state["fingerprint"],
        base=base_of(path, local=Path(path).expanduser().exists()),
        metrics=metrics,
        evaluations=[row for row in _lines(run / EVALUATION) if row["step"] <= step],
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file that a run may be writing, so that the last may be half a line."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows
