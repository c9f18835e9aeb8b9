"""The plan of a recipe against numbers worked out by hand for models small enough to count."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import pytest
from counted import CACHED, LAYER, PARAMETERS, V, W, alike, config, counted_llama

from credo.config import TrainConfig
from credo.filtering import sift, why_dropped
from credo.models.size import ModelSize, model_size, size_text
from credo.planning.plan import Sizes, batch_arithmetic, disk, doubts, kept_counts, memory, model_sizes, plan, roles
from credo.rollout.engine import SamplingParams
from credo.rollout.torch_engine import TorchEngine
from credo.types import Group, Problem, Rollout, Verdict


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return counted_llama(tmp_path_factory.mktemp("model"))


def sizes(settings: TrainConfig, folder: str) -> dict[str, int | None]:
    return {role: count for role, _, count in memory(settings, alike(model_size(folder)))}


def test_memory_by_role(folder: str):
    found = sizes(config(rollout__concurrent=10, training__tokens_per_microbatch=1000), folder)
    assert found == {
        "policy": 16 * PARAMETERS,
        "PRM": 16 * PARAMETERS,
        "reference": 4 * PARAMETERS,
        "sampler": 4 * PARAMETERS,
        "key-value cache": 10 * 128 * CACHED * 4,
        "logits": 2 * 1000 * V * 4,
    }


def test_memory_of_a_frozen_prm_judged_by_the_policy(folder: str):
    found = sizes(config(prm__update="none", prm__reference="policy"), folder)
    assert (found["PRM"], found["reference"]) == (4 * PARAMETERS, 0)


def test_memory_of_a_prm_that_learns_its_last_layers_alone(folder: str):
    settings = config(prm__top_layers=2, prm__ema=0.9, rollout__prompts=3, rollout__per_prompt=5)
    found, top = sizes(settings, folder), 2 * LAYER + W
    assert (found["PRM"], found["PRM average"], found["reference"]) == (16 * top, 4 * top, 4 * PARAMETERS)
    assert found["shared layers"] == (3 * 100 + 15 * 28) * W * 4
    assert "shared layers" not in sizes(config(), folder)
    whole_models = 12 * PARAMETERS + 2 * 4 * PARAMETERS + 8 * top
    assert size_text(whole_models) in disk(settings, alike(model_size(folder)))


def test_memory_of_adapters_on_one_backbone(folder: str):
    size = model_size(folder)
    assert size.linear is not None
    assert size.adapter is not None
    settings = config(lora__rank=3, rollout__packed=False, policy__kl_coef=0.1)
    found = sizes(settings, folder)
    assert found["backbone"] == 4 * PARAMETERS
    assert found["policy adapter"] == found["PRM adapter"] == 16 * 3 * size.adapter
    assert not {"policy", "PRM", "reference", "sampler"} & set(found)
    assert found["KL anchor"] == 0
    halved = sizes(config(lora__rank=1, model__compute="bf16"), folder)
    assert halved["backbone"] == 4 * PARAMETERS - 2 * size.linear
    assert halved["bf16"] == 2 * (PARAMETERS - size.linear)
    assert halved["sampler"] == 2 * PARAMETERS
    assert "PRM adapter" not in sizes(config(lora__rank=3, prm__enabled=False), folder)


def test_a_checkpoint_holds_adapters_and_whole_models(folder: str):
    size = model_size(folder)
    assert size.adapter is not None
    expected = 2 * (4 * PARAMETERS + 12 * 3 * size.adapter)
    assert disk(config(lora__rank=3), alike(size)).startswith(f"a checkpoint: {size_text(expected)};")


def test_memory_of_a_critic_and_of_an_average(folder: str):
    found = sizes(config(advantage__estimator="gae", prm__ema=0.9), folder)
    assert found["critic"] == 16 * (PARAMETERS + W + 1)
    assert found["PRM average"] == 4 * PARAMETERS
    assert not {"critic", "PRM average"} & set(sizes(config(), folder))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0),
        ({"prm__reference": "policy"}, 4 * PARAMETERS),
        ({"prm__path": "p", "prm__reference": "own"}, 4 * PARAMETERS),
        ({"prm__reference_path": "p"}, 4 * PARAMETERS),
        ({"prm__enabled": False}, 4 * PARAMETERS),
    ],
)
def test_the_kl_term_needs_the_start_once(folder: str, options: dict[str, Any], expected: int):
    assert sizes(config(policy__kl_coef=0.1, **options), folder)["KL anchor"] == expected
    assert "KL anchor" not in sizes(config(**options), folder)


def test_the_reference_is_counted_as_the_model_it_is():
    policy, prm, other = (ModelSize(parameters=count, source="") for count in (5, 7, 11))
    named = Sizes(policy=policy, prm=prm, reference=other)
    rows = {role: count for role, _, count in memory(config(prm__path="p", prm__reference_path="o"), named)}
    assert (rows["policy"], rows["PRM"], rows["reference"]) == (80, 112, 44)


def test_the_expected_baseline_holds_the_logits_of_three_models(folder: str):
    assert sizes(config(advantage__baseline="expected"), folder)["logits"] == 4 * 8192 * V * 4


def test_the_prefix_check_can_fill_the_cache_more_than_a_round_does(folder: str):
    few = {"rollout__prompts": 2, "rollout__per_prompt": 3, "instruments__every": 10}
    checked = sizes(config(**few, instruments__prefixes=4, instruments__completions=5), folder)
    assert checked["key-value cache"] == 40 * (100 + 28 + 28) * CACHED * 4
    assert sizes(config(**few), folder)["key-value cache"] == 256 * (100 + 28 + 28) * CACHED * 4


def test_memory_without_a_prm(folder: str):
    found = sizes(config(prm__enabled=False), folder)
    assert "PRM" not in found
    assert "reference" not in found


def test_bf16_halves_the_logits_and_adds_a_copy_of_the_weights(folder: str):
    fp32, bf16 = sizes(config(), folder), sizes(config(model__compute="bf16"), folder)
    assert bf16["logits"] == 2 * 8192 * V * 2 == (fp32["logits"] or 0) // 2
    assert bf16["bf16"] == 2 * PARAMETERS
    assert bf16["sampler"] == 2 * PARAMETERS == (fp32["sampler"] or 0) // 2
    assert bf16["key-value cache"] == (fp32["key-value cache"] or 0) // 2


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_the_cache_is_what_the_engine_needs(folder: str, compute: Literal["fp32", "bf16"]):
    import transformers

    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder)).eval()
    options = {"rollout__prompts": 1, "rollout__per_prompt": 1, "advantage__estimator": "reinforce"}
    planned = sizes(config(**options, model__compute=compute), folder)["key-value cache"]
    assert planned is not None
    for bound, fits in ((planned, True), (planned - 1, False)):
        engine = TorchEngine(model, eos_ids=frozenset(), pad_id=0, concurrent=4, compute=compute, cache_bytes=bound)
        with nullcontext() if fits else pytest.raises(ValueError, match="MiB of keys"):
            engine.sample([(1,) * 100], 1, SamplingParams(max_tokens=28), [0])


def test_the_cache_takes_no_more_than_its_bound(folder: str):
    needed = 256 * 128 * CACHED * 4
    many = {"evaluation__sources": ["b.jsonl"]}
    for bound, expected in ((needed // 2, needed // 2), (2 * needed, needed)):
        assert sizes(config(**many, rollout__cache_gb=bound / 2**30), folder)["key-value cache"] == expected


def test_a_precision_that_is_open_is_counted_at_its_larger(folder: str):
    fp32, bf16, auto = (sizes(config(model__compute=compute), folder) for compute in ("fp32", "bf16", "auto"))
    assert auto == fp32 | {"bf16": bf16["bf16"]}


def test_a_round_of_training_does_not_fill_the_cache_but_evaluation_can(folder: str):
    few = sizes(config(rollout__prompts=2, rollout__per_prompt=3), folder)
    assert few["key-value cache"] == 6 * 128 * CACHED * 4
    evaluated = sizes(config(rollout__prompts=2, rollout__per_prompt=3, evaluation__sources=["b.jsonl"]), folder)
    assert evaluated["key-value cache"] == 256 * 128 * CACHED * 4


def test_one_long_response_can_be_more_than_the_budget(folder: str):
    assert sizes(config(training__tokens_per_microbatch=100), folder)["logits"] == 2 * 128 * V * 4


def test_batch_arithmetic_in_words():
    lines = "\n".join(batch_arithmetic(config(policy__minibatch=64, training__tokens_per_microbatch=1000)))
    assert "32 prompts x 4 rollouts = 128 responses" in lines
    assert "policy: 2 optimiser steps of 64" in lines
    assert "PRM: 1 optimiser step of 128" in lines
    assert "PRM: 1 optimiser step of 128, on the last 2 layers alone" in batch_arithmetic(config(prm__top_layers=2))
    assert (
        "micro-batches of at most 1,000 tokens hold 7 responses of the longest length (100 + 28 = 128 tokens)" in lines
    )
    assert "keeps groups with 1 to 3 correct of 4" in lines


@pytest.mark.parametrize(
    ("minibatch", "words"),
    [
        (1, "128 optimiser steps of 1"),
        (50, "2 optimiser steps of 50 and 1 of 28"),
        (100, "1 optimiser step of 100 and 1 of 28"),
        (128, "1 optimiser step of 128"),
        (256, "1 optimiser step of 128"),
    ],
)
def test_optimiser_steps_of_a_batch(minibatch: int, words: str):
    assert f"policy: {words}" in batch_arithmetic(config(policy__minibatch=minibatch))


def test_the_order_of_scoring_and_learning():
    def order(**options: Any) -> str:
        return "\n".join(batch_arithmetic(config(**options)))

    assert "scores the whole batch, then learns" in order()
    assert "learns from the batch, then scores" in order(prm__update="before")
    assert "never learns" in order(prm__update="none", prm__path="trained")
    assert "first 3 steps only the PRM learns" in order(prm__warmup_steps=3)
    assert "outcome is the only reward" in order(prm__enabled=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "baseline: the mean of the other responses"),
        ({"advantage__estimator": "gae", "policy__minibatch": 64}, "baseline: a critic, 2 optimiser steps of 64"),
        ({"advantage__estimator": "remax"}, "at least 32 more"),
        (
            {"advantage__estimator": "reinforce", "advantage__baseline": "position"},
            "baseline: none; of process rewards",
        ),
        ({"instruments__every": 5}, "one step in 5 samples 2 x 32 prefixes x 8 completions = 512 more responses"),
    ],
)
def test_what_outcomes_are_compared_with_and_what_is_sampled_besides(options: dict[str, Any], words: str):
    assert words in "\n".join(batch_arithmetic(config(**options)))


def test_whom_the_policy_waits_for():
    def waits(**options: Any) -> str:
        return "\n".join(line for line in batch_arithmetic(config(**options)) if "only" in line)

    critic: dict[str, Any] = {"advantage__estimator": "gae", "critic__warmup_steps": 2}
    assert waits() == ""
    assert waits(**critic) == "in the first 2 steps only the PRM and the critic learn"
    assert waits(**critic, prm__warmup_steps=4) == "in the first 4 steps only the PRM and the critic learn"
    assert "only the critic learns" in waits(**critic, prm__enabled=False)


def group(correct: int, size: int) -> Group:
    rollout = Rollout(prompt_ids=(1,), response_ids=(2,), logprobs=(0.0,), finish="stop")
    return Group(
        problem=Problem(id="p", kind="exact", prompt="", answer="", source=""),
        rollouts=(rollout,) * size,
        responses=("",) * size,
        verdicts=tuple(Verdict(score=float(index < correct)) for index in range(size)),
    )


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8, 10])
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.8), (0.1, 0.3), (0.0, 1.0), (0.3, 0.45), (0.5, 0.5)])
def test_the_band_is_the_one_that_collection_keeps(size: int, low: float, high: float):
    settings = config(rollout__per_prompt=size, filter__accuracy_low=low, filter__accuracy_high=high)
    kept = [correct for correct in range(size + 1) if why_dropped(group(correct, size), settings.filter) is None]
    assert kept_counts(settings) == kept


@pytest.mark.parametrize("option", ["filter__drop_unanimous", "filter__length_matched"])
def test_the_band_without_unanimous_groups(option: str):
    settings = config(filter__accuracy_low=0.0, filter__accuracy_high=1.0, **{option: True})
    sifted = [sift(group(correct, 4), settings.filter, least_judged=2) for correct in range(5)]
    assert kept_counts(settings) == [correct for correct in range(5) if sifted[correct][1] is None] == [1, 2, 3]


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.2, 0.8, "keeps groups with 1 to 3 correct of 4"),
        (0.5, 0.5, "keeps groups with 2 correct of 4"),
        (0.0, 1.0, "keeps every group"),
        (0.3, 0.45, "keeps no group of 4"),
    ],
)
def test_the_band_in_words(low: float, high: float, words: str):
    settings = config(filter__accuracy_low=low, filter__accuracy_high=high)
    assert f"filter: {words}" in batch_arithmetic(settings)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Qwen2.5-Math-7B", 7_000_000_000),
        ("Qwen2.5-0.5B-Instruct", 500_000_000),
        ("SmolLM2-135M", 135_000_000),
        ("llama-2-7b-hf", 7_000_000_000),
        ("Mixtral-8x7B-v0.1", 56_000_000_000),
        ("Qwen3-30B-A3B", 30_000_000_000),
        ("phi-3-mini-4k-8bit", None),
        ("gpt2", None),
    ],
)
def test_a_hub_id_that_is_not_here_is_guessed_from_its_name(name: str, parameters: int | None):
    size = model_size(f"no-such-owner/{name}")
    assert size.parameters == parameters
    assert size.vocabulary is None
    text = plan(config(model__path=f"no-such-owner/{name}"))
    assert "unknown" in text
    assert ("a guess from the name" in text) == (parameters is not None)
    assert "of what is known" in text


def test_a_local_model_may_still_have_to_be_made(tmp_path: Path):
    text = plan(config(model__path=str(tmp_path / "absent")))
    assert "absent" in text
    assert "32 prompts x 4 rollouts" in text


def test_a_plan_adds_up(folder: str):
    text = plan(config(model__path=folder, rollout__concurrent=10))
    cache, logits = 10 * 128 * CACHED * 4, 2 * 8192 * V * 4
    assert f"policy: {PARAMETERS:,} parameters" in text
    assert size_text(36 * PARAMETERS + cache + logits) in text
    assert f"a checkpoint: {size_text(24 * PARAMETERS)}; the newest 2 are kept" in text
    assert "Warnings" not in text


def test_disk_of_a_frozen_prm_and_of_none(folder: str):
    frozen = plan(config(model__path=folder, prm__update="none", prm__reference="policy", checkpoint__keep=0))
    assert f"a checkpoint: {size_text(16 * PARAMETERS)}; all are kept" in frozen
    assert f"a checkpoint: {size_text(12 * PARAMETERS)};" in plan(config(model__path=folder, prm__enabled=False))


def test_checkpoints_hold_what_learns_and_the_average():
    everything = config(advantage__estimator="gae", prm__ema=0.9, policy__kl_coef=0.1, prm__reference_path="o")
    held = list(roles(everything, alike(ModelSize(source=""))))
    assert [role.name for role in held] == ["policy", "PRM", "PRM average", "reference", "KL anchor", "critic"]
    assert [role.name for role in held if role.saved] == ["policy", "PRM", "PRM average", "critic"]
    assert [role.name for role in held if role.trained] == ["policy", "PRM", "critic"]


def test_a_checkpoint_with_a_critic_is_larger():
    size = 100 * 2**20
    sizes = alike(ModelSize(parameters=size, critic=size, source=""))
    assert disk(config(advantage__estimator="gae", prm__ema=0.9), sizes).startswith("a checkpoint: 3.9 GiB;")
    assert disk(config(prm__update="after"), sizes).startswith("a checkpoint: 2.3 GiB;")


def test_a_prm_of_its_own_size(folder: str, tmp_path: Path):
    settings = json.loads((Path(folder) / "config.json").read_text()) | {"num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    text = plan(config(model__path=folder, prm__path=str(tmp_path)))
    assert f"PRM: {PARAMETERS - 2 * LAYER:,} parameters" in text
    doubted = "PRM and reference are of different size"
    assert doubted in text
    own = config(model__path=folder, prm__path=str(tmp_path), prm__reference="own")
    assert doubted not in plan(own)
    assert model_sizes(own).reference.parameters == PARAMETERS - 2 * LAYER
    offline = plan(config(model__path=folder, prm__path=str(tmp_path), prm__reference_path=str(tmp_path)))
    assert doubted not in offline
    assert f"reference: {PARAMETERS - 2 * LAYER:,} parameters" in offline


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"policy__minibatch": 16}, "policy.minibatch"),
        ({"prm__minibatch": 16}, "prm.minibatch"),
        ({"rollout__prompts": 4}, "rollout.prompts"),
        ({"policy__minibatch": 60}, "the last optimiser step has 8 responses"),
        ({"prm__minibatch": 60}, "prm.minibatch that divides 128"),
        ({"filter__accuracy_low": 0.3, "filter__accuracy_high": 0.45}, "rollout.per_prompt"),
        ({"training__tokens_per_microbatch": 100}, "training.tokens_per_microbatch"),
        ({"rollout__max_tokens": 1000}, "data.max_prompt_tokens"),
        ({"policy__loss": "gspo"}, "policy.clip_low"),
        ({"policy__loss": "pg", "policy__minibatch": 50}, "first of 3 optimiser steps"),
        ({"policy__kl_coef": 0.1, "policy__kl": "k1"}, "policy.kl"),
        ({"policy__importance_cap": 2.0}, "policy.importance_cap"),
        ({"advantage__gamma_process": 0.0}, "advantage.negative_only"),
    ],
)
def test_what_is_doubtful_is_said_with_what_to_change(folder: str, options: dict[str, Any], named: str):
    sizes = alike(model_size(folder))
    assert not list(doubts(config(), sizes))
    assert named in " ".join(doubts(config(**options), sizes))


def test_what_is_as_it_should_be_is_not_doubted():
    sizes = alike(ModelSize(source=""))
    for sound in (
        {"policy__loss": "gspo", "policy__clip_low": 3e-4, "policy__clip_high": 4e-4},
        {"policy__loss": "pg"},
        {"policy__kl": "k2", "policy__kl_coef": 0.1},
        {"policy__importance_cap": 2.0, "rollout__top_p": 0.9},
        {"policy__importance_cap": 2.0, "model__compute": "bf16"},
        {"advantage__gamma_process": 0.0, "advantage__negative_only": True},
        {"advantage__gamma_process": 0.9},
        {"advantage__estimator": "reinforce", "rollout__per_prompt": 1, "rollout__prompts": 128}
        | {"filter__accuracy_low": 0.0, "filter__accuracy_high": 1.0},
        {"prm__enabled": False, "advantage__gamma_process": 0.0},
    ):
        assert list(doubts(config(**sound), sizes)) == []


def test_losses_between_responses_need_a_second_response():
    one: dict[str, Any] = {"rollout__per_prompt": 1, "rollout__prompts": 128, "advantage__estimator": "reinforce"}
    one |= {"filter__accuracy_low": 0.0, "filter__accuracy_high": 1.0}
    sizes = alike(ModelSize(source=""))
    paired = list(doubts(config(**one, prm__loss="dpo"), sizes))
    assert [doubt.split(":")[0] for doubt in paired] == ["prm.loss"]


def test_a_prm_of_another_size_wants_a_reference_of_its_own():
    policy, small = ModelSize(parameters=200, source=""), ModelSize(parameters=100, source="")
    beside_policy = Sizes(policy=policy, prm=small, reference=policy)
    assert ["prm.reference" in doubt for doubt in doubts(config(prm__path="small"), beside_policy)] == [True]
    own = config(prm__path="small", prm__reference="own")
    assert not list(doubts(own, Sizes(policy=policy, prm=small, reference=small)))


def test_a_large_reference_can_be_done_without():
    sizes = alike(ModelSize(parameters=2**28, source=""))
    assert ["1.0 GiB" in doubt for doubt in doubts(config(), sizes)] == [True]
    assert not list(doubts(config(prm__reference="policy"), sizes))
    assert not list(doubts(config(prm__enabled=False), sizes))
    assert not list(doubts(config(policy__kl_coef=0.1), sizes))  # the KL term needs it
    assert not list(doubts(config(prm__top_layers=1), sizes))  # so does the PRM
    assert not list(doubts(config(prm__reference_path="offline-start"), sizes))
