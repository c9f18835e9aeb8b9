"""The compiled products in bf16 against the same in fp64, in any company, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from credo.rollout import packed, products
from credo.rollout.engine import SamplingParams
from credo.rollout.packed import PackedLinear
from credo.rollout.torch_engine import TorchEngine
from tests.families import EOS, PAD, family

needs_products = pytest.mark.skipif(products.compiled() is None, reason="no compiler or no products of bf16 pairs here")


def made() -> products.Products:
    found = products.compiled()
    assert found is not None
    return found


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape).bfloat16()


def test_panels_hold_pairs_of_inputs_for_48_outputs():
    matrix = torch.arange(50 * 6).view(50, 6).bfloat16()
    panels = products.packed(matrix)
    assert panels.shape == (2, 3, 48, 2)
    assert torch.equal(panels[0, 1, 7], matrix[7, 2:4])
    assert torch.equal(panels[1, 2, 1], matrix[49, 4:6])
    assert not panels[1, :, 2:].any()


@needs_products
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(1, 2, 1), (7, 64, 48), (8, 6, 50), (64, 576, 96), (150, 30, 161)]
)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("then", ["nothing", "swish", "factors", "both"])
def test_a_product_is_that_of_fp64_rounded_once(rows: int, inputs: int, outputs: int, bias: bool, then: str):
    torch.manual_seed(rows)
    some, matrix, added, factors = drawn(rows, inputs), drawn(outputs, inputs), drawn(outputs), drawn(rows, outputs)
    options: dict[str, Any] = {"swish": then in ("swish", "both")}
    options |= {"factors": factors} if then in ("factors", "both") else {}
    found = made()(some, products.packed(matrix), added if bias else None, outputs, **options)
    expected = some.double() @ matrix.double().T + (added.double() if bias else 0)
    expected = nn.functional.silu(expected) if options["swish"] else expected
    expected = expected * factors.double() if "factors" in options else expected
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=2**-7.9, atol=1e-5)


@needs_products
def test_a_row_is_the_same_in_any_company_and_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(1)
    rows, panels = drawn(131, 64), products.packed(drawn(200, 64))

    def product(some: slice, threads: int) -> Tensor:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        return made()(rows[some], panels, None, 200)

    together = product(slice(None), 1)
    assert torch.equal(product(slice(None), 3), together)
    for row in (0, 63, 64, 130):
        assert torch.equal(product(slice(row, row + 1), 2), together[row : row + 1])


@needs_products
def test_what_is_not_a_number_stays_in_its_own_row():
    rows, matrix = drawn(9, 8), drawn(50, 8)
    expected = made()(rows, products.packed(matrix), None, 50)
    rows[3, 5] = torch.nan
    found = made()(rows, products.packed(matrix), None, 50, swish=False)
    assert found[3].isnan().all()
    assert torch.equal(found[[0, 1, 2, 4, 5, 6, 7, 8]], expected[[0, 1, 2, 4, 5, 6, 7, 8]])


@needs_products
def test_the_swish_of_what_is_far_below_is_nothing():
    rows, panels = torch.tensor([[-1e30, 0.0], [-80.0, 0.0]]).bfloat16(), products.packed(torch.ones(1, 2).bfloat16())
    found = made()(rows, panels, None, 1, swish=True)
    assert found[0].item() == 0
    assert -1e-30 < found[1].item() < 0


@needs_products
@pytest.mark.parametrize("wrong", ["inputs", "outputs", "bias", "factors", "type", "order"])
def test_what_c_would_misread_is_refused(wrong: str):
    rows, panels, outputs = drawn(3, 8), products.packed(drawn(50, 8)), 50
    others: dict[str, Any] = {}
    if wrong == "inputs":
        rows = drawn(3, 10)
    if wrong == "outputs":
        outputs = 97
    if wrong == "factors":
        others["factors"] = drawn(3, 49)
    if wrong == "type":
        rows = rows.float()
    if wrong == "order":
        rows = drawn(8, 3).T
    with pytest.raises(ValueError, match="given"):
        made()(rows, panels, drawn(49) if wrong == "bias" else None, outputs, **others)


@needs_products
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_is_the_same_with_and_without(bias: bool, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(2)
    first, second = nn.Linear(24, 10, bias=bias), nn.Linear(24, 30, bias=bias)
    inputs, factors, results = drawn(5, 24), drawn(5, 40), []
    for found in (products.compiled, lambda: None):
        monkeypatch.setattr(packed.products, "compiled", found)
        layer = PackedLinear(torch.bfloat16, first, second)
        layer.refresh()
        results.append((layer(inputs), layer.swish(inputs), layer.times(inputs, factors)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=2**-7, atol=1e-3)


@needs_products
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_in_bf16_a_response_does_not_depend_on_its_company(name: str):
    prompts, params = [(3, 4, 5), tuple(range(3, 14)) * 2, (6,), (8, 9)], SamplingParams(max_tokens=20)

    def sampled(chosen: list[int], concurrent: int) -> list[Any]:
        engine = TorchEngine(family(name), eos_ids=frozenset([EOS]), pad_id=PAD, concurrent=concurrent, compute="bf16")
        return engine.sample([prompts[i] for i in chosen], 3, params, chosen)

    together = sampled([0, 1, 2, 3], 12)
    for index in range(4):
        assert sampled([index], 2) == together[index : index + 1]
