"""The passes of a step through the models of a recipe, and what of them learns. It knows sizes, and no machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from credo.config import TrainConfig
from credo.models.size import ModelSize
from credo.planning.plan import Sizes, reference_is_start


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """A model's way through rows of a batch, as often as a step does it."""

    stage: Literal["scoring", "prm", "critic", "policy"]
    size: ModelSize
    cost: int
    """Operations a parameter and token: 2 forward, 6 with the backward pass, 4 if it ends in adapters."""
    trained: int = 0
    """Parameters with gradients."""
    rows: int
    times: int = 1


def passes(config: TrainConfig, sizes: Sizes) -> Iterator[Pass]:
    """All that goes through models in one step, sampling aside."""
    batch, prm, policy, lora = config.responses_per_step, config.prm, sizes.policy, config.lora.rank
    again = 2 if config.training.gradient_checkpointing else 0
    cost, adapter = (4 + again, known(policy.adapter) * lora) if lora else (6 + again, 0)
    rows = min(config.policy.minibatch, batch)
    steps = -(-batch // rows)
    if steps > 1:
        yield Pass(stage="scoring", size=policy, cost=2, rows=batch)
    if prm.enabled:
        yield Pass(stage="scoring", size=sizes.reference, cost=2, rows=batch)
        top = _top(sizes.prm, prm.top_layers)
        yield from [Pass(stage="scoring", size=top, cost=2, rows=batch)] * prm_scorings(config)
        if prm.update != "none":
            part = min(prm.minibatch, batch)
            own = adapter or known(sizes.prm.divided(prm.top_layers)[0])
            yield Pass(stage="prm", size=top, cost=cost, trained=own, rows=part, times=-(-batch // part))
        if config.advantage.baseline == "expected":
            for size in (policy, top, sizes.reference):
                yield Pass(stage="scoring", size=size, cost=2, rows=batch)
    if config.policy.kl_coef > 0 and not (reference_is_start(config) and config.rollout.temperature == 1):
        yield Pass(stage="scoring", size=policy, cost=2, rows=batch)
    if config.advantage.estimator == "gae":
        yield Pass(stage="scoring", size=policy, cost=2, rows=batch)
        yield Pass(stage="critic", size=policy, cost=cost, trained=known(policy.critic), rows=rows, times=steps)
    own = adapter or known(policy.parameters)
    yield Pass(stage="policy", size=policy, cost=cost, trained=own, rows=rows, times=steps)


def prm_scorings(config: TrainConfig) -> int:
    """How often the PRM scores the batch in a pass of its own."""
    prm, advantage = config.prm, config.advantage
    if prm.update == "before":
        return 1 if prm.loss == "ce" else 2
    at_once = prm.update == "after" and prm.loss == "ce" and prm.ema == 0
    at_once &= config.responses_per_step <= prm.minibatch
    return 0 if at_once and advantage.baseline != "expected" and advantage.estimator != "remax" else 1


def around(size: ModelSize) -> int:
    """Parameters outside the linear layers of the decoder: embeddings, output layer, norms."""
    return known(size.parameters) - known(size.linear)


def _top(size: ModelSize, layers: int) -> ModelSize:
    """``size`` as if it had its last ``layers`` layers alone; 0 layers stand for all."""
    if layers == 0:
        return size
    part = layers / known(size.layers)
    linear, queries = int(known(size.linear) * part), int(known(size.queries) * part)
    return replace(size, linear=linear, queries=queries, parameters=linear + around(size))


def known(value: int | None) -> int:
    """``value``, which the shapes of a model have."""
    assert value is not None, "with_shapes leaves nothing unknown"
    return value
