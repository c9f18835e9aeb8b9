"""The field's benchmarks by name: which file, with which checksum, read how, and under which conditions PRIME's paper
measures on it. Anything else that is a source of problems goes through here too, with its hash. It samples nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from credo.data.fetch import checked, from_address, from_hub, refuse_unpinned, sha256_of, split_pin
from credo.data.problems import load_problems
from credo.data.rows import problem_of
from credo.data.sources import as_object, file_rows, near, sift
from credo.evaluation import benchmark_rows as rows
from credo.types import Kind, Problem

Read = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """How a model is asked: the words around a problem, and how responses are drawn."""

    samples: int
    temperature: float
    top_p: float
    max_tokens: int
    stop: tuple[str, ...] = ()
    system: str = ""
    suffix: str = ""


ACTIONS = """\
While you reason you may take these actions, as often and in whatever order the problem asks for:

[ASSESS]
[ADVANCE]
[VERIFY]
[SIMPLIFY]
[SYNTHESIZE]
[PIVOT]
[OUTPUT]

Write every action as a block: its name in brackets on a line, then lines that each begin with "# " and make one step,
then the line "Next action: [NAME]". Begin with [ASSESS]; the last block is [OUTPUT] and says the answer."""
"""The paper's action-centred system message, in words of ours: the same seven actions and the same layout."""
BOX = "\n\nPresent the answer in LaTex format: \\boxed{Your answer}"
"""What stands behind every mathematical problem of the paper's data, as it is spelt there."""
PROGRAM = "\n\nWrite Python code that solves the problem and present it in a ```python block at the end."
TAG = "\n\nPresent the answer as <answer>Your answer</answer>"
SUFFIXES: Mapping[Kind, str] = {"math": BOX, "code": PROGRAM, "gym": TAG}
"""Not of the kinds whose answer is the whole response: no word may stand around it."""
DEFAULT = Conditions(samples=4, temperature=1.0, top_p=1.0, max_tokens=256)
GREEDY = Conditions(samples=1, temperature=0.0, top_p=1.0, max_tokens=4096)


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A benchmark that is known by name."""

    file: str
    """Below the data folder, or its last part right in it; a pattern stands for several files, read in order."""
    read: Read = rows.mathematics
    problems: int = 0
    """How many there are; 0 where that depends on the file."""
    sha256: str = ""
    """Of the local file; "" where we never saw it."""
    hub: str = ""
    """``REPOSITORY:PATTERN`` on the Hugging Face hub, "" where it is not there in this form."""
    max_tokens: int = 4096
    """Of the paper."""
    kind: Kind = "math"


_programs = partial(Benchmark, kind="code")
BENCHMARKS = {
    "aime2024": Benchmark(
        file="math/aime90.jsonl",
        sha256="70fdd11ed216eeebf111919e42e99e41a734712c617448ba51cc19f9e3a0bd79",
        hub="AI-MO/aimo-validation-aime:data/train-*.parquet",
        problems=30,
        read=rows.aime_2024,
    ),
    "amc": Benchmark(
        file="math/amc83.jsonl",
        sha256="a727a131057adafc7c4274a6888e2c01a6124338d9cc2b3ef9fbad0e48062f4e",
        hub="AI-MO/aimo-validation-amc:data/train-*.parquet",
        problems=83,
    ),
    "math500": Benchmark(
        file="math/math500.jsonl",
        sha256="1f0e49aacd7d009f294f643349ab99c7c7946f4561d8cdb4abbb07b7403de0d6",
        hub="HuggingFaceH4/MATH-500:test.jsonl",
        problems=500,
        max_tokens=8192,
    ),
    "minerva": Benchmark(
        file="math/minerva272.jsonl",
        sha256="e1358b7533bb75275d36ffddbd53798ba1be68c36dcb7386f79022f1e45be441",
        hub="math-ai/minervamath:test.jsonl",
        problems=272,
    ),
    "olympiadbench": Benchmark(
        file="math/olympiadbench675.jsonl",
        sha256="c15a2f6c4c60fc4fa60c1de4acddd0beb012b94ddf3801cc6a36d16f8d15a56b",
        hub="Hothan/OlympiadBench:OlympiadBench/OE_TO_maths_en_COMP/*.parquet",
        problems=675,
    ),
    "gsm8k": Benchmark(
        file="math/gsm8k_test.jsonl",
        sha256="89b722d0aef38dab8ed66a18a860f90252227baeea3a287f4eda8c96eb81bad2",
        hub="openai/gsm8k:main/test-*.parquet",
        problems=1319,
    ),
    "leetcode": _programs(
        file="benchmarks_original/leetcode_leetcode-test.json",
        sha256="7630417651034cfef749d2b21b47163921e1199e078b39ecbc218b4e7c73fbfc",
        problems=180,
        max_tokens=8192,
        read=rows.leetcode,
    ),
    "livecodebench": _programs(
        file="livecodebench/test*.jsonl",
        hub="livecodebench/code_generation_lite:test*.jsonl",
        read=rows.livecodebench_of_the_paper,
    ),
    "livecodebench-all": _programs(
        file="livecodebench/test*.jsonl",
        hub="livecodebench/code_generation_lite:test*.jsonl",
        read=rows.livecodebench,
    ),
    "humaneval": _programs(
        file="benchmarks_original/humaneval_HumanEval.jsonl",
        sha256="1d49078ba3e2b196b9344535bef34a43021f038fad9561d6ee7c53450609a6a2",
        hub="openai/openai_humaneval:openai_humaneval/test-*.parquet",
        problems=164,
        read=rows.humaneval,
    ),
    "humanevalplus": _programs(
        file="evalplus/humanevalplus.parquet",
        hub="evalplus/humanevalplus:data/test-*.parquet",
        problems=164,
        read=rows.humaneval,
    ),
    "mbpp": _programs(
        file="benchmarks_original/mbpp_new_mbpp.json",
        sha256="19247247bb52143392f7e10d208144c65c008701ab3591095b6929c29f64462a",
        problems=399,
        read=rows.mbpp,
    ),
    "mbppplus": _programs(
        file="evalplus/mbppplus.parquet",
        hub="evalplus/mbppplus:data/test-*.parquet",
        problems=378,
        read=rows.mbpp,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The problems of one source, with what tells them from others."""

    source: str
    """As it was asked for, without a checksum."""
    key: str
    """What its results are filed under: a name without anything that a file's name must not hold."""
    problems: tuple[Problem, ...]
    sha256: str
    """Of the files; of the problems themselves where a program makes them or a folder holds them."""
    registered: bool
    """Whether the hash is one that was known before."""
    skipped: int = 0
    """Rows of the files that are not part of the benchmark."""

    @property
    def kind(self) -> Kind:
        """What most of the problems are."""
        kinds: Counter[Kind] = Counter(problem.kind for problem in self.problems)
        return kinds.most_common(1)[0][0]


