"""Samples with vLLM inside the training process: a second copy of the weights, renewed and checked after every update.

Knows vLLM's interface of 0.30 and 0.32, tested on the CPU with both; untested on CUDA. One process: a model
spread over several GPUs, or vLLM as a server, is not its business.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from credo.rollout.engine import Progress, SamplingParams
from credo.seeds import mixed_seed
from credo.types import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

CACHE_BYTES = 4 * 2**30
"""Bound on keys and values where none is given; left alone, vLLM would take nearly all memory there is."""
LEAST_TEMPERATURE = 0.01
"""vLLM raises lower temperatures to this one."""
PROBES, PROBE_TOKENS = 8, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What the engine's log-probs are compared with after every sync of weights."""

    trained: Callable[[Int[Tensor, "B S"], Bool[Tensor, "B S"], Bool[Tensor, "B S"]], Float[Tensor, "B S"]]
    """The trainer's log-probs at temperature 1, from tokens, attention and the mask of tokens to score."""
    threshold: float
    """Mean absolute difference of log-probs above which ``warn`` is called."""
    warn: Callable[[str], None]


class VllmEngine:
    """Decodes up to ``concurrent`` sequences at once, by paged attention, with prompts in common computed once.

    What is drawn depends on the seed of a rollout alone, but for rounding, as in :class:`TorchEngine`; the tokens are
    others than its. With both ``min_p`` and ``top_p``, vLLM takes ``top_p`` of what ``min_p`` leaves.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        eos_ids: frozenset[int],
        concurrent: int,
        context: int,
        probe: Probe,
        compute: Literal["fp32", "bf16"] = "fp32",
        cache_bytes: int | None = None,
        eager: bool = False,
    ) -> None:
        """Starts vLLM on a copy of ``model``, for prompts with responses of up to ``context`` tokens.

        ``eager`` saves the minutes that compiling may take, and then samples slower. Raises ValueError if vLLM is not
        installed or cannot run this model.
        """
        self._vllm = _imported()
        self.eos_ids, self.probe = eos_ids, probe
        self.probe_gap = float("nan")
        """Mean absolute difference of the last check, in nats."""
        self._dtype = torch.bfloat16 if compute == "bf16" else torch.float32
        shape = model.config.get_text_config()
        context = min(context, getattr(shape, "max_position_embeddings", context))
        self._probes = _probe_tokens(shape.vocab_size, min(PROBE_TOKENS, context - 1))
        options = {
            "dtype": self._dtype,
            "max_model_len": context,
            "max_num_seqs": concurrent,
            "kv_cache_memory_bytes": cache_bytes or CACHE_BYTES,
            "enforce_eager": eager,
        }
        try:
            self._llm = _started(self._vllm, model, tokenizer, options)
            own = self._probe_logprobs()
        except (NotImplementedError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"rollout.engine = 'vllm': vLLM cannot run this model here ({str(error).strip().splitlines()[0]}); set "
                "rollout.engine = 'torch'."
            ) from error
        self._compare(own)

    @property
    def summary(self) -> str:
        """How the model is sampled from, for the log."""
        return f"vLLM {self._vllm.__version__}, log-probs {self.probe_gap:.2g} off the trainer's on probe tokens"

    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        n: int,
        params: SamplingParams,
        seeds: Sequence[int],
        progress: Progress | None = None,
    ) -> list[list[Rollout]]:
        """See :class:`credo.rollout.engine.RolloutEngine`; progress is told of whole responses."""
        assert len(prompts) == len(seeds)
        if 0 < params.temperature < LEAST_TEMPERATURE:
            raise ValueError(
                f"vLLM does not sample at temperature {params.temperature}, it would take {LEAST_TEMPERATURE} instead; "
                "choose that, or 0 for greedy decoding."
            )
        rows = [(prompt, mixed_seed(seed, k)) for prompt, seed in zip(prompts, seeds, strict=True) for k in range(n)]
        options = [self._options(params, seed) for _, seed in rows]
        outputs = self._finished([prompt for prompt, _ in rows], options, progress)
        rollouts = [_rollout(prompt, output.outputs[0]) for (prompt, _), output in zip(rows, outputs, strict=True)]
        return [rollouts[i * n : (i + 1) * n] for i in range(len(prompts))]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copies ``weights``, by the names that they have in transformers, into vLLM; forgets what it has cached of
        the old ones, and checks the new ones against the trainer's."""
        cast = ((name, tensor.detach().to(self._dtype)) for name, tensor in weights)
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": cast})
        self._llm.apply_model(_repack_output_layer)
        forgotten = self._llm.reset_prefix_cache()
        assert forgotten, "no request is under way between two samples"
        self._compare(self._probe_logprobs())

    def close(self) -> None:
        """Ends vLLM and frees its weights and cache."""
        from vllm.distributed import cleanup_dist_env_and_memory  # pyright: ignore[reportMissingImports]

        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        cleanup_dist_env_and_memory()

    def _compare(self, own: Float[Tensor, "B T"]) -> None:
        """Warns if vLLM's log-probs of the probes are not the trainer's."""
        attention = torch.ones_like(self._probes, dtype=torch.bool)
        mask = attention.clone()
        mask[:, 0] = False
        with torch.no_grad():
            trained = self.probe.trained(self._probes, attention, mask).cpu()
        self.probe_gap = (own - trained[:, 1:]).abs().mean().item()
        if not self.probe_gap <= self.probe.threshold:
            self.probe.warn(
                f"vLLM's log-probs of {own.numel()} probe tokens differ from the trainer's by {self.probe_gap:.3g} on "
                f"average, more than rollout.probe_threshold = {self.probe.threshold}: it samples from another policy "
                "than the one that learns. Raise the threshold if that is rounding, or set rollout.engine = 'torch'."
            )

    def _probe_logprobs(self) -> Float[Tensor, "B T"]:
        """vLLM's log-prob of each probe token but the first of a sequence."""
        probes = self._probes.tolist()
        options = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "detokenize": False}
        outputs = self._finished(probes, [self._vllm.SamplingParams(**options) for _ in probes])
        return torch.tensor(
            [
                [entry[token].logprob for token, entry in zip(row[1:], output.prompt_logprobs[1:], strict=True)]
                for row, output in zip(probes, outputs, strict=True)
            ]
        )

    def _options(self, params: SamplingParams, seed: int) -> Any:
        """The engine's own end tokens replace those that vLLM would read from the model's folder."""
        return self._vllm.SamplingParams(
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            max_tokens=params.max_tokens,
            stop=list(params.stop),
            detokenize=bool(params.stop),
            stop_token_ids=sorted(self.eos_ids),
            ignore_eos=True,
            seed=seed,
            logprobs=0,
        )

    def _finished(
        self, prompts: Sequence[Sequence[int]], options: Sequence[Any], progress: Progress | None = None
    ) -> list[Any]:
        """vLLM's output for each prompt, in their order. Interrupted, it leaves no request behind."""
        if not prompts:
            return []
        engine = self._llm.llm_engine
        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        names = self._llm.enqueue(requests, options, use_tqdm=False)
        finished: dict[int, Any] = {}
        try:
            with torch.random.fork_rng(devices=[]):  # vLLM draws from the generator of torch even if all are seeded
                while engine.has_unfinished_requests():
                    for output in engine.step():
                        finished[int(output.request_id)] = output
                        if progress is not None:
                            progress(len(output.outputs[0].token_ids))
        except BaseException:
            engine.abort_request(names, internal=True)
            raise
        return [finished[number] for number in sorted(finished)]


