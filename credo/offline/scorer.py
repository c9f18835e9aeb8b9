"""``credo prm score``: rewards of tokens, steps and responses by an implicit PRM, with or without its reference."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from credo.algo.reward_aggregation import aggregated, rewards_at
from credo.console import Console
from credo.data.batching import collate_demonstrations
from credo.data.prm_record import Prompting
from credo.data.responses import Response, load_responses
from credo.data.steps import Boundary, step_ends, step_pattern
from credo.dist.device import choose_device, set_threads
from credo.models.causal import Compute, fingerprint
from credo.models.row_logprobs import Tokens, row_logprobs, row_totals
from credo.offline.folder import LoadedPrm, load_prm
from credo.offline.material import tokens_of
from credo.options.offline import AggregationOptions, PrmScoreOptions, ScorerOptions
from credo.options.shared import check_folder_of
from credo.sampler import compute_of

AT_ONCE = 256
"""Responses scored before they are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The rewards of one response."""

    tokens: tuple[int, ...]
    token_rewards: Float[Tensor, " N"]
    step_rewards: Float[Tensor, " K"]
    """Single ones."""
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """An implicit PRM to score with: ``beta * (log pi_phi - log pi_ref)`` of every response token."""

    prm: LoadedPrm
    beta: float
    prompting: Prompting
    token_budget: int
    compute: Compute

    @property
    def fingerprints(self) -> list[str]:
        """Of the PRM's weights, and of its reference's if it has one."""
        start, reference = self.prm.start, self.prm.reference
        return [fingerprint(replace(start, model=model)) for model in (start.model, reference) if model is not None]

    def rewards(
        self, rows: Sequence[Tokens], progress: Callable[[int], None] = lambda rows: None
    ) -> list[Float[Tensor, " _"]]:
        """The reward of every response token of each row; without a reference ``beta * log pi_phi``."""
        reference = None if self.prm.reference is None else self._logprobs(self.prm.reference, rows)
        phi = self._logprobs(self.prm.start.model, rows, progress)  # last, so that a row that is told of is done
        if reference is None:
            return [self.beta * values for values in phi]
        return [self.beta * (ours - theirs) for ours, theirs in zip(phi, reference, strict=True)]

    def scored(
        self,
        responses: Sequence[Response],
        aggregation: AggregationOptions,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> list[Scored]:
        """The rewards and the score of each response."""
        tokenizer = self.prm.start.tokenizer
        rows = [tokens_of(response, tokenizer, self.prompting) for response in responses]
        found = []
        for row, rewards in zip(rows, self.rewards(rows, progress), strict=True):
            ends = self.step_ends(row, aggregation.step_boundary, aggregation.step_pattern)
            chosen = torch.ones_like(ends) if aggregation.level == "token" else ends
            score = aggregated(rewards_at(rewards, chosen, form=aggregation.form), aggregation.aggregate)
            steps = rewards_at(rewards, ends)
            found.append(Scored(tokens=row[1], token_rewards=rewards, step_rewards=steps, score=score.item()))
        return found

    def totals(self, responses: Sequence[Response]) -> list[float]:
        """The reward of each whole response: the sum over its tokens."""
        rows = [tokens_of(response, self.prm.start.tokenizer, self.prompting) for response in responses]
        return row_totals(self.rewards(rows)).tolist()

    def step_ends(self, row: Tokens, boundary: Boundary, pattern: str = "") -> Bool[Tensor, " N"]:
        """True at the last token of each step of the response of ``row``."""
        tokens, _, mask = collate_demonstrations([row], self.prm.start.pad_id)
        return step_ends(tokens, mask, self.prm.start.tokenizer, step_pattern(boundary, pattern))[mask]

    def _logprobs(
        self, model: Any, rows: Sequence[Tokens], progress: Callable[[int], None] = lambda rows: None
    ) -> list[Float[Tensor, " _"]]:
        return row_logprobs(
            model,
            rows,
            self.prm.start.pad_id,
            token_budget=self.token_budget,
            compute=self.compute,
            progress=progress,
        )


def open_scorer(options: ScorerOptions, console: Console) -> Scorer:
    """Loads the PRM and its reference. Raises ValueError for what the user can mend."""
    if not options.prm:
        raise ValueError("--prm is missing: name the folder of a PRM, such as credo prm train writes.")
    if options.tokens_per_microbatch < 1 or (options.beta is not None and options.beta <= 0):
        raise ValueError("--tokens-per-microbatch is 1 or more, --beta above 0.")
    set_threads(options.threads)
    prm = load_prm(options.prm, options.reference, device=choose_device(options.device), warn=console.warn)
    known = prm.record.prompting if prm.record is not None else Prompting()
    own_beta = prm.record.beta if prm.record is not None else 0.05
    return Scorer(
        prm=prm,
        beta=own_beta if options.beta is None else options.beta,
        prompting=Prompting(
            template=known.template if options.template is None else options.template,
            system=known.system if options.system is None else options.system,
            suffix=known.suffix if options.suffix is None else options.suffix,
        ),
        token_budget=options.tokens_per_microbatch,
        compute=compute_of(options, console),
    )


def refuse_inert(options: AggregationOptions) -> None:
    """Raises ValueError for a regular expression without --step-boundary regex, and the other way round."""
    if (options.step_boundary == "regex") != bool(options.step_pattern):
        raise ValueError("--step-pattern goes with --step-boundary regex and only with it; give both or neither.")
    step_pattern(options.step_boundary, options.step_pattern)


def score_file(options: PrmScoreOptions) -> None:
    """Scores every response of a file, and goes on where the same command was stopped.

    Raises ValueError for what the user can mend.
    """
    console = Console()
    refuse_inert(options.aggregation)
    output = options.output or options.input.with_name(f"{options.input.stem}.scores.jsonl")
    check_folder_of(output)
    if output.resolve() == options.input.resolve():
        raise ValueError(f"{output} is both input and --output; name another file for the scores.")
    responses = load_responses([str(options.input)], labelled=False)
    scorer = open_scorer(options.scorer, console)
    aside = output.with_name(f"{output.name}.{_asked(responses, options, scorer)}.tmp")
    done = _kept(aside)
    if done:
        console.say(f"{done:,} of {len(responses):,} responses have their scores already.")
    left = len(responses) - done
    with console.stage("scoring", "responses", left) as progress, aside.open("a", encoding="utf-8") as file:
        for first in range(done, len(responses), AT_ONCE):
            part = responses[first : first + AT_ONCE]
            for response, scored in zip(part, scorer.scored(part, options.aggregation, progress), strict=True):
                file.write(json.dumps(_row(response, scored, scorer)) + "\n")
            file.flush()
    aside.rename(output)
    way = "log pi_phi alone" if scorer.prm.reference is None else "log-ratios to the reference"
    console.say(f"{len(responses):,} responses, scored by {way} with beta {scorer.beta:g}, are in {output}.")


def _asked(responses: Sequence[Response], options: PrmScoreOptions, scorer: Scorer) -> str:
    """A name for all that is written."""
    digest = hashlib.sha256()
    computed = (scorer.beta, scorer.prompting, scorer.token_budget, scorer.compute, options.aggregation)
    for one in (*computed, scorer.fingerprints):
        digest.update(repr(one).encode())
    for response in responses:
        digest.update(repr((response.prompt, response.text, response.finished, response.row)).encode())
    return digest.hexdigest()[:12]


def _kept(aside: Path) -> int:
    """How many responses an earlier call has scored there, in whole parts; what follows them is cut off."""
    if not aside.exists():
        return 0
    with aside.open("rb+") as file:
        ends = [0, *accumulate(len(line) for line in file if line.endswith(b"\n"))]
        done = (len(ends) - 1) // AT_ONCE * AT_ONCE
        file.truncate(ends[done])
    return done


def _row(response: Response, scored: Scored, scorer: Scorer) -> dict[str, Any]:
    decode = scorer.prm.start.tokenizer.decode
    return {
        **response.row,
        "prm_score": scored.score,
        "sequence_reward": scored.token_rewards.sum().item(),
        "tokens": [decode([token]) for token in scored.tokens],
        "token_rewards": scored.token_rewards.tolist(),
        "step_rewards": scored.step_rewards.tolist(),
    }
