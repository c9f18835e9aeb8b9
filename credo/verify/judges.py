"""One judgement, from plain values to plain values: find the answer in the response, then compare it.

What the response did (no answer, an unreadable one) is wrong; what failed on our side is unknown, with the reason.
It ignores processes, time limits and the types of the rest of the package, and it never imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from credo.verify.extraction import Extraction, extract
from credo.verify.gym import judge_gym, scorer
from credo.verify.maths import judge_in_time, warm_up_maths
from credo.verify.strictness import Strictness

LONGEST_RESPONSE = 1_000_000
"""Characters. Tokens bound a response far below this; a longer one counts as wrong, unread."""


def judge(task: Mapping[str, Any], extraction: Extraction, strictness: Strictness | None = None) -> dict[str, Any]:
    """``{"score", "reason"}`` or ``{"unknown": reason}`` for ``{"kind", "response", "answer", "extra"}``."""
    try:
        return _judge(task, extraction, strictness or Strictness())
    except MemoryError:
        return {"unknown": "out of memory while judging"}
    except Exception as error:
        return {"unknown": f"judging failed: {type(error).__name__}: {error}"}


def warm_up(kind: str) -> None:
    """Import what this kind needs, so that no item pays for it."""
    match kind:
        case "math":
            warm_up_maths()
        case "gym":
            scorer("chain_sum")


def _judge(task: Mapping[str, Any], extraction: Extraction, strictness: Strictness) -> dict[str, Any]:
    kind, response = task["kind"], task["response"]
    answer = extract(response, kind, extraction)
    unmarked_maths = kind == "math" and extraction.kind == "auto" and response.strip()
    if answer is None and not unmarked_maths:
        return {"score": 0.0, "reason": "no answer found"}
    verdict = _compared(kind, response, answer, task, strictness)
    if verdict.get("score") == 0.0 and answer is not None:
        verdict["reason"] = verdict["reason"] or f"answer {answer[:100]!r}"
    return verdict


def _compared(
    kind: str, response: str, answer: str | None, task: Mapping[str, Any], strictness: Strictness
) -> dict[str, Any]:
    match kind:
        case "math":
            return judge_in_time(response, answer, task["answer"], strictness)
        case "gym":
            return judge_gym(answer or "", task["extra"])
        case "exact":
            return {"score": float(answer == task["answer"].strip()), "reason": ""}
        case "regex":
            return {"score": float(re.fullmatch(task["answer"], answer or "") is not None), "reason": ""}
        case _:
            return {"unknown": f"no verifier for kind {kind!r}; there are math, gym, exact and regex"}
