"""The plan of a recipe for so many GPUs, as text: a column for each number of them, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from textwrap import wrap

from credo.config import TrainConfig
from credo.models.size import size_text
from credo.planning.arithmetic import counted
from credo.planning.estimate import (
    LINK_SHARE,
    MATRIX_SHARE,
    MEMORY_SHARE,
    USABLE,
    WORTH_DOUBLING,
    Estimate,
    compute_bytes,
    estimate,
    mean_lengths,
    sampling_seconds,
    sequences,
    usable,
    with_shapes,
    worthwhile,
)
from credo.planning.gpus import NODE, Gpu, gpu_named
from credo.planning.plan import Sizes, model_sizes

MEMORY: tuple[tuple[str, Callable[[Estimate], float]], ...] = (
    ("weights", lambda made: made.footprint.weights),
    ("AdamW's m and v", lambda made: made.footprint.moments),
    ("sampler's copy of the policy", lambda made: made.footprint.sampler),
    ("sampling: key-value cache", lambda made: made.footprint.cache),
    ("learning: gradients", lambda made: made.footprint.gradients),
    ("learning: layers gathered or cast", lambda made: made.footprint.gathered),
    ("learning: activations", lambda made: made.footprint.activations),
    ("learning: logits", lambda made: made.footprint.logits),
    ("most at once", lambda made: made.footprint.peak),
    ("most at once, whole models", lambda made: made.whole.peak),
)
TIME: tuple[tuple[str, Callable[[Estimate], float]], ...] = (
    ("sampling", lambda made: made.seconds.sampling),
    ("log-probs: old, reference, PRM", lambda made: made.seconds.scoring),
    ("PRM learns", lambda made: made.seconds.prm),
    ("critic learns", lambda made: made.seconds.critic),
    ("policy learns", lambda made: made.seconds.policy),
    ("weights to the sampler", lambda made: made.seconds.weights),
    ("seconds a step", lambda made: made.seconds.total),
)
NO_FASTER = 0.9
"""With twice as many GPUs sampling takes this share of the time or more."""


def cluster_plan(config: TrainConfig, gpu: str, gpus: str) -> str:
    """The plan of ``config`` for ``gpus``, a number or several with commas between, of the kind named ``gpu``.

    Raises ValueError for a kind without figures, numbers that are none, and models whose size cannot be told.
    """
    kind, counts = gpu_named(gpu), _counts(gpus)
    sizes = model_sizes(config)
    shaped = with_shapes(sizes)
    made = [estimate(config, shaped, kind, count) for count in counts]
    ways = ["full + offload" if one.sharding == "offload" else one.sharding for one in made]
    sections = {
        f"On {gpus} x {kind.name}": _wrapped([_peaks(kind, config), *_taken_for(sizes, shaped)]),
        "Memory of a GPU": [_row("GPUs", [f"{count:,}" for count in counts]), _row("launch.sharding", ways)]
        + [_row(name, [size_text(int(of(one))) for one in made]) for name, of in MEMORY if any(map(of, made))],
        "Time of a step": [_row(name, [f"{of(one):,.1f} s" for one in made]) for name, of in TIME if any(map(of, made))]
        + [_row("seconds x GPUs, of the first column", _costs(made))],
        "In words": _wrapped(_words(config, shaped, kind, made)),
        "Assumed": _wrapped(_assumed(config)),
    }
    return "\n\n".join("\n  ".join([title, *lines]) for title, lines in sections.items())


def _wrapped(lines: Iterable[str]) -> list[str]:
    return [part for line in lines for part in wrap(line, 100, subsequent_indent="  ")]


def _counts(gpus: str) -> list[int]:
    try:
        return [int(part) for part in gpus.split(",")]
    except ValueError:
        raise ValueError(f"--gpus: expected a number, or several such as 8,64,512; got '{gpus}'.") from None


def _peaks(gpu: Gpu, config: TrainConfig) -> str:
    bf16 = compute_bytes(config) == 2
    return (
        f"{gpu.memory:g} GiB, {gpu.bandwidth / 1e12:.2f} TB/s, "
        f"{(gpu.bf16 if bf16 else gpu.fp32) / 1e12:,.0f} Tflop/s in {'bf16' if bf16 else 'fp32'}, "
        f"{gpu.link / 1e9:,.0f} GB/s within a machine of {NODE}, "
        f"{gpu.network / 1e9:,.0f} GB/s out of it ({gpu.source})"
    )


def _taken_for(sizes: Sizes, shaped: Sizes) -> Iterator[str]:
    for role in ("policy", "prm", "reference"):
        known, taken = getattr(sizes, role), getattr(shaped, role)
        if known is not taken and (role == "policy" or known != sizes.policy):
            yield f"{role}: {taken.words}"


def _row(name: str, cells: list[str]) -> str:
    return f"{name:<38}" + "".join(f"{cell:>15}" for cell in cells)


def _costs(made: list[Estimate]) -> list[str]:
    first = made[0].gpus * made[0].seconds.total
    return [f"{one.gpus * one.seconds.total / first:.2f} x" for one in made]


def _words(config: TrainConfig, sizes: Sizes, gpu: Gpu, made: list[Estimate]) -> Iterator[str]:
    for one in made:
        yield f"{counted(one.gpus, 'GPU')}: {' '.join(_advice(config, sizes, gpu, one))}"
    if config.rollout.engine == "torch" and config.lora.rank == 0:
        graphs = replace(config, rollout=replace(config.rollout, engine="vllm", packed=True))
        faster = sampling_seconds(graphs, sizes.policy, gpu, made[0].gpus)
        if faster < WORTH_DOUBLING * made[0].seconds.sampling:
            yield (
                "Sampling waits for PyTorch to start one operation after the other; rollout.engine = 'vllm' does not, "
                f"and would take {faster:,.1f} s on {counted(made[0].gpus, 'GPU')}."
            )
    most = worthwhile(config, sizes, gpu)
    if most is not None:
        yield (
            f"Up to {counted(most, 'GPU')} each doubling takes at least {1 - WORTH_DOUBLING:.0%} off a step. For more, "
            "give a step more work: rollout.prompts and the minibatch of policy and prm."
        )


def _advice(config: TrainConfig, sizes: Sizes, gpu: Gpu, made: Estimate) -> Iterator[str]:
    """What to do with these GPUs, and what they do not speed up."""
    room = f"{usable(gpu) / 2**30:g} of {gpu.memory:g} GiB"
    if not made.fits:
        yield (
            f"does not fit into {room}, however models are spread. Set training.gradient_checkpointing, a bound on "
            "rollout.cache_gb, rollout.packed = false, or lora.rank; or take more GPUs."
        )
        return
    yield {
        "none": "whole models fit; launch.sharding = 'none' sends least.",
        "full": f"launch.sharding = 'full'; whole models would not fit into {room}.",
        "offload": "launch.sharding = 'full' with launch.offload: weights, gradients and moments stay in the host's "
        "memory, and their way over PCIe comes on top of the time.",
    }[made.sharding]
    if made.sharding == "offload" and not config.training.gradient_checkpointing:
        spared = replace(config, training=replace(config.training, gradient_checkpointing=True))
        if estimate(spared, sizes, gpu, made.gpus).sharding != "offload":
            yield "training.gradient_checkpointing does without the offload, for a third more operations in learning."
    share, _ = sequences(config, sizes.policy, made.gpus)
    here, further = (sampling_seconds(config, sizes.policy, gpu, count) for count in (made.gpus, 2 * made.gpus))
    if config.rollout.prompts < made.gpus:
        yield f"Only {config.rollout.prompts:,} GPUs have a prompt to answer."
    elif further > NO_FASTER * here:
        yield (
            f"With {counted(share, 'response')} a GPU, sampling takes as long as the longest response does "
            "alone; more GPUs do not shorten it."
        )
    smallest = config.policy.minibatch
    if config.prm.enabled and config.prm.update != "none":
        smallest = min(smallest, config.prm.minibatch)
    rows, (prompt, response) = min(smallest, config.responses_per_step) / made.gpus, mean_lengths(config)
    if rows < 1:
        yield f"An optimiser step of {smallest:,} responses leaves {made.gpus - smallest:,} GPUs without one."
    elif rows * (prompt + response) < prompt + config.rollout.max_tokens:
        yield f"{rows:,.1f} responses of an optimiser step a GPU: the one with the longest keeps the others waiting."


def _assumed(config: TrainConfig) -> Iterator[str]:
    prompt, response = mean_lengths(config)
    yield f"prompts of {prompt:,.0f} and responses of {response:,.0f} tokens on average, the longest as long as allowed"
    yield (
        f"{MATRIX_SHARE:.0%} of the peak in products, {MEMORY_SHARE:.0%} of the memory's speed, {LINK_SHARE:.0%} of "
        f"the wires'; {1 - USABLE:.0%} of memory left free"
    )
    yield "not in the memory: the host's, where each rank first holds two models whole before they are spread"
    yield "not in the time: groups that the filter drops (sampled again), verification, evaluation, checkpoints"
    if config.rollout.ahead:
        yield "rollout.ahead is not: sampling beside learning takes the memory of both and the time of the longer"
