"""The smallest policy, PRM and critic that learn, alone or on several ranks, with all that a checkpoint must keep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny import tiny_groups
from torch import Tensor

from credo.checkpoint import Saver, read, restore
from credo.config import ArchitectureConfig, CheckpointConfig, CriticConfig, PolicyConfig, PrmConfig
from credo.data.batching import collate
from credo.dist.shard import whole
from credo.dist.world import World
from credo.models.causal import CausalModel, build_model
from credo.models.critic import Critic
from credo.models.division import ALONE
from credo.models.policy import Policy
from credo.models.prm import Prm
from credo.types import Batch

SHAPE = ArchitectureConfig(layers=1, width=16, heads=2, alphabet="ab")
OPTIMIZERS = "optimizers/shard-00001-model-00001-of-00001.safetensors"
"""The first rank's part of what is learnt with, in a checkpoint."""


def start(seed: int = 0) -> CausalModel:
    return build_model(SHAPE, seed=seed)


def policy_of(model: CausalModel, world: World = ALONE) -> Policy:
    config = PolicyConfig(lr=1e-2, minibatch=2)
    return Policy(model.model, config, temperature=1.0, token_budget=64, compute="fp32", seed=0, world=world)


def prm_of(model: CausalModel, world: World = ALONE, *, ema: float = 0.0) -> Prm:
    return Prm(model.model, PrmConfig(lr=1e-2, ema=ema), token_budget=64, compute="fp32", world=world)


def critic_of(model: CausalModel, world: World = ALONE) -> Critic:
    common: dict[str, Any] = {"token_budget": 64, "compute": "fp32", "seed": 0, "world": world}
    return Critic(model.model, CriticConfig(lr=1e-2), minibatch=2, max_grad_norm=1.0, **common)


def batch() -> Batch:
    return collate(tiny_groups(start(), prompts=[(3,), (4,)], per_prompt=2, max_tokens=3), pad_id=0)


def learnt(policy: Policy, prm: Prm | None) -> None:
    """One step of both, so that the optimisers have moments to keep."""
    rollouts = batch()
    policy.update(rollouts, rollouts.mask.float(), policy.logprobs(rollouts))
    if prm is not None:
        prm.update(rollouts, prm.score(rollouts, torch.zeros(rollouts.tokens.shape)))


def state_of(policy: Policy | Prm) -> list[Tensor]:
    moments = policy.optimizer.adamw.state_dict()["state"]
    return [*policy.model.parameters(), *(value for entry in moments.values() for value in entry.values())]


def flip(path: Path, position: int = -1) -> None:
    """Changes one bit of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 0x01
    path.write_bytes(content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learners:
    """All roles that have a state."""

    policy: Policy
    prm: Prm
    critic: Critic
    world: World

    def learn(self) -> None:
        """Collective. A step of each."""
        rollouts = batch()
        learnt(self.policy, self.prm)
        self.critic.update(rollouts, self.critic.values(rollouts), rollouts.mask * rollouts.outcomes[:, None])

    def save(self, saver: Saver, step: int, **options: Any) -> Path:
        """Collective."""
        roles = {"policy": self.policy, "prm": self.prm, "critic": self.critic}
        return saver.save(step, **roles, tokenizer=start().tokenizer, state={"note": step}, **options)

    def saved(self, checkpoints: Path, step: int, **options: Any) -> Path:
        """Collective. As :meth:`save`, at once."""
        return self.save(Saver(checkpoints, CheckpointConfig(), world=self.world), step, **options)

    def restore(self, folder: Path) -> None:
        """Collective."""
        restore(read(folder), policy=self.policy, prm=self.prm, critic=self.critic)

    def everything(self) -> dict[str, Tensor]:
        """Collective. Every tensor that a checkpoint keeps, whole and copied."""
        models = {"policy": self.policy.model, "prm": self.prm.model, "critic": self.critic.model}
        kept = {"random": torch.get_rng_state()}
        for name, model in models.items():
            kept |= {f"{name}.{key}": weight for key, weight in model.state_dict().items()}
        for name, role in {"policy": self.policy, "prm": self.prm, "critic": self.critic}.items():
            kept |= {f"{name}/{key}": moment for key, moment in role.optimizer.state().items()}
        return {name: whole(tensor).detach().clone() for name, tensor in kept.items()}


def learners(seed: int, world: World = ALONE) -> Learners:
    """Collective. Roles that start from other weights for each ``seed``."""
    return Learners(
        policy=policy_of(start(seed), world),
        prm=prm_of(start(seed + 1), world),
        critic=critic_of(start(seed + 2), world),
        world=world,
    )


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
