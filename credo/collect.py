"""Fills one training batch: draw problems, sample, verify, keep what passes the filter, and refill within bounds.

Groups beyond the batch are kept for the next step only while the policy that sampled them is unchanged; after an update
their problems go back to the front of the stream and are sampled anew. Every dropped group is counted with its reason.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from credo.config import FilterConfig
from credo.data.stream import ProblemStream
from credo.filtering import DROP_REASONS, Sifted, sift
from credo.rollout.engine import Progress, RolloutEngine, SamplingParams
from credo.seeds import mixed_seed
from credo.types import Greedy, Group, Problem, Rollout, Unknown, Verdict
from credo.verify.router import kind_metrics
from credo.verify.verifier import Verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """The groups of one step and what it took to get them."""

    groups: tuple[Group, ...]
    metrics: Mapping[str, float]


class Collector:
    """Draws, samples and judges until a batch is full. Its state is the stream and the surplus.

    Groups with fewer than ``least_judged`` judged responses are dropped. With ``greedy`` every group that passes the
    filter also gets the policy's greedy response, judged; the metrics of ``rollout/`` leave it out.
    """

    def __init__(
        self,
        *,
        stream: ProblemStream,
        engine: RolloutEngine,
        verifier: Verifier,
        encode: Callable[[Problem], tuple[int, ...]],
        decode: Callable[[Sequence[int]], str],
        config: FilterConfig,
        params: SamplingParams,
        per_prompt: int,
        seed: int,
        max_unknown_share: float,
        least_judged: int = 2,
        greedy: bool = False,
    ) -> None:
        self.stream, self.engine, self.verifier = stream, engine, verifier
        self.encode, self.decode, self.config = encode, decode, config
        self.params, self.per_prompt, self.seed = params, per_prompt, seed
        self.max_unknown_share, self.least_judged, self.greedy = max_unknown_share, least_judged, greedy
        self.surplus: tuple[Group, ...] = ()
        self.surplus_version = -1

    def collect(self, count: int, policy_version: int, progress: Progress | None = None) -> Collection:
        """``count`` groups that pass the filter, or fewer after ``filter.max_rounds`` rounds.

        Raises RuntimeError if more verdicts are unknown than ``verify.max_unknown_share`` allows.
        """
        kept = self._fresh_surplus(policy_version)
        tally = _Tally(reused=len(kept))
        passed_over = self.stream.passed_over
        while len(kept) < count and tally.rounds < self.config.max_rounds:
            keep_rate = (tally.kept + 1) / (tally.drawn + 1)
            wanted = min(count, math.ceil((count - len(kept)) / keep_rate))
            groups = self._sample(wanted, tally, progress)
            if self.config.truncated == "drop_response":
                tally.left_out += sum(group.truncated for group in groups)
            sifted = [sift(group, self.config, least_judged=self.least_judged) for group in groups]
            if self.greedy:
                sifted = self._with_greedy(sifted, tally, progress)
            for group, reason in sifted:
                tally.count(reason)
                if reason is None:
                    kept.append(group)
            tally.rounds += 1
            tally.refuse_unknowns(self.max_unknown_share)
        self.surplus, self.surplus_version = tuple(kept[count:]), policy_version
        metrics = tally.metrics(surplus=len(self.surplus))
        if self.stream.memory is not None:
            metrics |= self.stream.memory.metrics()
            metrics["filter/passed_over"] = float(self.stream.passed_over - passed_over)
        return Collection(groups=tuple(kept[:count]), metrics=metrics)

    @contextmanager
    def undone_by(self, error: type[BaseException]) -> Iterator[None]:
        """If the block ends with ``error``, the collector is as it was before the block."""
        before = self.state()
        try:
            yield
        except error:
            self.restore(before)
            raise

    def state(self) -> dict[str, Any]:
        """Stream position and surplus as JSON values."""
        surplus = [group_values(group) for group in self.surplus]
        return {"stream": self.stream.state(), "surplus": surplus, "surplus_version": self.surplus_version}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The collector as it was when ``state`` was taken."""
        self.stream.restore(state["stream"])
        self.surplus = tuple(self.group(values) for values in state["surplus"])
        self.surplus_version = state["surplus_version"]

    def _fresh_surplus(self, policy_version: int) -> list[Group]:
        if self.surplus_version == policy_version:
            return list(self.surplus)
        self.stream.put_back([group.problem for group in self.surplus])
        return []

    def _sample(self, count: int, tally: _Tally, progress: Progress | None) -> list[Group]:
        first = self.stream.drawn
        problems = self.stream.take(count)
        seeds = [mixed_seed(self.seed, first + index) for index in range(count)]
        groups = self._judged(problems, seeds, tally, progress)
        if self.stream.memory is not None:
            for group in groups:
                self.stream.memory.see(group.problem.id, [verdict.score for verdict in group.verdicts])
        return groups

    def _judged(
        self,
        problems: Sequence[Problem],
        seeds: Sequence[int],
        tally: _Tally,
        progress: Progress | None,
        *,
        greedy: bool = False,
    ) -> list[Group]:
        """Samples and judges the responses to every problem, or its greedy response alone."""
        k, params = (1, replace(self.params, temperature=0.0, top_p=1.0)) if greedy else (self.per_prompt, self.params)
        started = time.perf_counter()
        prompts = [self.encode(problem) for problem in problems]
        rollouts = self.engine.sample(prompts, k, params, seeds, progress)
        sampled = time.perf_counter()
        responses = [[self.decode(rollout.response_ids) for rollout in group] for group in rollouts]
        tasks = [(problem, text) for problem, texts in zip(problems, responses, strict=True) for text in texts]
        verdicts = self.verifier.verify(tasks)
        tally.sampling_seconds += sampled - started
        tally.verifying_seconds += time.perf_counter() - sampled
        tally.see(problems, rollouts, verdicts, greedy=greedy)
        return [
            judged_group(problem, rollouts[i], responses[i], verdicts[i * k : (i + 1) * k])
            for i, problem in enumerate(problems)
        ]

    def _with_greedy(self, sifted: list[Sifted], tally: _Tally, progress: Progress | None) -> list[Sifted]:
        """Gives each group that passed its judged greedy response, and drops it if that could not be judged."""
        problems = [group.problem for group, reason in sifted if reason is None]
        if not problems:
            return sifted
        unseeded = [0] * len(problems)  # a greedy response draws nothing
        baselines = iter(self._judged(problems, unseeded, tally, progress, greedy=True))
        return [_based(group, next(baselines)) if reason is None else (group, reason) for group, reason in sifted]

    def group(self, values: Mapping[str, Any]) -> Group:
        """The group of :func:`group_values`."""
        return Group(
            problem=self.stream.problem(values["problem"]),
            rollouts=tuple(_rollout(rollout) for rollout in values["rollouts"]),
            responses=tuple(values["responses"]),
            verdicts=tuple(Verdict(**verdict) for verdict in values["verdicts"]),
            greedy=values["greedy"] and _greedy(values["greedy"]),
        )


