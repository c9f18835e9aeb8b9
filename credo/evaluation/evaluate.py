"""``credo evaluate``: a model on benchmarks, from its options to a line a benchmark and a folder of responses."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from credo.assemble import Encode, decoder, encoder
from credo.console import Console
from credo.evaluation.benchmarks import Conditions, Loaded, conditions_of, load_benchmark
from credo.evaluation.examination import Judge, examine, saved_records
from credo.evaluation.records import EvaluationFolder, Record
from credo.evaluation.summary import counts, measures
from credo.interruption import Interrupted, Interruption
from credo.models.causal import CausalModel, fingerprint
from credo.offline.scorer import Scorer, open_scorer
from credo.options.evaluation import EvaluateOptions
from credo.options.offline import ScorerOptions
from credo.options.shared import ComputeOptions, check_folder_of
from credo.rollout.engine import SamplingParams
from credo.sampler import Sampler, open_engine, open_model, open_verifier, refuse_impossible
from credo.types import Problem
from credo.verify.extraction import Extraction
from credo.verify.same_answers import other_text, same_in_maths

FREE = {"benchmarks", "data_folder", "limit", "output", "regrade", "save_every", "threads", "device", "concurrent"}
"""Options on which no number of a problem depends."""
GRADING = {"kind", "verify", "sandbox_url", "extract", "pattern", "prm", "reference", "prm_sha256"}
"""Settings by which saved responses can be judged anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """The problems of one source, and how they are asked."""

    loaded: Loaded
    conditions: Conditions
    problems: tuple[Problem, ...]
    """Those up to the limit."""

    @property
    def source(self) -> dict[str, Any]:
        """What is written down of it."""
        loaded = self.loaded
        return {
            "source": loaded.source,
            "sha256": loaded.sha256,
            "registered": loaded.registered,
            "conditions": asdict(self.conditions),
        }


def evaluate(options: EvaluateOptions) -> None:
    """Prints a line a benchmark. Raises ValueError for what the user can mend, KeyboardInterrupt if it was stopped."""
    console = Console()
    _check(options)
    exams = _exams(options, console)
    kinds = {problem.kind for exam in exams for problem in exam.problems}
    with ExitStack() as stack:
        folder = stack.enter_context(_folder(options.output))
        verifier = stack.enter_context(closing(open_verifier(options, kinds)))
        interruption = stack.enter_context(Interruption().listening())
        try:
            with interruption.allowed():
                extraction = Extraction(kind=options.extract, pattern=options.pattern)
                # A function of the user's is asked of the user's problems alone.
                same = partial(same_in_maths, verifier) if options.verify == "auto" else other_text
                scorer = _scorer(options, console)
                judge = Judge(verifier=verifier, extraction=extraction, scorer=scorer, same=same)
                (_regrade if options.regrade else _ask)(options, exams, folder, judge, console)
        except Interrupted:
            kept = "the same command goes on" if options.output else "without --output nothing is kept"
            console.say(f"Stopped; {kept}.")
            raise KeyboardInterrupt from None
    if options.output is not None:
        console.say(f"The numbers and every response are in {options.output}.")


