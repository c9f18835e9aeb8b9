from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch

from credo.algo.advantages import Evidence, outcome_returns, prefix_values, prime_advantages, prime_returns
from credo.algo.baselines import leave_one_out_mean
from credo.algo.credit import Baseline, CreditRules, Estimator, Normalizer
from credo.algo.masked import masked_whiten

EVERY_SEMANTICS = pytest.mark.parametrize("semantics", ["official", "paper", "verl"])
EVERY_ESTIMATOR = pytest.mark.parametrize("estimator", get_args(Estimator))
EVERY_BASELINE = pytest.mark.parametrize("baseline", get_args(Baseline))
OPTIONS = {"gamma_process": 0.95, "process_coef": 0.7, "outcome_coef": 1.3}


def evidence_of(rows, seed: int = 5) -> Evidence:
    """Something of everything, with NaN wherever the mask is False."""
    generator = torch.Generator().manual_seed(seed)
    dtype, shape = rows.outcomes.dtype, rows.mask.shape
    per_group = torch.rand(len(rows.group_ids.unique()), 2, generator=generator, dtype=dtype)
    _, index = rows.group_ids.unique(return_inverse=True)
    return Evidence(
        step_ends=torch.rand(shape, generator=generator) < 0.4,
        values=torch.rand(shape, generator=generator, dtype=dtype).masked_fill(~rows.mask, float("nan")),
        greedy_outcomes=per_group[index, 0].round(),
        greedy_log_ratios=per_group[index, 1],
        expected_log_ratios=torch.randn(shape, generator=generator, dtype=dtype).masked_fill(~rows.mask, float("nan")),
    )


def take(evidence: Evidence, index) -> Evidence:
    return Evidence(**{name: getattr(evidence, name)[index] for name in Evidence.__slots__})


def slow_advantages(rows, evidence: Evidence, rules: CreditRules):
    """Every option written as loops over rows and tokens, in Python floats."""
    count, ids = len(rows.outcomes), rows.group_ids.tolist()
    mates = [[j for j in range(count) if ids[j] == ids[i]] for i in range(count)]
    others = [[j for j in mates[i] if j != i] for i in range(count)]

    def of(tensor):
        return [values[m].tolist() for values, m in zip(tensor, rows.mask, strict=True)]

    process = slow_process_returns(of, evidence, rules, rows, mates, others)
    outcome = slow_outcome_returns(of, evidence, rules, rows, mates, others)
    total = [
        [rules.process_coef * p + rules.outcome_coef * o for p, o in zip(ps, os, strict=True)]
        for ps, os in zip(process, outcome, strict=True)
    ]
    if rules.whitens == "batch":
        total = slow_white(total, [list(range(count))] * count)
    elif rules.whitens == "group":
        total = slow_white(total, mates)
    result = torch.zeros(rows.mask.shape, dtype=torch.float64)
    result[rows.mask] = torch.tensor([value for row in total for value in row], dtype=torch.float64)
    return result


def slow_white(rows, pools):
    white = []
    for row, pool in zip(rows, pools, strict=True):
        flat = [value for j in pool for value in rows[j]]
        mean = sum(flat) / len(flat)
        variance = sum((value - mean) ** 2 for value in flat) / (len(flat) - 1)
        white.append([(value - mean) / (variance + 1e-8) ** 0.5 for value in row])
    return white


def slow_outcome_returns(of, evidence, rules, rows, mates, others):
    outcomes, gamma, result = rows.outcomes.tolist(), rules.gamma_outcome, []
    values = of(evidence.values)
    for i, row in enumerate(values):
        last = len(row) - 1
        if rules.estimator == "gae":
            deltas = [(outcomes[i] if t == last else gamma * row[t + 1]) - row[t] for t in range(len(row))]
            decay = gamma * rules.gae_lambda
            result.append([sum(decay ** (u - t) * deltas[u] for u in range(t, len(row))) for t in range(len(row))])
            continue
        centred = outcomes[i]
        if rules.estimator == "rloo":
            centred -= sum(outcomes[j] for j in others[i]) / len(others[i])
        elif rules.estimator == "grpo":
            mean = sum(outcomes[j] for j in mates[i]) / len(mates[i])
            spread = (sum((outcomes[j] - mean) ** 2 for j in mates[i]) / len(others[i])) ** 0.5
            centred = (centred - mean) / max(spread, 1e-6)
        elif rules.estimator == "remax":
            centred -= evidence.greedy_outcomes[i].item()
        result.append([centred * gamma ** (last - t) for t in range(len(row))])
    return result


