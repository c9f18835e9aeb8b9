"""What makes a model trained on outcomes a process reward (arXiv 2412.01981, Prop. 3.1 and 3.2), where all is known.

A tree of three tokens, one of which ends a response, and at most three tokens in one: 15 responses, each of which can
be enumerated. The reference and the PRM are tables of logits, one row for each prefix. Everything is in float64.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from credo.algo.logprobs import token_logprobs
from credo.algo.prm_losses import ceiling_distance, prm_cross_entropy
from credo.algo.rewards import log_ratios_to_rewards, sequence_logits

END, WORDS, LONGEST = 0, (0, 1, 2), 3
BETA = 0.5

Prefix = tuple[int, ...]


def ended(prefix: Prefix) -> bool:
    return len(prefix) == LONGEST or prefix[-1:] == (END,)


PREFIXES = [words for length in range(LONGEST + 1) for words in itertools.product(WORDS, repeat=length)]
PREFIXES = [prefix for prefix in PREFIXES if END not in prefix[:-1]]
RESPONSES = [prefix for prefix in PREFIXES if ended(prefix)]
CONTEXTS = [prefix for prefix in PREFIXES if not ended(prefix)]

# As credo lays out a batch: a prompt token, the response, padding; index s is about token s.
TOKENS = torch.tensor([[END, *response, *[END] * (LONGEST - len(response))] for response in RESPONSES])
MASK = torch.tensor([[0 < s <= len(response) for s in range(LONGEST + 1)] for response in RESPONSES])


def table(seed: int, scale: float = 1.0) -> Tensor:
    """Random logits of the next token, one row for each context."""
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(len(CONTEXTS), len(WORDS), generator=generator, dtype=torch.float64)


def logprobs(logits: Tensor) -> Tensor:
    """Log-probs of the tokens of every response, by the table of next-token logits."""
    nothing = CONTEXTS[0]  # any row does where the response is over
    rows = [[response[:s] if s < len(response) else nothing for s in range(LONGEST + 1)] for response in RESPONSES]
    index = torch.tensor([[CONTEXTS.index(prefix) for prefix in row] for row in rows])
    return token_logprobs(logits[index], TOKENS)


def chances(reference: Tensor) -> Tensor:
    """The probability of each response."""
    return torch.where(MASK, logprobs(reference), 0.0).sum(dim=1).exp()


def log_ratios(prm: Tensor, reference: Tensor) -> Tensor:
    return logprobs(prm) - logprobs(reference)


def values(prm: Tensor, reference: Tensor) -> dict[Prefix, float]:
    """Q of every prefix: beta times the sum of q up to there."""
    sums = BETA * torch.where(MASK, log_ratios(prm, reference), 0.0).cumsum(dim=1)
    return {
        response[:t]: sums[row, t].item() for row, response in enumerate(RESPONSES) for t in range(len(response) + 1)
    }


def completions(prefix: Prefix) -> Tensor:
    """The rows of the responses that begin with ``prefix``."""
    return torch.tensor([row for row, response in enumerate(RESPONSES) if response[: len(prefix)] == prefix])


def exact_values(rewards: Tensor, reference: Tensor) -> dict[Prefix, float]:
    """The soft values of the rewards of whole responses, by backward induction, one token at a time."""
    found: dict[Prefix, float] = dict(zip(RESPONSES, rewards.tolist(), strict=True))
    for prefix in sorted(CONTEXTS, key=len, reverse=True):
        following = reference[CONTEXTS.index(prefix)].softmax(dim=0).tolist()
        expected = sum(
            share * math.exp(found[(*prefix, word)] / BETA) for word, share in zip(WORDS, following, strict=True)
        )
        found[prefix] = BETA * math.log(expected)
    return found


def calibrated(rewards: Tensor, reference: Tensor) -> Tensor:
    """The rewards, shifted so that E_ref[exp(r / beta)] = 1: the only ones a PRM can have."""
    return rewards - BETA * (chances(reference) * (rewards / BETA).exp()).sum().log()


def trained(outcomes: Tensor, reference: Tensor, *, steps: int = 60) -> Tensor:
    """A PRM that starts as its reference and learns by cross-entropy, as far as ``steps`` of L-BFGS take it."""
    prm = reference.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [prm], max_iter=steps, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = prm_cross_entropy(log_ratios(prm, reference), outcomes, MASK, beta=BETA)
        value.backward()
        return value

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    return prm.detach()


def entropy(outcomes: Tensor) -> float:
    """The least cross-entropy that soft labels allow."""
    return -(outcomes * outcomes.log() + (1 - outcomes) * (1 - outcomes).log()).mean().item()


def test_the_tree():
    assert len(RESPONSES) == len(set(RESPONSES)) == 15
    assert len(CONTEXTS) == 7
    assert MASK.sum(dim=1).tolist() == [len(response) for response in RESPONSES]
    torch.testing.assert_close(chances(table(0)).sum(), torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize("seed", range(3))
def test_the_value_of_a_prefix_is_a_soft_average_over_its_completions_for_any_prm(seed: int):
    reference, prm = table(seed), table(seed + 100, scale=2.0)
    share, rewards = chances(reference), sequence_logits(log_ratios(prm, reference), MASK, BETA)
    found = values(prm, reference)
    assert found.keys() == set(PREFIXES)
    for prefix in PREFIXES:
        rows = completions(prefix)
        soft = (share[rows] * (rewards[rows] / BETA).exp()).sum() / share[rows].sum()
        assert found[prefix] == pytest.approx(BETA * soft.log().item(), abs=1e-12)
    assert (share * (rewards / BETA).exp()).sum().item() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_value_of_a_prefix_is_between_the_mean_and_the_best_of_its_completions(seed: int):
    reference, prm = table(seed), table(seed + 100, scale=2.0)
    share, rewards = chances(reference), sequence_logits(log_ratios(prm, reference), MASK, BETA)
    found = values(prm, reference)
    for prefix in CONTEXTS:
        rows = completions(prefix)
        mean = (share[rows] * rewards[rows]).sum() / share[rows].sum()
        assert mean < found[prefix] < rewards[rows].max()


@pytest.mark.parametrize("seed", range(3))
def test_outcomes_alone_teach_the_exact_value_of_every_prefix(seed: int):
    """Labels sigma(r*) of whole responses; Q* of every prefix, and so every token's process reward, to 1e-5."""
    reference = table(seed)
    rewards = calibrated(table(seed + 50).flatten()[:15], reference)
    outcomes = torch.sigmoid(rewards)
    exact = exact_values(rewards, reference)
    assert exact[()] == pytest.approx(0.0, abs=1e-12)

    prm = trained(outcomes, reference)

    ratios = log_ratios(prm, reference)
    loss = prm_cross_entropy(ratios, outcomes, MASK, beta=BETA).item()
    assert loss == pytest.approx(entropy(outcomes), abs=1e-10), "it has not converged"
    assert values(prm, reference) == pytest.approx(exact, abs=1e-5)
    process_rewards = log_ratios_to_rewards(ratios, MASK, semantics="paper", beta=BETA)
    for row, response in enumerate(RESPONSES):
        steps = [exact[response[: t + 1]] - exact[response[:t]] for t in range(len(response))]
        assert process_rewards[row, 1 : len(response) + 1].tolist() == pytest.approx(steps, abs=1e-5)
    assert max(abs(value) for value in exact.values()) > 0.1


