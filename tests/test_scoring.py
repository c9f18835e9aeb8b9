"""Who is scored with which weights, and what the scores of a step rest on besides log-ratios."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_groups, tiny_model, tiny_parts
from torch import Tensor, nn

from credo.algo.advantages import Evidence, prime_returns
from credo.algo.masked import masked_mean
from credo.algo.rewards import informative_pair_accuracy
from credo.assemble import Parts
from credo.config import TrainConfig
from credo.data.batching import collate
from credo.models.critic import Critic
from credo.models.expectation import expected_log_ratios
from credo.models.prm import Prm
from credo.scoring import Scores, heard, score_and_learn
from credo.train import prime_step
from credo.types import Batch, Greedy, Group, Verdict

PROMPTS = [(3, 4, 7), (5, 6, 7), (4, 7)]
OUTCOME_ONLY = {"prm__enabled": False, "filter__accuracy_low": 0.2, "filter__accuracy_high": 0.8}


@contextmanager
def scored(folder: Path, **changes: Any) -> Iterator[tuple[TrainConfig, Parts, tuple[Group, ...], Batch]]:
    """A run's objects with groups of its policy as a batch; the PRM starts from other weights than its reference."""
    if "prm__enabled" not in changes:
        changes = {"prm__path": str(tiny_model(folder / "other", seed=1)), **changes}
    config, parts = tiny_parts(folder, **changes)
    groups = tiny_groups(parts.start, prompts=PROMPTS, per_prompt=4, max_tokens=3)
    with closing(parts.verifier):
        yield config, parts, groups, collate(groups, parts.start.pad_id)


def prm_of(parts: Parts) -> Prm:
    assert parts.prm is not None
    return parts.prm


def scores_now(parts: Parts, batch: Batch) -> Tensor:
    assert parts.reference is not None
    return prm_of(parts).score(batch, parts.reference.logprobs(batch))


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).clone()


def q_by_hand(parts: Parts, tokens: Sequence[int], start: int) -> list[float]:
    """The log-ratios of the tokens from ``start`` on, a sequence at a time."""
    assert parts.reference is not None
    ids = torch.tensor([list(tokens)])
    with torch.no_grad():
        scored, base = (
            model(input_ids=ids).logits[0].log_softmax(dim=-1)
            for model in (prm_of(parts).scorer, parts.reference.model)
        )
    return [(scored - base)[s - 1, tokens[s]].item() for s in range(start, len(tokens))]


def test_after_scores_the_whole_batch_first(tmp_path: Path):
    with scored(tmp_path, prm__update="after", prm__minibatch=4) as (config, parts, groups, batch):
        before = scores_now(parts, batch)
        scores, learnt = score_and_learn(parts, batch, groups, config)
        assert scores.log_ratios is not None
        assert torch.equal(scores.log_ratios, before)
        assert scores.held_out is scores.log_ratios
        assert learnt["prm/optimizer_steps"] == 3
        assert not torch.equal(scores_now(parts, batch), before)


def test_before_scores_with_what_was_learnt_and_measures_what_was_met(tmp_path: Path):
    with scored(tmp_path, prm__update="before", prm__minibatch=4) as (config, parts, groups, batch):
        before = scores_now(parts, batch)
        scores, learnt = score_and_learn(parts, batch, groups, config)
        assert scores.log_ratios is not None
        assert scores.held_out is not None
        assert torch.equal(scores.log_ratios, scores_now(parts, batch))
        torch.testing.assert_close(scores.held_out[:4], before[:4], atol=1e-5, rtol=1e-4)
        for later, rows in ((before, slice(4, None)), (scores.log_ratios, slice(None))):
            assert (scores.held_out[rows] - later[rows]).abs().max() > 1e-3, "each mini-batch by a PRM of its own"
        assert learnt["prm/optimizer_steps"] == 3


def test_none_learns_nothing(tmp_path: Path):
    with scored(tmp_path, prm__update="none", prm__lr=None) as (config, parts, groups, batch):
        before = weights(prm_of(parts).model)
        scores, learnt = score_and_learn(parts, batch, groups, config)
        assert learnt == {}
        assert torch.equal(weights(prm_of(parts).model), before)
        assert scores.log_ratios is not None
        assert torch.equal(scores.log_ratios, scores_now(parts, batch))
        assert scores.held_out is scores.log_ratios


def test_without_a_prm_there_is_nothing_to_score(tmp_path: Path):
    with scored(tmp_path, **OUTCOME_ONLY) as (config, parts, groups, batch):
        scores, learnt = score_and_learn(parts, batch, groups, config)
        assert (scores.log_ratios, scores.held_out, scores.evidence, learnt) == (None, None, Evidence(), {})
        assert scores.finite
        assert heard(parts, batch, scores) is parts.rules


