"""A model that answers problems for a command without a training run, and who judges it: from the command's options."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from credo.assemble import Decode, Encode, build_verifier, decoder, encoder
from credo.config import RolloutConfig, SandboxConfig, VerifyConfig
from credo.console import Console
from credo.dist.device import choose_device, set_threads
from credo.models.causal import CausalModel, Compute, load_model, response_logprobs
from credo.models.precision import choose_compute
from credo.options.evaluation import EvaluateOptions
from credo.options.shared import ComputeOptions, DrawOptions, JudgeOptions, SamplerOptions
from credo.rollout.engine import Progress, RolloutEngine, SamplingParams
from credo.rollout.torch_engine import TorchEngine
from credo.rollout.vllm_engine import VllmEngine
from credo.rollout.vllm_shared import Probe
from credo.seeds import mixed_seed
from credo.types import Problem
from credo.verify.verifier import Verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A response as it was sampled, or as it was saved."""

    text: str
    finish: str
    length: int
    """In tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """One model under one set of conditions."""

    start: CausalModel
    engine: RolloutEngine
    encode: Encode
    decode: Decode
    params: SamplingParams
    samples: int
    """Responses to each problem."""
    seed: int

    def draw(self, problems: Sequence[Problem], first: int, progress: Progress | None = None) -> list[list[Drawn]]:
        """The responses to each problem, of which the first is number ``first`` of all that are asked.

        They depend on the seed and on the problem's number, and not on what is asked in the same call.
        """
        seeds = [mixed_seed(self.seed, first + place) for place in range(len(problems))]
        prompts = [self.encode(problem) for problem in problems]
        rollouts = self.engine.sample(prompts, self.samples, self.params, seeds, progress)
        return [
            [Drawn(text=self.decode(one.response_ids), finish=one.finish, length=len(one.response_ids)) for one in of]
            for of in rollouts
        ]

    def close(self) -> None:
        """Frees what the engine holds."""
        self.engine.close()


def open_sampler(start: CausalModel, options: DrawOptions, problems: Iterable[Problem], console: Console) -> Sampler:
    """Puts to ``start`` the ``problems`` that it will be asked. Raises ValueError for what the user can mend."""
    encode = encoder(start, template=options.template, system=options.system, suffix=options.suffix)
    lengths = (len(encode(problem)) + options.max_tokens for problem in problems)
    return Sampler(
        start=start,
        engine=open_engine(start, options, lengths, console),
        encode=encode,
        decode=decoder(start),
        params=SamplingParams(
            temperature=options.temperature, top_p=options.top_p, max_tokens=options.max_tokens, stop=options.stop
        ),
        samples=options.samples,
        seed=options.seed,
    )


def open_model(options: SamplerOptions) -> CausalModel:
    """The model of ``--model``, where it is to compute. Raises ValueError if it cannot be loaded."""
    set_threads(options.threads)
    return load_model(options.model, key="--model", device=choose_device(options.device))


def open_engine(start: CausalModel, options: SamplerOptions, lengths: Iterable[int], console: Console) -> RolloutEngine:
    """What samples from ``start``. ``lengths`` are the tokens that prompts may have with their responses, and are
    looked at only for an engine that makes room beforehand."""
    compute = compute_of(options, console)
    common: dict[str, Any] = {"eos_ids": start.eos_ids, "concurrent": options.concurrent, "compute": compute}
    if options.engine == "torch":
        return TorchEngine(start.model, pad_id=start.pad_id, decode=decoder(start), **common)
    trained = partial(response_logprobs, start.model, compute=compute)
    probe = Probe(trained=trained, threshold=RolloutConfig.probe_threshold, warn=console.warn)
    return VllmEngine(start.model, start.tokenizer, context=max(lengths, default=1), probe=probe, **common)


def open_verifier(options: JudgeOptions, kinds: Collection[str]) -> Verifier:
    """Who judges responses to problems of these kinds; programs pass all of their tests or none."""
    verify = VerifyConfig(kind=options.verify, extract=options.extract, pattern=options.pattern)
    return build_verifier(verify, SandboxConfig(url=options.sandbox_url, partial=False), kinds)


def compute_of(options: ComputeOptions, console: Console) -> Compute:
    """The precision of the forward passes; "auto" is measured."""
    if options.compute != "auto":
        return options.compute
    set_threads(options.threads)
    return choose_compute(choose_device(options.device), console.say)


def refuse_impossible(options: DrawOptions | EvaluateOptions) -> None:
    """Raises ValueError for numbers out of range: they would come out after the work is done, or silently."""
    at_least_one = (options.samples, options.max_tokens, options.concurrent)
    if any(number is not None and number < 1 for number in at_least_one) or options.limit < 0:
        raise ValueError("--samples, --max-tokens and --concurrent are 1 or more, --limit is 0 or more.")
    top_p = 1.0 if options.top_p is None else options.top_p
    if not 0 < top_p <= 1 or (options.temperature or 0.0) < 0:
        raise ValueError("--top-p is in (0, 1], --temperature is 0 or more.")
    if "" in (options.stop or ()):
        raise ValueError("--stop: the empty text is in every response; take it out.")
