"""The models of a run, one for each role: policy, PRM, reference, the anchor of the KL term, critic.

All start from the policy's model in memory unless they have a start of their own; where models are spread over the
ranks, the policy is the last to be, because the others are copies of it whole.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from credo.config import TrainConfig
from credo.console import Console
from credo.data.prm_record import read_record
from credo.dist.world import World
from credo.models.causal import CausalModel, fingerprint, load_model, recompute_layers
from credo.models.critic import Critic
from credo.models.lora import with_adapter
from credo.models.policy import Policy
from credo.models.prm import Prm
from credo.models.reference import Reference
from credo.models.trunk import Trunk, with_own_top
from credo.seeds import mixed_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

POLICY, PRM = 0, 1
"""What tells the seeds of their adapters apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """The models of a run."""

    policy: Policy
    prm: Prm | None
    reference: Reference | Policy | None
    """What the PRM is measured against; the policy as it sampled can stand in for it."""
    anchor: Reference | None
    """What the KL term holds the policy to."""
    critic: Critic | None


def build_roles(config: TrainConfig, start: CausalModel, world: World, console: Console) -> Roles:
    """Collective. The roles that ``config`` asks for, spread over the ranks if ``world`` does.

    Raises ValueError for what does not go together.
    """
    _check_sharding(config, world)
    settings = _settings(config, world)
    prm, reference = _prm(config, start, world, console) if config.prm.enabled else (None, None)
    anchor = _anchor(config, start, world, reference)
    critic = _critic(config, start, world)
    model = with_adapter(start.model, config.lora, mixed_seed(config.run.seed, POLICY))
    if config.training.gradient_checkpointing:
        for learner in (model, *([prm.model] if prm is not None else [])):
            recompute_layers(learner)
    policy = Policy(model, config.policy, temperature=config.rollout.temperature, seed=config.run.seed, **settings)
    if config.prm.enabled and config.prm.reference == "policy":
        reference = policy
    if config.lora.rank == 0:
        _warn_of_sizes(prm, reference, console)
    return Roles(policy=policy, prm=prm, reference=reference, anchor=anchor, critic=critic)


def whole_policy(config: TrainConfig, start: CausalModel, world: World) -> PreTrainedModel:
    """The policy at its start, whole on each rank, to sample from where :func:`build_roles` will spread it.

    Under an adapter the weights are those of ``start``, which roles are yet to be copied from, and which stay whole.
    """
    model: Any = start.model
    model = model if config.lora.rank else copy.deepcopy(model).to(world.device)
    return with_adapter(model, config.lora, mixed_seed(config.run.seed, POLICY))


def _prm(config: TrainConfig, start: CausalModel, world: World, console: Console) -> tuple[Prm, Reference | None]:
    """PRM and reference, if that is not the policy; spread before the PRM is there, as hosts lack room for both."""
    settings = _settings(config, world)
    if config.prm.top_layers:
        model = _own_model("prm.path", config.prm.path, config, start, world)
        _warn_of_record(config, replace(start, model=model), console)
        trunk = Trunk(model, config.prm.top_layers, token_budget=settings["token_budget"], compute=settings["compute"])
        prm = Prm(with_own_top(model, config.prm.top_layers), config.prm, trunk=trunk, **settings)
        return prm, Reference(model, trunk=trunk, **settings)
    match config.prm.reference:
        case "own":
            against = _own_model("prm.path", config.prm.path, config, start, world)
        case "initial":
            against = _own_model("prm.reference_path", config.prm.reference_path, config, start, world)
        case "policy":
            against = start.model
    _warn_of_record(config, replace(start, model=against), console)
    reference = None if config.prm.reference == "policy" else Reference(against, **settings)
    model = _own_model("prm.path", config.prm.path, config, start, world)
    learning = with_adapter(model, config.lora, mixed_seed(config.run.seed, PRM))
    return Prm(learning, config.prm, **settings), reference


def _anchor(config: TrainConfig, start: CausalModel, world: World, reference: Reference | None) -> Reference | None:
    """The policy's frozen start for the KL term; the PRM's reference, where that is the same model."""
    if config.policy.kl_coef == 0:
        return None
    same = config.prm.reference == "initial" and config.prm.reference_path in ("", config.model.path)
    if same and reference is not None:
        return reference
    return Reference(_as_now(start, config, world), **_settings(config, world))


def _critic(config: TrainConfig, start: CausalModel, world: World) -> Critic | None:
    if config.advantage.estimator != "gae":
        return None
    return Critic(
        start.model,
        config.critic,
        minibatch=config.policy.minibatch,
        max_grad_norm=config.policy.max_grad_norm,
        seed=config.run.seed,
        **_settings(config, world),
    )


def _settings(config: TrainConfig, world: World) -> dict[str, Any]:
    """What all roles take."""
    return {
        "token_budget": config.training.tokens_per_microbatch,
        "compute": config.model.precision,
        "world": world,
    }


def _as_now(start: CausalModel, config: TrainConfig, world: World) -> PreTrainedModel:
    """The policy's start as it stays while roles learn from it: a copy, unless what learns is adapters around it.

    Spread, each role has a share of its own of the weights under its adapter.
    """
    return start.model if config.lora.rank and not world.sharded else copy.deepcopy(start.model)


def _own_model(key: str, path: str, config: TrainConfig, start: CausalModel, world: World) -> PreTrainedModel:
    """The model at ``path``, or a copy of the policy's start. Raises ValueError for another tokenizer than its."""
    if path in ("", config.model.path):
        return _as_now(start, config, world)
    own = load_model(path, key=key, device=str(start.model.device))
    if own.tokenizer.get_vocab() != start.tokenizer.get_vocab():
        raise ValueError(
            f"{key} = '{path}' has another tokenizer than model.path = '{config.model.path}'; log-ratios compare "
            "tokens one by one, so both need the same."
        )
    return own.model


def _check_sharding(config: TrainConfig, world: World) -> None:
    """Raises ValueError for roles that share layers, which cannot be spread over ranks one by one."""
    if world.sharded and config.prm.enabled and config.prm.top_layers > 0:
        raise ValueError(
            "launch.sharding = 'full' spreads each model by itself, which prm.top_layers does not allow; set "
            "launch.sharding = 'none', which keeps whole models on every rank, or leave prm.top_layers at 0."
        )


def _warn_of_record(config: TrainConfig, reference: CausalModel, console: Console) -> None:
    """An offline PRM means what it learnt only beside the ``reference``, and with the beta, that it learnt with."""
    record = read_record(config.prm.path) if config.prm.path else None
    if record is None:
        return
    if record.beta != config.prm.beta:
        console.warn(
            f"prm.path was trained with beta {record.beta:g}, and prm.beta is {config.prm.beta:g}: its rewards are "
            "scaled by another factor than its probabilities were learnt with."
        )
    if fingerprint(reference) != record.reference_sha256:
        console.warn(
            f"prm.path was trained against {record.reference}, and other weights are its reference here, so its "
            "rewards are not those it learnt; name that model by prm.reference_path."
        )


def _warn_of_sizes(prm: Prm | None, reference: Reference | Policy | None, console: Console) -> None:
    sizes = [role.model.num_parameters() for role in (prm, reference) if role is not None]
    if len(set(sizes)) > 1:
        console.warn(
            f"The PRM has {sizes[0]:,} parameters and its reference {sizes[1]:,}; unless it was "
            "trained against this reference its log-ratios say little but length. prm.reference = 'own' is its start."
        )
