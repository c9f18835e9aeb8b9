"""The model card of an exported folder: where its weights come from and how they are meant, as Markdown.

It reads nothing; what it says is handed to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from credo import __version__
from credo.config import DataConfig, TrainConfig
from credo.data.prm_record import PrmRecord
from credo.recipe import to_toml

LEFT_OUT = ("time/", "perf/", "mem/")
"""Metrics of the machine, not of the model."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SEMANTICS = {
    "official": "as the released code of PRIME has them",
    "paper": "as Eq. 5 of PRIME has them",
    "verl": "as verl's PRIME recipe has them",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The checkpoint that a folder was exported from."""

    run: str
    step: int
    config: TrainConfig
    problems_sha256: str
    """Of the problems it was trained on (:func:`credo.data.problems.fingerprint`)."""
    start_sha256: str
    """Of the weights that the policy started from."""
    base: str
    """The hub id of the model it started from; empty for one that is not from a hub."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Those of its step."""
    evaluations: Sequence[Mapping[str, Any]] = ()
    """Those up to its step."""


def policy_card(origin: Origin, sha256: str, *, adapter: bool) -> str:
    """``README.md`` of the policy with weights of that fingerprint."""
    parts = [
        _header(origin, "policy", adapter=adapter),
        f"Trained from `{origin.config.model.path}` by PRIME (process rewards from an implicit PRM, "
        "[arXiv 2502.01456](https://arxiv.org/abs/2502.01456)) with credo "
        f"{__version__}: the policy of `{origin.run}` after step {origin.step:,}.\n",
        "## How to load it\n",
        _loading(origin, adapter=adapter),
        _prompts(origin.config.data),
        *_common(origin, sha256),
    ]
    return "\n".join(parts)


def prm_card(origin: Origin, record: PrmRecord, sha256: str, *, adapter: bool) -> str:
    """``README.md`` of the PRM with weights of that fingerprint."""
    parts = [
        _header(origin, "prm", adapter=adapter),
        f"An implicit process reward model, trained beside the policy of `{origin.run}` on the outcomes of its "
        f"responses alone, after step {origin.step:,}. The reward of a token is beta times its log-probability under "
        "this model minus that under the reference; without the reference it is another reward. A good reward model is "
        "not a good policy.\n",
        "| | |\n|---|---|",
        f"| beta | {record.beta:g} |",
        f"| loss | `{record.loss}` |",
        f"| reference | `{record.reference}` |",
        f"| SHA-256 of its weights | `{record.reference_sha256}` |\n",
        "`prm.json` says the same to programs.\n",
        "## How to load it\n",
        _loading(origin, adapter=adapter),
        "With credo a merged folder is `--prm` of `credo prm score`, `credo prm serve` and `credo evaluate`, and "
        "`prm.path` of `credo train`.\n",
        _prompts(origin.config.data),
        *_common(origin, sha256),
    ]
    return "\n".join(parts)


def base_of(path: str, *, local: bool) -> str:
    """``path`` if it is a hub id, else nothing: the hub refuses others as base of a model."""
    return path if not local and HUB_ID.fullmatch(path) else ""


def _header(origin: Origin, role: Literal["policy", "prm"], *, adapter: bool) -> str:
    """The YAML that the hub reads, each value as JSON writes it."""
    tags = ["credo", "prime", "reinforcement-learning"]
    values: dict[str, Any] = {"library_name": "peft" if adapter else "transformers"}
    if origin.base:
        values["base_model"] = origin.base
    if role == "policy":
        values["pipeline_tag"] = "text-generation"
    values["tags"] = tags if role == "policy" else [*tags, "reward-model", "process-reward-model"]
    lines = [f"{key}: {json.dumps(value)}" for key, value in values.items()]
    title = "policy" if role == "policy" else "process reward model"
    return "\n".join(["---", *lines, "---\n", f"# {origin.run}, step {origin.step:,}: {title}\n"])


def _loading(origin: Origin, *, adapter: bool) -> str:
    base = origin.config.model.path
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", "", 'folder = "where/this/is"']
    if adapter:
        lines[1:1] = ["from peft import PeftModel"]
        lines += [
            f"base = AutoModelForCausalLM.from_pretrained({json.dumps(base)})",
            "model = PeftModel.from_pretrained(base, folder)",
        ]
    else:
        lines.append("model = AutoModelForCausalLM.from_pretrained(folder)")
    return "\n".join(["```python", *lines, "tokenizer = AutoTokenizer.from_pretrained(folder)", "```\n"])


def _prompts(config: DataConfig) -> str:
    said = [f"template `{config.template}`"]
    added = {"system message": config.system, "suffix": config.suffix}
    said += [f"{name} `{json.dumps(text)}`" for name, text in added.items() if text]
    return f"It has seen prompts written with {', '.join(said)}.\n"


def _common(origin: Origin, sha256: str) -> list[str]:
    """What both cards say."""
    semantics = origin.config.advantage.semantics
    return [
        "## Semantics\n",
        f"Advantages `{semantics}`: {SEMANTICS[semantics]}.\n",
        "## Data and weights\n",
        f"SHA-256 of the problems: `{origin.problems_sha256}`. Of the weights that the run began with: "
        f"`{origin.start_sha256}`. Of the weights here: `{sha256}`.\n",
        *_evaluations(origin),
        *_metrics(origin),
        "## Recipe\n",
        f"```toml\n{to_toml(origin.config)}```\n",
    ]


def _evaluations(origin: Origin) -> list[str]:
    known = [row for row in origin.evaluations if row.get("eval/accuracy") is not None]
    if not known:
        return []
    lines = ["## Evaluations\n", "Of the policy, with 95 % intervals over problems.\n"]
    lines += ["| after step | accuracy | interval | problems | samples each |", "|---|---|---|---|---|"]
    for row in known:
        interval = f"{row['eval/accuracy_low']:.3f} to {row['eval/accuracy_high']:.3f}"
        counts = f"{row['eval/problems']:.0f} | {row['eval/samples']:.0f}"
        lines.append(f"| {row['step']} | {row['eval/accuracy']:.3f} | {interval} | {counts} |")
    return [*lines, ""]


def _metrics(origin: Origin) -> list[str]:
    shown = {key: value for key, value in origin.metrics.items() if key != "step" and not key.startswith(LEFT_OUT)}
    if not shown:
        return []
    rows = [f"| `{key}` | {'none' if value is None else f'{value:.6g}'} |" for key, value in shown.items()]
    return [f"## Metrics of step {origin.step:,}\n", "| metric | value |", "|---|---|", *rows, ""]