def slow_process_returns(of, evidence, rules, rows, mates, others):
    q, ends, expected = of(rows.log_ratios), of(evidence.step_ends), of(evidence.expected_log_ratios)
    if rules.estimator in ("implicit_value", "calibrated_value"):
        logits = [[rules.beta * sum(row[:t]) for t in range(len(row))] for row in q]
        if rules.estimator == "implicit_value":
            return [[-z for z in row] for row in logits]
        return [[-1 / (1 + math.exp(-z)) for z in row] for row in logits]
    if rules.baseline == "expected":
        q = [[a - b for a, b in zip(row, mean, strict=True)] for row, mean in zip(q, expected, strict=True)]
    rewards = [slow_rewards(row, end, rules) for row, end in zip(q, ends, strict=True)]
    sizes = sorted(abs(sum(row[t:])) for row in rewards for t in range(len(row)))
    divisor = {
        "none": 1.0,
        "max_return": sizes[-1],
        "rms": (sum(size**2 for size in sizes) / len(sizes)) ** 0.5,
        "quantile": sizes[math.ceil(0.999 * len(sizes)) - 1],
    }[rules.divides_by]
    if rules.divides_by != "none":
        divisor = max(divisor, rules.unit * rules.normalizer_floor) + 1e-6
    rewards = [[r / divisor for r in row] for row in rewards]
    means, gamma = [sum(row) / len(row) for row in rewards], rules.gamma_process

    def returns(row):
        return [sum(gamma ** (u - t) * row[u] for u in range(t, len(row))) for t in range(len(row))]

    def mean_of_others(values, i):
        return sum(values[j] for j in others[i]) / len(others[i])

    result = []
    for i, row in enumerate(rewards):
        baseline = rules.baseline or {"rloo": "token_mean", "grpo": "grpo", "remax": "greedy"}.get(rules.estimator)
        if baseline == "position":
            theirs = {j: returns(rewards[j]) for j in others[i]}
            at = [{j: t * len(rewards[j]) // len(row) for j in others[i]} for t in range(len(row))]
            own = returns(row)
            mean = [sum(theirs[j][at[t][j]] for j in others[i]) / len(others[i]) for t in range(len(row))]
            result.append([a - b for a, b in zip(own, mean, strict=True)])
            continue
        if baseline == "token_mean" and rules.semantics != "paper":
            n = len(mates[i])
            centred = [n / (n - 1) * r - sum(means[j] for j in mates[i]) / (n - 1) for r in row]
        elif baseline == "token_mean":
            centred = [r - mean_of_others(means, i) for r in row]
        elif baseline == "sequence":
            centred = [r - mean_of_others([sum(r) for r in rewards], i) / len(row) for r in row]
        elif baseline == "grpo":
            mean = sum(means[j] for j in mates[i]) / len(mates[i])
            spread = (sum((means[j] - mean) ** 2 for j in mates[i]) / len(others[i])) ** 0.5
            centred = [(r - mean) / max(spread, rules.unit * rules.normalizer_floor) for r in row]
        elif baseline == "greedy":
            centred = [r - rules.unit * evidence.greedy_log_ratios[i].item() / divisor for r in row]
        else:
            centred = row
        result.append(returns([min(r, 0.0) for r in centred] if rules.negative_only else centred))
    return result


def slow_rewards(row, ends, rules):
    last = len(row) - 1
    if rules.granularity == "token":
        kept = [t for t in range(len(row)) if not (rules.semantics == "verl" and t == last)]
        rewards = {t: row[t] for t in kept}
    else:
        stops = [t for t in range(len(row)) if t == last or (ends[t] and rules.granularity == "step")]
        starts = [0, *(stop + 1 for stop in stops[:-1])]
        rewards = {stop: sum(row[start : stop + 1]) for start, stop in zip(starts, stops, strict=True)}
    if rules.credit == "min" and rewards:
        lowest = min(rewards.values())
        ties = [t for t, value in rewards.items() if value == lowest]
        rewards = {t: lowest / len(ties) for t in ties}
    return [rules.unit * rewards.get(t, 0.0) for t in range(len(row))]


def against_loops(rows, **options: Any) -> None:
    evidence, rules = evidence_of(rows), CreditRules(**options)
    actual = prime_advantages(*rows.astuple(), evidence=evidence, rules=rules)
    torch.testing.assert_close(actual, slow_advantages(rows, evidence, rules), rtol=1e-4, atol=1e-5)
    assert (actual[~rows.mask] == 0).all()


@EVERY_SEMANTICS
@EVERY_ESTIMATOR
@pytest.mark.parametrize("seed", range(2))
def test_every_estimator_against_loops(random_rows, semantics, estimator, seed):
    rows = random_rows(seed=seed, dtype=torch.float64)
    for options in ({}, OPTIONS):
        against_loops(rows, semantics=semantics, estimator=estimator, **options)


@EVERY_SEMANTICS
@EVERY_BASELINE
@pytest.mark.parametrize("estimator", ["rloo", "gae"])
def test_every_baseline_against_loops(random_rows, semantics, baseline, estimator):
    rows = random_rows(seed=4, dtype=torch.float64)
    against_loops(rows, semantics=semantics, baseline=baseline, estimator=estimator, gamma_process=0.9)


@EVERY_SEMANTICS
@pytest.mark.parametrize("normalizer", get_args(Normalizer))
@pytest.mark.parametrize("whitening", ["batch", "group", "none"])
def test_every_scale_against_loops(random_rows, semantics, normalizer, whitening):
    rows = random_rows(seed=6, dtype=torch.float64)
    against_loops(rows, semantics=semantics, normalizer=normalizer, whitening=whitening)


@EVERY_SEMANTICS
@pytest.mark.parametrize("granularity", ["token", "step", "whole"])
@pytest.mark.parametrize("form", ["sum", "min"])
@pytest.mark.parametrize("negative_only", [False, True])
def test_every_form_of_credit_against_loops(random_rows, semantics, granularity, form, negative_only):
    rows = random_rows(seed=7, dtype=torch.float64)
    options: dict[str, Any] = {"granularity": granularity, "credit": form, "negative_only": negative_only}
    against_loops(rows, semantics=semantics, **options)


@pytest.mark.parametrize("options", [{"gamma_outcome": 0.8}, {"gae_lambda": 0.6}, {"gae_lambda": 0.0}])
def test_generalised_advantages_against_loops(random_rows, options):
    against_loops(random_rows(seed=8, dtype=torch.float64), estimator="gae", **options)


EVERY_VARIANT = pytest.mark.parametrize(
    "options",
    [
        *({"estimator": estimator, "semantics": "paper"} for estimator in get_args(Estimator)),
        *({"baseline": baseline, "normalizer": "rms"} for baseline in get_args(Baseline)),
        {"normalizer": "quantile", "granularity": "step", "credit": "min"},
        {"whitening": "group", "negative_only": True, "gamma_process": 0.0},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)


@EVERY_VARIANT
def test_no_variant_depends_on_padding_or_the_order_of_rows(random_rows, options):
    rows = random_rows(seed=9)
    evidence = evidence_of(rows)
    expected = prime_advantages(*rows.astuple(), evidence=evidence, **options)
    order = torch.randperm(len(rows.mask), generator=torch.Generator().manual_seed(3))
    shuffled = prime_advantages(*rows[order].astuple(), evidence=take(evidence, order), **options)
    torch.testing.assert_close(shuffled, expected[order])
    wide = rows.replace(
        log_ratios=torch.nn.functional.pad(rows.log_ratios, (2, 3), value=float("inf")),
        mask=torch.nn.functional.pad(rows.mask, (2, 3)),
    )
    fills = {"step_ends": True, "values": float("inf"), "expected_log_ratios": float("nan")}
    stretched = replace(
        evidence,
        **{name: torch.nn.functional.pad(getattr(evidence, name), (2, 3), value=fill) for name, fill in fills.items()},
    )
    padded = prime_advantages(*wide.astuple(), evidence=stretched, **options)
    torch.testing.assert_close(padded[:, 2:-3], expected)
    assert (padded[:, :2] == 0).all()
    assert (padded[:, -3:] == 0).all()


@EVERY_VARIANT
def test_every_variant_is_the_same_on_two_ranks(random_rows, on_ranks, options):
    rows = random_rows(sizes=(2, 5, 3, 4), seed=2)
    evidence, second = evidence_of(rows), rows.group_ids > 0
    shares = (~second, second)
    parts = on_ranks(
        lambda rank, reduce: prime_advantages(
            *rows[shares[rank]].astuple(), evidence=take(evidence, shares[rank]), all_reduce=reduce, **options
        )
    )
    expected = prime_advantages(*rows.astuple(), evidence=evidence, **options)
    torch.testing.assert_close(parts[0], expected[~second])
    torch.testing.assert_close(parts[1], expected[second])


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"estimator": "gae"}, "values"),
        ({"estimator": "remax"}, "greedy_outcomes"),
        ({"baseline": "expected"}, "expected_log_ratios"),
        ({"granularity": "step"}, "step_ends"),
    ],
)
def test_missing_evidence_is_named(random_rows, options, name):
    with pytest.raises(ValueError, match=name):
        prime_advantages(*random_rows().astuple(), **options)