def group_values(group: Group) -> dict[str, Any]:
    """``group`` as JSON values, its problem by id."""
    return asdict(group) | {"problem": group.problem.id}


def judged_group(
    problem: Problem, rollouts: Sequence[Rollout], responses: Sequence[str], verdicts: Sequence[Verdict | Unknown]
) -> Group:
    """The group without its unknown verdicts: what was not judged has no reward, so it has no place in a baseline."""
    judged = [(r, t, v) for r, t, v in zip(rollouts, responses, verdicts, strict=True) if isinstance(v, Verdict)]
    return Group(
        problem=problem,
        rollouts=tuple(rollout for rollout, _, _ in judged),
        responses=tuple(text for _, text, _ in judged),
        verdicts=tuple(replace(verdict, seconds=0.0) for _, _, verdict in judged),
    )


def _based(group: Group, baseline: Group) -> Sifted:
    """``group`` with the one response of ``baseline`` as its greedy one."""
    if not baseline.rollouts:
        return group, "unjudged"
    return replace(group, greedy=Greedy(rollout=baseline.rollouts[0], verdict=baseline.verdicts[0])), None


def _rollout(values: Mapping[str, Any]) -> Rollout:
    return Rollout(
        prompt_ids=tuple(values["prompt_ids"]),
        response_ids=tuple(values["response_ids"]),
        logprobs=tuple(values["logprobs"]),
        finish=values["finish"],
    )


