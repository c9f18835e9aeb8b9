"""Causal language models as Hugging Face has them: loading, building, saving, and the one forward pass.

Policy, PRM and reference all get their log-probs from :func:`response_logprobs`, so that they differ by their weights
alone. Dropout is always off. This module knows nothing of rewards or optimisers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from credo.algo.logprobs import (
    linear_logprobs,
    logprobs_and_entropies_at,
    logprobs_at,
    placed,
    predicting_positions,
    targets_of,
)
from credo.config import ArchitectureConfig
from credo.console import first_line
from credo.data.batching import rows_of
from credo.dist.shard import load_whole, shard, whole_state
from credo.dist.world import World
from credo.importing import uncollected
from credo.models.division import ALONE, divided_batch
from credo.models.location import resolve_path
from credo.models.packing import Packing, pack, packed_attention
from credo.types import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from credo.models.trunk import Below, Trunk

Compute = Literal["fp32", "bf16"]
FORWARD, DEVICE = "credo_forward", "credo_device"
"""Attribute of a sharded model by which its pass is run, so that its weights are gathered for it."""
PACKED = frozenset(("gemma", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3"))
"""Model types of transformers with plain attention and nothing after their last linear layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalModel:
    """A model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    eos_ids: frozenset[int]
    """Every token that ends a response: the tokenizer's and those of the generation config."""
    pad_id: int


@uncollected()
def load_model(path: str, *, key: str = "model.path", device: str = "cpu") -> CausalModel:
    """The model at ``path`` in fp32: a folder, a hub id, a ``.gguf`` file (dequantised) or ``package:NAME``.

    Raises ValueError if there is no such model, if it is damaged or lacks weights, or if its tokenizer has no
    end-of-sequence token.
    """
    quiet_transformers()
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    location, options = resolve_path(path, key)
    dequantised = {"quantization_config": GgufConfig(dequantize=True)} if options else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, **options)
        model, report = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            location, dtype=torch.float32, output_loading_info=True, **options, **dequantised
        )
    except Exception as error:  # a damaged file fails in whatever way its reader fails
        raise ValueError(f"No model could be loaded from '{path}': {first_line(error)}") from error
    if report["missing_keys"]:
        raise ValueError(
            f"The files of '{path}' hold no {min(report['missing_keys'])}, which would be left at random; give a "
            "folder that was saved from a whole causal language model."
        )
    return _causal_model(model.to(device), tokenizer, path)


@uncollected()
def build_model(architecture: ArchitectureConfig, *, seed: int, device: str = "cpu") -> CausalModel:
    """A Llama of the given shape with random weights, and its character or byte tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from credo.models.small_tokenizers import SPECIAL_TOKENS, byte_tokenizer, character_tokenizer

    quiet_transformers()
    characters = architecture.tokenizer == "characters"
    tokenizer = character_tokenizer(architecture.alphabet) if characters else byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=architecture.width,
        intermediate_size=4 * architecture.width,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        max_position_embeddings=architecture.positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=SPECIAL_TOKENS.index("<eos>"),
        pad_token_id=SPECIAL_TOKENS.index("<pad>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return _causal_model(model.to(device), tokenizer, "the new model")  # pyright: ignore[reportArgumentType]


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    *,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """``model`` and ``tokenizer`` as a Hugging Face folder; with ``weights`` in place of the model's own."""
    model.save_pretrained(folder, state_dict=whole_state(model) if weights is None else weights)
    tokenizer.save_pretrained(folder)


def load_weights(model: PreTrainedModel, folder: Path) -> None:
    """The weights saved in ``folder``, written into ``model``, bit for bit.

    They are read by transformers, because it does not write all models under the names they have in memory. Raises
    ValueError if they are another model's.
    """
    from transformers import AutoModelForCausalLM

    saved = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    try:
        load_whole(model, saved.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"{folder} holds another model than this run's; resume with the model it began with."
        ) from error


