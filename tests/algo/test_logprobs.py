from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from credo.algo.logprobs import (
    entropy,
    gather_logprobs,
    linear_logprobs,
    logprobs_and_entropies_at,
    logprobs_at,
    predicting_positions,
    token_logprobs,
)


def plain(logits, tokens, temperature=1.0):
    """The same numbers the obvious way."""
    logprobs = torch.log_softmax(logits.float() / temperature, dim=-1)
    columns = [torch.zeros(len(tokens))]
    columns += [logprobs[:, s - 1].gather(1, tokens[:, s, None]).squeeze(1) for s in range(1, tokens.shape[1])]
    return torch.stack(columns, dim=1)


def sample(dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 5, 7, generator=generator).mul(4).to(dtype)
    return logits, torch.randint(0, 7, (3, 5), generator=generator)


def test_by_hand():
    logits = torch.tensor([[[0.0, math.log(3.0)], [math.log(4.0), 0.0], [9.0, -9.0]]])
    logprobs = token_logprobs(logits, torch.tensor([[0, 1, 0]]))
    torch.testing.assert_close(logprobs, torch.tensor([[0.0, math.log(0.75), math.log(0.8)]]))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [1, 4, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_are_those_of_log_softmax(temperature, chunk, dtype):
    logits, tokens = sample(dtype)
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    weights = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    actual = token_logprobs(ours, tokens, temperature=temperature, chunk=chunk)
    expected = plain(theirs, tokens, temperature)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected)
    (actual * weights).sum().backward()
    (expected * weights).sum().backward()
    assert ours.grad is not None
    assert ours.grad.dtype == dtype
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_logits_that_predict_responses_are_enough(temperature):
    logits, tokens = sample()
    mask = torch.tensor([[False, False, True, False, False], [False, False, False, False, True], [False] * 5])
    positions = predicting_positions(mask)
    assert positions.tolist() == [1, 3]
    some, every = (logits.clone().requires_grad_() for _ in range(2))
    actual = logprobs_at(positions, some[:, positions], tokens, mask, temperature=temperature)
    expected = torch.where(mask, token_logprobs(every, tokens, temperature=temperature), 0.0)
    torch.testing.assert_close(actual, expected)
    actual.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(some.grad, every.grad)


def test_gradcheck():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 3, 1, 1, 2])
    assert torch.autograd.gradcheck(lambda x: gather_logprobs(x, targets, 0.8, chunk=2), (logits,))
    assert torch.autograd.gradcheck(lambda x: entropy(x, 0.8, chunk=2), (logits,))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_and_entropies_of_the_same_tokens(temperature):
    logits, tokens = sample()
    mask = torch.tensor([[False, False, True, True, False], [False, True, False, False, True], [False] * 5])
    positions = predicting_positions(mask)
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    logprobs, entropies = logprobs_and_entropies_at(
        positions, ours[:, positions], tokens, mask, temperature=temperature
    )
    assert torch.equal(logprobs, logprobs_at(positions, ours[:, positions], tokens, mask, temperature=temperature))
    every = torch.log_softmax(theirs / temperature, dim=-1)
    expected = torch.zeros(3, 5)
    for row, s in mask.nonzero().tolist():
        expected[row, s] = -(every[row, s - 1].exp() * every[row, s - 1]).sum()
    torch.testing.assert_close(entropies, expected)
    (logprobs + 0.3 * entropies.square()).sum().backward()
    (plain(theirs, tokens, temperature) * mask + 0.3 * expected.square()).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_bf16_logits_give_the_logprobs_of_their_fp32_values():
    logits, tokens = sample(torch.bfloat16)
    torch.testing.assert_close(token_logprobs(logits, tokens), token_logprobs(logits.float(), tokens), rtol=0, atol=0)


