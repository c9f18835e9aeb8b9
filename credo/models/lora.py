"""Policy and PRM as LoRA adapters (arXiv 2106.09685) on one frozen backbone, whose weights are in memory once.

Each role is a model with modules of its own around the same parameters, so nothing is switched on or off: whatever the
order of forward and backward passes, a role is the backbone plus its adapter. The backbone alone is the reference.
Where models are spread over ranks, each role has a backbone of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from credo.config import LoraConfig
from credo.dist.shard import whole_state
from credo.models.causal import Compute

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "default"
"""Of the only adapter in a model, as PEFT has it."""
WEIGHTS = "adapter_model.safetensors"
BASE = ".base_layer."
"""What PEFT puts before the names of the weights under an adapter."""


def freeze(model: PreTrainedModel, compute: Compute) -> None:
    """Makes ``model`` a backbone, whose weights no longer learn.

    With "bf16" those of linear layers, the output layer aside, are kept in that precision. Autocast would make the same
    of them at every use, so no log-prob changes, and they take half the memory.
    """
    model.requires_grad_(False)
    if compute == "bf16":
        for layer in model.modules():
            if type(layer) is nn.Linear and layer is not model.get_output_embeddings():
                layer.bfloat16()


def with_adapter(backbone: PreTrainedModel, config: LoraConfig, seed: int) -> PreTrainedModel:
    """A model that shares all parameters of ``backbone`` and has an adapter more, in fp32, which alone learns.

    The adapter starts without effect: its second factor is 0; ``seed`` fixes the first. With rank 0 it is ``backbone``
    itself. Raises ValueError if PEFT is not installed, or if ``config.targets`` name no layers or not linear ones.
    """
    if config.rank == 0:
        return backbone
    peft = _imported()
    model = copy.deepcopy(backbone, {id(weight): weight for weight in backbone.parameters()})
    everywhere = config.targets == ("all-linear",)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules="all-linear" if everywhere else list(config.targets),
        base_model_name_or_path=backbone.name_or_path,
        task_type="CAUSAL_LM",
    )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            peft.inject_adapter_in_model(settings, model, NAME)
    except ValueError as error:
        raise ValueError(f"lora.targets = {list(config.targets)} does not fit this model: {error}") from error
    found = dict(_adapted_layers(model))
    for name, layer in found.items():
        if not isinstance(layer, peft.tuners.lora.Linear) or layer is model.get_output_embeddings():
            raise ValueError(f"lora.targets: {name} takes no adapter, only linear layers below the output layer do.")
    for target in () if everywhere else config.targets:
        if not any(f".{name}".endswith(f".{target}") for name in found):
            raise ValueError(f"lora.targets: this model has no layer of the name '{target}'.")
    for weight in adapter_of(model).values():
        weight.data = weight.data.float()
    return model.eval()


def has_adapter(model: nn.Module) -> bool:
    """Whether ``model`` is one of :func:`with_adapter`."""
    return NAME in getattr(model, "peft_config", {})


@torch.no_grad()
def merged_state(model: PreTrainedModel, hold: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor]:
    """Collective. ``whole_state`` of the model without adapter that computes the same as ``model``, up to rounding.

    Of a model with an adapter it is in fp32.
    """
    adapted = dict(_adapted_layers(model))
    if not adapted:
        return whole_state(model, hold)

    def together(name: str, weight: Tensor) -> Tensor:
        layer = adapted.get(name.removesuffix(f"{BASE}weight"))
        added = 0.0 if layer is None else layer.get_delta_weight(NAME).to(weight.device)
        return hold(name, weight.float() + added)

    adapter = {name for name, weight in model.named_parameters() if weight.requires_grad}
    state = whole_state(model, together)
    return {name.replace(BASE, "."): weight for name, weight in state.items() if name not in adapter}


def save_adapter(model: PreTrainedModel, folder: Path, *, weights: Mapping[str, Tensor] | None = None) -> None:
    """The adapter of ``model`` as PEFT has it on disk; with ``weights`` in place of its own."""
    from safetensors.torch import save_file

    settings: Any = copy.copy(model.peft_config[NAME])  # pyright: ignore[reportIndexIssue]
    settings.inference_mode = True
    settings.target_modules = sorted(settings.target_modules)  # a set, in another order in each process
    settings.save_pretrained(folder)
    saved = adapter_of(model) if weights is None else weights
    save_file({name: weight.detach().contiguous() for name, weight in saved.items()}, folder / WEIGHTS)


@torch.no_grad()
def load_adapter(model: PreTrainedModel, folder: Path) -> None:
    """The adapter saved in ``folder``, written into ``model``, bit for bit. Raises ValueError if it does not fit."""
    from safetensors.torch import load_file

    saved, own = load_file(folder / WEIGHTS), adapter_of(model)
    if {name: weight.shape for name, weight in saved.items()} != {name: weight.shape for name, weight in own.items()}:
        raise ValueError(
            f"{folder} holds an adapter of another shape than this run's; resume with the model, lora.rank and "
            "lora.targets it began with."
        )
    for name, weight in own.items():
        weight.copy_(saved[name])


def adapter_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """What learns, by the names that PEFT gives it on disk."""
    learning = ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)
    return {f"base_model.model.{name.replace(f'.{NAME}.', '.')}": weight for name, weight in learning}


def _adapted_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, module) for name, module in model.named_modules() if hasattr(module, "base_layer"))


def _imported() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ValueError(
            f"lora.rank is above 0, but peft cannot be imported ({error}); pip install 'credo[lora]', or set "
            "lora.rank = 0."
        ) from error
    return peft
