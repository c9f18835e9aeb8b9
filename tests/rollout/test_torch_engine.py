"""The embedded engine against a naive loop without cache, against the trainer's log-probs, and against itself."""

from __future__ import annotations

import copy
import weakref
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from credo.config import ArchitectureConfig
from credo.data.batching import collate_demonstrations
from credo.models.causal import build_model, load_model, response_logprobs, save_model
from credo.rollout.cache import PackedPrompts, SlotCache
from credo.rollout.engine import SamplingParams
from credo.rollout.torch_engine import TorchEngine
from credo.seeds import mixed_seed, uniform
from credo.types import Rollout
from tests.families import EOS, FAMILIES, PAD, family, spread
from tests.rollout.oracle import sampling_logprobs

PROMPTS = ((3, 4, 5), (6,), (3, 7, 8, 9, 10, 11, 12, 13, 4), (5, 5), (8, 9, 3, 3, 4))
SEEDS = (11, 22, 33, 44, 55)


STATIC = {"gpt2, learnt positions", "lfm2, convolutions"}
"""Families whose attention or past is of their own kind."""


def engine(model: Any, *, eos_ids: Sequence[int] = (EOS,), pad_id: int = PAD, concurrent: int = 64, **options: Any):
    return TorchEngine(model, eos_ids=frozenset(eos_ids), pad_id=pad_id, concurrent=concurrent, **options)


def tokens_of(groups: list[list[Rollout]]) -> list[list[tuple[int, ...]]]:
    return [[rollout.response_ids for rollout in group] for group in groups]


