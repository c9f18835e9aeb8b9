"""``credo prm serve`` under load on loopback: what is lost, what is wrong, how fast, and how memory grows.

Clients keep their connections and ask one thing after the other. Most of it is sound and compared with scoring without
a server; the rest is malformed, oversized, or hung up on. At last the server is told to stop while it has work.

    python benchmarks/serving.py                                   # two random models of the demo's size
    python benchmarks/serving.py --prm MODEL --reference MODEL     # others
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

Kind = Literal["sound", "malformed", "oversized", "hang up"]
SHARES: dict[Kind, float] = {"sound": 0.88, "malformed": 0.04, "oversized": 0.03, "hang up": 0.05}
REFUSED = {"malformed": 422, "oversized": 413}
CREDO = str(Path(sys.executable).with_name("credo"))
CHARACTERS = "0123456789+-*/=#abcdefgh"
LIMIT = 65_536
"""Bytes that the server here takes as a body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one client does once."""

    kind: Kind
    body: bytes
    request: Mapping[str, Any]
    patience: float
    """Seconds until it hangs up, for those who do."""


@dataclass(slots=True, kw_only=True)
class Findings:
    """What came of a load."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    replies: list[tuple[Task, dict[str, Any]]] = field(default_factory=list)
    """To sound requests."""
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """Answers of another status than what was asked deserves."""
    retried: int = 0

    @property
    def described(self) -> str:
        """For a person."""
        ranked = sorted(self.latencies)
        p50, p99 = (1000 * ranked[int(share * (len(ranked) - 1))] for share in (0.5, 0.99))
        return (
            f"{sum(self.done.values()):,} requests in {self.seconds:.1f} s ({dict(self.done)}), "
            f"{len(ranked) / self.seconds:.0f} scored/s, p50 {p50:.0f} ms, p99 {p99:.0f} ms, "
            f"{self.retried:,} tried again after 503, wrong status {len(self.wrong)} {self.wrong[:3]}"
        )


def main() -> None:
    """Start a server, load it, compare, stop it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prm", default="")
    parser.add_argument("--reference", default="")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if not chosen.prm:
            chosen.prm, chosen.reference = random_models(Path(folder))
        server, port = started([chosen.prm, "--reference", chosen.reference, "--threads", str(chosen.threads)])
        asyncio.run(load(port, tasks(chosen.requests // 10, seed=1), Findings(), clients=chosen.clients))
        held, planned, findings = [resident(server.pid)], iter(tasks(chosen.requests, seed=2)), Findings()
        while part := list(islice(planned, chosen.requests // 5)):
            asyncio.run(load(port, part, findings, clients=chosen.clients))
            held.append(resident(server.pid))
        print(findings.described)
        shown = ", ".join(f"{mebibytes:.1f}" for mebibytes in held)
        print(f"resident memory after warming up and each fifth: {shown} MiB")
        print(f"largest difference to direct scoring {difference(findings, chosen.prm, chosen.reference):.2g}")
        print(asyncio.run(stopped_at_work(server, port, tasks(chosen.clients, seed=3))))
        print((server.communicate()[0] or "").strip().splitlines()[-1])


def random_models(folder: Path) -> tuple[str, str]:
    """Two models of the demo's shape with other weights."""
    from credo.config import ArchitectureConfig
    from credo.models.causal import build_model, save_model

    shape = ArchitectureConfig(layers=4, width=128, heads=4, positions=128, alphabet=CHARACTERS)
    for seed, name in enumerate(("prm", "reference")):
        built = build_model(shape, seed=seed)
        save_model(built.model, built.tokenizer, folder / name)
    return str(folder / "prm"), str(folder / "reference")


