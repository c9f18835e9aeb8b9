"""Samples inside the training process with the policy's own parameters: no server, no second model.

Models with plain attention are decoded by continuous batching over packed weights, and what is kin to Llama with the
steps of :mod:`credo.rollout.kernels`; others, one batch after another, through transformers' own cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from credo.rollout.continuous import ContinuousDecoder
from credo.rollout.engine import Progress, SamplingParams
from credo.rollout.llama_body import KINDS, LlamaBody
from credo.rollout.packed import OwnBody, refresh
from credo.rollout.rows import Decode, Row, Writer
from credo.rollout.static import StaticDecoder
from credo.seeds import mixed_seed
from credo.types import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PLAIN_ATTENTION = frozenset(
    ("gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3")
)
"""Model types of transformers whose attention needs queries, keys, values, a window and a soft cap, and no more."""


class TorchEngine:
    """Decodes up to ``concurrent`` sequences at once.

    With compute "fp32" a response is the same in whatever company it is decoded, but for the rounding of sums (about
    1e-6 in a log-prob). With "bf16" linear layers and attention are computed in bf16 as under the trainer's autocast;
    their rounding (about 1e-2 in a log-prob) may depend on the size of the batch, and where a number falls that close
    to the border of two tokens, so may the token; not so where products and steps are compiled
    (:mod:`credo.rollout.products`): without adapters, responses are the same to the last bit. Untested on CUDA.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        eos_ids: frozenset[int],
        pad_id: int,
        concurrent: int,
        compute: Literal["fp32", "bf16"] = "fp32",
        packed: bool = True,
        cache_bytes: int | None = None,
        decode: Decode | None = None,
    ) -> None:
        """``cache_bytes`` bounds keys and values; ``decode`` turns tokens to text and is needed for stop strings.

        Not ``packed`` is slower, and needs no copy of the weights. Raises ValueError for a model that takes no
        ``past_key_values``: it would sample without its past.
        """
        if "past_key_values" not in inspect.signature(model.forward).parameters:
            raise ValueError(
                f"{type(model).__name__} keeps its past in a cache of its own kind, which cannot be sampled from here; "
                "choose a model with attention layers."
            )
        self.model, self.eos_ids, self.pad_id = model, eos_ids, pad_id
        self.concurrent, self.cache_bytes, self.decode, self.packed = concurrent, cache_bytes, decode, packed
        self.compute: Literal["fp32", "bf16"] = compute
        self._body: LlamaBody | OwnBody | None = None
        self._stale = True

    @property
    def continuous(self) -> bool:
        """Whether this model is decoded by continuous batching."""
        config = self.model.config
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        return config.model_type in PLAIN_ATTENTION and kinds <= {"full_attention", "sliding_attention"}

    @property
    def summary(self) -> str:
        """How this model is sampled from, for the log."""
        weights = "packed weights" if self.packed else "the weights that learn"
        way = f"continuous batching over {weights}" if self.continuous else "one batch after another"
        if self._plain and self.continuous:
            way += ", steps in C" if self._own_body().kernels else ", steps in torch"
        return f"{way}, {self.compute}, up to {self.concurrent:,} sequences at once"

    @property
    def metrics(self) -> Mapping[str, float]:
        """None: it samples from the policy itself."""
        return {}

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        n: int,
        params: SamplingParams,
        seeds: Sequence[int],
        progress: Progress | None = None,
    ) -> list[list[Rollout]]:
        """See :class:`credo.rollout.engine.RolloutEngine`; what is decoded beside it changes its rounding only."""
        assert len(prompts) == len(seeds)
        if params.stop and self.decode is None:
            raise ValueError("Stop strings are looked for in text, but this engine has no decode; give it one.")
        rows = [[Row(prompt=i, seed=mixed_seed(seeds[i], k)) for k in range(n)] for i in range(len(prompts))]
        by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        queue = [row for i in by_length for row in rows[i]]
        if queue:
            slots = self._slots(len(queue), len(prompts[by_length[-1]]) + params.max_tokens)
            writer = Writer(params=params, eos_ids=self.eos_ids, decode=self.decode, progress=progress)
            self._decoder(queue, prompts, writer, slots).run()
        return [[row.rollout(prompts[i]) for row in rows[i]] for i in range(len(prompts))]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copies ``weights`` into the module, except those that it shares with the trainer already.

        Packed copies are renewed by the next call of :meth:`sample`, so call this after every change of shared weights.
        """
        self._stale = True
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, tensor in weights:
                if own[name] is not tensor:
                    own[name].copy_(tensor)

    def close(self) -> None:
        """Drops the packed weights."""
        self._body = None

    def _decoder(
        self, rows: list[Row], prompts: Sequence[tuple[int, ...]], writer: Writer, slots: int
    ) -> ContinuousDecoder | StaticDecoder:
        if not self.continuous:
            return StaticDecoder(
                self.model, rows, prompts, writer, slots=slots, pad_id=self.pad_id, compute=self.compute
            )
        body = self._own_body()
        if self._stale:
            refresh(body)
            self._stale = False
        return ContinuousDecoder(
            body, self.model.device, rows, prompts, writer, slots=slots, dtype=self._dtype, kernels=body.kernels
        )

    def _own_body(self) -> LlamaBody | OwnBody:
        """The body that samples; its weights are copied by ``refresh``."""
        if self._body is None:
            own = LlamaBody(self.model, self._dtype) if self._plain else None
            self._body = own or OwnBody(self.model, self._dtype, packed=self.packed)
            self._stale = True
        return self._body

    @property
    def _plain(self) -> bool:
        return self.packed and self.model.config.model_type in KINDS

    @property
    def _dtype(self) -> torch.dtype:
        """Of keys and values."""
        return torch.bfloat16 if self.compute == "bf16" else torch.float32

    def _slots(self, rows: int, longest: int) -> int:
        """As many as allowed, needed and, at ``longest`` tokens each, within the bound on the cache."""
        slots = min(rows, self.concurrent)
        if self.cache_bytes is None:
            return slots
        fitting = self.cache_bytes // (longest * self._token_bytes())
        if fitting == 0:
            raise ValueError(
                f"One sequence of {longest:,} tokens needs {longest * self._token_bytes() / 2**20:,.0f} MiB of keys "
                f"and values, over the bound of {self.cache_bytes / 2**20:,.0f} MiB; raise it or shorten responses."
            )
        return min(slots, fitting)

    def _token_bytes(self) -> int:
        """Keys and values of one token in all layers."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return 2 * config.num_hidden_layers * heads * width * self._dtype.itemsize