@torch.no_grad()
def naive_rollout(
    model: Any, prompt: Sequence[int], seed: int, k: int, params: SamplingParams, eos_ids: Sequence[int] = (EOS,)
) -> tuple[list[int], list[float]]:
    """One response, token by token, the whole sequence computed anew for each, without batch, padding or cache."""
    tokens: list[int] = []
    values: list[float] = []
    while len(tokens) < params.max_tokens and (not tokens or tokens[-1] not in eos_ids):
        logits = model(input_ids=torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0, -1:]
        cuts = {"top_k": params.top_k, "top_p": params.top_p, "min_p": params.min_p}
        logprobs = sampling_logprobs(logits, temperature=params.temperature, **cuts)[0].tolist()
        if params.temperature == 0:
            token = max(range(len(logprobs)), key=lambda candidate: logprobs[candidate])
        else:
            shares = torch.tensor(logprobs).double().exp().tolist()
            target = uniform(mixed_seed(seed, k), len(tokens)) * sum(shares)
            token = next(index for index in range(len(shares)) if sum(shares[: index + 1]) > target)
        tokens.append(token)
        values.append(logprobs[token])
    return tokens, values


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.0, max_tokens=9),
        SamplingParams(max_tokens=9),
        SamplingParams(temperature=0.7, top_p=0.8, max_tokens=9),
    ],
    ids=["greedy", "plain", "nucleus"],
)
def test_every_family_samples_as_the_naive_loop_does(name: str, params: SamplingParams):
    model = family(name)
    groups = engine(model).sample(PROMPTS, 2, params, SEEDS)
    for prompt, seed, group in zip(PROMPTS, SEEDS, groups, strict=True):
        for k, rollout in enumerate(group):
            tokens, logprobs = naive_rollout(model, prompt, seed, k, params)
            assert rollout.prompt_ids == prompt
            assert list(rollout.response_ids) == tokens
            assert rollout.logprobs == pytest.approx(logprobs, abs=2e-5)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_are_the_trainer_s(name: str, temperature: float):
    params = SamplingParams(temperature=temperature, max_tokens=10)
    sampler = engine(family(name), eos_ids=range(1, 16, 2))
    rollouts = list(chain.from_iterable(sampler.sample(PROMPTS, 3, params, SEEDS)))
    assert len({len(rollout.response_ids) for rollout in rollouts}) > 1, "some responses have to end early"
    rows = [(rollout.prompt_ids, rollout.response_ids) for rollout in rollouts]
    tokens, attention, mask = collate_demonstrations(rows, PAD)
    with torch.no_grad():
        trained = response_logprobs(family(name), tokens, attention, mask, temperature=temperature)
    sampled = torch.tensor(list(chain.from_iterable(rollout.logprobs for rollout in rollouts)))
    torch.testing.assert_close(sampled, trained[mask], atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("concurrent", [1, 2, 3, 7, 100])
def test_neighbours_padding_and_concurrency_do_not_matter(concurrent: int):
    model, params = family("llama"), SamplingParams(temperature=0.9, max_tokens=12)
    together = engine(model, concurrent=concurrent).sample(PROMPTS, 4, params, SEEDS)
    for prompt, seed, group in zip(PROMPTS, SEEDS, together, strict=True):
        alone = engine(model, pad_id=7).sample([prompt], 4, params, [seed])[0]
        assert tokens_of([alone]) == tokens_of([group])
        for one, other in zip(alone, group, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
    backwards = engine(model, concurrent=concurrent).sample(PROMPTS[::-1], 4, params, SEEDS[::-1])
    assert tokens_of(backwards) == tokens_of(together)[::-1]


def test_more_samples_leave_the_first_ones_as_they_were():
    few = engine(family("llama")).sample(PROMPTS, 1, SamplingParams(max_tokens=12), SEEDS)
    many = engine(family("llama")).sample(PROMPTS, 5, SamplingParams(max_tokens=12), SEEDS)
    assert [group[:1] for group in tokens_of(many)] == tokens_of(few)


def test_a_longer_limit_only_continues():
    short = engine(family("llama")).sample(PROMPTS, 2, SamplingParams(max_tokens=4), SEEDS)
    longer = engine(family("llama")).sample(PROMPTS, 2, SamplingParams(max_tokens=12), SEEDS)
    assert [[tokens[:4] for tokens in group] for group in tokens_of(longer)] == tokens_of(short)


def test_draws_depend_on_the_seed_and_on_k_alone():
    params = SamplingParams(max_tokens=12)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = engine(family("llama")).sample(PROMPTS[:1] * 2, 3, params, [1, 2])
    assert torch.equal(torch.get_rng_state(), before), "the generator of torch belongs to others"
    torch.manual_seed(1)
    assert engine(family("llama")).sample(PROMPTS[:1] * 2, 3, params, [1, 2]) == first
    assert len(set(chain.from_iterable(tokens_of(first)))) == 6


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.9)])
def test_tokens_come_as_often_as_they_are_likely(temperature: float, top_p: float):
    model, prompt, count = family("llama"), PROMPTS[0], 4000
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1:]
    shares = sampling_logprobs(logits, temperature=temperature, top_p=top_p)[0].exp().tolist()
    params = SamplingParams(temperature=temperature, top_p=top_p, max_tokens=1)
    groups = engine(model, concurrent=count).sample([prompt] * 40, count // 40, params, range(40))
    drawn = Counter(rollout.response_ids[0] for rollout in chain.from_iterable(groups))
    likely = [token for token, share in enumerate(shares) if share * count >= 5]
    assert len(likely) >= 3
    distance = sum((drawn[token] - shares[token] * count) ** 2 / (shares[token] * count) for token in likely)
    assert distance < len(likely) + 5 * (2 * len(likely)) ** 0.5  # mean and five standard deviations of chi-square
    assert all(shares[token] > 0 for token in drawn)


def test_responses_end_at_the_first_end_token_or_at_the_limit():
    eos_ids = (EOS, 4, 9)
    rollouts = list(
        chain.from_iterable(
            engine(family("llama"), eos_ids=eos_ids).sample(PROMPTS, 40, SamplingParams(max_tokens=6), SEEDS)
        )
    )
    for rollout in rollouts:
        *before, last = rollout.response_ids
        assert not set(before) & set(eos_ids)
        assert rollout.finish == ("stop" if last in eos_ids else "length")
        assert rollout.finish == "stop" or len(rollout.response_ids) == 6
        assert len(rollout.logprobs) == len(rollout.response_ids)
    assert {rollout.response_ids[-1] for rollout in rollouts if rollout.finish == "stop"} == set(eos_ids)
    assert {len(rollout.response_ids) for rollout in rollouts if rollout.finish == "stop"} == {1, 2, 3, 4, 5, 6}
    assert any(rollout.finish == "length" for rollout in rollouts)


def test_every_end_token_of_the_generation_config_ends_a_response(tmp_path: Path):
    built = build_model(ArchitectureConfig(layers=1, width=16, heads=2, alphabet="0123456789+=-"), seed=0)
    spread(built.model)
    built.model.generation_config.eos_token_id = [EOS, 6, 8]
    save_model(built.model, built.tokenizer, tmp_path)
    loaded = load_model(str(tmp_path))
    sampler = engine(loaded.model, eos_ids=tuple(loaded.eos_ids), pad_id=loaded.pad_id)
    groups = sampler.sample(PROMPTS, 30, SamplingParams(max_tokens=20), SEEDS)
    ends = {rollout.response_ids[-1] for rollout in chain.from_iterable(groups) if rollout.finish == "stop"}
    assert ends == {EOS, 6, 8}


def test_one_token_is_a_response():
    groups = engine(family("llama")).sample(PROMPTS, 1, SamplingParams(max_tokens=1), SEEDS)
    assert [[len(rollout.response_ids) for rollout in group] for group in groups] == [[1]] * 5


def test_no_prompts_give_no_rollouts():
    assert engine(family("llama")).sample([], 4, SamplingParams(), []) == []


def test_progress_counts_every_token():
    counts: list[int] = []
    groups = engine(family("llama"), concurrent=3).sample(
        PROMPTS, 3, SamplingParams(max_tokens=12), SEEDS, counts.append
    )
    assert sum(counts) == sum(len(rollout.response_ids) for rollout in chain.from_iterable(groups))
    assert len(counts) > 5, "it tells of tokens while they come"


def test_foreign_weights_are_copied():
    model, other = copy.deepcopy(family("llama")), copy.deepcopy(family("llama"))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.7)
    sampler, params = engine(model), SamplingParams(max_tokens=12)
    expected = engine(other).sample(PROMPTS, 2, params, SEEDS)
    assert sampler.sample(PROMPTS, 2, params, SEEDS) != expected
    sampler.load_weights(other.named_parameters())
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert sampler.sample(PROMPTS, 2, params, SEEDS) == expected