def test_rewards_that_no_pair_of_models_can_express_are_not_learnt():
    """The same labels a unit of reward higher: E_ref[exp(r / beta)] would have to be e^2, and stays 1."""
    reference = table(0)
    rewards = calibrated(table(50).flatten()[:15], reference) + 1.0
    prm = trained(torch.sigmoid(rewards), reference)
    logits = sequence_logits(log_ratios(prm, reference), MASK, BETA)
    assert (rewards - logits).max() > 0.5
    assert (chances(reference) * (logits / BETA).exp()).sum().item() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("steps", [1, 5, 50])
def test_correct_responses_stay_below_their_ceiling(steps: int):
    """Hard labels: over the reference's responses, correct ones average at most beta * ln(1 / p), p their share."""
    reference = table(1)
    outcomes = (table(51).flatten()[:15] > 0).double()
    share = chances(reference)
    correct = (share * outcomes).sum()
    logits = sequence_logits(log_ratios(trained(outcomes, reference, steps=steps), reference), MASK, BETA)
    mean = (share * outcomes * logits).sum() / correct
    assert 0 < mean < BETA * math.log(1 / correct)
    assert (logits[outcomes == 0]).mean() < 0


def test_the_ceiling_is_what_training_approaches():
    """With all 15 responses equally likely a batch of each once is the reference itself, so the estimate is exact."""
    counts = torch.tensor([[len(completions((*prefix, word))) for word in WORDS] for prefix in CONTEXTS])
    uniform = counts.double().log()
    torch.testing.assert_close(chances(uniform), torch.full((15,), 1 / 15, dtype=torch.float64))
    outcomes = (torch.arange(15) % 3 == 0).double()
    one_group = torch.zeros(15, dtype=torch.int64)
    distances = [
        ceiling_distance(log_ratios(trained(outcomes, uniform, steps=steps), uniform), outcomes, MASK, one_group, BETA)
        for steps in (1, 3, 60)
    ]
    untrained = ceiling_distance(log_ratios(uniform, uniform), outcomes, MASK, one_group, BETA)
    assert untrained.item() == pytest.approx(BETA * math.log(3))
    assert BETA * math.log(3) > distances[0] > distances[1] > distances[2] > 0
    assert distances[2] < 0.01
