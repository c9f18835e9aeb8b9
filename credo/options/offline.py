"""The options of the ``credo prm`` commands that read no recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from credo.config import Template
from credo.options.shared import ComputeOptions, DrawOptions, ExtractOptions, JudgeOptions


@dataclass(frozen=True, kw_only=True)
class ScorerOptions(ComputeOptions):
    """The PRM that scores, and how it computes."""

    prm: str = ""
    """A PRM folder, or any causal language model: Hugging Face folder or hub id, .gguf file, or package:NAME."""
    reference: str = "auto"
    """The frozen reference: a model, auto for the one the PRM was trained against, or none for log pi_phi alone."""
    beta: float | None = None
    """Scale of the rewards; unset is the PRM's own, or 0.05."""
    template: Template | None = None
    """Chat template or plain text; unset is as the PRM was trained."""
    system: str | None = None
    """System message put before every conversation; unset is as the PRM was trained."""
    suffix: str | None = None
    """Text put after every prompt; unset is as the PRM was trained."""
    tokens_per_microbatch: int = 8192
    """Tokens, padding included, of one forward pass."""


@dataclass(frozen=True, kw_only=True)
class AggregationOptions:
    """From rewards of tokens or steps to one score of a response."""

    aggregate: Literal["min", "sum", "mean", "last", "product"] = "sum"
    """Their least, sum, mean, last, or the product of their sigmoids (as its logarithm)."""
    level: Literal["token", "step"] = "token"
    """Rewards of tokens, or of steps."""
    form: Literal["single", "accumulated"] = "single"
    """Each reward alone, or with all before it (the Q value of the prefix)."""
    step_boundary: Literal["newline", "sentence", "regex"] = "newline"
    """What ends a step."""
    step_pattern: str = ""
    """Regular expression for --step-boundary regex; a step ends with the token in which a match ends."""


@dataclass(frozen=True, kw_only=True)
class PrmRolloutsOptions(JudgeOptions, DrawOptions):
    """Samples responses to problems and judges them: data for credo prm train.

    Goes on where it stopped. A response that could not be judged has the label null, which is left out of training.
    """

    problems: str
    """Sources, separated by commas: .jsonl or .parquet files, or gym:FAMILY?size=..&parameter=.."""
    output: Path
    """JSONL file of labelled responses; rows already there are kept."""
    max_tokens: int = 256
    """Longest response, in tokens."""
    at_once: int = 32
    """Problems sampled, judged and written together."""


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """Responses of a file, scored."""

    input: Path
    """JSONL or parquet file of responses."""
    scorer: ScorerOptions = field(default_factory=ScorerOptions)
    aggregation: AggregationOptions = field(default_factory=AggregationOptions)


@dataclass(frozen=True, kw_only=True)
class PrmScoreOptions(ScoringOptions):
    """Rewards of tokens, steps and whole responses by an implicit PRM.

    Rows are {"prompt" or "problem", "response"}, or {"problem", "responses": [..]}. Each response becomes a row with
    what its row said and "prm_score", "sequence_reward", "tokens", "token_rewards" and "step_rewards".
    """

    output: Path | None = None
    """JSONL file of scores, one row a response; unset is INPUT.scores.jsonl beside the input."""


@dataclass(frozen=True, kw_only=True)
class BestOfNOptions(ExtractOptions, ScoringOptions):
    """What choosing among N responses is worth: by luck, by votes, by scores; a curve over N with 95 % intervals.

    Responses are those of the file, each N the expectation over its sets of N. Rows are {"problem", "answer",
    "responses": [..]} or a response a row; labels, if there are any, are compared with the grader's.
    """

    scores: str = ""
    """Column of scores in the file, e.g. prm_score or rm_score; unset takes the first of these that is there."""
    labels: Literal["file", "grader"] = "file"
    """Which labels count where the file has some."""
    ties: Literal["share", "first"] = "share"
    """Equal votes or scores count as often as each other, or the earlier response wins."""
    n: tuple[int, ...] = ()
    """The numbers of responses to choose from; unset is 1, 2, 4 .. up to what each problem has."""
    kind: Literal["math", "exact", "regex"] = "math"
    """How answers are judged where a row does not say."""
    workers: int = 2
    """Verifier processes."""
    output: Path | None = None
    """Also write all figures, with those of each problem, to this JSON file."""


@dataclass(frozen=True, kw_only=True)
class ProcessBenchOptions:
    """F1 at finding the first wrong step, per subset of ProcessBench, or per file where rows name none.

    The threshold is chosen on one subset and used on the others. That subset itself is judged in two halves, each by
    the threshold of the other half: no number comes from rows that its threshold was chosen on.
    """

    input: Path
    """JSONL or parquet file, or folder: {"id", "subset", "problem", "steps": [..], "label": first wrong step or -1}."""
    chosen_on: str = "gsm8k"
    """The subset that the threshold is chosen on."""
    form: Literal["single", "accumulated"] = "accumulated"
    """A step is wrong if its own reward is low, or that of all up to it (as in the released evaluation)."""
    limit: int = 0
    """Use so many rows of each subset, always the same ones; 0 uses all."""
    output: Path | None = None
    """Also write the figures, with the rewards of every step, to this JSON file."""
    scorer: ScorerOptions = field(default_factory=ScorerOptions)


@dataclass(frozen=True, kw_only=True)
class PrmServeOptions(ScorerOptions):
    """Scores responses over HTTP: POST /score, and GET /openapi.json to learn what it takes.

    Requests that come at the same time are scored together. There is no encryption and no password: let it listen to
    this machine only, or put it behind something that has both.
    """

    prm: str = field()  # without the default that ScorerOptions has
    """A PRM folder, or any causal language model: Hugging Face folder or hub id, .gguf file, or package:NAME."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 is every one of this machine."""
    port: int = 8000
    """Port to listen at; 0 takes one that is free."""
    waiting: int = 256
    """Requests that may wait; one more is told to come back (503)."""
    max_bytes: int = 1_048_576
    """Longest body of a request (413)."""
    max_tokens: int = 32_768
    """Most tokens of a request, the prompt counted with each response (422)."""
    timeout: float = 60.0
    """Seconds in which a request has its answer or is refused (504); also the longest that stopping takes."""
