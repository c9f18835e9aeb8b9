"""``credo diff-semantics``: the same responses under the three published semantics, side by side, as plain text.

It reads log-ratios and outcomes from a file; it runs no model and judges no answer.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from credo.algo.advantages import prime_advantages, prime_returns
from credo.algo.masked import row_mean
from credo.algo.measures import spearman
from credo.config import Semantics
from credo.config.checks import above_zero, at_least
from credo.data.sources import as_object, file_rows
from credo.options.files import DiffSemanticsOptions

SEMANTICS: tuple[Semantics, ...] = get_args(Semantics)
WIDTH, LABEL, LONGEST_NAME = 11, 27, 24
"""Characters of a number, of the label of a summary line, and of the name of a group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One response of the file."""

    place: str
    """Where it stands in the file, for a person: ``row 3`` or ``line 3``."""
    group: str | int
    outcome: float
    log_ratios: Float[Tensor, " S"]
    texts: tuple[str, ...]
    """The text of each token; nothing where the file does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """What one semantics makes of the responses."""

    advantages: Float[Tensor, "B S"]
    means: Float[Tensor, " B"]
    """The mean advantage of each response over its tokens."""
    contradicts: Bool[Tensor, " B"]
    """The mean is negative for an outcome above 0.5, or positive for another."""
    process_to_outcome: float
    """Standard deviation of the process returns over that of the outcome returns, before whitening; NaN where no
    outcome differs from its baseline."""


def diff_semantics(options: DiffSemanticsOptions) -> str:
    """The table and the summary to print. Raises ValueError naming the row of the file that cannot be used."""
    above_zero(options, "diff-semantics", "beta")
    at_least(0, options, "diff-semantics", "tokens", "process_coef")
    responses = read_responses(options.file)
    numbers = {group: number for number, group in enumerate(dict.fromkeys(each.group for each in responses))}
    mask = pad_sequence([torch.ones_like(each.log_ratios, dtype=torch.bool) for each in responses], batch_first=True)
    credits = credit_by_semantics(
        pad_sequence([response.log_ratios for response in responses], batch_first=True),
        torch.tensor([response.outcome for response in responses]),
        mask,
        torch.tensor([numbers[response.group] for response in responses]),
        beta=options.beta,
        process_coef=options.process_coef,
    )
    lines = [*_table(responses, credits, options.tokens), "", *_summary(credits, mask)]
    return "\n".join(line.rstrip() for line in lines)


def credit_by_semantics(
    log_ratios: Float[Tensor, "B S"],
    outcomes: Float[Tensor, " B"],
    mask: Bool[Tensor, "B S"],
    group_ids: Int[Tensor, " B"],
    *,
    beta: float = 0.05,
    process_coef: float = 1.0,
) -> dict[Semantics, Credit]:
    """Each semantics on the same batch, everything else by default."""
    credits = {}
    for semantics in SEMANTICS:
        batch = (log_ratios, outcomes, mask, group_ids)
        advantages = prime_advantages(*batch, semantics=semantics, beta=beta, process_coef=process_coef)
        returns = prime_returns(*batch, semantics=semantics, beta=beta, process_coef=process_coef)
        means, spread = row_mean(advantages, mask), returns.outcome[mask].std()
        credits[semantics] = Credit(
            advantages=advantages,
            means=means,
            contradicts=torch.where(outcomes > 0.5, means < 0, means > 0),
            process_to_outcome=(returns.process[mask].std() / spread).item() if spread > 1e-6 else math.nan,
        )
    return credits


def read_responses(path: Path) -> list[Response]:
    """The responses of a run's ``rollouts/step-000012.jsonl``, or of a JSON object with a list under each of
    ``log_ratios``, ``outcomes`` and ``group_ids``.

    Raises ValueError with file and row for what cannot be compared.
    """
    rows = _run_rows(path) if path.suffix == ".jsonl" else _object_rows(path)
    responses = []
    for place, row in rows:
        try:
            responses.append(_response(place, row))
        except ValueError as error:
            raise ValueError(f"{path}, {place}: {error}.") from None
    if not responses:
        raise ValueError(f"{path} holds no responses, so there is nothing to compare.")
    sizes = Counter(response.group for response in responses)
    for response in responses:
        if sizes[response.group] == 1:
            raise ValueError(
                f"{path}, {response.place}: the group {response.group!r} has this response alone, but a baseline needs "
                "another one; add to the group or remove it."
            )
    return responses


