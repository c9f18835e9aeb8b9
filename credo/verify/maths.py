r"""Is this mathematical answer the right one? The verdict on a response whose answer has been found.

What the response did is wrong, also when it cannot be read; a right answer that cannot be read is unknown. It ignores
time and memory: SymPy can run for ever, so the worker bounds both.
"""

from __future__ import annotations

import signal
import threading
from typing import Any

from credo.verify.answers import same
from credo.verify.expressions import Unreadable, UnreadableGold
from credo.verify.extraction import last_boxed, stated_answer
from credo.verify.latex import cleaned
from credo.verify.strictness import Strictness

LONGEST_ANSWER = 1000
"""Characters. A marked answer beyond this, and beyond four times the right one, is wrong: it would parse for long."""
SEARCHED = 2000
"""Characters at the end of a response that are searched when nothing marks its answer."""

PROCESSOR_SECONDS, MORE_SECONDS = 1.0, 0.5
"""Computing allowed for an item, and for finding out whose fault it was that this did not do."""

_WARMING = (
    (r"\frac{1}{2}", r"\sqrt{2} - \frac{\pi}{3}"),
    (r"\frac{31-3\sqrt{53}}{2}", r"\left(\frac{-3 + \sqrt{5}}{2}\right)^2"),
    (r"\sqrt[3]{5}-2^{-1/3}", r"\log_2 3 + \ln(e-1) - \log(5)"),
    (r"2\sin\frac{\pi}{7}\cos x", r"\tan^{-1}(2) + \sin^2(3x) - \arcsin \frac{1}{3}"),
    (r"3x^3 - 2x^2y + 5x - 7", r"(x-1)(y+2)^2/(2x+3) + 2^{n-1}"),
    (r"\binom{n}{k} + \frac{n!(n-1)!}{2^{n-1}}", r"m n-\lfloor m / 2\rfloor + \lceil n \rceil |a|"),
    (r"3 + 2i", r"\frac{2-\omega^{2}-\omega i / 4}{a_{1}+b_2}"),
    (r"f(n) = q^{d(n)}", r"f(x) = x^2"),
    (r"x^2 + y^2 = 4", r"2x + 3y = \sqrt{5}"),
    (r"(-\infty, 1) \setminus \{0\}", r"\mathbb{R} \setminus \{1, 2\}"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"2\begin{pmatrix} 1 & 2 \\ 3 & x \end{pmatrix}"),
    (r"e^{-2t} \cos(\omega t)", r"C_1 e^{t} \cdot \frac{1}{s+a} \times 5"),
)
"""Pairs that between them use most of the grammar: the parser's first meeting with a construct costs ten times more."""


class OutOfTime(BaseException):
    """An item has used up its processor time. No ``except Exception`` of a library may swallow it."""


def judge_in_time(response: str, answer: str | None, gold: str, strictness: Strictness) -> dict[str, Any]:
    """``judge_maths`` with a limit on its computing, which no slowness of the machine uses up.

    Python code alone is stopped by it, and in the main thread alone; the pool's deadline stops the rest.
    """
    if threading.current_thread() is not threading.main_thread():
        return judge_maths(response, answer, gold, strictness)

    def interrupt(*_: object) -> None:
        raise OutOfTime

    signal.signal(signal.SIGPROF, interrupt)
    try:
        signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS, MORE_SECONDS)
        verdict = judge_maths(response, answer, gold, strictness)
    except OutOfTime:
        verdict = {"unknown": f"no verdict within {PROCESSOR_SECONDS + MORE_SECONDS:g} s of computing"}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return verdict


def judge_maths(response: str, answer: str | None, gold: str, strictness: Strictness | None = None) -> dict[str, Any]:
    """``{"score", "reason"}`` or ``{"unknown"}`` for a response from which ``answer`` was extracted.

    None as ``answer`` lets math-verify look for one at the end of the response.
    """
    gold = last_boxed(gold) or stated_answer(gold) or gold.rpartition(r"\boxed{")[2]
    strictness = strictness or Strictness()
    if not cleaned(gold):
        return {"unknown": "the problem has no answer to grade against"}
    if answer is not None and len(answer) > max(LONGEST_ANSWER, 4 * len(gold)):
        return {"score": 0.0, "reason": f"answer longer than {LONGEST_ANSWER} characters"}
    try:
        if answer is None:
            return _searched(response[-SEARCHED:], gold)
        correct = same(gold, answer, strictness)
    except UnreadableGold as error:
        return {"unknown": f"the answer to grade against cannot be read as mathematics ({error}): {gold[:200]!r}"}
    except (Unreadable, RecursionError) as error:
        return {"score": 0.0, "reason": f"unreadable answer ({error or type(error).__name__})"}
    except OutOfTime:
        return _exhausted(gold, strictness)
    return {"score": float(correct), "reason": ""}


def warm_up_maths() -> None:
    """Import and exercise the parser, so that no item pays for it."""
    for gold, answer in _WARMING:
        judge_maths("", answer, gold)
    judge_maths("Then $x$ may be 3 or $\\frac{1}{2}$, we do not know.", None, "2")


def _searched(ending: str, gold: str) -> dict[str, Any]:
    """The verdict on what math-verify finds in unmarked text."""
    from math_verify import parse, verify

    golds = parse(r"\boxed{" + cleaned(gold) + "}", parsing_timeout=None)  # type: ignore[arg-type]
    try:
        found = parse(ending, parsing_timeout=None, raise_on_error=True)  # type: ignore[arg-type]
    except MemoryError:
        raise
    except Exception as error:
        raise Unreadable(type(error).__name__) from error
    if not found:
        return {"score": 0.0, "reason": "no answer found"}
    return {"score": float(verify(golds, found, timeout_seconds=None)), "reason": ""}


def _exhausted(gold: str, strictness: Strictness) -> dict[str, Any]:
    """Whose fault it was that the time ran out: the gold's if even a plain answer takes too long."""
    try:
        same(gold, "7", strictness)
    except OutOfTime:
        return {"unknown": f"the answer to grade against takes too long to read: {gold[:200]!r}"}
    except (Unreadable, UnreadableGold, RecursionError):
        pass
    return {"score": 0.0, "reason": "the answer takes too long to read"}