def _greedy(values: Mapping[str, Any]) -> Greedy:
    return Greedy(rollout=_rollout(values["rollout"]), verdict=Verdict(**values["verdict"]))


class _Tally:
    """Counts of one step's collection."""

    def __init__(self, *, reused: int) -> None:
        self.reused, self.rounds, self.drawn, self.kept = reused, 0, 0, 0
        self.dropped: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.responses = self.tokens = self.truncated = self.judged = self.left_out = 0
        self.greedy = self.greedy_tokens = 0
        self.score = self.longest = 0.0
        self.by_kind: list[tuple[str, Verdict | Unknown]] = []
        self.sampling_seconds = self.verifying_seconds = 0.0

    def see(
        self,
        problems: Sequence[Problem],
        rollouts: Sequence[Sequence[Rollout]],
        verdicts: Sequence[Verdict | Unknown],
        *,
        greedy: bool,
    ) -> None:
        """Takes note of every rollout, before any filter; of greedy ones only the tokens and what was not judged."""
        self.reasons.update(verdict.reason for verdict in verdicts if isinstance(verdict, Unknown))
        if greedy:
            self.greedy += len(verdicts)
            self.greedy_tokens += sum(len(rollout.response_ids) for group in rollouts for rollout in group)
            return
        for rollout in (rollout for group in rollouts for rollout in group):
            self.responses += 1
            self.tokens += len(rollout.response_ids)
            self.longest = max(self.longest, float(len(rollout.response_ids)))
            self.truncated += rollout.finish == "length"
        kinds = [problem.kind for problem, group in zip(problems, rollouts, strict=True) for _ in group]
        self.by_kind += zip(kinds, verdicts, strict=True)
        for verdict in verdicts:
            if isinstance(verdict, Verdict):
                self.judged += 1
                self.score += verdict.score

    def count(self, reason: str | None) -> None:
        """Takes note of what became of a group."""
        self.drawn += 1
        if reason is None:
            self.kept += 1
        else:
            self.dropped[reason] += 1

    def refuse_unknowns(self, limit: float) -> None:
        """Raises RuntimeError if too many verdicts are unknown to trust the rest."""
        unknown, responses = self.reasons.total(), self.responses + self.greedy
        if unknown > limit * responses:
            reason, _ = self.reasons.most_common(1)[0]
            raise RuntimeError(
                f"The verifier could not judge {unknown} of {responses} responses (most often: {reason}), more "
                f"than verify.max_unknown_share = {limit} allows. Raise verify.deadline or verify.memory_mb, or mend "
                "the data."
            )

    def metrics(self, *, surplus: int) -> dict[str, float]:
        """The counts as metrics."""
        responses = max(1, self.responses)
        return {
            "rollout/accuracy": self.score / max(1, self.judged),
            "rollout/responses": float(self.responses),
            "rollout/tokens": float(self.tokens),
            "rollout/mean_length": self.tokens / responses,
            "rollout/max_length": self.longest,
            "rollout/truncated_share": self.truncated / responses,
            "verify/unknown": float(self.reasons.total()),
            **kind_metrics(self.by_kind),
            "filter/rounds": float(self.rounds),
            "filter/drawn": float(self.drawn),
            "filter/kept": float(self.kept),
            "filter/reused": float(self.reused),
            "filter/surplus": float(surplus),
            "filter/truncated_responses": float(self.left_out),
            **{f"filter/{reason}": float(self.dropped[reason]) for reason in DROP_REASONS},
            "time/sample": self.sampling_seconds,
            "time/verify": self.verifying_seconds,
            "perf/tokens_per_second": (self.tokens + self.greedy_tokens) / max(1e-9, self.sampling_seconds),
        }