def _run_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows with ``log_ratios``, ``score`` and ``id``, as a run writes them."""
    for unit, number, raw in file_rows(path):
        try:
            row = as_object(raw)
        except ValueError as error:
            raise ValueError(f"{path}, {unit} {number}: {error}; expected the rollouts of a run.") from None
        yield f"{unit} {number}", row


def _object_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The three lists of an object, as the rows of a run."""
    expected = "expected an object with log_ratios, outcomes and group_ids, or a run's rollouts as .jsonl"
    try:
        columns = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); {expected}.") from None
    if not isinstance(columns, dict):
        raise ValueError(f"{path} holds no object; {expected}.")
    names = {"log_ratios": "log_ratios", "outcomes": "score", "group_ids": "id"}
    for name in names:
        if not isinstance(columns.get(name), list):
            raise ValueError(f"{path}: '{name}' is missing or no list; give one entry for each response.")
    counts = {name: len(columns[name]) for name in names}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(f"{path}: the lists differ in length ({said}); give one entry for each response.")
    for number, values in enumerate(zip(*(columns[name] for name in names), strict=True), start=1):
        yield f"row {number}", dict(zip(names.values(), values, strict=True))


def _response(place: str, row: Mapping[str, Any]) -> Response:
    for key in ("log_ratios", "score", "id"):
        if key not in row:
            raise ValueError(f"has no '{key}'" + ", as in a run without a PRM" * (key == "log_ratios"))
    log_ratios, outcome, group = row["log_ratios"], row["score"], row["id"]
    if not isinstance(log_ratios, list) or not log_ratios:
        raise ValueError("the log-ratios are not a list with a number for each token")
    if not _number(outcome) or not 0 <= outcome <= 1:
        raise ValueError(f"the outcome lies in [0, 1], got {outcome!r}")
    if isinstance(group, bool) or not isinstance(group, str | int):
        raise ValueError(f"the group is named by an integer or a string, got {group!r}")
    if odd := [each for each in log_ratios if not _number(each)]:
        raise ValueError(f"a log-ratio is a finite number, got {odd[0]!r}")
    texts = row.get("tokens", [])
    return Response(
        place=place,
        group=group,
        outcome=float(outcome),
        log_ratios=torch.tensor([float(each) for each in log_ratios]),
        texts=tuple(map(str, texts)) if isinstance(texts, list) and len(texts) == len(log_ratios) else (),
    )


def _number(value: object) -> bool:
    """Whether this is a number, finite in fp32 too."""
    most = torch.finfo(torch.float32).max
    return isinstance(value, int | float) and not isinstance(value, bool) and -most <= value <= most


def _table(responses: Sequence[Response], credits: Mapping[Semantics, Credit], tokens: int) -> list[str]:
    """A line for each response, and below one with a contradiction its first ``tokens`` tokens."""
    means, contradicts, advantages = (
        torch.stack([getattr(credit, name) for credit in credits.values()], dim=-1)
        for name in ("means", "contradicts", "advantages")
    )
    names = [str(response.group)[-LONGEST_NAME:] for response in responses]
    place, group = max(len(each.place) for each in responses), max(map(len, ["group", *names]))
    lines = [f"{'':<{place}}  {'group':<{group}}  outcome  tokens" + _cells(SEMANTICS)]
    for row, (response, name) in enumerate(zip(responses, names, strict=True)):
        start = f"{response.place:<{place}}  {name:<{group}}  {response.outcome:>7.2f}  {len(response.log_ratios):>6}"
        lines.append(start + _numbers(means[row], contradicts[row]))
        if contradicts[row].any():
            for t, values in enumerate(advantages[row, : min(tokens, len(response.log_ratios))]):
                text = repr(response.texts[t]) if response.texts else ""
                lines.append(f"{t + 1:>{place}}  {text}"[: len(start)].ljust(len(start)) + _numbers(values))
    return lines


def _summary(credits: Mapping[Semantics, Credit], mask: Bool[Tensor, "B S"]) -> list[str]:
    shares = [f"{credit.contradicts.float().mean():.1%}" for credit in credits.values()]
    ratios = [credit.process_to_outcome for credit in credits.values()]
    pairs = [
        f"{one}-{other} {spearman(credits[one].advantages[mask], credits[other].advantages[mask]):.3f}"
        for one, other in combinations(SEMANTICS, 2)
    ]
    return [
        "! the sign of the mean advantage contradicts the outcome",
        "",
        f"{'':<{LABEL}}" + _cells(SEMANTICS),
        f"{'responses against outcome':<{LABEL}}" + _cells(shares),
        f"{'process to outcome':<{LABEL}}" + _cells("-" if math.isnan(ratio) else f"{ratio:.3f}" for ratio in ratios),
        f"rank correlation of tokens: {', '.join(pairs)}",
    ]


def _cells(words: Iterable[str]) -> str:
    return "".join(f"{word:>{WIDTH}} " for word in words)


def _numbers(values: Float[Tensor, " C"], contradicts: Bool[Tensor, " C"] | None = None) -> str:
    marks = [False] * len(values) if contradicts is None else contradicts.tolist()
    cells = [f"{value:>+{WIDTH}.4f}{'!' if mark else ' '}" for value, mark in zip(values.tolist(), marks, strict=True)]
    return "".join(cells) + "  signs differ" * _signs_differ(values)


def _signs_differ(values: Float[Tensor, " C"]) -> bool:
    return bool((values > 0).any() and (values < 0).any())
