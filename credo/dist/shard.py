"""Models spread over the ranks by FSDP2, layer by layer, and put together again. It knows modules, and no roles.

Layers are gathered when they run and let go afterwards; their gradients are summed over the ranks as they are made. A
model that was not sharded is its own whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from credo.dist.world import World


def shard(model: nn.Module, layers: list[nn.Module], world: World, *, forward: str, bf16: bool = False) -> None:
    """Collective. Spreads the parameters of ``model``, those of each of ``layers`` as a unit, over all ranks.

    What learns among frozen parameters, an adapter, is small: it stays whole on each rank.

    ``forward`` names the method that runs them besides ``forward`` itself. With ``bf16`` layers are gathered in that
    precision, while each rank keeps its part, and sums gradients, in fp32. With ``world.offload`` the parts stay in the
    memory of the host between uses. ``model`` may be there at first: it goes to ``world.device`` layer by layer. Never
    run on CUDA so far.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        FSDPModule,
        MixedPrecisionPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    mesh = init_device_mesh(world.device, (world.size,))
    mixed = not all(weight.requires_grad for weight in model.parameters())
    apart = {weight for weight in model.parameters() if mixed and weight.requires_grad}  # what is in a list is not freed
    for weight in apart:
        weight.data = weight.data.to(world.device)
    options: dict[str, Any] = {"mesh": mesh, "reshard_after_forward": True, "ignored_params": apart}
    if world.offload:
        options["offload_policy"] = CPUOffloadPolicy(pin_memory=world.device == "cuda")
    precision = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for layer in layers:
        fully_shard(layer, mp_policy=precision, **options)
    fully_shard(model, **options)
    for module in (model, *layers):
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)  # losses are divided by global counts already
        module.set_force_sum_reduction_for_comms(True)  # the scaled sum that it would use is NCCL's alone
    register_fsdp_forward_method(model, forward)


def whole(value: Tensor) -> Tensor:
    """Collective if ``value`` is spread over the ranks: all of it, on each."""
    return value.full_tensor() if is_spread(value) else value  # pyright: ignore[reportAttributeAccessIssue]


@torch.no_grad()
def sum_gradients(parameters: Sequence[nn.Parameter], world: World) -> None:
    """Collective. Gradients summed over the ranks, of weights that are whole on each; spread ones are summed already.

    A weight that has a gradient on no rank gets none, as in one process.
    """
    entire = [weight for weight in parameters if not is_spread(weight)]
    if world.size == 1 or not entire:
        return
    found = world.all_reduce(torch.tensor([float(weight.grad is not None) for weight in entire]), "max")
    learning = [weight for weight, somewhere in zip(entire, found.tolist(), strict=True) if somewhere]
    for weight in learning:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    world.sum_in_place([weight.grad for weight in learning if weight.grad is not None])


def is_spread(value: Tensor) -> bool:
    """Whether ``value`` lies over several ranks. (Importing the class to ask for would cost every run.)"""
    return hasattr(value, "full_tensor")


def whole_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Collective. The parameters by name, shared ones once, put together one at a time; spread and frozen ones stay."""
    for name, parameter in model.named_parameters():
        if not is_spread(parameter):
            yield name, parameter
        elif parameter.requires_grad:
            yield name, whole(parameter.detach())


def whole_state(
    model: nn.Module, hold: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor.cpu()
) -> dict[str, Tensor]:
    """Collective. The state dict of ``model`` as ``hold`` keeps each whole tensor; shared parameters are one."""
    made: dict[int, Tensor] = {}
    state = model.state_dict(keep_vars=True)
    for name, value in state.items():
        if id(value) not in made:
            made[id(value)] = hold(name, whole(value.detach()))
    return {name: made[id(value)] for name, value in state.items()}


@torch.no_grad()
def load_whole(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Writes ``state``, the same on all ranks, into ``model``: each rank its own part.

    Raises RuntimeError if it is not a state dict of this model.
    """
    own = model.state_dict(keep_vars=True)
    if own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
        raise RuntimeError("The tensors are of other names or shapes than the model's.")
    for name, value in own.items():
        value.copy_(part_like(value, state[name]))


def part_like(spread: Tensor, given: Tensor) -> Tensor:
    """``given``, the same on all ranks, spread over them as ``spread`` is."""
    if not is_spread(spread):
        return given
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(spread, DTensor)
    given = given.to(spread.device, spread.dtype)
    return distribute_tensor(given, spread.device_mesh, spread.placements, src_data_rank=None)
