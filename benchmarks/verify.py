"""How far verdicts can be trusted: agreement with labels, identity of golds, speed, order, threads, kills and poison.

Reads the shared samples (see ``--folder``); nothing here is needed to run credo.

    python benchmarks/verify.py                # every part
    python benchmarks/verify.py agreement kill # some of them
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from credo.types import Problem, Unknown, Verdict
from credo.verify.pool import JudgePool

GOLDS = ("math500", "amc83", "aime90", "minerva272", "olympiadbench675", "gsm8k_test", "svamp1000")
POISON = (
    r"9^{9^{9^{9}}}", r"(((100!)!)!)!", r"\binom{10^{9}}{5\cdot10^{8}}", r"10^{10^{10}}", r"(x+y+z+1)^{3000}",
    "1e999999999", "{" * 5000 + "1" + "}" * 5000, r"\frac{" * 100 + "1" + "}{2}" * 100, "(" * 100_000,
    "1" * 999_000, r"\sum_{n=1}^{10^9} n^{-2}", r"\int_0^1 e^{x^{x^x}} dx", r"\prod_{k=1}^{99999} k", "99999!",
    r"\sin(10^{99999})", r"\sqrt{1+" * 50 + "1" + "}" * 50, r"(10^{5})^{(10^{5})}", r"\exp(\exp(\exp(\exp(9))))",
    "\ud800\udfff", "1\x00/3",
)  # fmt: skip
Task = tuple[Problem, str]


def main() -> None:
    """Run the parts that are named, or all."""
    parts: dict[str, Callable[[JudgePool, Path], None]] = {
        "agreement": agreement, "suite": suite, "identity": identity, "same": same_again, "kill": kill, "poison": poison
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(parts)}; all without")
    parser.add_argument("--folder", type=Path, default=Path("../shared/data"))
    chosen = parser.parse_args()
    for name in chosen.parts or parts:
        pool = JudgePool()
        pool.verify([task("1", r"\boxed{1}")] * 2)  # both workers ready
        print(f"\n{name}")
        parts[name](pool, chosen.folder)
        pool.close()


def agreement(pool: JudgePool, folder: Path) -> None:
    """Labelled responses: what is agreed on, and how fast."""
    rows = read(folder / "verifier/verifier_agreement_dev.jsonl")
    judged = timed(pool, [task(row["gold"], row["response_tail"]) for row in rows])
    wrong = [(row, verdict) for row, verdict in zip(rows, judged, strict=True) if score(verdict) != float(row["label"])]
    print(f"  agreement {len(rows) - len(wrong)}/{len(rows)}")
    print(f"  wrong accepted {sum(score(verdict) == 1.0 for _, verdict in wrong)}")
    for row, verdict in wrong:
        print(f"  {row['id']} label {row['label']} gold {row['gold']!r}: {verdict}")


def suite(pool: JudgePool, folder: Path) -> None:
    """math-verify's own cases."""
    rows = read(folder / "verifier/mathverify_suite.jsonl")
    judged = timed(pool, [task(row["gold"], row["pred"]) for row in rows])
    wrong = [row for row, verdict in zip(rows, judged, strict=True) if score(verdict) != float(row["expected"])]
    print(f"  as expected {len(rows) - len(wrong)}/{len(rows)}")
    for row in wrong:
        print(f"  {row['id']} expected {row['expected']} gold {row['gold'][:60]!r} pred {row['pred'][-60:]!r}")


def identity(pool: JudgePool, folder: Path) -> None:
    """Every gold, boxed, against itself."""
    for name in GOLDS:
        golds = [row["answer"] for row in read(folder / f"math/{name}.jsonl")]
        golds = [gold[0] if isinstance(gold, list) else gold for gold in golds]
        judged = pool.verify([task(gold, rf"Thus $\boxed{{{gold}}}$.") for gold in golds])
        print(f"  {name}: {dict(Counter('unknown' if isinstance(v, Unknown) else v.score for v in judged))}")


def same_again(pool: JudgePool, folder: Path) -> None:
    """The same verdicts on a second run, in a thread, and in another order."""
    tasks = [task(row["gold"], row["response_tail"]) for row in read(folder / "verifier/verifier_agreement_dev.jsonl")]
    first = scores(pool.verify(tasks))
    print("  again:", scores(pool.verify(tasks)) == first)
    there: list[float | None] = []
    thread = threading.Thread(target=lambda: there.extend(scores(pool.verify(tasks))))
    thread.start()
    thread.join()
    print("  in a thread:", there == first)
    order = random.Random(0).sample(range(len(tasks)), len(tasks))
    print("  in another order:", scores(pool.verify([tasks[i] for i in order])) == [first[i] for i in order])


def kill(pool: JudgePool, folder: Path) -> None:
    """A worker is killed every half second in mid-batch."""
    tasks = [task(row["gold"], row["response_tail"]) for row in read(folder / "verifier/verifier_agreement_dev.jsonl")]
    expected = scores(pool.verify(tasks))
    done = threading.Event()
    killed: list[int] = []

    def assassin() -> None:
        while len(killed) < 3 and not done.wait(0.5):
            workers = [worker.process for worker in pool._workers if worker.process and worker.errand]
            if workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(workers[0].pid, signal.SIGKILL)
                    killed.append(workers[0].pid)

    thread = threading.Thread(target=assassin)
    thread.start()
    found = scores(pool.verify(tasks))
    done.set()
    thread.join()
    print(f"  killed {len(killed)}; verdicts lost {sum(a != b for a, b in zip(expected, found, strict=True))}")


def poison(pool: JudgePool, folder: Path) -> None:
    """A hundred answers made to exhaust time or memory."""
    answers = [rf"\boxed{{{text}}}" for text in POISON for _ in range(4)] + [f"answer is {text}" for text in POISON]
    judged = timed(pool, [task(r"\sqrt{2}", answer) for answer in answers])
    print(f"  rewarded {sum(score(verdict) == 1.0 for verdict in judged)} of {len(judged)}, "
          f"unknown {sum(isinstance(verdict, Unknown) for verdict in judged)}")  # fmt: skip


def timed(pool: JudgePool, tasks: Sequence[Task]) -> list[Verdict | Unknown]:
    """The judgements, with their speed printed."""
    started = time.perf_counter()
    judged = pool.verify(tasks)
    elapsed = time.perf_counter() - started
    seconds = sorted(verdict.seconds for verdict in judged)
    p50, p99 = (1000 * seconds[int(share * (len(seconds) - 1))] for share in (0.5, 0.99))
    print(f"  {len(tasks) / elapsed:.0f}/s, an item p50 {p50:.1f} p99 {p99:.0f} max {1000 * seconds[-1]:.0f} ms")
    return judged


def task(gold: str, response: str) -> Task:
    """A mathematical problem with this answer, and a response to it."""
    return Problem(id="0", kind="math", prompt="", answer=gold, source="benchmark", extra={}), response


def score(verdict: Verdict | Unknown) -> float | None:
    """The score; None where it is unknown."""
    return None if isinstance(verdict, Unknown) else verdict.score


def scores(judged: Sequence[Verdict | Unknown]) -> list[float | None]:
    """The scores of many judgements."""
    return [score(verdict) for verdict in judged]


def read(path: Path) -> list[dict]:
    """The rows of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


if __name__ == "__main__":
    main()