def load_benchmark(source: str, *, folder: Path | None = None, kind: Kind = "math") -> Loaded:
    """The problems of a benchmark's name, of a file, a folder or a generated source, or of the file at an address.

    A name is looked for in ``folder``, and on the hub without one. ``#sha256=...`` behind a source holds its files to
    that checksum; what comes over a network needs one. ``kind`` is for rows that do not say theirs. Raises ValueError
    for a name that is not known, for a file that is not there, and for a checksum that does not match.
    """
    name, pin = split_pin(source)
    if name in BENCHMARKS:
        return _named(name, folder, pin)
    if name.startswith(("http://", "https://")):
        path = from_address(name, pin)
        return _read_source(str(path), pin, kind, source=name, key=Path(name).stem)
    if not name.startswith(("gym:", "trace:")) and not Path(name).suffix and not Path(name).expanduser().exists():
        if name == "processbench":
            raise ValueError("ProcessBench has steps to judge and no answers to give: credo prm processbench FILE.")
        known = f"{near(name, BENCHMARKS)} Files end in .jsonl or .parquet; a comma in a parameter is %2C."
        raise ValueError(f"There is no benchmark '{name}'.{known}")
    return _read_source(name, pin, kind, source=name, key=name if name.startswith("gym:") else Path(name).stem)