def test_remax_without_a_prm_needs_the_greedy_outcome_alone(random_rows):
    rows = random_rows()
    evidence = Evidence(greedy_outcomes=torch.full_like(rows.outcomes, 0.25))
    absent = (None, rows.outcomes, rows.mask, rows.group_ids)
    advantages = prime_advantages(*absent, estimator="remax", semantics="paper", evidence=evidence)
    torch.testing.assert_close(advantages, (rows.outcomes - 0.25)[:, None] * rows.mask)


def test_reinforce_plus_plus_is_reinforce_with_whitening(random_rows):
    rows = random_rows()
    plain = prime_advantages(*rows.astuple(), estimator="reinforce")
    white = prime_advantages(*rows.astuple(), estimator="reinforce_pp")
    torch.testing.assert_close(white, masked_whiten(plain, rows.mask))
    assert not torch.allclose(plain, white, atol=0.1)


def test_immediate_credit_is_the_tokens_own_reward():
    q = torch.tensor([[0.1, -0.3, 0.2], [0.4, 0.0, 0.0]])
    mask, ids = torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, dtype=torch.long)
    options: dict[str, Any] = {"semantics": "paper", "beta": 1.0, "baseline": "none"}
    returns = prime_returns(q, torch.zeros(2), mask, ids, gamma_process=0.0, **options)
    torch.testing.assert_close(returns.process, q)