@pytest.mark.parametrize("update", ["after", "before"])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_losses_between_responses_compare_with_the_scores_before_the_update(tmp_path: Path, update: str, ema: float):
    learnt = []
    for old_scores in ("ours", "before", "none"):
        changes = {"prm__update": update, "prm__loss": "dpo", "prm__minibatch": 4, "prm__ema": ema, "prm__beta": 1.0}
        with scored(tmp_path, **changes) as (config, parts, groups, batch):
            assert parts.reference is not None
            reference = parts.reference.logprobs(batch)
            before = scores_now(parts, batch)
            if old_scores == "ours":
                score_and_learn(parts, batch, groups, config)
            else:
                prm_of(parts).update(batch, reference, before if old_scores == "before" else torch.zeros_like(before))
            learnt.append(weights(prm_of(parts).model))
    assert torch.equal(learnt[0], learnt[1])
    assert not torch.equal(learnt[0], learnt[2]), "the comparison can fail"


def greedy(group: Group, source: Group, score: float) -> Group:
    """``group`` with a response to its prompt made of one of ``source``'s as its greedy one."""
    rollout = replace(source.rollouts[0], prompt_ids=group.rollouts[0].prompt_ids)
    return replace(group, greedy=Greedy(rollout=rollout, verdict=Verdict(score=score)))


def unequal(groups: Sequence[Group]) -> tuple[Group, ...]:
    """Groups of 3, 1 and 2 responses with greedy ones."""
    cut = [
        replace(group, rollouts=group.rollouts[:n], responses=group.responses[:n], verdicts=group.verdicts[:n])
        for group, n in zip(groups, (3, 1, 2), strict=True)
    ]
    sources = [groups[1], groups[2], groups[0]]
    return tuple(greedy(*each) for each in zip(cut, sources, (1.0, 0.0, 0.25), strict=True))


def greedy_means(parts: Parts, groups: Sequence[Group]) -> list[float]:
    """The token means of q over the greedy responses, by the weights as they are."""
    means = []
    for group in groups:
        assert group.greedy is not None
        rollout = group.greedy.rollout
        own = q_by_hand(parts, rollout.prompt_ids + rollout.response_ids, len(rollout.prompt_ids))
        means.append(sum(own) / len(own))
    return means


@pytest.mark.parametrize("update", ["after", "before"])
def test_remax_rests_on_the_greedy_response_to_the_prompt_of_each_row(tmp_path: Path, update: str):
    with scored(tmp_path, advantage__estimator="remax", prm__update=update) as (config, parts, groups, _):
        groups = unequal(groups)
        batch = collate(groups, parts.start.pad_id)
        before = greedy_means(parts, groups)
        scores, _ = score_and_learn(parts, batch, groups, config)
        after = greedy_means(parts, groups)
    means, wrong = (after, before) if update == "before" else (before, after)
    assert (torch.tensor(means) - torch.tensor(wrong)).abs().min() > 1e-3
    assert len({round(mean, 4) for mean in means}) == 3
    rows = [0, 0, 0, 1, 2, 2]
    assert scores.evidence.greedy_outcomes is not None
    assert scores.evidence.greedy_outcomes.tolist() == [(1.0, 0.0, 0.25)[index] for index in rows]
    expected = torch.tensor([means[index] for index in rows])
    assert scores.evidence.greedy_log_ratios is not None
    torch.testing.assert_close(scores.evidence.greedy_log_ratios, expected, atol=1e-5, rtol=1e-4)


def test_remax_without_a_prm_rests_on_the_outcome_alone(tmp_path: Path):
    with scored(tmp_path, advantage__estimator="remax", **OUTCOME_ONLY) as (config, parts, groups, _):
        groups = unequal(groups)
        batch = collate(groups, parts.start.pad_id)
        scores, _ = score_and_learn(parts, batch, groups, config)
    assert scores.evidence.greedy_log_ratios is None
    assert scores.evidence.greedy_outcomes is not None
    assert scores.evidence.greedy_outcomes.tolist() == [1.0, 1.0, 1.0, 0.0, 0.25, 0.25]


@pytest.mark.parametrize("reference", ["initial", "policy"])
@pytest.mark.parametrize("update", ["after", "before"])
def test_the_expected_baseline_is_that_of_the_model_that_scores(tmp_path: Path, reference: str, update: str):
    changes = {"advantage__baseline": "expected", "prm__ema": 0.5, "prm__reference": reference}
    with scored(tmp_path, **changes, prm__update=update, rollout__temperature=0.7) as (config, parts, groups, batch):
        prm = prm_of(parts)
        score_and_learn(parts, batch, groups, config)
        assert prm.average is not None
        before = {model: expectation(parts, model, batch) for model in (prm.average, prm.model)}
        scores, _ = score_and_learn(parts, batch, groups, config)
        now = {model: expectation(parts, model, batch) for model in (prm.average, prm.model)}
        found = scores.evidence.expected_log_ratios
        right, *wrong = (now if update == "before" else before).values()
        wrong += (before if update == "before" else now).values()
        assert found is not None
        assert torch.equal(found, right)
        assert all((found - other).abs().max() > 1e-4 for other in wrong)
        made = prime_returns(
            scores.log_ratios,
            batch.outcomes,
            batch.mask,
            batch.group_ids,
            rules=replace(parts.rules, normalizer="none"),
            evidence=scores.evidence,
        )
        assert scores.log_ratios is not None
        torch.testing.assert_close(made.rewards, scores.log_ratios - found)