def paper_conditions(name: str, kind: Kind) -> Conditions:
    """How PRIME's paper asks (its `eval/`): greedily and once, LiveCodeBench ten times with some noise. A kind that it
    lacks is asked for an answer in the form in which ours is read."""
    known = BENCHMARKS.get(name)
    suffix = SUFFIXES.get(known.kind if known else kind, "")
    changes: dict[str, Any] = {"max_tokens": known.max_tokens} if known else {}
    changes |= {"system": ACTIONS, "suffix": suffix} if suffix else {}
    if name.startswith("livecodebench"):
        changes |= {"samples": 10, "temperature": 0.2, "top_p": 0.95, "stop": ("###",)}
    return replace(GREEDY, **changes)


def conditions_of(loaded: Loaded, preset: Literal["none", "paper"], changes: Mapping[str, Any]) -> Conditions:
    """The conditions of a preset, with what the user asked for instead."""
    base = paper_conditions(loaded.source, loaded.kind) if preset == "paper" else DEFAULT
    return replace(base, **{key: value for key, value in changes.items() if value is not None})


def _named(name: str, folder: Path | None, pin: str) -> Loaded:
    benchmark = BENCHMARKS[name]
    known = pin or (benchmark.sha256 if folder is not None else "")
    if folder is not None:
        files = _local_files(name, benchmark, folder)
    elif benchmark.hub:
        files = from_hub(name, benchmark.hub)
        refuse_unpinned(name, sha256_of(files), pin)
    else:
        raise ValueError(
            f"{name} is not on the hub in the form that is meant; give --data-folder with {benchmark.file}."
        )
    sha256 = checked(files, known, name)
    problems, skipped = _problems(name, benchmark, files)
    return Loaded(source=name, key=name, problems=problems, sha256=sha256, registered=bool(known), skipped=skipped)


def _local_files(name: str, benchmark: Benchmark, folder: Path) -> list[Path]:
    """The benchmark's files: where the layout puts them, or right in the folder."""
    for pattern in (benchmark.file, Path(benchmark.file).name):
        if files := sorted(folder.expanduser().glob(pattern)):
            return files
    raise ValueError(
        f"--data-folder {folder} holds no {benchmark.file} for {name}; put it there or name another folder."
    )


def _problems(name: str, benchmark: Benchmark, files: Sequence[Path]) -> tuple[tuple[Problem, ...], int]:
    """The problems of the files, and how many rows are not part of the benchmark."""

    def parse(number: int, raw: object) -> Problem | None:
        row = benchmark.read(as_object(raw))
        own_id = f"{name}:{number}"
        return None if row is None else problem_of(row, default_id=own_id, default_kind=benchmark.kind, source=name)

    found: list[Problem | None] = []
    for path in files:
        found += sift(file_rows(path), parse, label=f"{name} ({path.name})", max_bad_share=0.0)[0]
    problems = tuple(problem for problem in found if problem is not None)
    if not problems:
        raise ValueError(f"The files of {name} hold none of its problems; check that they are the right ones.")
    if len({problem.id for problem in problems}) < len(problems):
        raise ValueError(f"The files of {name} hold an id twice; ids tell problems apart, so remove the copies.")
    return problems, len(found) - len(problems)


def _read_source(place: str, pin: str, kind: Kind, *, source: str, key: str) -> Loaded:
    problems, report = load_problems([place], kind=kind)
    path = Path(place).expanduser()
    sha256 = report.sha256
    if path.is_file():
        sha256 = checked([path], pin, source)
    elif pin and pin != sha256:
        raise ValueError(f"{source}: the sha256 of its problems is {sha256}, and {pin} is expected; see what changed.")
    slug = re.sub(r"[^\w.-]+", "_", key).strip("_.") or "problems"
    return Loaded(source=source, key=slug, problems=tuple(problems), sha256=sha256, registered=bool(pin))
