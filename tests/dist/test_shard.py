"""Models spread over ranks compute, learn and are put together as whole ones; whole ones sum their gradients."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from families import family
from ranks import run_ranks
from torch import Tensor, nn

from credo.checkpoint.snapshot import as_it_is
from credo.config import CriticConfig, LoraConfig
from credo.dist.shard import is_spread, load_whole, part_like, sum_gradients, whole, whole_state, whole_weights
from credo.dist.world import World
from credo.models.causal import Compute, recompute_layers, response_logprobs, shard_model
from credo.models.critic import Critic
from credo.models.division import divided
from credo.models.lora import adapter_of, freeze, merged_state, with_adapter
from credo.types import Batch

ROWS, WIDTH = 5, 9
PROMPT = 3
BUDGET = 2 * WIDTH
FEW = ["llama", "gpt2, learnt positions"]
"""Of families whose passes are packed, and of those whose are not."""
MANY = [*FEW, "qwen3", "gemma2", "gemma3", "phi3", "lfm2, convolutions"]


def batch() -> Batch:
    """Rows of 5 to 9 tokens, of which the first three are a prompt."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([9, 5, 7, 6, 8])
    attention = torch.arange(WIDTH) < lengths.unsqueeze(1)
    return Batch(
        tokens=torch.where(attention, torch.randint(3, 16, (ROWS, WIDTH), generator=generator), 0),
        attention=attention,
        mask=attention & (torch.arange(WIDTH) >= PROMPT),
        outcomes=torch.ones(ROWS),
        group_ids=torch.arange(ROWS),
        sampling_logprobs=torch.zeros(ROWS, WIDTH),
    )


def learnt(model: Any, world: World, compute: Compute = "fp32") -> tuple[Tensor, dict[str, Tensor]]:
    """The log-probs of the batch, and the gradient of a weighted sum of them by the name of the weight, whole."""
    given = batch()
    weights = torch.linspace(-1.0, 1.0, ROWS * WIDTH).view(ROWS, WIDTH)
    division = divided(given.attention.sum(dim=1), BUDGET, world)
    logprobs = torch.zeros(ROWS, WIDTH)
    model.zero_grad(set_to_none=True)
    for turn, rows in enumerate(division.parts):
        tokens, attention, mask = given.tokens[rows], given.attention[rows], given.mask[rows]
        values = response_logprobs(model, tokens, attention, mask, compute=compute)
        logprobs[rows] = values.detach()
        ((values * weights[rows]).sum() * (turn < division.worked)).backward()
    sum_gradients(list(model.parameters()), world)
    gradients = {name: whole(weight.grad) for name, weight in model.named_parameters() if weight.grad is not None}
    return division.together(logprobs), gradients


