"""``credo compare-evaluations``: two evaluations of the same problems, paired. It reads records and judges nothing."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from credo.evaluation.records import read_records, read_results
from credo.measures.intervals import paired_gain, sign_flip_p
from credo.options.evaluation import CompareEvaluationsOptions


def compare_evaluations(options: CompareEvaluationsOptions) -> str:
    """A line a benchmark. Raises ValueError if the folders have no problem in common."""
    before, after = read_results(options.before), read_results(options.after)
    shared = [key for key in before["results"] if key in after["results"]]
    if not shared:
        raise ValueError(
            f"{options.before} has results of {', '.join(before['results']) or 'nothing'} and {options.after} of "
            f"{', '.join(after['results']) or 'nothing'}; only what both have can be compared."
        )
    compared: dict[str, dict[str, Any]] = {}
    for key in shared:
        hashes = [results["sources"][key]["sha256"] for results in (before, after)]
        if hashes[0] != hashes[1]:
            raise ValueError(
                f"'{key}' stands for other problems in {options.after} (sha256 {hashes[1]}, not {hashes[0]})."
            )
        compared[key] = _compared(*(_scores(folder, key) for folder in (options.before, options.after)))
    if options.output is not None:
        options.output.write_text(json.dumps(compared, indent=1) + "\n", encoding="utf-8")
    return "\n".join(_line(key, found) for key, found in compared.items())


def _scores(folder: Path, key: str) -> dict[str, float]:
    """The mean score of each problem by its id, as far as it was judged."""
    records = read_records(folder / f"{key}.jsonl")
    return {record.id: record.mean_score for record in records if record.mean_score is not None}


def _compared(before: dict[str, float], after: dict[str, float]) -> dict[str, Any]:
    ids = [id for id in before if id in after]
    if not ids:
        raise ValueError("The two evaluations have no judged problem in common; evaluate the same ones.")
    pairs = [before[id] for id in ids], [after[id] for id in ids]
    gain, low, high = paired_gain(*pairs)
    return {
        "before": statistics.fmean(pairs[0]),
        "after": statistics.fmean(pairs[1]),
        "difference": gain,
        "low": low,
        "high": high,
        "p": sign_flip_p([new - old for old, new in zip(*pairs, strict=True)]),
        "problems": len(ids),
        "unpaired": len(before.keys() ^ after.keys()),
    }


def _line(key: str, found: dict[str, Any]) -> str:
    unpaired = f", {found['unpaired']:,} left out that only one has" if found["unpaired"] else ""
    return (
        f"{key}: {found['before']:.3f} -> {found['after']:.3f}, difference {100 * found['difference']:+.1f} points "
        f"(95 % interval {100 * found['low']:+.1f} to {100 * found['high']:+.1f}), p = {found['p']:.2g} by sign flips, "
        f"{found['problems']:,} problems{unpaired}"
    )
