"""Memory and seconds against numbers worked out by hand, for a model to count and a GPU of round figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from counted import CACHED, KEPT, LINEAR, PARAMETERS, QUERIES, L, V, W, config, counted_sizes

from credo.config import TrainConfig
from credo.models.size import ModelSize
from credo.planning.estimate import (
    EAGER_LAYER,
    LINK_SHARE,
    MATRIX_SHARE,
    MEMORY_SHARE,
    Footprint,
    Sharding,
    estimate,
    footprint,
    sampling_seconds,
    seconds,
    usable,
    ways,
    with_shapes,
    worthwhile,
)
from credo.planning.gpus import Gpu, gpu_named
from credo.planning.plan import Sizes
from credo.recipe import read_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "eurus2-7b.toml"
GPU = Gpu(name="g", memory=1.0, bandwidth=1e9, bf16=2e9, fp32=1e9, link=1e8, network=5e7, source="made up")
AROUND = PARAMETERS - LINEAR
PROMPT, RESPONSE, LONGEST = 25, 14, 128
"""Means as they are assumed, a quarter and a half of the limits; and the sum of these."""
FORWARD = 2 * (LINEAR + V * W) + 2 * QUERIES * (PROMPT + RESPONSE)
"""Operations a token."""


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Sizes:
    return counted_sizes(tmp_path_factory.mktemp("model"))


def test_memory_of_whole_models(sizes: Sizes):
    made = footprint(config(), sizes, 8, "none")
    assert made == Footprint(
        weights=3 * 4 * PARAMETERS,
        moments=2 * 8 * PARAMETERS,
        sampler=4 * PARAMETERS,
        cache=16 * LONGEST * CACHED * 4,
        gradients=4 * PARAMETERS,
        gathered=0,
        activations=8192 * KEPT * 4,
        logits=2 * 8192 * V * 4,
    )
    assert made.peak == 32 * PARAMETERS + 4 * PARAMETERS + made.activations + made.logits


def test_memory_of_spread_models(sizes: Sizes):
    whole, full, offload = (footprint(config(), sizes, 8, way) for way in ("none", "full", "offload"))
    two_layers = 2 * (LINEAR // L) * (4 + 4)
    assert full == replace(
        whole,
        weights=whole.weights // 8,
        moments=whole.moments // 8,
        gradients=whole.gradients // 8,
        sampler=whole.sampler + 4 * PARAMETERS,
        gathered=two_layers + AROUND * (4 + 4),
    )
    assert offload == replace(full, weights=0, moments=0, gradients=0)


def test_memory_in_bf16(sizes: Sizes):
    fp32, bf16 = (footprint(config(model__compute=way), sizes, 8, "none") for way in ("fp32", "bf16"))
    assert bf16.gathered == 2 * PARAMETERS
    assert bf16.weights == fp32.weights
    for part in ("sampler", "cache", "activations", "logits"):
        assert getattr(bf16, part) == getattr(fp32, part) / 2


def test_selecting_what_was_expected_takes_the_logits_of_three_models(sizes: Sizes):
    made = footprint(config(advantage__baseline="expected"), sizes, 8, "none")
    assert made.logits == 4 * 8192 * V * 4


def test_the_peak_is_of_sampling_or_of_learning(sizes: Sizes):
    made = footprint(config(), sizes, 8, "none")
    always = made.weights + made.moments + made.sampler
    assert replace(made, cache=10**12).peak == always + 10**12
    assert replace(made, cache=0, gradients=1, gathered=2, activations=3, logits=4).peak == always + 10


def test_layers_that_are_computed_again_keep_their_inputs(sizes: Sizes):
    made = footprint(config(training__gradient_checkpointing=True), sizes, 8, "none")
    assert made.activations == 8192 * (L * W + KEPT // L) * 4


def test_the_cache_is_of_what_a_rank_decodes_at_once(sizes: Sizes):
    def cached(gpus: int, **options: Any) -> int:
        return footprint(config(**options), sizes, gpus, "none").cache // (LONGEST * CACHED * 4)

    assert [cached(gpus) for gpus in (1, 8, 20, 512)] == [128, 16, 8, 4]
    assert cached(1, rollout__concurrent=10) == 10
    assert cached(1, rollout__cache_gb=5.5 * LONGEST * CACHED * 4 / 2**30) == 5
    assert cached(8, advantage__estimator="remax") == 20


def test_adapters_and_shared_layers(sizes: Sizes):
    adapters = footprint(config(lora__rank=2), sizes, 1, "none")
    assert adapters.moments == 2 * 8 * 2 * KEPT
    assert adapters.weights == 4 * (PARAMETERS + 2 * 2 * KEPT)
    top = footprint(config(prm__top_layers=1), sizes, 1, "none")
    assert top.activations - footprint(config(), sizes, 1, "none").activations == 4 * W * (32 * 100 + 128 * 28)


def test_learning_on_one_gpu(sizes: Sizes):
    learnt = seconds(config(), sizes, GPU, 1, "none")
    tokens = 128 * (PROMPT + RESPONSE)
    assert learnt.policy == pytest.approx(3 * tokens * FORWARD / (MATRIX_SHARE * 1e9))
    assert learnt.prm == pytest.approx(learnt.policy)
    assert learnt.scoring == pytest.approx(learnt.policy / 3)
    assert (learnt.critic, learnt.weights) == (0, 0)
    bf16 = seconds(config(model__compute="bf16"), sizes, GPU, 1, "none")
    assert bf16.policy == pytest.approx(learnt.policy / 2)
    again = seconds(config(training__gradient_checkpointing=True), sizes, GPU, 1, "none")
    assert again.policy == pytest.approx(learnt.policy * 4 / 3)


def test_learning_scales_until_one_response_is_all_a_rank_has(sizes: Sizes):
    unlimited = replace(GPU, link=1e30, network=1e30)
    alone, four, many, more = (seconds(config(), sizes, unlimited, gpus, "none").policy for gpus in (1, 4, 128, 256))
    assert four == pytest.approx(alone / 4)
    longest = PROMPT + 28
    assert many == more == pytest.approx(3 * longest * FORWARD / (MATRIX_SHARE * 1e9))
    minibatches = seconds(config(policy__minibatch=32), sizes, unlimited, 128, "none")
    assert minibatches.policy == pytest.approx(4 * many)


@pytest.mark.parametrize(("gpus", "slowest"), [(2, 1e8), (8, 1e8), (16, 5e7)])
def test_gradients_of_whole_models_go_around_once_an_optimiser_step(sizes: Sizes, gpus: int, slowest: float):
    unlimited = replace(GPU, link=1e30, network=1e30)
    for steps in (1, 2):
        options = {"policy__minibatch": 128 // steps}
        waited = (
            seconds(config(**options), sizes, GPU, gpus, "none").policy
            - seconds(config(**options), sizes, unlimited, gpus, "none").policy
        )
        expected = steps * 2 * 4 * PARAMETERS * (gpus - 1) / gpus / (slowest * LINK_SHARE)
        assert waited == pytest.approx(expected)


def test_spread_layers_travel_while_others_compute(sizes: Sizes):
    few = {"training__tokens_per_microbatch": 500}
    tokens = 128 * (PROMPT + RESPONSE) / 2
    computing = 3 * tokens * FORWARD / (MATRIX_SHARE * 1e9)
    for link in (1e30, 1e3):
        gpu = replace(GPU, link=link)
        parts = -int(-tokens // 500)
        travelling = parts * (2 * 4 * PARAMETERS + 4 * PARAMETERS) / 2 / (link * LINK_SHARE)
        found = seconds(config(**few), sizes, gpu, 2, "full")
        assert found.policy == pytest.approx(max(computing, travelling))
        assert found.weights == pytest.approx(4 * PARAMETERS / 2 / (link * LINK_SHARE))


def test_sampling_reads_the_weights_once_a_token(sizes: Sizes):
    prompts_free = replace(GPU, fp32=1e30)
    graphs = config(rollout__engine="vllm")
    found = sampling_seconds(graphs, sizes.policy, prompts_free, 8)
    active = 16 * RESPONSE / 28
    read = 4 * (LINEAR + V * W + active * (PROMPT + RESPONSE / 2) * CACHED)
    assert found == pytest.approx(28 * read / (MEMORY_SHARE * 1e9))


def test_sampling_waits_for_pytorch_or_for_the_products(sizes: Sizes):
    eager = sampling_seconds(config(), sizes.policy, replace(GPU, fp32=1e30, bandwidth=1e30), 8)
    assert eager == pytest.approx(28 * EAGER_LAYER * L)
    active, context = 16 * RESPONSE / 28, PROMPT + RESPONSE / 2
    counted = active * (2 * (LINEAR + V * W) + 4 * QUERIES * context)
    prompts = 4 * PROMPT * (2 * (LINEAR + V * W) + 2 * QUERIES * PROMPT)
    slow = sampling_seconds(config(rollout__engine="vllm"), sizes.policy, replace(GPU, fp32=1e3, bandwidth=1e30), 8)
    assert slow == pytest.approx((28 * counted + prompts) / (MATRIX_SHARE * 1e3))


def test_sampling_in_several_rounds_takes_as_many_steps_as_tokens_need(sizes: Sizes):
    gpu = replace(GPU, fp32=1e30, bandwidth=1e30)
    narrow = sampling_seconds(config(rollout__concurrent=4), sizes.policy, gpu, 1)
    assert narrow == pytest.approx(128 * RESPONSE / 4 * EAGER_LAYER * L)
    assert sampling_seconds(config(), sizes.policy, gpu, 1000) == pytest.approx(28 * EAGER_LAYER * L)


def test_the_sampler_holds_a_model_of_its_own_where_the_policy_is_spread_or_learning(sizes: Sizes):
    def held(sharding: Sharding, **options: Any) -> int:
        return footprint(config(**options), sizes, 8, sharding).sampler // PARAMETERS

    assert (held("none"), held("full"), held("offload")) == (4, 8, 8)
    assert (held("none", rollout__packed=False), held("full", rollout__packed=False)) == (0, 4)
    assert held("none", rollout__ahead=True, policy__importance_cap=2.0, rollout__top_p=0.9) == 8


def test_models_that_share_layers_are_whole_everywhere(sizes: Sizes):
    assert ways(config(prm__top_layers=1)) == ("none",)
    assert ways(config(prm__ema=0.5)) == ways(config(lora__rank=2)) == ways(config()) == ("none", "full", "offload")
    assert estimate(config(prm__top_layers=1), sizes, replace(GPU, memory=0.0), 8).sharding == "none"


@pytest.mark.parametrize(
    ("options", "backbones"),
    [({}, 3), ({"prm__reference": "policy"}, 2), ({"prm__enabled": False}, 1), ({"policy__kl_coef": 0.1}, 3)],
)
def test_spread_roles_have_a_backbone_each_and_whole_adapters(sizes: Sizes, options: dict[str, Any], backbones: int):
    lora = config(lora__rank=2, **options)
    one, adapters = footprint(lora, sizes, 8, "none"), 4 * 2 * KEPT * (1 if "prm__enabled" in options else 2)
    spread, away = (footprint(lora, sizes, 8, way) for way in ("full", "offload"))
    assert one.weights == 4 * PARAMETERS + adapters
    assert spread.weights == 4 * PARAMETERS * backbones // 8 + adapters
    assert away.weights == adapters
    assert spread.moments == away.moments == one.moments == 2 * adapters
    assert spread.gradients == away.gradients == one.gradients == 4 * 2 * KEPT
    assert spread.sampler == one.sampler + 4 * PARAMETERS
    assert spread.gathered == 2 * (LINEAR // L) * 4 + 4 * AROUND, "frozen, so without gradients"
    assert estimate(lora, sizes, replace(GPU, memory=0.0), 8).seconds.weights == 0


@pytest.mark.parametrize(
    ("room", "sharding", "fits"),
    [("none", "none", True), ("full", "full", True), ("offload", "offload", True), (None, "offload", False)],
)
def test_the_least_spread_that_fits_is_taken(sizes: Sizes, room: Sharding | None, sharding: Sharding, fits: bool):
    settings = config(training__tokens_per_microbatch=128, rollout__concurrent=1)
    peak = footprint(settings, sizes, 8, room).peak if room else 1
    made = estimate(settings, sizes, replace(GPU, memory=peak / 0.9 * 1.0001 / 2**30), 8)
    assert (made.sharding, made.fits) == (sharding, fits)
    assert made.footprint == footprint(settings, sizes, 8, sharding)
    assert made.whole == footprint(settings, sizes, 8, "none")


def test_a_tenth_of_the_memory_stays_free():
    assert usable(gpu_named("a800")) == pytest.approx(72 * 2**30)


def test_a_model_known_by_its_name_has_the_usual_shape():
    named = ModelSize(parameters=7 * 10**9, source="its name")
    shaped = with_shapes(Sizes(policy=named, prm=named, reference=named))
    assert shaped.policy.parameters == 7_615_616_512
    assert with_shapes(shaped) == shaped


def test_sizes_that_nobody_knows_are_refused():
    unknown = ModelSize(source="nowhere to be found")
    with pytest.raises(ValueError, match=r"--gpus: .*nowhere to be found"):
        estimate(config(), Sizes(policy=unknown, prm=unknown, reference=unknown), GPU, 8)


def test_no_gpus_are_refused(sizes: Sizes):
    with pytest.raises(ValueError, match="1 or more, got 0"):
        estimate(config(), sizes, GPU, 0)


def test_doubling_is_worth_it_up_to_where_it_saves_a_fourth(sizes: Sizes):
    most = worthwhile(config(), sizes, GPU)
    assert most is not None
    times = {gpus: estimate(config(), sizes, GPU, gpus).seconds.total for gpus in (most // 2, most, 2 * most) if gpus}
    assert times[2 * most] > 0.75 * times[most]
    assert most == 1 or times[most] <= 0.75 * times[most // 2]
    assert worthwhile(config(), sizes, replace(GPU, memory=0.0)) is None


def paper() -> tuple[TrainConfig, Sizes]:
    named = ModelSize(parameters=7 * 10**9, source="its name")
    return read_recipe(TrainConfig, [RECIPE]), with_shapes(Sizes(policy=named, prm=named, reference=named))


def test_the_paper_s_step_is_a_lower_bound_of_the_right_size():
    """680 s on 8 A800: 282 of sampling, 308 of learning, 91 of everything else. Docs: docs/scaling.md."""
    made = estimate(*paper(), gpu_named("a800"), 8)
    learning = made.seconds.total - made.seconds.sampling
    assert 0.5 < learning / (156.6 + 150.9 + 91.1) < 1
    assert 0.1 < made.seconds.sampling / 281.7 < 1
    assert made.whole.peak > 3 * usable(gpu_named("a800"))


def test_the_recipe_of_the_paper_fits_its_machine_with_the_flags_of_its_header():
    flags = ["--training.gradient_checkpointing=true", "--rollout.packed=false", "--rollout.concurrent=64"]
    header = RECIPE.read_text(encoding="utf-8").split("[run]")[0]
    assert all(flag.replace("=", " ") in header for flag in flags)
    made = estimate(read_recipe(TrainConfig, [RECIPE], flags), paper()[1], gpu_named("a800"), 8)
    assert (made.fits, made.sharding) == (True, "full")


@pytest.mark.parametrize("gpus", [64, 512])
def test_many_gpus_are_faster_and_dearer(gpus: int):
    few, many = (estimate(*paper(), gpu_named("h100"), count) for count in (8, gpus))
    assert many.seconds.total < few.seconds.total
    assert many.seconds.total * gpus > few.seconds.total * 8
    assert many.footprint.cache < few.footprint.cache
