"""What an offline PRM learns from and is validated on: labelled responses as tokens, split by problem.

What the frozen reference says of them is kept here between runs; nothing is computed or trained.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from credo.config import OfflineConfig
from credo.config.prm_training import PAIR_LOSSES
from credo.data.epochs import balanced, partners
from credo.data.prm_record import Prompting
from credo.data.prompts import encode_response
from credo.data.responses import Response, by_problem, fingerprint, load_responses
from credo.measures.ranking import Judged
from credo.models.row_logprobs import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Labelled responses as tokens."""

    responses: tuple[Response, ...]
    rows: tuple[Tokens, ...]
    judged: Judged

    @property
    def lengths(self) -> Float[Tensor, " N"]:
        """Tokens of each response."""
        return torch.tensor([float(len(response)) for _, response in self.rows])

    @property
    def problems(self) -> int:
        """How many problems the responses are to."""
        return len(self.judged.problems.unique())

    def strata(self, config: OfflineConfig) -> Sequence[Hashable]:
        """For each response what it is paired or balanced within: its problem, its source, or all of them."""
        problems, sources = self.judged.problems.tolist(), [response.source for response in self.responses]
        within = "instruction" if config.loss in PAIR_LOSSES else config.balance
        return {"dataset": sources, "instruction": problems}.get(within, [0] * len(problems))


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """What was read, divided by problem, and what was left out of it."""

    training: Material
    held_out: Material
    unknown: int
    """Responses without a known outcome."""
    too_long: int

    @property
    def described(self) -> str:
        """One line for a person."""
        parts = [
            f"{len(part.rows):,} responses to {part.problems:,} problems {name}"
            for part, name in ((self.training, "to learn from"), (self.held_out, "held out"))
        ]
        left_out = f"{self.unknown:,} left out for an unknown label, {self.too_long:,} for their length"
        return f"{', '.join(parts)}; {left_out}."

    def facts(self, sources: Sequence[str]) -> dict[str, object]:
        """What ``prm.json`` says of the data."""
        return {
            "sources": list(sources),
            "sha256": fingerprint(self.training.responses),
            "responses": len(self.training.rows),
            "problems": self.training.problems,
            "correct_share": self.training.judged.outcomes.mean().item(),
            "held_out_sha256": fingerprint(self.held_out.responses),
            "held_out_responses": len(self.held_out.rows),
            "held_out_problems": self.held_out.problems,
            "unknown_labels": self.unknown,
            "too_long": self.too_long,
        }


def tokens_of(response: Response, tokenizer: PreTrainedTokenizerBase, prompting: Prompting) -> Tokens:
    """Prompt and response as token ids; a response that ran into a length limit lacks the end-of-sequence token."""
    prompt = prompting.render(response.prompt, tokenizer)
    said = encode_response(response.text, tokenizer)
    return prompt, said if response.finished or len(said) == 1 else said[:-1]


def load_split(config: OfflineConfig, tokenizer: PreTrainedTokenizerBase) -> Split:
    """Reads, tokenises and divides. Raises ValueError where nothing could be learnt, or nothing validated."""
    load = partial(load_responses, labelled=True, max_bad_share=config.max_bad_share)
    given = load(config.held_out) if config.held_out else []
    every = [*given, *load(config.sources)]
    problems = by_problem(every)
    held_out = {problem for problem, rows in problems.items() if rows[0] < len(given)}
    held_out = held_out or held_out_problems(list(problems), config.held_out_share)
    taken = {row for problem in held_out for row in problems[problem]}
    validation = given or [every[row] for row in sorted(taken)]
    training = [response for row, response in enumerate(every) if row not in taken]
    known = [[r for r in part if r.score is not None] for part in (training, validation)]
    unknown = len(training) + len(validation) - sum(map(len, known))
    prompting = Prompting(template=config.template, system=config.system, suffix=config.suffix)
    encoded = [[(r, tokens_of(r, tokenizer, prompting)) for r in part] for part in known]
    fitting = [[(r, (p, s)) for r, (p, s) in part if len(p) + len(s) <= config.max_tokens] for part in encoded]
    split = Split(
        training=_material(fitting[0]),
        held_out=_material(fitting[1]),
        unknown=unknown,
        too_long=sum(map(len, encoded)) - sum(map(len, fitting)),
    )
    _refuse_useless(split, config)
    return split


def held_out_problems(problems: Sequence[str], share: float) -> set[str]:
    """``share`` of the problems, at least one: those whose hashes come first, so always the same ones."""
    order = sorted(problems, key=lambda problem: hashlib.sha256(problem.encode("utf-8", "surrogatepass")).digest())
    return set(order[: max(1, round(share * len(order)))])


def remember(file: Path, about: str, totals: Mapping[str, Float[Tensor, " _"]]) -> None:
    """Writes what was computed once of the model and the tokens that ``about`` names; whole or not at all."""
    from safetensors.torch import save_file

    aside = file.with_suffix(".tmp")
    save_file(dict(totals), aside, metadata={"about": about})
    aside.replace(file)


def remembered(file: Path, about: str) -> dict[str, Tensor] | None:
    """What was written there; None if there is nothing whole, or it is about something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            if (opened.metadata() or {}).get("about") != about:
                return None
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None


def mismatched(material: Material, seed: int) -> list[Tokens]:
    """For each row its prompt with the response of another problem, for KTO's estimate of the divergence."""
    others = partners(material.judged.problems.tolist(), random.Random(f"{seed}:mismatched"))
    return [(prompt, material.rows[other][1]) for (prompt, _), other in zip(material.rows, others, strict=True)]


def _material(kept: Sequence[tuple[Response, Tokens]]) -> Material:
    responses = tuple(response for response, _ in kept)
    numbers = {row: number for number, rows in enumerate(by_problem(responses).values()) for row in rows}
    return Material(
        responses=responses,
        rows=tuple(row for _, row in kept),
        judged=Judged(
            outcomes=torch.tensor([response.score for response in responses], dtype=torch.float32),
            problems=torch.tensor([numbers[row] for row in range(len(responses))], dtype=torch.int64),
        ),
    )


def _refuse_useless(split: Split, config: OfflineConfig) -> None:
    left_out = f"{split.unknown:,} have an unknown label, {split.too_long:,} are over offline.max_tokens"
    for part, name in ((split.training, "to learn from"), (split.held_out, "held out")):
        if not part.rows:
            raise ValueError(
                f"No labelled response is left {name} ({left_out}); give more responses, or change the held-out share."
            )
    outcomes = split.training.judged.outcomes
    if len((outcomes > 0.5).unique()) < 2:
        raise ValueError(
            f"All {len(outcomes):,} responses to learn from have the same label, so there is nothing to tell apart; "
            "give correct and wrong ones."
        )
    if not balanced(outcomes, split.training.strata(config), random.Random(0)):
        named = f"loss = '{config.loss}'" if config.loss in PAIR_LOSSES else f"balance = '{config.balance}'"
        raise ValueError(
            f"No {'source' if config.balance == 'dataset' else 'problem'} to learn from has both correct and wrong "
            f"responses, which offline.{named} compares; sample more responses to each problem, or choose ce or kto "
            "without that balance."
        )