def started(arguments: Sequence[str]) -> tuple[subprocess.Popen[str], int]:
    """A server on a free port, ready, and that port."""
    command = [CREDO, "prm", "serve", *arguments, "--port", "0", "--max-bytes", str(LIMIT), "--device", "cpu"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith("Scoring at http://127.0.0.1:"):
            return server, int(line.split(":")[2].split("/")[0])
    raise RuntimeError(f"The server left with {server.wait()} before it was ready.")


def tasks(count: int, *, seed: int, characters: str = CHARACTERS, longest: int = 40) -> list[Task]:
    """What the clients will do, the same for the same seed."""
    draw = random.Random(seed)

    def text(low: int, high: int) -> str:
        return "".join(draw.choices(characters, k=draw.randint(low, high)))

    planned = []
    for kind in draw.choices(list(SHARES), weights=list(SHARES.values()), k=count):
        request: dict[str, Any] = {
            "prompt": text(1, longest // 4),
            "responses": [text(1, longest // 2) for _ in range(draw.randint(1, 4))],
            "level": draw.choice(["token", "step", "sequence"]),
            "form": draw.choice(["single", "accumulated"]),
            "aggregate": draw.choice(["min", "sum", "mean", "last", "product"]),
        }
        body = json.dumps(request).encode()
        if kind == "malformed":
            body = draw.choice([body[:-1], b"{}", b"[1]", body.replace(b"token", b"tokne").replace(b'"form', b'"from')])
        if kind == "oversized":
            body = body[:-1] + b" " * draw.randint(LIMIT, 3 * LIMIT) + b"}"
        planned.append(Task(kind=kind, body=body, request=request, patience=draw.choice([0.0, 0.001, 0.01, 0.05])))
    return planned


async def load(port: int, planned: Sequence[Task], findings: Findings, *, clients: int) -> None:
    """All of ``planned``, by so many clients at a time, added to ``findings``."""
    pending = iter(planned)
    started_at = time.perf_counter()
    await asyncio.gather(*(client(port, pending, findings) for _ in range(clients)))
    findings.seconds += time.perf_counter() - started_at


async def client(port: int, pending: Iterator[Task], findings: Findings) -> None:
    """Does one task after the other until there are none."""
    connection = None
    for task in pending:
        connection = connection or await asyncio.open_connection("127.0.0.1", port)
        reader, writer = connection
        if task.kind == "hang up":
            writer.write(message(task.body)[: None if task.patience else -5])
            await asyncio.sleep(task.patience)
            writer.transport.abort()
            await closed(writer)
            connection = None
            findings.done["hang up"] += 1
            continue
        begun = time.perf_counter()
        status, head, body = await asked(reader, writer, task.body)
        while status == 503:
            findings.retried += 1
            await asyncio.sleep(float(head["retry-after"]))
            status, head, body = await asked(reader, writer, task.body)
        findings.done[task.kind] += 1
        if status != REFUSED.get(task.kind, 200):
            findings.wrong.append(f"{status} to {task.kind}: {body[:200]!r}")
        elif task.kind == "sound":
            findings.latencies.append(time.perf_counter() - begun)
            findings.replies.append((task, json.loads(body)))
        if head.get("connection") == "close":
            await closed(writer)
            connection = None
    if connection:
        await closed(connection[1])


async def asked(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes
) -> tuple[int, dict[str, str], bytes]:
    """Status, header fields and body of the answer."""
    writer.write(message(body))
    await writer.drain()
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
    head = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
    return int(first.split()[1]), head, await reader.readexactly(int(head["content-length"]))


def message(body: bytes) -> bytes:
    """A request of /score as it goes over the wire."""
    head = f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def difference(findings: Findings, prm: str, reference: str) -> float:
    """The largest between a reply and what the scorer says of that request alone; infinite for one of another shape."""
    from credo.console import Console
    from credo.offline.scorer import open_scorer
    from credo.offline.service import ScoreRequest, replies, tokenised
    from credo.options.offline import ScorerOptions

    scorer = open_scorer(ScorerOptions(prm=prm, reference=reference, threads=1, device="cpu"), Console(quiet=True))
    largest = 0.0
    for task, reply in findings.replies:
        request = ScoreRequest(**{**task.request, "responses": tuple(task.request["responses"])})
        (expected,) = replies([tokenised(request, scorer=scorer, max_tokens=10**6)], scorer=scorer)
        for here, there in zip(reply["results"], expected.results, strict=True):
            if len(here["rewards"]) != len(there.rewards) or tuple(here["texts"]) != there.texts:
                return float("inf")
            pairs = zip([here["score"], *here["rewards"]], [there.score, *there.rewards], strict=True)
            largest = max(largest, *(abs(one - other) for one, other in pairs))
    return largest


async def stopped_at_work(server: subprocess.Popen[str], port: int, planned: Sequence[Task]) -> str:
    """Ends the server when it has answered the first of many sound requests; says what became of them all."""
    sound = [task for task in planned if task.kind == "sound"]
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in sound]
    waiting = [asyncio.ensure_future(asked(*pair, task.body)) for pair, task in zip(connections, sound, strict=True)]
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    os.kill(server.pid, signal.SIGTERM)
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    for _, writer in connections:
        await closed(writer)
    lost = Counter(type(answer).__name__ for answer in answers if not isinstance(answer, tuple))
    statuses = Counter(answer[0] for answer in answers if isinstance(answer, tuple))
    status = await asyncio.to_thread(server.wait, 60)
    return (
        f"SIGTERM after {len(done)} of {len(sound)} answers: statuses {dict(statuses)}, lost {dict(lost)}, "
        f"exit status {status}"
    )


async def closed(writer: asyncio.StreamWriter) -> None:
    """Closes a connection, whatever has become of it."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def resident(process: int) -> float:
    """MiB of memory that the process holds."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


if __name__ == "__main__":
    main()
