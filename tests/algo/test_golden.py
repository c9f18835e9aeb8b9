"""Every published variant against an independent numpy implementation, which agreed with the released code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from credo.algo.advantages import Evidence, outcome_returns, prime_advantages, prime_returns
from credo.algo.baselines import centre_as_released, leave_one_out_mean
from credo.algo.credit import CreditRules
from credo.algo.masked import masked_whiten, row_sum, suffix_sum, zero_off
from credo.algo.prm_losses import group_scores, prm_cross_entropy, prm_loss
from credo.algo.rewards import last_token, log_ratios_to_rewards, pair_accuracy


def test_official_process_rewards(golden):
    golden.check(log_ratios_to_rewards(golden.rows.log_ratios, golden.rows.mask), "official.rm_scores")


def test_official_baselines(golden):
    rows = golden.rows
    rewards = log_ratios_to_rewards(rows.log_ratios, rows.mask)
    golden.check(centre_as_released(rewards, rows.mask, rows.group_ids), "official.rm_centered")
    centred = rows.outcomes - leave_one_out_mean(rows.outcomes, rows.group_ids)
    golden.check(centred[:, None] * last_token(rows.mask), "official.gt_centered")


def test_official_outcome_baseline_is_the_process_baseline_on_the_last_token(golden):
    rows = golden.rows
    last = last_token(rows.mask)
    golden.check(centre_as_released(rows.outcomes[:, None] * last, last, rows.group_ids), "official.gt_centered")


def test_official_returns_and_advantages(golden):
    rows = golden.rows.astuple()
    golden.check(prime_returns(*rows).total, "official.returns")
    golden.check(prime_advantages(*rows), "official.advantages")
    golden.check(prime_advantages(*rows, gamma_process=0.9), "official_gamma_rm_0.9.advantages")
    golden.check(prime_returns(*rows, normalizer="none").total, "official_no_norm.returns")


def test_verl(golden):
    rows, coefs = golden.rows, {"process_coef": 5.0, "outcome_coef": 5.0}
    golden.check(log_ratios_to_rewards(rows.log_ratios, rows.mask, semantics="verl"), "verl.rm_scores")
    golden.check(prime_returns(*rows.astuple(), semantics="verl", **coefs).total, "verl.returns")
    golden.check(prime_advantages(*rows.astuple(), semantics="verl", **coefs), "verl.advantages")
    golden.check(prime_advantages(*rows.astuple(), semantics="verl"), "verl.advantages")


def test_verl_with_the_last_token_kept_is_official(golden):
    rows = golden.rows
    rewards = log_ratios_to_rewards(rows.log_ratios, rows.mask, semantics="paper", normalizer="max_return")
    process = suffix_sum(centre_as_released(rewards, rows.mask, rows.group_ids))
    outcome = outcome_returns(rows.outcomes, rows.mask, rows.group_ids, CreditRules(), Evidence())
    advantages = masked_whiten(5 * process + 5 * outcome, rows.mask)
    golden.check(advantages, "verl_keep_last.advantages")
    # verl adds its 1e-6 after multiplying by beta: that is the whole difference.
    torch.testing.assert_close(advantages, prime_advantages(*rows.astuple()), rtol=0, atol=5e-5)


def test_paper(golden):
    golden.check(prime_advantages(*golden.rows.astuple(), semantics="paper"), "paper_rloo_token_mean")


def test_paper_read_literally(golden):
    rows = golden.rows
    rewards = log_ratios_to_rewards(rows.log_ratios, rows.mask, semantics="paper")
    baseline = leave_one_out_mean(row_sum(rewards, rows.mask), rows.group_ids)
    process = suffix_sum(zero_off(rewards - baseline[:, None], rows.mask))
    outcome = outcome_returns(rows.outcomes, rows.mask, rows.group_ids, CreditRules(semantics="paper"), Evidence())
    golden.check(zero_off(process + outcome, rows.mask), "paper_rloo_seq_sum")


@pytest.mark.parametrize(
    ("estimator", "name"),
    [
        ("grpo", "paper_grpo_ddof1"),
        ("reinforce", "paper_reinforce"),
        ("implicit_value", "implicit_value_baseline"),
    ],
)
def test_the_papers_other_estimators(golden, estimator, name):
    rows = golden.rows.astuple()
    golden.check(prime_advantages(*rows, semantics="paper", estimator=estimator, normalizer_floor=1e-6), name)


def test_cross_entropy_and_its_gradient(golden):
    rows = golden.rows
    log_ratios = rows.log_ratios.clone().requires_grad_()
    loss = prm_cross_entropy(log_ratios, rows.outcomes, rows.mask)
    loss.backward()
    golden.check(loss.detach(), "ce_loss")
    assert log_ratios.grad is not None
    golden.check(log_ratios.grad, "ce_dq")


def test_pair_accuracy(golden):
    golden.check(pair_accuracy(*golden.rows.astuple()), "pair_accuracy")


def test_the_golden_numbers_are_a_faithful_copy(golden, request):
    source = Path(__file__).parents[3] / "shared" / "golden" / "golden_rloo.json"
    if not source.exists():
        pytest.skip(f"no {source} to compare with")
    original = json.loads(source.read_text())[request.node.callspec.params["golden"]]
    for name, numbers in golden.numbers.items():
        actual, expected = (torch.tensor(value, dtype=torch.float64) for value in (numbers, original[name]))
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-12)


def test_detached_dpo(golden):
    rows = golden.rows
    scores = group_scores(rows.log_ratios, rows.outcomes, rows.mask, rows.group_ids, 0.05)
    loss = prm_loss(rows.log_ratios, rows.outcomes, rows.mask, scores, loss="dpo")
    golden.check(loss, "detach_dpo_loss")


def test_detached_dpo_towards_the_best_of_n(golden):
    rows = golden.rows
    scores = group_scores(rows.log_ratios, rows.outcomes, rows.mask, rows.group_ids, 0.05)
    mean = prm_loss(rows.log_ratios, rows.outcomes, rows.mask, scores, loss="bon_acc")
    golden.check(mean * len(rows.outcomes), "detach_dpo_bon_acc")  # verl's is a sum
