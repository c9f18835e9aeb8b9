"""The compiled steps against the same in torch, in any company, and what happens where they cannot be compiled."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor

from credo.rollout import cache, kernels, llama_body
from credo.rollout.cache import PackedPrompts, SlotCache
from credo.rollout.engine import SamplingParams
from credo.rollout.torch_engine import TorchEngine
from tests.families import EOS, PAD, family
from tests.rollout.compiler import needs_compiler

KINDS = ("llama", "qwen2", "qwen2 with a window above", "qwen3")
PRECISIONS = [(torch.float32, 3e-6), (torch.bfloat16, 2e-2)]


def made(dtype: torch.dtype, *, width: int, group: int, hidden: int = 64) -> kernels.Kernels:
    built = kernels.compiled(dtype, width=width, group=group, hidden=hidden)
    assert built is not None
    return built


def normed(rows: Tensor, weight: Tensor, floor: float) -> Tensor:
    return rows * (rows.pow(2).mean(-1, keepdim=True) + floor).rsqrt() * weight


def turned(rows: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = rows.chunk(2, dim=-1)
    return rows * cos + torch.cat((-second, first), dim=-1) * sin


def attended_slowly(
    heads: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    norms: Any,
    scaling: float,
    window: int | None,
) -> Tensor:
    """One token: heads (H + 2K, D), and the keys and values (K, S, D) before it; in fp64."""
    sets = len(keys)
    query, key, value = heads.split((len(heads) - 2 * sets, sets, sets))
    if norms is not None:
        query, key = normed(query, norms[0], norms[2]), normed(key, norms[1], norms[2])
    keys = torch.cat((keys, turned(key, cos, sin).unsqueeze(1)), dim=1)
    values = torch.cat((values, value.unsqueeze(1)), dim=1)
    if window is not None:
        keys, values = keys[:, -window:], values[:, -window:]
    group = len(query) // sets
    scores = torch.einsum("kgd,ktd->kgt", turned(query, cos, sin).unflatten(0, (sets, group)), keys) * scaling
    return torch.einsum("kgt,ktd->kgd", scores.softmax(-1), values).flatten()


@needs_compiler
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS, ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("width", "group", "window"), [(64, 3, None), (16, 1, 5), (8, 8, 40), (96, 2, None), (128, 7, 1)]
)
def test_attention_over_slots_is_that_of_the_formula(
    dtype: torch.dtype, tolerance: float, width: int, group: int, window: int | None
):
    torch.manual_seed(0)
    sets, lengths = 2, [0, 1, 15, 16, 17, 33, 70]
    built = made(dtype, width=width, group=group)
    filled = SlotCache(len(lengths) + 1, 80, built)
    prompts = PackedPrompts([tuple(range(max(length, 1))) for length in lengths], dtype)
    prompts.stored[0] = torch.randn(2, sets, prompts.spans[-1][1], width).to(dtype)
    for slot in range(len(lengths)):
        filled.fill([slot], prompts, slot)
    positions = torch.tensor(lengths)
    filled.begin(positions, 70)
    heads = torch.randn(len(lengths), (group + 2) * sets, width).to(dtype)
    angles = torch.randn(len(lengths), width)
    norms = (torch.rand(width), torch.rand(width), 1e-5) if width == 16 else None
    found = filled.attend_heads(0, heads, angles.cos(), angles.sin(), norms=norms, scaling=0.3, window=window)
    for slot, length in enumerate(lengths):
        start, _ = prompts.spans[slot]
        before = prompts.stored[0][:, :, start : start + length].double()
        exact = tuple(part.double() if isinstance(part, Tensor) else part for part in norms) if norms else None
        angle = angles[slot].double()
        expected = attended_slowly(
            heads[slot].double(), angle.cos(), angle.sin(), before[0], before[1], exact, 0.3, window
        )
        assert torch.allclose(found[slot].double(), expected, rtol=tolerance, atol=tolerance)


@needs_compiler
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS, ids=["fp32", "bf16"])
def test_the_norm_is_that_of_the_sum(dtype: torch.dtype, tolerance: float):
    hidden, added, weight = torch.randn(5, 48), torch.randn(5, 48).to(dtype), torch.rand(48)
    total = hidden.double() + added.double()
    built = made(dtype, width=32, group=1, hidden=48)
    expected = normed(total, weight.double(), 1e-3)
    assert torch.allclose(
        built.add_and_norm(hidden, added, weight, 1e-3).double(), expected, rtol=tolerance, atol=tolerance
    )
    assert torch.allclose(hidden.double(), total, rtol=1e-6)
    again = built.add_and_norm(hidden, None, weight, 1e-3)
    assert torch.allclose(again.double(), expected, rtol=tolerance, atol=tolerance)


@needs_compiler
def test_bfloat16_is_rounded_as_torch_rounds():
    torch.manual_seed(3)
    stored, heads, cos = (
        torch.zeros(2, 500, 1, 16, 64).bfloat16(),
        torch.randn(500, 3, 64).bfloat16(),
        torch.randn(500, 64),
    )
    built = made(torch.bfloat16, width=64, group=1)
    built.attend_slots(
        heads, cos, cos * 0, stored, torch.zeros(500, dtype=torch.long), norms=None, scaling=1.0, window=None
    )
    keys = stored[0].view(500, 64, 16)[:, :, 0]
    assert torch.equal(keys, (heads[:, 1].float() * cos).bfloat16())


@needs_compiler
def test_what_is_not_a_number_stays_none_in_its_own_row():
    built = made(torch.float32, width=8, group=2)
    filled = SlotCache(2, 40, built)
    prompts = PackedPrompts([(1,) * 20], torch.float32)
    prompts.stored[0] = torch.randn(2, 1, 20, 8)
    filled.fill([0, 1], prompts, 0)
    filled.begin(torch.tensor([20, 20]), 20)
    heads, ones = torch.randn(2, 4, 8), torch.ones(2, 8)
    heads[0, 0, 3] = float("nan")
    found = filled.attend_heads(0, heads, ones, ones, norms=None, scaling=1.0, window=None)
    assert found[0, :8].isnan().all()
    assert not found[0, 8:].isnan().any()
    assert not found[1].isnan().any()


@needs_compiler
def test_a_row_is_the_same_in_any_company_and_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch):
    built = made(torch.bfloat16, width=16, group=2)
    torch.manual_seed(1)
    heads, angles, stored = (
        torch.randn(40, 8, 16).bfloat16(),
        torch.randn(40, 16),
        torch.randn(2, 40, 2, 64, 16).bfloat16(),
    )
    positions = torch.randint(0, 64, (40,))

    def attended(rows: slice, threads: int) -> Tensor:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        parts = heads[rows], angles[rows].cos(), angles[rows].sin(), stored[:, rows].clone(), positions[rows]
        return built.attend_slots(*parts, norms=None, scaling=0.25, window=None)

    together = attended(slice(0, 40), 1)
    assert torch.equal(attended(slice(0, 40), 3), together)
    assert torch.equal(attended(slice(7, 8), 2), together[7:8])


@needs_compiler
@pytest.mark.parametrize("name", KINDS)
def test_sampling_is_the_same_with_and_without(name: str, monkeypatch: pytest.MonkeyPatch):
    """Slots are refilled, moved and grown on the way."""
    monkeypatch.setattr(cache, "FIRST", 32)
    model, prompts, groups = family(name), [(3, 4, 5), (6,), tuple(range(3, 14)) * 2, (5, 5)], []
    for compiled in (kernels.compiled, lambda *_, **__: None):
        monkeypatch.setattr(llama_body, "compiled", compiled)
        engine = TorchEngine(model, eos_ids=frozenset([EOS]), pad_id=PAD, concurrent=9)
        assert ("steps in C" in engine.summary) == (compiled is kernels.compiled)
        groups.append(engine.sample(prompts, 6, SamplingParams(max_tokens=25), [1, 2, 3, 4]))
    with_kernels, without = (list(chain.from_iterable(part)) for part in groups)
    assert len({len(rollout.response_ids) for rollout in without}) > 3
    for one, other in zip(with_kernels, without, strict=True):
        assert one.response_ids == other.response_ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=2e-5)


@pytest.mark.parametrize(("width", "hidden"), [(6, 64), (16, 6), (4, 64)])
def test_widths_that_no_vector_divides_have_no_kernels(width: int, hidden: int):
    assert kernels.compiled(torch.float32, width=width, group=1, hidden=hidden) is None


@needs_compiler
def test_a_key_of_no_weight_leaves_the_others_theirs():
    """Every score of the first block is -inf, as where products overflow."""
    built, stored = made(torch.float32, width=8, group=1), torch.zeros(2, 1, 1, 32, 8)
    stored[0, 0, 0, :16] = -torch.inf
    stored[1, 0, 0, 20] = 1.0
    heads, one = torch.ones(1, 3, 8), torch.ones(1, 8)
    heads[:, 1:] = 0
    found = built.attend_slots(heads, one, one * 0, stored, torch.tensor([31]), norms=None, scaling=1.0, window=None)
    assert torch.allclose(found, torch.full((1, 8), 1 / 16))


@needs_compiler
@pytest.mark.parametrize("wrong", ["type", "order", "capacity", "heads", "slots", "position"])
def test_what_c_would_misread_is_refused(wrong: str):
    built, stored, heads = made(torch.float32, width=16, group=2), torch.zeros(2, 3, 1, 32, 16), torch.ones(3, 4, 16)
    angles, positions = torch.ones(3, 16), torch.tensor([31, 0, 0])
    filled = SlotCache(3, 32, built)
    filled.stored[0], filled.capacity = stored, 32
    if wrong == "type":
        heads = heads.bfloat16()
    if wrong == "order":
        angles = torch.ones(16, 3).T
    if wrong == "capacity":
        filled.stored[0] = torch.zeros(2, 3, 1, 36, 16)
    if wrong == "heads":
        heads = torch.ones(3, 5, 16)
    if wrong == "slots":
        heads, angles, positions = torch.ones(4, 4, 16), torch.ones(4, 16), torch.tensor([31, 0, 0, 0])
    filled.begin(positions, 31)
    if wrong == "position":
        positions[1] = 32
    with pytest.raises(ValueError, match=r"given|beyond"):
        filled.attend_heads(0, heads, angles, angles, norms=None, scaling=1.0, window=None)


@needs_compiler
def test_an_engine_samples_again_after_it_was_closed():
    engine = TorchEngine(family("llama"), eos_ids=frozenset([EOS]), pad_id=PAD, concurrent=9)
    before = engine.sample([(3, 4)], 2, SamplingParams(max_tokens=5), [1])
    engine.close()
    assert engine.sample([(3, 4)], 2, SamplingParams(max_tokens=5), [1]) == before