def assert_alike(one: Mapping[str, Tensor], other: Mapping[str, Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    scale = max(float(value.abs().max()) for value in one.values())
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0.0, atol=tolerance * scale, msg=name)


def computes_as_one(world: World, names: list[str]) -> None:
    for name in names:
        alone = copy.deepcopy(family(name))
        model = shard_model(copy.deepcopy(alone), world, "fp32")
        assert is_spread(next(model.parameters())) == world.sharded
        for model_too in (model, model if name != "llama" else _recomputing(model)):
            logprobs, gradients = learnt(model_too, world)
            expected, expected_gradients = learnt(alone, World())
            torch.testing.assert_close(logprobs, expected, rtol=0.0, atol=1e-5, msg=name)
            assert_alike(expected_gradients, gradients, 1e-5)
        with torch.no_grad():
            torch.testing.assert_close(learnt_nothing(model), learnt_nothing(alone), rtol=0.0, atol=1e-5)


def _recomputing(model: Any) -> Any:
    recompute_layers(model)
    return model


def learnt_nothing(model: Any) -> Tensor:
    """The log-probs of the whole batch, without gradient."""
    given = batch()
    return response_logprobs(model, given.tokens, given.attention, given.mask)


@pytest.mark.parametrize(("ranks", "sharding", "names"), [(2, "full", MANY), (3, "full", FEW), (3, "none", FEW)])
def test_every_family_computes_what_one_process_does(ranks: int, sharding: Any, names: list[str]):
    run_ranks(ranks, computes_as_one, names, sharding=sharding)


def recomputes_before_it_is_spread(world: World) -> None:
    alone = copy.deepcopy(family("gemma2"))
    model = copy.deepcopy(alone)
    recompute_layers(model)
    logprobs, gradients = learnt(shard_model(model, world, "fp32"), world)
    expected, expected_gradients = learnt(alone, World())
    torch.testing.assert_close(logprobs, expected, rtol=0.0, atol=1e-5)
    assert_alike(expected_gradients, gradients, 1e-5)


def stays_on_the_host(world: World) -> None:
    world.offload = True
    alone = family("llama")
    model = shard_model(copy.deepcopy(alone), world, "fp32")
    assert_alike(learnt(alone, World())[1], learnt(model, world)[1], 1e-5)
    state = whole_state(model)
    assert all(torch.equal(state[name], value) for name, value in alone.state_dict().items())


def computes_in_bf16(world: World) -> None:
    for name in ("llama", "gemma2"):
        alone = family(name)
        expected, expected_gradients = learnt(alone, World(), "bf16")
        model = shard_model(copy.deepcopy(alone), world, "bf16")
        logprobs, gradients = learnt(model, world, "bf16")
        assert all(weight.dtype == torch.float32 for weight in model.parameters())
        assert all(value.dtype == torch.float32 for value in gradients.values())
        exact, _ = learnt(alone, World())
        rounding = float((expected - exact).abs().max())
        assert 0 < float((logprobs - exact).abs().max()) < 3 * rounding
        assert_alike(expected_gradients, gradients, 0.05)


def adapters_stay_whole(world: World) -> None:
    """What learns around a frozen model that is spread; in bf16 parts of that are halved."""
    computes: tuple[Compute, ...] = ("fp32", "bf16")
    for compute, tolerance in zip(computes, (1e-5, 0.05), strict=True):
        alone = copy.deepcopy(family("llama"))
        freeze(alone, compute)
        role = with_adapter(alone, LoraConfig(rank=2), 1)
        generator = torch.Generator().manual_seed(2)
        for weight in adapter_of(role).values():
            nn.init.normal_(weight, std=0.2, generator=generator)
        expected, expected_gradients = learnt(role, World(), compute)
        state = merged_state(role, as_it_is)
        model = shard_model(copy.deepcopy(role), world, compute)
        assert all(is_spread(weight) != weight.requires_grad for weight in model.parameters())
        logprobs, gradients = learnt(model, world, compute)
        torch.testing.assert_close(logprobs, expected, rtol=0.0, atol=tolerance)
        assert_alike(expected_gradients, gradients, tolerance)
        assert {name for name, _ in whole_weights(model)} == set(gradients), "nobody needs those that do not learn"
        together = merged_state(model, as_it_is)
        assert together.keys() == state.keys()
        assert all(torch.equal(together[name], value) for name, value in state.items())


def round_trips(world: World) -> None:
    """Whole weights are those that were spread, bit for bit, and can be written into a model that is spread or not."""
    for name in ("llama", "qwen2", "gpt2, learnt positions"):
        alone = family(name)
        model = shard_model(copy.deepcopy(alone), world, "fp32")
        named = {key: value.clone() for key, value in whole_weights(model)}
        assert named.keys() == dict(alone.named_parameters()).keys(), "shared parameters once"
        assert all(torch.equal(named[key], value) for key, value in alone.named_parameters())
        state = whole_state(model)
        assert state.keys() == alone.state_dict().keys()
        if alone.config.tie_word_embeddings:
            assert state["lm_head.weight"] is state[f"{alone.base_model_prefix}.{_embedding(alone)}.weight"]
        asked: list[str] = []
        whole_state(model, lambda key, value: asked.append(key) or value)
        assert len(asked) == len(set(asked)) == len(named) + len(dict(alone.named_buffers()).keys() & state.keys())
        changed = {key: value + 1.0 for key, value in state.items()}
        load_whole(model, changed)
        other = copy.deepcopy(alone)
        load_whole(other, whole_state(model))
        assert all(torch.equal(value, changed[key]) for key, value in other.state_dict().items())
        logits = learnt_nothing(model)
        torch.testing.assert_close(logits, learnt_nothing(other), rtol=0.0, atol=1e-5)
        for wrong in ({}, changed | {"more": torch.ones(1)}, {key: value[:1] for key, value in changed.items()}):
            with pytest.raises(RuntimeError, match="names or shapes"):
                load_whole(model, wrong)


def _embedding(model: Any) -> str:
    return next(name for name, part in model.base_model.named_modules() if part is model.get_input_embeddings())


def holds_its_part(world: World) -> tuple[int, int]:
    """Bytes of parameters and gradients that lie here, and those of the whole model."""
    model = shard_model(copy.deepcopy(family("llama")), world, "fp32")
    weights: list[Any] = list(model.parameters())
    learnt(model, world)
    assert all(is_spread(weight) for weight in weights), "layers are let go after use"
    spread = part_like(weights[0], torch.arange(16 * 32.0).view(16, 32))
    assert torch.equal(whole(spread), torch.arange(16 * 32.0).view(16, 32))
    parts = [part.to_local().untyped_storage() for weight in weights for part in (weight, weight.grad)]
    here = {part.data_ptr(): part.nbytes() for part in parts}
    return sum(here.values()), sum(2 * weight.numel() * weight.element_size() for weight in weights)


def critic_learns_as_one(world: World) -> None:
    for name in ("llama", "gpt2, learnt positions"):
        given, start = batch(), family(name)
        returns = torch.where(given.mask, torch.linspace(-1.0, 1.0, WIDTH).expand(ROWS, WIDTH), 0.0)
        values, metrics = [], []
        for by in (world, World()):
            critic = Critic(
                start, CriticConfig(lr=1e-2), minibatch=3, max_grad_norm=1.0, token_budget=BUDGET, compute="fp32",
                seed=1, world=by,
            )  # fmt: skip
            metrics.append([critic.update(given, critic.values(given), returns) for _ in range(2)])
            values.append(critic.values(given))
        torch.testing.assert_close(values[0], values[1], rtol=0.0, atol=1e-5)
        for one, other in zip(*metrics, strict=True):
            assert one == pytest.approx(other, abs=1e-5)


def on_two_ranks(world: World) -> tuple[int, int]:
    """What needs several ranks, with models that are spread over them."""
    recomputes_before_it_is_spread(world)
    computes_in_bf16(world)
    round_trips(world)
    critic_learns_as_one(world)
    held = holds_its_part(world)
    stays_on_the_host(world)
    return held


def test_two_ranks_spread_what_one_holds():
    for here, everywhere in run_ranks(2, on_two_ranks, sharding="full"):
        assert 0.49 * everywhere < here <= 0.51 * everywhere


def test_adapters_around_a_spread_model_are_whole_on_each_rank():
    run_ranks(2, adapters_stay_whole, sharding="full")


def test_three_ranks_put_parts_of_unequal_size_together():
    run_ranks(3, round_trips, sharding="full")


def summed(world: World) -> list[list[float] | None]:
    """Sums of gradients that some ranks have, and of one that none has."""
    weights = [nn.Parameter(torch.zeros(size)) for size in ((2, 2), (1,), (1,), (3,), (1,))]
    for index, weight in enumerate(weights):
        if index not in (2, 4) or (index == 2 and world.rank == 1):
            weight.grad = torch.full_like(weight, 10.0**index * (world.rank + 1))
    sum_gradients(weights, world)
    return [None if weight.grad is None else weight.grad.flatten().tolist() for weight in weights]


def test_gradients_are_summed_and_one_that_nobody_has_is_not_made_up():
    expected = [[3.0] * 4, [30.0], [200.0], [3000.0] * 3, None]
    assert run_ranks(2, summed) == [expected, expected]


def test_a_model_that_was_not_spread_is_its_own_whole():
    model = nn.Linear(2, 3)
    assert not is_spread(model.weight)
    assert torch.equal(whole(model.weight), model.weight)
    assert [name for name, _ in whole_weights(model)] == ["weight", "bias"]
    given = torch.ones(3, 2)
    assert part_like(model.weight, given) is given
    load_whole(model, {"weight": given, "bias": torch.zeros(3)})
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in whole_state(model).items())
    with pytest.raises(RuntimeError, match="names or shapes"):
        load_whole(model, {"weight": given.T, "bias": torch.zeros(3)})