def expectation(parts: Parts, prm: Any, batch: Batch) -> Tensor:
    assert parts.reference is not None
    options: dict[str, Any] = {"temperature": 0.7, "token_budget": 8192, "compute": "fp32"}
    return expected_log_ratios(parts.policy.model, prm, parts.reference.model, batch, **options)


def opinionated(critic: Critic | None) -> Critic:
    """The critic with something to say of every prefix."""
    assert critic is not None
    with torch.no_grad():
        (weight, _) = critic.model.head.parameters()
        weight += torch.linspace(-1, 1, weight.shape[1])
    return critic


@pytest.mark.parametrize("changes", [{"prm__update": "before"}, OUTCOME_ONLY], ids=["prm", "outcome"])
def test_values_are_those_before_the_critic_learns(tmp_path: Path, changes: dict[str, Any]):
    with scored(tmp_path, advantage__estimator="gae", **changes) as (config, parts, groups, batch):
        critic = opinionated(parts.critic)
        before = critic.values(batch)
        made = prime_step(parts, groups, config, 0)
        assert (critic.values(batch) - before).abs().max() > 1e-3, "it has learnt"
        own = prime_returns(
            None, batch.outcomes, batch.mask, batch.group_ids, rules=parts.rules, evidence=Evidence(values=before)
        )
        assert made.returns is not None
        assert torch.equal(made.returns.outcome, own.outcome)
        assert made.metrics["critic/value"] == pytest.approx(masked_mean(before, batch.mask).item())


def test_steps_end_where_the_tokenizer_says(tmp_path: Path):
    steps = {"prm__granularity": "step", "prm__step_boundary": "regex", "prm__step_pattern": "[ab]"}
    with scored(tmp_path, **steps) as (config, parts, groups, batch):
        ends = score_and_learn(parts, batch, groups, config)[0].evidence.step_ends
        assert ends is not None
        a, b = (parts.encode(replace(groups[0].problem, prompt=letter))[0] for letter in "ab")
        chosen = ((batch.tokens == a) | (batch.tokens == b)) & batch.mask
        assert chosen.any()
        assert (ends[chosen]).all()
        assert not ends[~batch.mask].any()


@pytest.mark.parametrize("changes", [{}, OUTCOME_ONLY], ids=["prm", "outcome"])
def test_a_critic_of_nans_stops_the_step(tmp_path: Path, changes: dict[str, Any]):
    with scored(tmp_path, advantage__estimator="gae", **changes) as (config, parts, groups, batch):
        (_, bias) = opinionated(parts.critic).model.head.parameters()
        bias.data.fill_(float("nan"))
        before = weights(parts.policy.model)
        scores, _ = score_and_learn(parts, batch, groups, config)
        assert not scores.finite
        made = prime_step(parts, groups, config, 0)
        assert made.metrics["policy/skipped_steps"] == 1
        assert torch.equal(weights(parts.policy.model), before)


def test_every_number_counts_for_finite():
    rows, broken = torch.zeros(2, 3), torch.full((2, 3), torch.inf)
    good = Scores(log_ratios=rows, held_out=rows, evidence=Evidence(values=rows, expected_log_ratios=rows))
    assert good.finite
    assert not replace(good, log_ratios=broken).finite
    for bad in (
        Evidence(values=broken),
        Evidence(expected_log_ratios=broken),
        Evidence(greedy_log_ratios=broken[:, 0]),
    ):
        assert not replace(good, evidence=bad).finite


def test_the_gate_goes_by_the_held_out_scores(tmp_path: Path):
    with scored(tmp_path, advantage__gate_accuracy=0.9, advantage__process_coef=3.0) as (_, parts, _, batch):
        right = (2 * batch.outcomes - 1)[:, None] * batch.mask
        scores = Scores(log_ratios=-right, held_out=right, evidence=Evidence())
        assert heard(parts, batch, scores) == parts.rules
        partly = right.clone()
        partly[:4] *= -1
        accuracy = informative_pair_accuracy(partly, batch.outcomes, batch.mask, batch.group_ids).item()
        assert accuracy == pytest.approx(2 / 3)
        rules = heard(parts, batch, Scores(log_ratios=right, held_out=partly, evidence=Evidence()))
        factor = ((1 + accuracy) / 2 - 0.5) / 0.4
        assert rules.process_coef == pytest.approx(3 * factor)
        assert replace(rules, process_coef=3.0) == parts.rules
