"""Samples with vLLM inside the training process: a second copy of the weights, renewed and checked after every update.

Knows vLLM's interface of 0.30 and 0.32, tested on the CPU with both; untested on CUDA. One process: a model
spread over several GPUs is not its business, and vLLM as a server is that of :mod:`credo.rollout.vllm_server`.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy
import torch
from jaxtyping import Float
from torch import Tensor

from credo.console import first_line
from credo.rollout.engine import Progress, SamplingParams
from credo.rollout.vllm_shared import (
    PROBE_OPTIONS,
    Probe,
    check_temperature,
    probe_tokens,
    repack_output_layer,
    request_options,
)
from credo.seeds import mixed_seed
from credo.types import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

CACHE_BYTES = 4 * 2**30
"""Bound on keys and values where none is given; left alone, vLLM would take nearly all memory there is."""


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
        self._probes = probe_tokens(shape.vocab_size, context)
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
                f"vLLM cannot run this model here ({first_line(error)}); choose the engine 'torch' "
                "(rollout.engine, --engine)."
            ) from error
        self.probe_gap = probe.gap(own, probe.of(self._probes))

    @property
    def metrics(self) -> Mapping[str, float]:
        """Of the last check, for the log of a step."""
        return {"rollout/probe_gap": self.probe_gap}

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
        check_temperature(params.temperature)
        rows = [(prompt, mixed_seed(seed, k)) for prompt, seed in zip(prompts, seeds, strict=True) for k in range(n)]
        options = [self._vllm.SamplingParams(**request_options(params, seed, self.eos_ids)) for _, seed in rows]
        outputs = self._finished([prompt for prompt, _ in rows], options, progress)
        rollouts = [_rollout(prompt, output.outputs[0]) for (prompt, _), output in zip(rows, outputs, strict=True)]
        return [rollouts[i * n : (i + 1) * n] for i in range(len(prompts))]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copies ``weights``, by the names that they have in transformers, into vLLM; forgets what it has cached of
        the old ones, and checks the new ones against the trainer's."""
        cast = ((name, tensor.detach().to(self._dtype)) for name, tensor in weights)
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": cast})
        self._llm.apply_model(repack_output_layer)
        forgotten = self._llm.reset_prefix_cache()
        assert forgotten, "no request is under way between two samples"
        self.probe_gap = self.probe.gap(self._probe_logprobs(), self.probe.of(self._probes))

    def close(self) -> None:
        """Ends vLLM and frees its weights and cache."""
        from vllm.distributed import cleanup_dist_env_and_memory  # pyright: ignore[reportMissingImports]

        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        cleanup_dist_env_and_memory()

    def _probe_logprobs(self) -> Float[Tensor, "B T"]:
        """vLLM's log-prob of each probe token but the first of a sequence."""
        probes = self._probes.tolist()
        outputs = self._finished(probes, [self._vllm.SamplingParams(**PROBE_OPTIONS) for _ in probes])
        return torch.tensor(
            [
                [entry[token].logprob for token, entry in zip(row[1:], output.prompt_logprobs[1:], strict=True)]
                for row, output in zip(probes, outputs, strict=True)
            ]
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
            f"The engine is to be 'vllm', but vllm cannot be imported ({error}); pip install 'credo[vllm]', or choose "
            "'torch' (rollout.engine, --engine)."
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
