"""The commands of ``credo`` as a table: what each reads, and which function gets it. Nothing heavy is loaded for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from credo.importing import uncollected

if TYPE_CHECKING:
    from credo.config import TrainRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A function and what it gets. Both are named, so that nothing heavy loads before the words are understood."""

    text: str
    reads: str
    """``module:class`` below ``credo`` of its options."""
    calls: str | Callable[..., Any]
    """``module:function`` below ``credo``; text that it returns is printed."""
    words: Literal["flags", "positional", "sources", "recipe"] = "flags"
    """Flags alone; required options as words without a flag; sources before the flags; recipes before the flags."""
    beside: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)
    """Flags that no recipe holds: default, what to write, and what it means; the function gets the value as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Commands under a common name."""

    text: str
    about: str
    commands: Mapping[str, Command]


def _train(recipe: TrainRecipe, *, resume: str) -> None:
    with uncollected():
        from credo.launch import launch

    launch(recipe.config, recipe.launch, resume=resume)


def _plan(recipe: TrainRecipe, *, gpus: str, gpu: str) -> str:
    if bool(gpus) != bool(gpu):
        raise ValueError("--gpus and --gpu go together: how many, and of which kind; e.g. --gpus 64 --gpu h100.")
    if gpus:
        from credo.planning.cluster import cluster_plan

        return cluster_plan(recipe.config, gpu, gpus)
    from credo.planning.plan import plan

    return plan(recipe.config)


def _verify_resume(recipe: TrainRecipe, *, steps: str, output: str) -> None:
    from credo.verify_resume import verify_resume

    if not steps.isdecimal():
        raise ValueError(f"--steps: expected a number, got '{steps}'.")
    verify_resume(recipe, steps=int(steps), output=Path(output) if output else None)


DATA_COMMANDS = {
    "inspect": Command(
        text="grade every gold against itself, its solution and its labels; list what fails",
        reads="options.curation:InspectOptions",
        calls="curation.inspection:inspect_data",
        words="positional",
    ),
    "import": Command(
        text="any source as our own JSONL, with a report of what cannot be read",
        reads="options.curation:ImportOptions",
        calls="curation.commands:import_data",
        words="sources",
    ),
    "filter": Command(
        text="the paper's filters and others, in the order you give",
        reads="options.curation:FilterOptions",
        calls="curation.commands:filter_data",
        words="sources",
    ),
    "deduplicate": Command(
        text="keep the first of rows that ask the same, exactly or nearly",
        reads="options.curation:DeduplicateOptions",
        calls="curation.commands:deduplicate",
        words="sources",
    ),
    "decontaminate": Command(
        text="drop rows that hold a problem of a benchmark",
        reads="options.curation:DecontaminateOptions",
        calls="curation.commands:decontaminate",
        words="sources",
    ),
    "difficulty": Command(
        text="how often a model solves each problem, written into its row",
        reads="options.curation:DifficultyOptions",
        calls="curation.difficulty:difficulty",
        words="sources",
    ),
    "card": Command(
        text="counts, lengths, sources, answers and hash of a file as Markdown and HTML",
        reads="options.curation:CardOptions",
        calls="curation.commands:card",
        words="positional",
    ),
}
PRM_COMMANDS = {
    "train": Command(
        text="learn an implicit PRM from labelled responses",
        reads="config:PrmTrainingRecipe",
        calls="launch:launch_prm_training",
        words="recipe",
    ),
    "rollouts": Command(
        text="sample responses to problems and judge them: data for train",
        reads="options.offline:PrmRolloutsOptions",
        calls="offline.rollouts:make_rollouts",
    ),
    "score": Command(
        text="rewards of tokens, steps and whole responses of a file",
        reads="options.offline:PrmScoreOptions",
        calls="offline.scorer:score_file",
        words="positional",
    ),
    "best-of-n": Command(
        text="what choosing among N responses is worth: a curve over N with intervals",
        reads="options.offline:BestOfNOptions",
        calls="offline.best_of_n:best_of_n",
        words="positional",
    ),
    "processbench": Command(
        text="F1 at finding the first wrong step",
        reads="options.offline:ProcessBenchOptions",
        calls="offline.processbench:processbench",
        words="positional",
    ),
    "serve": Command(
        text="score over HTTP, the requests of many clients together",
        reads="options.offline:PrmServeOptions",
        calls="offline.serving:serve",
        words="positional",
    ),
}
COMMANDS: Mapping[str, Command | Group] = {
    "sft": Command(
        text="supervised warm-up: build or tune a model on demonstrations",
        reads="config:SftRecipe",
        calls="launch:launch_sft",
        words="recipe",
    ),
    "train": Command(
        text="online PRIME",
        reads="config:TrainRecipe",
        calls=_train,
        words="recipe",
        beside={
            "resume": ("auto", "auto|never|CHECKPOINT", "go on (default), refuse a used folder, or branch off it"),
        },
    ),
    "prm": Group(
        text=f"offline implicit PRMs: {', '.join(PRM_COMMANDS)}",
        about="credo prm makes implicit PRMs and uses them.",
        commands=PRM_COMMANDS,
    ),
    "evaluate": Command(
        text="a model on benchmarks: avg@k, pass@k, maj@k, best@k, with intervals",
        reads="options.evaluation:EvaluateOptions",
        calls="evaluation.evaluate:evaluate",
    ),
    "compare-evaluations": Command(
        text="two evaluations of the same problems, paired",
        reads="options.evaluation:CompareEvaluationsOptions",
        calls="evaluation.compare:compare_evaluations",
        words="positional",
    ),
    "export": Command(
        text="policy and PRM of a run as Hugging Face folders with model cards",
        reads="options.export:ExportOptions",
        calls="export.folders:export",
        words="positional",
    ),
    "plan": Command(
        text="batch arithmetic and memory of a recipe, without loading anything",
        reads="config:TrainRecipe",
        calls=_plan,
        words="recipe",
        beside={
            "gpus": ("", "N[,N ...]", "memory and time of a step on so many GPUs"),
            "gpu": ("", "KIND", "which they are: h100, a800, l40s ..."),
        },
    ),
    "verify": Command(
        text="judge the responses of a file",
        reads="options.files:GradeOptions",
        calls="grading:grade",
    ),
    "verify-resume": Command(
        text="prove of a recipe that a run killed and resumed is the run that was not",
        reads="config:TrainRecipe",
        calls=_verify_resume,
        words="recipe",
        beside={
            "steps": ("2", "N", "die in the step after these (2)"),
            "output": ("", "FILE.json", "by default beside the run's folder"),
        },
    ),
    "data": Group(
        text=f"what data sets hold: {', '.join(DATA_COMMANDS)}",
        about="credo data says what is in data sets.",
        commands=DATA_COMMANDS,
    ),
    "diff-semantics": Command(
        text="official, paper's and verl's advantages of the same responses",
        reads="options.files:DiffSemanticsOptions",
        calls="diff_semantics:diff_semantics",
        words="positional",
    ),
}
