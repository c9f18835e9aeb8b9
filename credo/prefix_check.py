"""Does the process reward fall where the chance of success changes? Asked by sampling, apart from the PRM's learning.

A stretch of a response is judged by Monte Carlo: completions of the prefix before it and of the prefix after it. Its
process reward should rank with the change in their success. Weights and the scale of rewards are not known here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from credo.algo.measures import spearman
from credo.rollout.engine import Progress, RolloutEngine, SamplingParams
from credo.seeds import mixed_seed, uniform
from credo.types import Batch, Group, Problem, Verdict
from credo.verify.verifier import Verifier

STRETCH = 0.25
"""Length of a stretch drawn at random, as a share of its response."""
FEWEST = 3
"""Stretches below which a rank correlation means nothing."""
RESAMPLES, LEVEL = 1000, 0.95
"""Of the interval: a bootstrap over stretches, always with the same draws."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Tokens ``start`` to ``end - 1`` of the response in row ``row``; the response goes on after them."""

    row: int
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """The beginning of a response to a problem, to be completed."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    written: tuple[int, ...]


def check_prefixes(
    groups: Sequence[Group],
    log_ratios: Float[Tensor, "B S"],
    batch: Batch,
    *,
    engine: RolloutEngine,
    verifier: Verifier,
    decode: Callable[[Sequence[int]], str],
    params: SamplingParams,
    prefixes: int,
    completions: int,
    seed: int,
    step_ends: Bool[Tensor, "B S"] | None = None,
    progress: Progress | None = None,
) -> Mapping[str, float]:
    """Spearman's correlation, over stretches of responses, of the sum of q with the change in success, as metrics.

    ``batch`` is collated from ``groups``. At most ``prefixes`` responses give a stretch each: a step of theirs with
    ``step_ends``, else a quarter of them anywhere. Success is the mean score of ``completions`` completions by
    ``engine``, none longer than ``params.max_tokens`` left it; the engine should hold the policy that wrote the
    responses. Unknown verdicts are left out, and a stretch with nothing judged on a side is dropped and counted. The
    correlation is NaN where it is undefined: under 3 stretches, or one of the two constant.
    """
    rollouts = [(group.problem, rollout) for group in groups for rollout in group.rollouts]
    assert len(rollouts) == len(batch)
    stretches = draw_stretches(batch.mask, prefixes, seed, step_ends)
    ends = [(stretch.row, end) for stretch in stretches for end in (stretch.start, stretch.end)]
    seeds = [mixed_seed(seed, row, end) for row, end in ends]
    beginnings = [
        Prefix(problem=problem, prompt_ids=rollout.prompt_ids, written=rollout.response_ids[:end])
        for (problem, rollout), end in ((rollouts[row], end) for row, end in ends)
    ]
    texts = complete(beginnings, engine, decode, params, completions, seeds, progress)
    success = success_rates(beginnings, texts, verifier)
    changes, rewards = [], []
    for stretch, before, after in zip(stretches, success[::2], success[1::2], strict=True):
        if before is not None and after is not None:
            changes.append(after - before)
            rewards.append(_reward(stretch, log_ratios, batch.mask))
    return _summary(changes, rewards, dropped=len(stretches) - len(changes))


def draw_stretches(
    mask: Bool[Tensor, "B S"], count: int, seed: int, step_ends: Bool[Tensor, "B S"] | None = None
) -> list[Stretch]:
    """At most ``count`` stretches, of as many different responses; those that allow none are passed over."""
    found = []
    for row in sorted(range(len(mask)), key=lambda row: mixed_seed(seed, row)):
        if len(found) == count:
            break
        ends = None if step_ends is None else step_ends[row][mask[row]]
        allowed = _stretches(row, int(mask[row].sum()), ends)
        if allowed:
            found.append(allowed[int(len(allowed) * uniform(seed, row))])
    return found


def complete(
    prefixes: Sequence[Prefix],
    engine: RolloutEngine,
    decode: Callable[[Sequence[int]], str],
    params: SamplingParams,
    completions: int,
    seeds: Sequence[int],
    progress: Progress | None = None,
) -> list[list[str]]:
    """The texts of ``completions`` whole responses from each prefix, cut at ``params.max_tokens``.

    All are sampled in one call, whose limit is what the shortest prefix needs; cutting what is over afterwards does
    not change the distribution of what stays.
    """
    if not prefixes:
        return []
    assert max(len(prefix.written) for prefix in prefixes) < params.max_tokens
    left = params.max_tokens - min(len(prefix.written) for prefix in prefixes)
    prompts = [prefix.prompt_ids + prefix.written for prefix in prefixes]
    sampled = engine.sample(prompts, completions, replace(params, max_tokens=left), seeds, progress)
    return [
        [decode((prefix.written + rollout.response_ids)[: params.max_tokens]) for rollout in rollouts]
        for prefix, rollouts in zip(prefixes, sampled, strict=True)
    ]


def success_rates(prefixes: Sequence[Prefix], texts: Sequence[Sequence[str]], verifier: Verifier) -> list[float | None]:
    """The mean score of the judged responses from each prefix; None where none could be judged."""
    tasks = [(prefix.problem, text) for prefix, own in zip(prefixes, texts, strict=True) for text in own]
    verdicts = iter(verifier.verify(tasks))
    rates = []
    for own in texts:
        judged = [verdict.score for verdict in (next(verdicts) for _ in own) if isinstance(verdict, Verdict)]
        rates.append(fmean(judged) if judged else None)
    return rates


def _stretches(row: int, length: int, ends: Bool[Tensor, " L"] | None) -> list[Stretch]:
    """Every stretch that may be drawn of a response of ``length`` tokens."""
    if ends is None:
        size = math.ceil(STRETCH * length)
        return [Stretch(row=row, start=start, end=start + size) for start in range(length - size)]
    borders = [0, *(ends.nonzero().flatten() + 1).tolist()]
    return [Stretch(row=row, start=start, end=end) for start, end in pairwise(borders) if end < length]


def _reward(stretch: Stretch, log_ratios: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> float:
    own = log_ratios[stretch.row][mask[stretch.row]]
    return own[stretch.start : stretch.end].double().sum().item()


def _summary(changes: Sequence[float], rewards: Sequence[float], *, dropped: int) -> dict[str, float]:
    correlation = low = high = math.nan
    if len(changes) >= FEWEST and len(set(changes)) > 1 and len(set(rewards)) > 1:
        x, y = torch.tensor(changes, dtype=torch.float64), torch.tensor(rewards, dtype=torch.float64)
        correlation, (low, high) = spearman(x, y).item(), _interval(x, y)
    return {
        "prm/prefix_rank_correlation": correlation,
        "prm/prefix_correlation_low": low,
        "prm/prefix_correlation_high": high,
        "prm/prefix_success_change": fmean(map(abs, changes)) if changes else math.nan,
        "prm/prefix_stretches": float(len(changes)),
        "prm/prefix_unjudged": float(dropped),
    }


def _interval(x: Float[Tensor, " N"], y: Float[Tensor, " N"]) -> tuple[float, float]:
    """Percentile bootstrap of the rank correlation."""
    draws = torch.randint(len(x), (RESAMPLES, len(x)), generator=torch.Generator().manual_seed(0))
    correlations = torch.stack([spearman(x[draw], y[draw]) for draw in draws])
    low, high = correlations.quantile(torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)).tolist()
    return low, high