def test_the_expected_log_ratio_is_a_baseline_of_the_position():
    q, mean = torch.tensor([[0.1, -0.3], [0.4, 0.0]]), torch.tensor([[0.3, -0.1], [0.3, 0.2]])
    mask, ids = torch.ones(2, 2, dtype=torch.bool), torch.zeros(2, dtype=torch.long)
    options: dict[str, Any] = {"semantics": "paper", "beta": 1.0, "baseline": "expected"}
    evidence = Evidence(expected_log_ratios=mean)
    immediate = prime_returns(q, torch.zeros(2), mask, ids, evidence=evidence, gamma_process=0.0, **options)
    torch.testing.assert_close(immediate.process, torch.tensor([[-0.2, -0.2], [0.1, -0.2]]))
    negative = prime_returns(q, torch.zeros(2), mask, ids, evidence=evidence, negative_only=True, **options)
    torch.testing.assert_close(negative.process, torch.tensor([[-0.4, -0.2], [-0.2, -0.2]]))


def test_the_lowest_reward_is_felt_by_all_tokens_up_to_it():
    q = torch.tensor([[0.1, -0.3, 0.2, -0.1], [0.4, 0.2, 0.2, 0.0]])
    mask = torch.tensor([[True, True, True, True], [True, True, True, False]])
    options: dict[str, Any] = {"semantics": "paper", "beta": 1.0, "baseline": "none", "credit": "min"}
    returns = prime_returns(q, torch.zeros(2), mask, torch.zeros(2, dtype=torch.long), **options)
    expected = [[-0.3, -0.3, 0.0, 0.0], [0.2, 0.2, 0.1, 0.0]]
    torch.testing.assert_close(returns.process, torch.tensor(expected))