def predicting_logits(
    model: PreTrainedModel,
    tokens: Int[Tensor, "B S"],
    attention: Bool[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    compute: Compute,
) -> tuple[Int[Tensor, " P"], Float[Tensor, "B P V"]]:
    """The positions that predict a response token of any row, and their logits."""
    device = _device(model)
    positions = predicting_positions(mask).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=compute == "bf16"):
        output = model(
            input_ids=tokens.to(device), attention_mask=attention.to(device), logits_to_keep=positions, use_cache=False
        )
    return positions, output.logits


def response_logprobs(
    model: PreTrainedModel,
    tokens: Int[Tensor, "B S"],
    attention: Bool[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    *,
    temperature: float = 1.0,
    compute: Compute = "fp32",
    below: Below | None = None,
) -> Float[Tensor, "B S"]:
    """Log-prob of every response token in fp32, 0 off the mask; ``below`` spares the lower layers."""
    return _pass_of(model)(tokens, attention, mask, temperature, compute, below, with_entropy=False)[0]


def response_logprobs_and_entropies(
    model: PreTrainedModel,
    tokens: Int[Tensor, "B S"],
    attention: Bool[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    *,
    temperature: float = 1.0,
    compute: Compute = "fp32",
) -> tuple[Float[Tensor, "B S"], Float[Tensor, "B S"]]:
    """:func:`response_logprobs`, and the entropy of what each response token was drawn from, of one forward pass."""
    return _pass_of(model)(tokens, attention, mask, temperature, compute, None, with_entropy=True)


def _pass_of(model: PreTrainedModel) -> Callable[..., tuple[Tensor, Tensor]]:
    """The one forward pass, :func:`_forward`, of a model that may be spread over ranks."""
    return getattr(model, FORWARD, None) or partial(_forward, model)


def _forward(
    model: PreTrainedModel,
    tokens: Tensor,
    attention: Tensor,
    mask: Tensor,
    temperature: float,
    compute: Compute,
    below: Below | None,
    *,
    with_entropy: bool,
) -> tuple[Tensor, Tensor]:
    """Rows are packed, and logits made in parts, where the model's kind allows it."""
    device = _device(model)
    if model.config.model_type not in PACKED:
        positions, logits = predicting_logits(model, tokens, attention, mask, compute)
        found = logprobs_and_entropies_at if with_entropy else logprobs_at
        values = found(positions, logits, tokens.to(device), mask.to(device), temperature=temperature)
        return values if isinstance(values, tuple) else (values, torch.zeros_like(values))
    packing = pack(tokens, attention, mask).to(device)
    targets, mask = targets_of(tokens, mask).to(device), mask.to(device)
    head: Any = model.get_output_embeddings()
    if below is None:
        hidden = packed_hidden(model.get_decoder(), packing, compute)
    else:
        hidden = below.hidden(model, packing, compute)
    # Not hidden[..]: a prompt's end predicts for each of its responses, and there the gradients of equal indices are
    # summed in whatever order threads come by.
    predicting = hidden.index_select(0, packing.predicting)
    values = linear_logprobs(
        predicting.to(torch.bfloat16 if compute == "bf16" else hidden.dtype),
        head.weight,
        head.bias,
        targets,
        temperature=temperature,
        with_entropy=with_entropy,
    )
    return placed(values[0], mask), placed(values[1], mask)


def shard_model(model: PreTrainedModel, world: World, compute: Compute) -> PreTrainedModel:
    """Collective. ``model``, spread over the ranks of ``world`` if it asks for that, each decoder layer a unit."""
    if world.sharded:
        setattr(model, FORWARD, MethodType(_forward, model))
        setattr(model, DEVICE, torch.device(world.device))
        shard(model, decoder_layers(model), world, forward=FORWARD, bf16=compute == "bf16")
    return model


def decoder_layers(model: nn.Module) -> list[Any]:
    """The layers of ``model`` that transformers can recompute, under whatever name its kind keeps them; or none."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def packed_hidden(
    decoder: nn.Module, packing: Packing, compute: Compute, inputs: Float[Tensor, "T E"] | None = None
) -> Float[Tensor, "T E"]:
    """What ``decoder`` makes of the packed tokens, or of ``inputs`` in place of their embeddings."""
    start = {"input_ids": packing.tokens} if inputs is None else {"inputs_embeds": inputs}
    device = packing.tokens.device
    with torch.autocast(device.type, torch.bfloat16, enabled=compute == "bf16"), packed_attention(decoder):
        return decoder(
            **{name: value.unsqueeze(0) for name, value in start.items()},
            position_ids=packing.positions.unsqueeze(0),
            use_cache=False,
            packing=packing,
        ).last_hidden_state[0]


@torch.no_grad()
def batch_logprobs(
    model: PreTrainedModel,
    batch: Batch,
    *,
    token_budget: int,
    temperature: float = 1.0,
    compute: Compute = "fp32",
    trunk: Trunk | None = None,
    world: World = ALONE,
) -> Float[Tensor, "B S"]:
    """Collective. :func:`response_logprobs` of a whole batch without gradient, each rank its share of the rows, in
    micro-batches; the result is on the CPU."""
    logprobs = torch.zeros(batch.tokens.shape)
    division = divided_batch(batch, token_budget, world)
    for rows in division.parts:
        part = rows_of(batch, rows)
        below = None if trunk is None else trunk.rows(batch, rows)
        values = response_logprobs(
            model, part.tokens, part.attention, part.mask, temperature=temperature, compute=compute, below=below
        )
        logprobs[rows, : values.shape[1]] = values.cpu()
    return division.together(logprobs)


def fingerprint(start: CausalModel) -> str:
    """SHA-256 over every weight, so that a resumed run notices another model at the same path."""
    digest = hashlib.sha256()
    for _, weight in start.model.named_parameters():
        digest.update(weight.detach().cpu().contiguous().view(-1).numpy().data)
    return digest.hexdigest()


def recompute_layers(model: PreTrainedModel) -> None:
    """From now on a layer keeps its input alone and is computed again in the backward pass (gradient checkpointing).

    Activations shrink to one layer's, for about a third more computation. Raises ValueError for a model whose layers
    transformers cannot recompute.
    """
    from torch.utils.checkpoint import checkpoint

    layers = decoder_layers(model)
    if not layers:
        raise ValueError(
            f"{type(model).__name__} cannot recompute its layers; leave training.gradient_checkpointing off."
        )
    options = {}
    if model.config.model_type in PACKED:
        options["context_fn"] = lambda: (nullcontext(), packed_attention(model.get_decoder()))
    for layer in layers:
        layer.gradient_checkpointing = True
        again: Any = partial(checkpoint, use_reentrant=False, **options)
        layer._gradient_checkpointing_func = again
        # transformers recomputes in training mode alone; what is in the layer, such as dropout, stays out of it.
        layer.training = True


def quiet_transformers() -> None:
    """No progress bars and no advice from transformers: the terminal is ours. (Its gguf reader shows one anyway.)"""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _device(model: PreTrainedModel) -> torch.device:
    """Where ``model`` runs; spread, its parameters may lie elsewhere."""
    return getattr(model, DEVICE, None) or next(model.parameters()).device


def _causal_model(model: Any, tokenizer: Any, path: str) -> CausalModel:
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"The tokenizer of '{path}' has no end-of-sequence token, so no response would ever end; "
            "set eos_token in its tokenizer_config.json."
        )
    declared = model.generation_config.eos_token_id if model.generation_config is not None else None
    declared = declared if isinstance(declared, list) else [declared]
    eos_ids = frozenset(token for token in (tokenizer.eos_token_id, *declared) if token is not None)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    model.eval()
    return CausalModel(model=model, tokenizer=tokenizer, eos_ids=eos_ids, pad_id=pad_id)
