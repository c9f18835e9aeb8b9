"""What a run is at one moment, ready to be written by any thread, and how a run becomes that again.

Models are put together on the first rank; moments and the critic's weights stay spread as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from credo.checkpoint.folder import STATE, Checkpoint
from credo.checkpoint.tensors import read_tensors, shapes_in, write_tensors
from credo.dist.shard import is_spread
from credo.dist.world import World
from credo.models.causal import load_weights, save_model
from credo.models.critic import Critic
from credo.models.lora import adapter_of, has_adapter, load_adapter, merged_state, save_adapter
from credo.models.optim import Optimizer
from credo.models.prm import Prm

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ADAPTER, AVERAGE, OPTIMIZERS = "-adapter", "prm-average", "optimizers"
RANDOM, CRITIC_WEIGHTS = "random", "critic-weights/"
Hold = Callable[[str, Tensor], Tensor]
"""What makes of a live tensor, by its name, the one to be written."""


def as_it_is(name: str, tensor: Tensor) -> Tensor:
    """The live tensor: for what is written before anyone changes it."""
    return tensor


class Buffers:
    """Copies of tensors in the memory of the host, made anew for a name only where its shape has changed."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    @torch.no_grad()
    def copied(self, name: str, tensor: Tensor) -> Tensor:
        """``tensor`` as it is now, spread as it is; the last copy of that name is written over."""
        own: Any = tensor.to_local() if is_spread(tensor) else tensor  # pyright: ignore[reportAttributeAccessIssue]
        kept = self._kept.get(name)
        if kept is None or kept.shape != own.shape or kept.dtype != own.dtype:
            kept = self._kept[name] = torch.empty(own.shape, dtype=own.dtype, pin_memory=own.is_cuda)
        kept.copy_(own)
        return _spread_alike(kept, tensor) if is_spread(tensor) else kept


@runtime_checkable
class Learner(Protocol):
    """What learns: a model, and the optimiser of its weights."""

    @property
    def model(self) -> PreTrainedModel: ...

    @property
    def optimizer(self) -> Optimizer: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All of a checkpoint but its manifest."""

    folders: Mapping[str, Callable[[Path], None]]
    """What writes each model, by the name of its folder; none but on the first rank."""
    tensors: Mapping[str, Tensor]
    state: str

    def write(self, aside: Path, world: World, group: ProcessGroup | None) -> None:
        """Writes the rank's part. Collective, in ``group`` alone, up to where the first rank goes on by itself."""
        write_tensors(aside / OPTIMIZERS, self.tensors, ranks=world.size, group=group)
        if world.is_first:
            for name, write in self.folders.items():
                write(aside / name)
            (aside / STATE).write_text(self.state)


def take(
    *,
    policy: Learner,
    prm: Prm | None,
    critic: Critic | None,
    tokenizer: PreTrainedTokenizerFast,
    state: Mapping[str, Any],
    world: World,
    hold: Hold = as_it_is,
) -> Snapshot:
    """Collective. What is to be written of a run."""
    models = {"policy": policy.model, **({"prm": prm.model} if prm is not None else {})}
    folders: dict[str, Callable[[Path], None]] = {}
    for name, model in models.items():
        folders |= _role(name, model, tokenizer, world, hold)
    if prm is not None and prm.average is not None:
        folders |= _model(AVERAGE, prm.average, tokenizer, world, hold)
    tensors = {RANDOM: torch.get_rng_state(), **_within(CRITIC_WEIGHTS, critic.model.state_dict() if critic else {})}
    for role, optimizer in _optimizers(policy, prm, critic).items():
        tensors |= _within(f"{role}/", optimizer.state())
    return Snapshot(
        folders=folders if world.is_first else {},
        tensors={name: hold(name, tensor) for name, tensor in tensors.items()},
        state=json.dumps(state),
    )