def test_the_totals_of_the_others_leave_no_length_effect():
    lengths = torch.tensor([300, 3000, 1000, 1000])
    mask = torch.arange(3000) < lengths[:, None]
    even, ids = 0.5 / lengths[:, None] * mask, torch.zeros(4, dtype=torch.long)
    options: dict[str, Any] = {"semantics": "paper", "beta": 1.0}
    for baseline in ("sequence", "position"):
        first = prime_returns(even, torch.zeros(4), mask, ids, baseline=baseline, **options).process[:, 0]
        torch.testing.assert_close(first, torch.zeros(4), rtol=0, atol=1e-5)
    by_tokens = prime_returns(even, torch.zeros(4), mask, ids, **options).process[:, 0]
    torch.testing.assert_close(by_tokens, torch.tensor([0.38, -2.17, -0.28, -0.28]), rtol=0, atol=0.006)


def test_values_of_prefixes_by_hand():
    q, mask = torch.tensor([[float("nan"), 2.0, -4.0, 1.0]]), torch.tensor([[False, True, True, True]])
    linear = prefix_values(q, mask, CreditRules(estimator="implicit_value", beta=0.5))
    torch.testing.assert_close(linear, torch.tensor([[0.0, 0.0, 1.0, -1.0]]))
    calibrated = prefix_values(q, mask, CreditRules(estimator="calibrated_value", beta=0.5))
    torch.testing.assert_close(calibrated, torch.tensor([[0.0, 0.5, 0.731059, 0.268941]]))


@EVERY_SEMANTICS
def test_padding_on_either_side_does_not_matter(random_rows, semantics):
    rows = random_rows()
    wide = rows.replace(
        log_ratios=torch.nn.functional.pad(rows.log_ratios, (2, 3), value=float("inf")),
        mask=torch.nn.functional.pad(rows.mask, (2, 3)),
    )
    narrow = prime_advantages(*rows.astuple(), semantics=semantics, gamma_process=0.9)
    padded = prime_advantages(*wide.astuple(), semantics=semantics, gamma_process=0.9)
    torch.testing.assert_close(padded[:, 2:-3], narrow)
    assert (padded[:, :2] == 0).all()
    assert (padded[:, -3:] == 0).all()


@EVERY_SEMANTICS
@pytest.mark.parametrize("garbage", [0.0, 9.0, float("inf"), float("nan")])
def test_what_lies_off_the_mask_does_not_matter(random_rows, semantics, garbage):
    rows = random_rows()
    dirty = rows.replace(log_ratios=rows.log_ratios.masked_fill(~rows.mask, garbage))
    before = dirty.log_ratios.clone()
    clean = rows.replace(log_ratios=rows.log_ratios.nan_to_num(-3.0))
    torch.testing.assert_close(
        prime_advantages(*dirty.astuple(), semantics=semantics), prime_advantages(*clean.astuple(), semantics=semantics)
    )
    torch.testing.assert_close(dirty.log_ratios, before, equal_nan=True, rtol=0, atol=0)


@EVERY_SEMANTICS
def test_the_order_of_rows_and_the_names_of_groups_do_not_matter(random_rows, semantics):
    rows = random_rows()
    order = torch.randperm(len(rows.mask), generator=torch.Generator().manual_seed(3))
    shuffled = rows[order]
    shuffled = shuffled.replace(group_ids=100 - shuffled.group_ids)
    torch.testing.assert_close(
        prime_advantages(*shuffled.astuple(), semantics=semantics),
        prime_advantages(*rows.astuple(), semantics=semantics)[order],
    )


@EVERY_SEMANTICS
def test_a_constant_added_to_the_outcomes_of_a_prompt_does_not_matter(random_rows, semantics):
    rows = random_rows()
    shifted = rows.replace(outcomes=rows.outcomes + 0.1 * rows.group_ids)
    torch.testing.assert_close(
        prime_advantages(*shifted.astuple(), semantics=semantics),
        prime_advantages(*rows.astuple(), semantics=semantics),
        rtol=1e-4,
        atol=1e-5,
    )


@EVERY_SEMANTICS
def test_without_a_process_signal_it_is_outcome_rloo(random_rows, semantics):
    rows = random_rows()
    by_hand = (rows.outcomes - leave_one_out_mean(rows.outcomes, rows.group_ids))[:, None] * rows.mask
    expected = by_hand if semantics == "paper" else masked_whiten(by_hand, rows.mask)
    silent = rows.replace(log_ratios=torch.zeros_like(rows.log_ratios))
    absent = (None, rows.outcomes, rows.mask, rows.group_ids)
    torch.testing.assert_close(prime_advantages(*silent.astuple(), semantics=semantics), expected)
    torch.testing.assert_close(prime_advantages(*absent, semantics=semantics), expected)
    torch.testing.assert_close(prime_advantages(*rows.astuple(), semantics=semantics, process_coef=0.0), expected)


