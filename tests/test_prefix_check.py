"""The prefix check in worlds whose success is known: where it finds the credit, what it leaves out, what it samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from tiny import tiny_groups, tiny_model
from torch import Tensor

from credo.data.batching import collate
from credo.models.causal import load_model
from credo.prefix_check import Prefix, Stretch, check_prefixes, complete, draw_stretches, success_rates
from credo.rollout.engine import SamplingParams, ScriptedEngine
from credo.rollout.torch_engine import TorchEngine
from credo.seeds import uniform
from credo.types import Batch, Group, Problem, Rollout, Unknown, Verdict
from credo.verify.verifier import ScriptedVerifier

EOS, GOOD, BAD, FILLER = 0, 1, 2, 3
PROMPT = (9, 9)
LONGEST = 24


def decode(ids: Sequence[int]) -> str:
    return "".join(map(str, ids))


def group(*responses: Sequence[int], name: str = "p") -> Group:
    rollouts = tuple(
        Rollout(
            prompt_ids=PROMPT,
            response_ids=tuple(ids),
            logprobs=(0.0,) * len(ids),
            finish="stop" if ids[-1] == EOS else "length",
        )
        for ids in responses
    )
    return Group(
        problem=Problem(id=name, kind="exact", prompt="", answer="", source="made"),
        rollouts=rollouts,
        responses=tuple(decode(ids) for ids in responses),
        verdicts=(Verdict(score=0.0),) * len(responses),
    )


def decided(count: int, length: int = 15) -> list[Group]:
    """Responses of fillers with one GOOD or BAD token somewhere, four to a group; it alone decides their success."""
    rows = []
    for index in range(count):
        place, token = int((length - 2) * uniform(index, 0)), GOOD if uniform(index, 1) < 0.5 else BAD
        rows.append([*[FILLER] * place, token, *[FILLER] * (length - 2 - place), EOS])
    return [group(*rows[start : start + 4]) for start in range(0, count, 4)]


def go_on(prompt: tuple[int, ...], k: int, seed: int) -> tuple[int, ...]:
    """A policy that decides at once, by a fair coin, unless the decision is made."""
    if GOOD in prompt or BAD in prompt:
        return (FILLER, EOS)
    return (GOOD if uniform(seed, k) < 0.5 else BAD, EOS)


def judge(problem: Problem, response: str) -> Verdict:
    return Verdict(score=float(str(GOOD) in response))


def credit(groups: Sequence[Group]) -> tuple[Batch, Tensor]:
    """The batch, and q: 1 on GOOD, -1 on BAD, 0 on other tokens, NaN off the mask."""
    batch = collate(groups, pad_id=EOS)
    q = (batch.tokens == GOOD).float() - (batch.tokens == BAD).float()
    return batch, torch.where(batch.mask, q, torch.nan)


def check(
    groups: Sequence[Group],
    batch: Batch,
    log_ratios: Tensor,
    *,
    judged: Callable[[Problem, str], Verdict | Unknown] = judge,
    respond: Callable[[tuple[int, ...], int, int], tuple[int, ...]] = go_on,
    prefixes: int = 100,
    completions: int = 16,
    seed: int = 5,
    step_ends: Tensor | None = None,
) -> Mapping[str, float]:
    return check_prefixes(
        groups,
        log_ratios,
        batch,
        engine=ScriptedEngine(respond, eos_id=EOS),
        verifier=ScriptedVerifier(judged),
        decode=decode,
        params=SamplingParams(max_tokens=LONGEST),
        prefixes=prefixes,
        completions=completions,
        seed=seed,
        step_ends=step_ends,
    )


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_credit_on_the_deciding_token_ranks_with_the_change_in_success(sign: float):
    groups = decided(100)
    batch, q = credit(groups)
    found = check(groups, batch, sign * q)
    assert sign * found["prm/prefix_rank_correlation"] > 0.6, "where nothing is decided, only the coin changes"
    assert found["prm/prefix_correlation_low"] < found["prm/prefix_rank_correlation"]
    assert found["prm/prefix_rank_correlation"] < found["prm/prefix_correlation_high"]
    assert sign * found["prm/prefix_correlation_low" if sign > 0 else "prm/prefix_correlation_high"] > 0.4
    assert (found["prm/prefix_stretches"], found["prm/prefix_unjudged"]) == (100, 0)


@pytest.mark.parametrize(("sign", "expected"), [(1.0, 1.0), (-1.0, -1.0), (0.0, math.nan)])
def test_without_chance_in_the_world_the_correlation_is_exact(sign: float, expected: float):
    """Half marks while nothing is decided: success changes by half a mark at the deciding token and nowhere else."""

    def half(problem: Problem, response: str) -> Verdict:
        return Verdict(score=1.0 if str(GOOD) in response else 0.0 if str(BAD) in response else 0.5)

    groups = decided(60)
    batch, q = credit(groups)
    found = check(groups, batch, sign * q, judged=half, respond=lambda prompt, k, seed: (EOS,))
    assert found["prm/prefix_rank_correlation"] == pytest.approx(expected, nan_ok=True)
    deciding = sum(
        any(token in (GOOD, BAD) for token in batch.tokens[stretch.row][batch.mask[stretch.row]][slice_of(stretch)])
        for stretch in draw_stretches(batch.mask, 100, 5)
    )
    assert 5 < deciding < 30
    assert found["prm/prefix_success_change"] == pytest.approx(0.5 * deciding / 60)


def slice_of(stretch: Stretch) -> slice:
    return slice(stretch.start, stretch.end)


def test_credit_elsewhere_ranks_with_nothing():
    groups = decided(120)
    batch, q = credit(groups)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    found = check(groups, batch, q[order], completions=8)
    assert abs(found["prm/prefix_rank_correlation"]) < 0.2
    assert found["prm/prefix_correlation_low"] < 0 < found["prm/prefix_correlation_high"]


def test_steps_are_stretches_where_they_are_known():
    """Steps of 5 tokens: the last reaches the end of the response and has nothing after it to complete."""
    groups = decided(40)
    batch, q = credit(groups)
    position = batch.mask.cumsum(dim=1)
    step_ends = ((position % 5 == 0) & batch.mask) | ~batch.mask
    stretches = draw_stretches(batch.mask, 100, 5, step_ends)
    assert {(stretch.start, stretch.end) for stretch in stretches} == {(0, 5), (5, 10)}
    assert check(groups, batch, q, step_ends=step_ends)["prm/prefix_rank_correlation"] > 0.6


def test_stretches_by_hand():
    """A response of 1 token has no stretch, one of 2 has one, one of 5 has stretches of 2 before its last token."""
    mask = torch.tensor([[False] + [True] * length + [False] * (9 - length) for length in (1, 2, 5, 0)])
    seen = {
        (stretch.row, stretch.start, stretch.end) for seed in range(60) for stretch in draw_stretches(mask, 9, seed)
    }
    assert seen == {(1, 0, 1), (2, 0, 2), (2, 1, 3), (2, 2, 4)}
    ends = torch.zeros_like(mask)
    ends[2, 2] = ends[2, 5] = ends[1, 2] = True
    seen = {(s.row, s.start, s.end) for seed in range(60) for s in draw_stretches(mask, 9, seed, ends)}
    assert seen == {(2, 0, 2)}


def test_responses_are_drawn_once_and_the_seed_decides():
    mask = torch.ones(50, 12, dtype=torch.bool)
    drawn = draw_stretches(mask, 20, 1)
    assert len({stretch.row for stretch in drawn}) == 20
    assert draw_stretches(mask, 20, 1) == drawn
    assert {stretch.row for stretch in draw_stretches(mask, 20, 2)} != {stretch.row for stretch in drawn}
    assert len(draw_stretches(mask, 51, 1)) == 50
    assert len({stretch.start for stretch in draw_stretches(mask, 50, 1)}) > 5


@dataclass
class Sampled:
    """What an engine was asked, with answers that never end."""

    prompts: list[tuple[int, ...]] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)

    def respond(self, prompt: tuple[int, ...], k: int, seed: int) -> tuple[int, ...]:
        self.prompts.append(prompt)
        self.seeds.append(seed)
        return (GOOD if k else BAD,) * 99


def test_no_completion_outlives_the_limit_of_a_response():
    problem, sampled = group((EOS,)).problem, Sampled()
    prefixes = [Prefix(problem=problem, prompt_ids=PROMPT, written=(FILLER,) * length) for length in (0, 4, 6)]
    counted: list[int] = []
    engine = ScriptedEngine(sampled.respond, eos_id=EOS)
    texts = complete(prefixes, engine, decode, SamplingParams(max_tokens=7), 2, [1, 2, 3], counted.append)
    assert texts == [["2222222", "1111111"], ["3333222", "3333111"], ["3333332", "3333331"]]
    assert sampled.prompts[::2] == [PROMPT + prefix.written for prefix in prefixes]
    assert sampled.seeds == [1, 1, 2, 2, 3, 3]
    assert sum(counted) == 3 * 2 * 7
    assert complete([], engine, decode, SamplingParams(), 2, []) == []


def test_every_prefix_has_random_numbers_of_its_own():
    groups, sampled = decided(12), Sampled()
    batch, q = credit(groups)
    check(groups, batch, q, respond=sampled.respond, completions=1)
    assert len(set(sampled.seeds)) == len(sampled.seeds) == 24


def test_what_is_unknown_counts_neither_way():
    problem = group((EOS,)).problem
    verdicts = {"a": Verdict(score=1.0), "b": Unknown(reason="died"), "c": Verdict(score=0.5)}
    verifier = ScriptedVerifier(lambda problem, text: verdicts[text])
    prefix = Prefix(problem=problem, prompt_ids=PROMPT, written=())
    rates = success_rates([prefix] * 4, [["a", "b", "c"], ["b", "b"], ["c"], []], verifier)
    assert rates == [0.75, None, 0.5, None]


def test_a_stretch_without_a_verdict_on_one_side_is_dropped_and_counted():
    groups = decided(40)
    batch, q = credit(groups)

    def deaf_to_bad(problem: Problem, response: str) -> Verdict | Unknown:
        return Unknown(reason="died") if str(BAD) in response else judge(problem, response)

    found = check(groups, batch, q, judged=deaf_to_bad)
    dropped = sum(
        BAD in batch.tokens[stretch.row][batch.mask[stretch.row]][: stretch.end].tolist()
        for stretch in draw_stretches(batch.mask, 100, 5)
    )
    assert 0 < dropped < 40
    assert (found["prm/prefix_unjudged"], found["prm/prefix_stretches"]) == (dropped, 40 - dropped)
    assert found["prm/prefix_success_change"] == 0, "what is left was judged right on both sides"


def test_nothing_is_said_where_nothing_can_be_known():
    groups = [group((FILLER, GOOD, EOS), (FILLER, BAD, EOS), (EOS,))]
    batch, q = credit(groups)
    found = check(groups, batch, q)
    assert found["prm/prefix_stretches"] == 2
    assert all(math.isnan(found[f"prm/prefix_{key}"]) for key in ("rank_correlation", "correlation_low"))
    none = check([group((EOS,))], *credit([group((EOS,))]))
    assert (none["prm/prefix_stretches"], none["prm/prefix_unjudged"]) == (0, 0)
    assert math.isnan(none["prm/prefix_success_change"])


def test_the_same_seed_gives_the_same_numbers_and_another_does_not():
    groups = decided(40)
    batch, q = credit(groups)
    first = check(groups, batch, q, prefixes=20)
    assert check(groups, batch, q, prefixes=20) == first
    assert check(groups, batch, q, prefixes=20, seed=6) != first


def test_padding_does_not_matter():
    groups = decided(24)
    batch, q = credit(groups)
    wide = collate([*groups, group((FILLER,) * LONGEST)], pad_id=EOS)
    stretched = torch.nn.functional.pad(q, (0, wide.tokens.shape[1] - q.shape[1]), value=7.0)
    narrow = [draw_stretches(mask, 24, 5) for mask in (batch.mask, wide.mask[:24])]
    assert narrow[0] == narrow[1]
    padded = Batch(**{name: getattr(wide, name)[:24] for name in Batch.__slots__})
    assert check(groups, padded, stretched) == check(groups, batch, q)


def test_a_real_engine_completes_its_own_responses(tmp_path: Path):
    start = load_model(str(tiny_model(tmp_path)), device="cpu")
    groups = tiny_groups(start, prompts=[(1, 2), (2,), (3, 1)], per_prompt=3, max_tokens=6)
    batch = collate(groups, pad_id=start.pad_id)
    found = check_prefixes(
        groups,
        torch.randn(batch.tokens.shape, generator=torch.Generator().manual_seed(0)),
        batch,
        engine=TorchEngine(start.model, eos_ids=start.eos_ids, pad_id=start.pad_id, concurrent=5),
        verifier=ScriptedVerifier(lambda problem, text: Verdict(score=float(text.startswith("a")))),
        decode=lambda ids: start.tokenizer.decode(list(ids), skip_special_tokens=True),  # pyright: ignore
        params=SamplingParams(max_tokens=6),
        prefixes=6,
        completions=3,
        seed=1,
    )
    longer = sum(len(rollout.response_ids) > 1 for each in groups for rollout in each.rollouts)
    assert found["prm/prefix_stretches"] == min(6, longer) > 2
    assert found["prm/prefix_unjudged"] == 0