def test_shared_weights_are_left_alone():
    model = copy.deepcopy(family("llama"))
    writes = {name: parameter._version for name, parameter in model.named_parameters()}
    engine(model).load_weights(model.named_parameters())
    assert {name: parameter._version for name, parameter in model.named_parameters()} == writes


def test_bf16_log_probs_agree_with_the_trainer_s_in_bf16():
    model = family("llama")
    rollouts = list(
        chain.from_iterable(engine(model, compute="bf16").sample(PROMPTS, 2, SamplingParams(max_tokens=8), SEEDS))
    )
    rows = [(rollout.prompt_ids, rollout.response_ids) for rollout in rollouts]
    tokens, attention, mask = collate_demonstrations(rows, PAD)
    with torch.no_grad():
        trained = response_logprobs(model, tokens, attention, mask, compute="bf16")
    sampled = torch.tensor(list(chain.from_iterable(rollout.logprobs for rollout in rollouts)))
    torch.testing.assert_close(sampled, trained[mask], atol=0.2, rtol=0.0)
    assert (sampled - trained[mask]).abs().mean() < 0.03


def test_a_model_that_would_forget_its_past_is_refused():
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(MambaConfig(vocab_size=16, hidden_size=16, num_hidden_layers=1))
    with pytest.raises(ValueError, match="MambaForCausalLM"):
        engine(model)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_way_of_decoding_is_chosen_by_the_attention(name: str):
    sampler = engine(family(name))
    assert sampler.continuous == (name not in STATIC)
    assert ("continuous" in sampler.summary) == sampler.continuous


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_responses_are_those_of_generate(name: str):
    model = family(name)
    groups = engine(model, concurrent=2).sample(PROMPTS, 1, SamplingParams(temperature=0.0, max_tokens=12), SEEDS)
    for prompt, (rollout,) in zip(PROMPTS, groups, strict=True):
        expected = model.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=EOS, pad_token_id=PAD
        )
        assert list(rollout.response_ids) == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("cuts", [{"top_k": 3}, {"min_p": 0.2}, {"top_k": 6, "top_p": 0.8, "min_p": 0.1}], ids=str)
def test_every_cut_reaches_the_draw(cuts: dict[str, Any]):
    params = SamplingParams(max_tokens=8, **cuts)
    groups = engine(family("llama")).sample(PROMPTS, 2, params, SEEDS)
    for prompt, seed, group in zip(PROMPTS, SEEDS, groups, strict=True):
        for k, rollout in enumerate(group):
            tokens, logprobs = naive_rollout(family("llama"), prompt, seed, k, params)
            assert list(rollout.response_ids) == tokens
            assert rollout.logprobs == pytest.approx(logprobs, abs=2e-5)


def test_long_responses_outgrow_the_first_allocation_of_the_cache():
    model = family("llama")
    prompts, params = [tuple(range(3, 13)) * 4, (5,)], SamplingParams(temperature=0.0, max_tokens=150)
    groups = engine(model, eos_ids=(99,)).sample(prompts, 1, params, [1, 2])
    for prompt, (rollout,) in zip(prompts, groups, strict=True):
        tokens, logprobs = naive_rollout(model, prompt, 0, 0, params, eos_ids=(99,))
        assert list(rollout.response_ids) == tokens
        assert rollout.logprobs == pytest.approx(logprobs, abs=2e-5)