@pytest.mark.parametrize("semantics", ["official", "verl"])
def test_the_scale_of_the_log_ratios_cancels_in_the_released_codes(random_rows, semantics):
    rows = random_rows()
    scaled = rows.replace(log_ratios=7 * rows.log_ratios)
    torch.testing.assert_close(
        prime_advantages(*scaled.astuple(), semantics=semantics),
        prime_advantages(*rows.astuple(), semantics=semantics),
        rtol=1e-4,
        atol=1e-4,
    )


def test_beta_counts_in_the_paper_and_not_in_official(random_rows):
    rows = random_rows().astuple()
    torch.testing.assert_close(prime_advantages(*rows, beta=0.5), prime_advantages(*rows), rtol=0, atol=0)
    small, large = (prime_returns(*rows, semantics="paper", beta=beta).process for beta in (0.05, 0.5))
    torch.testing.assert_close(large, 10 * small)


def test_a_common_factor_of_the_coefficients_is_whitened_away(random_rows):
    rows = random_rows().astuple()
    fives = prime_advantages(*rows, semantics="verl", process_coef=5.0, outcome_coef=5.0)
    torch.testing.assert_close(fives, prime_advantages(*rows, semantics="verl"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("semantics", ["official", "verl"])
def test_advantages_are_white(random_rows, semantics):
    rows = random_rows()
    advantages = prime_advantages(*rows.astuple(), semantics=semantics)[rows.mask]
    assert advantages.mean().abs() < 1e-6
    assert advantages.var() == pytest.approx(1.0, abs=1e-5)


def test_returns_by_hand():
    # Two responses of one prompt; official without its norm: r * 2 - (0.2 + 0.5), outcome 1 - 0 and 0 - 1.
    log_ratios = torch.tensor([[0.1, 0.3], [0.5, float("nan")]])
    mask = torch.tensor([[True, True], [True, False]])
    outcomes, group_ids = torch.tensor([1.0, 0.0]), torch.tensor([4, 4])
    returns = prime_returns(log_ratios, outcomes, mask, group_ids, normalizer="none", gamma_process=0.5)
    torch.testing.assert_close(returns.process, torch.tensor([[-0.5 - 0.05, -0.1], [0.3, 0.0]]))
    torch.testing.assert_close(returns.outcome, torch.tensor([[1.0, 1.0], [-1.0, 0.0]]))
    torch.testing.assert_close(returns.total, returns.process + returns.outcome)


def test_returns_carry_their_coefficients(random_rows):
    rows = random_rows().astuple()
    plain, weighted = prime_returns(*rows), prime_returns(*rows, process_coef=2.0, outcome_coef=3.0)
    torch.testing.assert_close(weighted.process, 2 * plain.process)
    torch.testing.assert_close(weighted.outcome, 3 * plain.outcome)


def test_the_outcome_is_discounted_from_the_last_token():
    mask = torch.tensor([[False, True, True, True, False]])
    returns = outcome_returns(
        torch.tensor([2.0]),
        mask,
        torch.zeros(1, dtype=torch.long),
        CreditRules(estimator="reinforce", gamma_outcome=0.5),
        Evidence(),
    )
    assert returns.tolist() == [[0.0, 0.5, 1.0, 2.0, 0.0]]


def test_the_paper_does_not_discount_outcomes(random_rows):
    with pytest.raises(ValueError, match="gamma_outcome"):
        prime_advantages(*random_rows().astuple(), semantics="paper", gamma_outcome=0.9)


def test_whole_granularity_credits_the_response_as_one(random_rows):
    rows = random_rows()
    returns = prime_returns(*rows.astuple(), semantics="paper", granularity="whole").process
    sums = torch.where(rows.mask, rows.log_ratios, 0.0).sum(dim=1) * 0.05
    baseline = leave_one_out_mean(sums / rows.mask.sum(dim=1), rows.group_ids)
    remaining = rows.mask.flip(1).cumsum(dim=1).flip(1)
    expected = (sums[:, None] - remaining * baseline[:, None]) * rows.mask
    torch.testing.assert_close(returns, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"granularity": "whole"},
        {"normalizer": "none"},
        {"normalizer_floor": 50.0},
        {"gamma_process": 0.5},
        {"gamma_outcome": 0.5},
        {"process_coef": 2.0},
        {"outcome_coef": 2.0},
        {"semantics": "verl"},
        {"semantics": "verl", "normalizer": "none", "beta": 0.5},
    ],
)
def test_every_option_reaches_the_advantages(random_rows, options):
    rows = random_rows().astuple()
    advantages = prime_advantages(*rows, **options)
    torch.testing.assert_close(advantages, masked_whiten(prime_returns(*rows, **options).total, rows[2]))
    assert not torch.allclose(advantages, prime_advantages(*rows), atol=1e-3)