def _imported() -> Any:
    """vLLM, told to stay in this process, to keep quiet and to send nobody a report."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        import vllm  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            f"rollout.engine = 'vllm', but vllm cannot be imported ({error}); pip install 'credo[vllm]', or set "
            "rollout.engine = 'torch'."
        ) from error
    return vllm


def _started(vllm: Any, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, options: Mapping[str, Any]) -> Any:
    """vLLM on a copy of ``model``, which it reads from a folder that is there for as long as it starts."""
    with tempfile.TemporaryDirectory(prefix="credo-vllm-") as folder, _process_as_it_was():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return vllm.LLM(
            folder,
            gpu_memory_utilization=0.01,  # the trainer has the rest; the cache has its own bound
            logprobs_mode="processed_logprobs",
            use_tqdm_on_load=False,
            **options,
        )


@contextmanager
def _process_as_it_was() -> Iterator[None]:
    """While it starts, vLLM seeds every generator and sets torch's threads; on the CPU it also takes away the function
    that sets them. All of it belongs to the trainer."""
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    states = random.getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(states[0])
        numpy.random.set_state(states[1])
        torch.set_num_threads = set_threads
        set_threads(threads)


def _repack_output_layer(model: Any) -> None:
    """An output layer tied to the embedding has no weights of its own to load, so on the CPU vLLM 0.32 leaves it with
    a packed copy of the old ones."""
    from vllm.model_executor.layers.vocab_parallel_embedding import (  # pyright: ignore[reportMissingImports]
        ParallelLMHead,
    )

    for layer in model.modules():
        if isinstance(layer, ParallelLMHead):
            layer.quant_method.process_weights_after_loading(layer)


def _probe_tokens(vocabulary: int, length: int) -> Int[Tensor, "B S"]:
    """Made-up sequences, the same for every model with this vocabulary."""
    return torch.randint(vocabulary, (PROBES, length), generator=torch.Generator().manual_seed(0))


def _rollout(prompt: tuple[int, ...], completion: Any) -> Rollout:
    """vLLM's answer with the log-prob of each of its tokens under the distribution that it was drawn from."""
    tokens = tuple(completion.token_ids)
    assert completion.finish_reason in ("stop", "length"), completion.finish_reason
    return Rollout(
        prompt_ids=prompt,
        response_ids=tokens,
        logprobs=tuple(completion.logprobs[i][token].logprob for i, token in enumerate(tokens)),
        finish=completion.finish_reason,
    )
