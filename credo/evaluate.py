"""``credo evaluate``: avg@k of a model on any source of problems, with intervals, as a table and as JSON."""

from __future__ import annotations

import json
import time
from typing import Any

from credo.assemble import build_verifier, decoder, encoder, sampling_params
from credo.config import DataConfig, SandboxConfig, VerifyConfig
from credo.console import Console
from credo.data.problems import load_problems
from credo.dist.device import choose_device, set_threads
from credo.evaluation import Evaluation, evaluate_policy
from credo.models.causal import CausalModel, load_model
from credo.models.precision import choose_compute
from credo.options import EvaluateOptions
from credo.rollout.torch_engine import TorchEngine


def evaluate(options: EvaluateOptions) -> None:
    """Prints a line a benchmark. Raises ValueError for what the user can mend."""
    console = Console()
    _check(options)
    sources = [source for source in options.benchmarks.split(",") if source]
    prompts = DataConfig(train=tuple(sources), template=options.template, system=options.system, suffix=options.suffix)
    verify = VerifyConfig(kind=options.verify, extract=options.extract, pattern=options.pattern)
    benchmarks = {source: load_problems([source], kind=options.kind)[0] for source in sources}
    set_threads(options.threads)
    kinds = {problem.kind for problems in benchmarks.values() for problem in problems}
    start = load_model(options.model, key="--model", device=choose_device(options.device))
    engine = _engine(start, options, console)
    verifier = build_verifier(verify, SandboxConfig(url=options.sandbox_url), kinds)
    params = sampling_params(options)
    results = []
    try:
        for source, problems in benchmarks.items():
            chosen = problems[: options.limit or None]
            started = time.perf_counter()
            with console.stage(source, "tokens") as progress:
                evaluation = evaluate_policy(
                    chosen,
                    engine=engine,
                    verifier=verifier,
                    encode=encoder(start, prompts),
                    decode=decoder(start),
                    params=params,
                    samples=options.samples,
                    seed=options.seed,
                    progress=progress,
                )
            summary = evaluation.summary()
            console.say(
                f"{source}: avg@{options.samples} {summary['eval/accuracy']:.3f} (95 % interval "
                f"{summary['eval/accuracy_low']:.3f} to {summary['eval/accuracy_high']:.3f}), {len(chosen):,} "
                f"problems, {evaluation.unknown} unknown, {time.perf_counter() - started:.0f} s"
            )
            results.append({"benchmark": source, **summary, "problems": _rows(evaluation)})
    finally:
        verifier.close()
    if options.output is not None:
        options.output.write_text(json.dumps({"model": options.model, "results": results}, indent=1))
        console.say(f"Every response is in {options.output}.")


def _engine(start: CausalModel, options: EvaluateOptions, console: Console) -> TorchEngine:
    device = start.model.device.type
    return TorchEngine(
        start.model,
        eos_ids=start.eos_ids,
        pad_id=start.pad_id,
        concurrent=options.concurrent,
        compute=choose_compute(device, console.say) if options.compute == "auto" else options.compute,
        decode=decoder(start),
    )


def _rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """What was said to each problem, and its scores."""
    return [
        {
            "id": group.problem.id,
            "scores": [verdict.score for verdict in group.verdicts],
            "responses": group.responses,
        }
        for group in evaluation.groups
    ]


def _check(options: EvaluateOptions) -> None:
    """Raises ValueError for what would otherwise come out after the work is done, or silently."""
    if min(options.samples, options.max_tokens, options.concurrent) < 1 or options.limit < 0:
        raise ValueError("--samples, --max-tokens and --concurrent are 1 or more, --limit is 0 or more.")
    if not 0 < options.top_p <= 1 or not 0 <= options.min_p <= 1 or min(options.temperature, options.top_k) < 0:
        raise ValueError("--top-p is in (0, 1], --min-p in [0, 1], --temperature and --top-k are 0 or more.")
    if "" in options.stop:
        raise ValueError("--stop: the empty text is in every response; take it out.")
    if not options.benchmarks.strip(","):
        raise ValueError("--benchmarks names no source; give files or gym:FAMILY, separated by commas.")
    if options.output is not None and not options.output.parent.is_dir():
        raise ValueError(f"There is no folder {options.output.parent} for --output {options.output}; make it first.")