@EVERY_SEMANTICS
def test_a_response_without_tokens_is_silent_but_its_outcome_counts(random_rows, semantics):
    rows = random_rows()
    mask = rows.mask.clone()
    mask[0] = False
    lucky, unlucky = (
        prime_returns(
            *rows.replace(mask=mask, outcomes=torch.cat([torch.tensor([first]), rows.outcomes[1:]])).astuple(),
            semantics=semantics,
        )
        for first in (1.0, 0.0)
    )
    assert (lucky.total[0] == 0).all()
    assert lucky.total.isfinite().all()
    assert prime_advantages(*rows.replace(mask=mask).astuple(), semantics=semantics).isfinite().all()
    mates = (rows.group_ids == rows.group_ids[0]) & (torch.arange(len(mask)) > 0)
    others = mates.sum()
    expected = -(mask & mates[:, None]).float() / others
    torch.testing.assert_close(lucky.outcome - unlucky.outcome, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(lucky.process, unlucky.process)


@EVERY_SEMANTICS
def test_nobody_answered(random_rows, semantics):
    rows = random_rows()
    rows = rows.replace(mask=torch.zeros_like(rows.mask))
    assert (prime_advantages(*rows.astuple(), semantics=semantics) == 0).all()


@EVERY_SEMANTICS
def test_two_ranks_agree_with_one(random_rows, on_ranks, semantics):
    rows = random_rows(sizes=(2, 5, 3, 4))
    second = rows.group_ids > 0
    shares = (rows[~second], rows[second])
    parts = on_ranks(
        lambda rank, reduce: prime_advantages(*shares[rank].astuple(), semantics=semantics, all_reduce=reduce)
    )
    expected = prime_advantages(*rows.astuple(), semantics=semantics)
    torch.testing.assert_close(parts[0], expected[~second])
    torch.testing.assert_close(parts[1], expected[second])
    alone = prime_advantages(*shares[0].astuple(), semantics=semantics)
    assert torch.allclose(alone, expected[~second], rtol=1e-3) == (semantics == "paper")


@EVERY_SEMANTICS
@pytest.mark.parametrize("with_process", [True, False])
def test_a_lonely_rollout_is_refused(random_rows, semantics, with_process):
    rows = random_rows(sizes=(3, 1, 2))
    log_ratios = rows.log_ratios if with_process else None
    with pytest.raises(ValueError, match=r"rollout\.per_prompt"):
        prime_advantages(log_ratios, rows.outcomes, rows.mask, rows.group_ids, semantics=semantics)


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize("with_process", [True, False])
@pytest.mark.parametrize(("option", "choices"), [("semantics", "official, paper, verl"), ("estimator", "rloo, grpo")])
def test_an_unknown_option_is_refused_with_the_choices(random_rows, option, choices, with_process):
    rows = random_rows()
    log_ratios = rows.log_ratios if with_process else None
    nonsense: dict[str, Any] = {option: "nonsense"}
    with pytest.raises(ValueError, match=rf"nonsense.*{choices}"):
        prime_advantages(log_ratios, rows.outcomes, rows.mask, rows.group_ids, **nonsense)


def test_advantages_are_fp32_without_a_gradient(random_rows):
    rows = random_rows()
    half = rows.replace(log_ratios=rows.log_ratios.bfloat16().requires_grad_())
    advantages = prime_advantages(*half.astuple())
    assert advantages.dtype == torch.float32
    assert not advantages.requires_grad