def restore(checkpoint: Checkpoint, *, policy: Learner, prm: Prm | None, critic: Critic | None = None) -> None:
    """Writes the weights and optimisers of ``checkpoint`` into ``policy``, ``prm`` and ``critic``.

    Each rank reads what it holds of them, however many have saved it. Raises ValueError if it was saved with other
    models than this run has, RuntimeError as :func:`see`.
    """
    folder, optimizers = checkpoint.folder, _optimizers(policy, prm, critic)
    see(folder)
    if not (folder / OPTIMIZERS).is_dir():
        raise ValueError(f"{folder} was saved by an earlier version of credo, which alone can go on from it.")
    shapes = shapes_in(folder / OPTIMIZERS)
    _refuse_others(folder, shapes, policy, prm, critic)
    made = {role: optimizer.template(_below(f"{role}/", shapes)) for role, optimizer in optimizers.items()}
    into = {RANDOM: torch.get_rng_state(), **_within(CRITIC_WEIGHTS, critic.model.state_dict() if critic else {})}
    for role, template in made.items():
        into |= _within(f"{role}/", template)
    _load_role(policy.model, folder / "policy")
    if prm is not None:
        _load_role(prm.model, folder / "prm")
        if prm.average is not None:
            load_weights(prm.average, folder / AVERAGE)
    read_tensors(folder / OPTIMIZERS, into)
    for role, optimizer in optimizers.items():
        optimizer.restore(made[role])
    torch.set_rng_state(into[RANDOM])


def see(folder: Path) -> None:
    """Raises RuntimeError if the ``folder`` is not here that the first rank has found or made."""
    if not folder.is_dir():
        raise RuntimeError(
            f"This rank does not see {folder}, which the first one does; put run.folder on a disk that all ranks share."
        )


def _refuse_others(
    folder: Path, shapes: Mapping[str, torch.Size], policy: Learner, prm: Prm | None, critic: Critic | None
) -> None:
    """Raises ValueError if ``folder`` holds other roles than these."""
    averaged = prm is not None and prm.average is not None
    for option, here, saved in (
        ("prm.enabled", prm is not None, (folder / "prm").exists()),
        ("lora.rank", has_adapter(policy.model), (folder / f"policy{ADAPTER}").exists()),
        ("prm.ema", averaged, (folder / AVERAGE).exists()),
        ("advantage.estimator", critic is not None, bool(_below(CRITIC_WEIGHTS, shapes))),
    ):
        if here != saved:
            raise ValueError(
                f"The checkpoint {folder} was saved with another {option} than this run's; its state does not fit. "
                "Resume with the same, or start another run."
            )
    if critic is not None:
        own = {name: weight.shape for name, weight in critic.model.state_dict().items()}
        if own != _below(CRITIC_WEIGHTS, shapes):
            raise ValueError(f"{folder} holds another critic than this run's; resume with the model it began with.")


def _optimizers(policy: Learner, prm: Prm | None, critic: Critic | None) -> dict[str, Optimizer]:
    roles = {"policy": policy, "prm": prm, "critic": critic}
    return {name: role.optimizer for name, role in roles.items() if role is not None}


def _within(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _below(prefix: str, shapes: Mapping[str, torch.Size]) -> dict[str, torch.Size]:
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def _role(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, world: World, hold: Hold
) -> dict[str, Callable[[Path], None]]:
    """A whole model that everyone can read, and beside it the adapter that learns, if one does."""
    writers = _model(name, model, tokenizer, world, hold)
    if has_adapter(model):
        keep = _on_first(name + ADAPTER, world, hold)
        weights = {key: keep(key, weight.detach()) for key, weight in adapter_of(model).items()}
        writers[name + ADAPTER] = partial(save_adapter, model, weights=weights)
    return writers


def _model(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, world: World, hold: Hold
) -> dict[str, Callable[[Path], None]]:
    weights = merged_state(model, _on_first(name, world, hold))
    return {name: partial(save_model, model, tokenizer, weights=weights)}


def _on_first(name: str, world: World, hold: Hold) -> Hold:
    """Holds what all ranks have put together on the first, in the memory of the host, and nothing on the others."""
    if not world.is_first:
        return lambda key, tensor: tensor.new_empty(0)
    return lambda key, tensor: hold(f"{name}/{key}", tensor).cpu()


def _load_role(model: PreTrainedModel, folder: Path) -> None:
    """What learns of ``model``, as it was saved by :func:`_role`."""
    if has_adapter(model):
        load_adapter(model, folder.with_name(folder.name + ADAPTER))
    else:
        load_weights(model, folder)


def _spread_alike(own: Tensor, spread: Tensor) -> Tensor:
    """This rank's part ``own``, in the memory of the host, as what it is of ``spread``."""
    from torch.distributed.tensor import DTensor

    assert isinstance(spread, DTensor)
    mesh = spread.device_mesh if spread.device_mesh.device_type == "cpu" else _host_mesh(spread.device_mesh.size())
    return DTensor.from_local(own, mesh, spread.placements, run_check=False, shape=spread.shape, stride=spread.stride())


@cache
def _host_mesh(ranks: int) -> DeviceMesh:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", (ranks,))