class LargestFp32(TorchDispatchMode):
    """Notes the size of the largest fp32 tensor that any operation returns."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32:
                self.size = max(self.size, tensor.numel())
        return result


def test_no_fp32_copy_of_all_logits_exists():
    logits = torch.randn(2, 32, 100).bfloat16().requires_grad_()
    tokens, mask = torch.randint(0, 100, (2, 32)), torch.arange(32).expand(2, 32) > 0
    with LargestFp32() as largest:
        token_logprobs(logits, tokens, chunk=8).sum().backward()
        both = logprobs_and_entropies_at(predicting_positions(mask), logits[:, :-1], tokens, mask, chunk=8)
        torch.cat(both).sum().backward()
    assert 0 < largest.size <= 8 * 100


def test_nan_logits_of_a_token_without_gradient_stay_there():
    logits, tokens = sample()
    logits[0, 2:] = float("nan")
    logits.requires_grad_()
    logprobs = token_logprobs(logits, tokens)
    keep = logprobs.isfinite()
    assert keep[0].tolist() == [True, True, True, False, False]
    torch.where(keep, logprobs, 0.0).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad[0, :2] != 0).all()


def test_nan_logits_of_an_entropy_without_gradient_stay_there():
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    logits[1] = math.nan
    logits.requires_grad_()
    entropies = entropy(logits)
    torch.where(entropies.isfinite(), entropies, 0.0).sum().backward()
    assert logits.grad is not None
    assert (logits.grad[1] == 0).all()
    assert (logits.grad[[0, 2]] != 0).all()


def test_forbidden_words_count_for_nothing():
    logits = torch.tensor([[0.0, 0.0, -math.inf]], requires_grad=True)
    torch.testing.assert_close(gather_logprobs(logits, torch.tensor([1])), torch.tensor([-math.log(2.0)]))
    torch.testing.assert_close(entropy(logits), torch.tensor([math.log(2.0)]))
    gather_logprobs(logits, torch.tensor([1])).sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.5, 0.5, 0.0]]))
    logits = torch.tensor([[0.0, math.log(3.0), -math.inf]], requires_grad=True)
    entropy(logits).sum().backward()
    part = 3 / 16 * math.log(3.0)  # by hand: p (1 - p) log((1 - p) / p) of a coin with p = 3/4
    torch.testing.assert_close(logits.grad, torch.tensor([[part, -part, 0.0]]))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_entropy_and_its_gradient_against_the_definition(temperature, dtype):
    ours, theirs = (sample(dtype)[0].flatten(0, 1).requires_grad_() for _ in range(2))
    weights = torch.randn(15, generator=torch.Generator().manual_seed(2))
    actual = entropy(ours, temperature, chunk=4)
    expected = torch.distributions.Categorical(logits=theirs.float() / temperature).entropy()
    torch.testing.assert_close(actual, expected)
    (actual * weights).sum().backward()
    (expected * weights).sum().backward()
    assert ours.grad is not None
    assert ours.grad.dtype == dtype
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_nothing_selected_is_nothing_returned():
    logits = torch.empty(0, 7, requires_grad=True)
    logprobs, entropies = gather_logprobs(logits, torch.empty(0, dtype=torch.int64)), entropy(logits)
    (logprobs.sum() + entropies.sum()).backward()
    assert logprobs.shape == entropies.shape == (0,)


def test_temperature_zero_is_refused():
    logits, tokens = sample()
    with pytest.raises(ValueError, match=r"rollout\.temperature"):
        token_logprobs(logits, tokens, temperature=0.0)
    with pytest.raises(ValueError, match=r"rollout\.temperature"):
        entropy(logits[0], temperature=-1.0)


def head(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weight and bias of an output layer, and targets."""
    generator = torch.Generator().manual_seed(4)
    hidden, weight, bias = (
        torch.randn(shape, generator=generator, dtype=dtype).requires_grad_(True) for shape in ((7, 5), (11, 5), (11,))
    )
    return hidden, weight, bias, torch.arange(7)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("kept", [0, 2**20])
def test_a_linear_head_is_its_logits(monkeypatch: pytest.MonkeyPatch, temperature: float, kept: int):
    """Values and gradients of the product made at once, whether or not logits are made again for the backward pass."""
    monkeypatch.setattr("credo.algo.logprobs.KEPT", kept)
    monkeypatch.setattr("credo.algo.logprobs.WORDS", 4)
    monkeypatch.setattr("credo.algo.logprobs.ROWS", 2)
    hidden, weight, bias, targets = head()
    wanted = torch.randn(2, 7, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    every = torch.log_softmax((hidden @ weight.T + bias) / temperature, dim=-1)
    expected = torch.stack([every[torch.arange(7), targets], -(every.exp() * every).sum(dim=-1)])
    actual = torch.stack(
        linear_logprobs(hidden, weight, bias, targets, temperature=temperature, with_entropy=True, chunk=3)
    )
    torch.testing.assert_close(actual, expected)
    gradients = [torch.autograd.grad((values * wanted).sum(), (hidden, weight, bias)) for values in (expected, actual)]
    # The sums over rows are those of the optimiser's precision, which for fp64 weights is fp64.
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, one)


def test_a_linear_head_in_bf16_sums_its_gradient_in_fp32():
    hidden, weight, bias, targets = head(torch.float32)
    exact = torch.autograd.grad(linear_logprobs(hidden, weight, bias, targets, chunk=2)[0].sum(), weight)[0]
    rough = torch.autograd.grad(linear_logprobs(hidden.bfloat16(), weight, bias, targets, chunk=2)[0].sum(), weight)[0]
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.03, rtol=0.03)


def test_entropies_are_not_made_unasked():
    hidden, weight, bias, targets = head()
    assert not linear_logprobs(hidden, weight, bias, targets)[1].any()


@pytest.mark.parametrize("kept", [0, 2**28])
def test_a_second_backward_pass_finds_the_same(kept: int, monkeypatch: pytest.MonkeyPatch):
    """Though the first one overwrites the logits that were kept for it."""
    monkeypatch.setattr("credo.algo.logprobs.KEPT", kept)
    torch.manual_seed(0)
    hidden, weight = torch.randn(9, 4, requires_grad=True), torch.randn(11, 4, requires_grad=True)
    found = linear_logprobs(hidden, weight, None, torch.arange(9), chunk=4)[0].sum()
    first = torch.autograd.grad(found, (hidden, weight), retain_graph=True)
    second = torch.autograd.grad(found, (hidden, weight))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