def _ask(
    options: EvaluateOptions, exams: Sequence[Exam], folder: EvaluationFolder, judge: Judge, console: Console
) -> None:
    """Samples what is missing."""
    start = open_model(options)
    folder.begin(_settings(options, judge.scorer) | {"model_sha256": fingerprint(start)})
    lengths = (_longest(start, exam, options) for exam in exams)
    with closing(open_engine(start, options, lengths, console)) as engine:
        for exam in exams:
            started = time.perf_counter()
            folder.begin_source(exam.loaded.key, exam.source)
            sampler = Sampler(
                start=start,
                engine=engine,
                encode=_encoder(start, exam, options),
                decode=decoder(start),
                params=_params(options, exam.conditions),
                samples=exam.conditions.samples,
                seed=options.seed,
            )
            chunk = options.save_every or max(1, 2 * options.concurrent // exam.conditions.samples)
            records = examine(exam.loaded.key, exam.problems, sampler, judge, folder, chunk=chunk, console=console)
            _finish(exam, records, folder, console, time.perf_counter() - started)


def _regrade(
    options: EvaluateOptions, exams: Sequence[Exam], folder: EvaluationFolder, judge: Judge, console: Console
) -> None:
    """Judges what is there. Nothing is written before all is judged, so that a folder is never judged in two ways."""
    held = folder.results()
    if held["sources"].keys() != {exam.loaded.key for exam in exams}:
        listed = ", ".join(sorted(held["sources"]))
        raise ValueError(f"{options.output} holds {listed}; name all of it, and nothing else, in --benchmarks.")
    settings = _settings(options, judge.scorer) | {"model_sha256": held["settings"]["model_sha256"]}
    folder.refuse_other(settings, GRADING)
    judged: dict[str, list[Record]] = {}
    for exam in exams:
        folder.begin_source(exam.loaded.key, exam.source)
        saved = saved_records(exam.loaded.key, exam.loaded.problems, folder)
        judged[exam.loaded.key] = judge.again(exam.loaded.problems[: len(saved)], saved)
    folder.begin(settings, GRADING)
    for exam in exams:
        records = judged[exam.loaded.key]
        folder.rewrite(exam.loaded.key, records)
        _finish(exam, records[: len(exam.problems)], folder, console, None)


def _finish(
    exam: Exam, records: Sequence[Record], folder: EvaluationFolder, console: Console, seconds: float | None
) -> None:
    """Writes and says the numbers."""
    counted, measured = counts(records), measures(records, exam.conditions.samples)
    finite = {name: {key: _or_none(number) for key, number in of.items()} for name, of in measured.items()}
    folder.finish_source(exam.loaded.key, {**counted, "measures": finite})
    samples = exam.conditions.samples
    first, *others = (_said(name, of) for name, of in measured.items() if name.endswith(f"@{samples}"))
    took = "" if seconds is None else f", {seconds:.0f} s"
    unknown = f"{counted['unknown']:,} unknown"
    console.say(f"{exam.loaded.key}: {first}, {len(records):,} problems, {unknown}{took}")
    for line in others:
        console.say(f"  {line}")


def _said(name: str, measure: Mapping[str, float | int]) -> str:
    return f"{name} {measure['value']:.3f} (95 % interval {measure['low']:.3f} to {measure['high']:.3f})"


def _or_none(number: float | int) -> float | int | None:
    return number if math.isfinite(number) else None


def _exams(options: EvaluateOptions, console: Console) -> list[Exam]:
    """The problems of every source. Says the hash of files that nobody vouches for."""
    asked = {name: getattr(options, name) for name in ("samples", "temperature", "top_p", "max_tokens", "stop")}
    asked |= {"system": options.system, "suffix": options.suffix}
    exams: dict[str, Exam] = {}
    for source in filter(None, options.benchmarks.split(",")):
        loaded = load_benchmark(source, folder=options.data_folder, kind=options.kind)
        if loaded.key in exams:
            raise ValueError(
                f"--benchmarks: '{source}' and '{exams[loaded.key].loaded.source}' share the name "
                f"{loaded.key}; rename a file, or evaluate them apart."
            )
        if not loaded.registered:
            console.say(f"{loaded.key}: no checksum is registered; its sha256 is {loaded.sha256}")
        conditions = conditions_of(loaded, options.preset, asked)
        problems = loaded.problems[: options.limit or None]
        exams[loaded.key] = Exam(loaded=loaded, conditions=conditions, problems=problems)
    return list(exams.values())


def _settings(options: EvaluateOptions, scorer: Scorer | None) -> dict[str, Any]:
    """What numbers depend on, but for the policy's weights: options, and the weights of a PRM and its reference."""
    weights = {"prm_sha256": scorer.fingerprints} if scorer else {}
    return {one.name: getattr(options, one.name) for one in fields(options) if one.name not in FREE} | weights


def _params(options: EvaluateOptions, conditions: Conditions) -> SamplingParams:
    return SamplingParams(
        temperature=conditions.temperature,
        top_k=options.top_k,
        top_p=conditions.top_p,
        min_p=options.min_p,
        max_tokens=conditions.max_tokens,
        stop=conditions.stop,
    )


@contextmanager
def _folder(output: Path | None) -> Iterator[EvaluationFolder]:
    """The folder of the results; one that nobody sees where none is asked for."""
    with ExitStack() as stack:
        place = output if output is not None else Path(stack.enter_context(TemporaryDirectory()))
        yield stack.enter_context(EvaluationFolder(place))


def _scorer(options: EvaluateOptions, console: Console) -> Scorer | None:
    """The PRM of ``--prm``. Its scale ranks nothing, so rewards are the log-ratios themselves."""
    if not options.prm:
        return None
    computing = {field.name: getattr(options, field.name) for field in fields(ComputeOptions)}
    return open_scorer(ScorerOptions(prm=options.prm, reference=options.reference, beta=1.0, **computing), console)


def _encoder(start: CausalModel, exam: Exam, options: EvaluateOptions) -> Encode:
    asked = exam.conditions
    return encoder(start, template=options.template, system=asked.system, suffix=asked.suffix)


def _longest(start: CausalModel, exam: Exam, options: EvaluateOptions) -> int:
    """Tokens that the longest prompt has with its response."""
    encode = _encoder(start, exam, options)
    return max((len(encode(problem)) for problem in exam.problems), default=0) + exam.conditions.max_tokens


def _check(options: EvaluateOptions) -> None:
    """Raises ValueError for what would otherwise come out after the work is done, or silently."""
    refuse_impossible(options)
    if min(options.top_k, options.save_every) < 0 or not 0 <= options.min_p <= 1:
        raise ValueError("--top-k and --save-every are 0 or more, --min-p is in [0, 1].")
    if not options.benchmarks.strip(","):
        raise ValueError("--benchmarks names no source; give names, files or gym:FAMILY, separated by commas.")
    if options.reference != "auto" and not options.prm:
        raise ValueError("--reference is what --prm is measured against; give both or neither.")
    if options.regrade and options.output is None:
        raise ValueError("--regrade judges what is in --output; name that folder.")
    check_folder_of(options.output)
    if options.output is not None and options.output.is_file():
        raise ValueError(f"--output {options.output} is a file, and a folder is written; name another.")