def test_many_prompts_are_computed_in_several_passes(monkeypatch: pytest.MonkeyPatch):
    params = SamplingParams(max_tokens=6)
    together = engine(family("llama")).sample(PROMPTS, 3, params, SEEDS)
    monkeypatch.setattr("credo.rollout.continuous.PROMPT_TOKENS", 6)
    assert tokens_of(engine(family("llama"), concurrent=4).sample(PROMPTS, 3, params, SEEDS)) == tokens_of(together)


def test_the_trainer_s_module_stays_as_it_is():
    model = copy.deepcopy(family("llama"))
    parameters = dict(model.named_parameters())
    engine(model, compute="bf16").sample(PROMPTS, 1, SamplingParams(max_tokens=2), SEEDS)
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == {
        name: id(parameter) for name, parameter in parameters.items()
    }
    assert all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in model.parameters())
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
@pytest.mark.parametrize("fused", [True, False])
def test_sampling_follows_the_trained_weights(compute: str, fused: bool):
    model = copy.deepcopy(family("llama"))
    sampler, params = engine(model, compute=compute), SamplingParams(max_tokens=12)
    before = sampler.sample(PROMPTS, 2, params, SEEDS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=fused)
    model(input_ids=torch.tensor([PROMPTS[2]])).logits.square().mean().backward()
    optimizer.step()
    sampler.load_weights(model.named_parameters())
    after = sampler.sample(PROMPTS, 2, params, SEEDS)
    assert after != before
    assert after == engine(copy.deepcopy(model), compute=compute).sample(PROMPTS, 2, params, SEEDS)


def text_of(tokens: Sequence[int]) -> str:
    return "".join("abcdefghijklmnop"[token] for token in tokens)


def test_a_stop_string_ends_a_response_with_the_token_that_completes_it():
    params = SamplingParams(max_tokens=30)
    free = list(chain.from_iterable(engine(family("llama"), eos_ids=(99,)).sample(PROMPTS, 8, params, SEEDS)))
    counts = Counter(text_of(rollout.response_ids)[i : i + 2] for rollout in free for i in range(1, 29))
    stop = counts.most_common(1)[0][0]
    sampler = engine(family("llama"), eos_ids=(99,), decode=text_of)
    params = SamplingParams(max_tokens=30, stop=("not in any text", stop))
    stopped = list(chain.from_iterable(sampler.sample(PROMPTS, 8, params, SEEDS)))
    for before, after in zip(free, stopped, strict=True):
        text = text_of(before.response_ids)
        end = text.index(stop) + len(stop) if stop in text else 30
        assert text_of(after.response_ids) == text[:end]
        assert after.finish == ("stop" if stop in text else "length")
    assert {rollout.finish for rollout in stopped} == {"stop", "length"}


def test_stop_strings_need_a_decoder():
    with pytest.raises(ValueError, match="decode"):
        engine(family("llama")).sample(PROMPTS, 1, SamplingParams(stop=("a",)), SEEDS)


def test_the_cache_stays_within_its_bound():
    model, params = family("llama"), SamplingParams(max_tokens=7)
    token_bytes = 2 * 2 * 32 * 4  # keys and values, layers, width, fp32
    sampler = engine(model, cache_bytes=3 * 16 * token_bytes)
    assert sampler._slots(100, 9 + 7) == 3
    assert tokens_of(sampler.sample(PROMPTS, 3, params, SEEDS)) == tokens_of(
        engine(model).sample(PROMPTS, 3, params, SEEDS)
    )
    with pytest.raises(ValueError, match="raise it"):
        engine(model, cache_bytes=16 * token_bytes - 1).sample(PROMPTS, 3, params, SEEDS)


def test_what_a_slot_held_before_never_matters():
    cache = SlotCache(2, longest=8)
    prompts = PackedPrompts([(3, 4, 5), (6,)], torch.float32)
    options = {"scaling": 1.0, "window": None, "softcap": None}
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 4, 8, generator=generator) for _ in range(3))
    prompts.attend(0, query, key, value, **options)
    cache.fill([0, 1], prompts, 0)
    cache.stored[0][:] = torch.nan
    cache.fill([0, 1], prompts, 1)
    cache.begin(torch.tensor([1, 1]), 1)
    token = [part[:, :, :1].expand(2, -1, -1, -1) for part in (query, key, value)]
    assert cache.attend(0, *token, **options).isfinite().all()


def test_closed_it_holds_no_second_copy_of_the_weights():
    made = engine(family("llama"))
    made.sample(PROMPTS, 1, SamplingParams(max_tokens=2), SEEDS)
    packed = weakref.ref(made._body)
    made.close()
    assert packed() is None
