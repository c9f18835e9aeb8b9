"""Programs judged by a SandboxFusion server (arXiv 2412.00535): its ``POST /run_code``, and nothing else of it.

The server runs programs; outputs and results are compared here, so no expected one gets near a program. Asserts go
along, to a process of their own (see ``remote_tests``). What a program does is its verdict: an error, a time limit, too
much memory are failed tests. What the server does is ``Unknown``: it is asked again a few times, ever later, and
nothing waits for ever.
"""

from __future__ import annotations

import ast
import json
import random
import secrets
import threading
from base64 import b64encode
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from credo.types import Problem, Unknown, Verdict
from credo.verify import wire
from credo.verify.code_tests import Assertions, Calls, Scripts, Tests, extract_program, read_tests
from credo.verify.outputs import texts_agree, values_agree

LONGEST_PROGRAM = 1_000_000
"""Characters; a longer one counts as wrong, unread."""
_MARGIN_SECONDS = 10.0
"""For queue and start on the server, on top of the time a program has."""
_OWN_SECONDS, _OWN_MEMORY_MB = 5.0, 1024
"""For what runs calls and asserts there, on top of what the program may take."""
_LONGEST_ANSWER = 64 << 20
_LONGEST_OUTPUT = 1 << 20
"""Bytes of standard output that a server returns; it cuts off the rest."""
_SPARE_OUTPUT = 1 << 12
_ALMOST = 0.98  # a verdict counts as correct from 0.99 on, and a program that fails a test is not
_HEALTHY = (("def f(x):\n    return x + 1\n", 1.0), ("def f(x):\n    return x\n", 0.0))


class ServerFailure(Exception):
    """The server failed, whatever the program was; it may be otherwise the next time."""


class Refusal(Exception):
    """The server will not have this request, however often it is sent."""


class SandboxVerifier:
    """Judges problems of kind ``code``; their tests are ``extra["tests"]``, in the forms of ``code_tests``."""

    def __init__(
        self,
        url: str,
        *,
        concurrent: int = 16,
        seconds: float = 10.0,
        total_seconds: float = 60.0,
        memory_mb: int = 1024,
        partial: bool = True,
        float_tolerance: float = 0.0,
        attempts: int = 4,
        backoff: float = 0.5,
    ) -> None:
        """``url`` is ``http://host:port``. At most ``concurrent`` requests are in flight; a request is tried
        ``attempts`` times, the waits between them doubling from ``backoff`` seconds on.

        The others are as in ``ProgramVerifier``. Raises ValueError if nothing that judges programs answers there.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"'{url}' is not the address of a sandbox server; write http://HOST:PORT.")
        self._url, self._parts = url, parts
        self._seconds, self._total_seconds, self._memory_mb = seconds, total_seconds, memory_mb
        self._partial, self._tolerance = partial, float_tolerance
        self._attempts, self._backoff = attempts, backoff
        self._closing = threading.Event()
        self._threads = ThreadPoolExecutor(concurrent, thread_name_prefix="sandbox")
        try:
            self._check_health()
        except BaseException:
            self.close()
            raise

    def verify(self, tasks: Sequence[tuple[Problem, str]]) -> list[Verdict | Unknown]:
        """One judgement for each task, in their order."""
        futures = [self._threads.submit(self._judged, problem, response) for problem, response in tasks]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Start nothing more; what is in flight ends by its own limits."""
        self._closing.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _check_health(self) -> None:
        """Raises ValueError unless the server tells a right program from a wrong one."""
        tests = {"asserts": "assert f(1) == 2"}
        for program, score in _HEALTHY:
            judgement = self._judge(program, tests)
            if isinstance(judgement, Unknown):
                raise ValueError(f"The sandbox server at {self._url} does not judge programs: {judgement.reason}.")
            if judgement.score != score:
                raise ValueError(
                    f"The sandbox server at {self._url} judges a test program wrongly (score {judgement.score:g}, "
                    f"expected {score:g}; {judgement.reason}), so its verdicts cannot be trusted."
                )

    def _judged(self, problem: Problem, response: str) -> Verdict | Unknown:
        begun = monotonic()
        judgement = self._judge(extract_program(response), problem.extra.get("tests"))
        return replace(judgement, reason=judgement.reason[:500], seconds=monotonic() - begun)

    def _judge(self, program: str, tests: object) -> Verdict | Unknown:
        try:
            form = read_tests(tests)
            if len(program) > LONGEST_PROGRAM or not _is_text(program):
                return Verdict(score=0.0, reason="not a program")
            passed, total, reason = self._run_tests(program, form)
        except (ServerFailure, Refusal, ValueError, RecursionError) as error:
            return Unknown(reason=str(error))
        share = 1.0 if passed == total else min(passed / total, _ALMOST) if self._partial else 0.0
        return Verdict(score=share, reason=f"{passed} of {total} tests" + (f"; first: {reason}" if reason else ""))

    def _run_tests(self, program: str, tests: Tests) -> tuple[int, int, str]:
        """How many tests passed, of how many, and what the first failure looked like. ValueError: unusable tests."""
        task = {"program": program, "prefix": "\n".join(part for part in (tests.imports, tests.prompt) if part)}
        limits = {
            "seconds": min(tests.time_limit or self._seconds, self._total_seconds),
            "memory_mb": min(tests.memory_mb or self._memory_mb, self._memory_mb),
        }
        match tests.form:
            case Scripts() as form:
                return self._run_scripts(form, task, **limits)
            case Calls() as form:
                return self._run_calls(form, {"task": task, **limits})
            case Assertions() as form:
                parts = {"source": form.source, "entry_point": form.entry_point}
                parts |= {"imports": tests.imports, "prompt": tests.prompt}
                order = {"task": task, "tests": parts | {"stop": not self._partial}, **limits}
                outcome = self._ordered(order, count=max(1, form.source.count("assert")))
                if "unknown" in outcome:
                    raise ValueError(outcome["unknown"])
                return (
                    (outcome["passed"], outcome["total"], outcome["reason"]) if outcome else (0, 1, "it ends the tests")
                )

    def _run_scripts(self, form: Scripts, task: Mapping[str, str], **limits: Any) -> tuple[int, int, str]:
        passed, reason = 0, ""
        source = f"{task['prefix']}\n{task['program']}" if task["prefix"] else task["program"]
        ends = monotonic() + self._total_seconds
        for place, (given, expected) in enumerate(form.pairs, start=1):
            if len(expected.encode("utf-8", "replace")) > _LONGEST_OUTPUT:
                raise ValueError("an expected output is longer than what a server returns")
            output, fault = self._run(source, given, {}, **limits)
            right = not fault and texts_agree(expected, output, self._tolerance)
            passed += right
            reason = reason or ("" if right else f"test {place}: {fault or 'another output'}")
            if reason and (not self._partial or monotonic() >= ends):
                break
        return passed, len(form.pairs), reason

    def _run_calls(self, form: Calls, order: dict[str, Any]) -> tuple[int, int, str]:
        sizes = [8 * len(json.dumps(expected)) + _SPARE_OUTPUT for _, expected in form.pairs]
        if sum(len(json.dumps(expected)) for _, expected in form.pairs) > _LONGEST_OUTPUT // 2:
            raise ValueError("the expected results are longer than what a server returns")
        calls = [[wire.encode(arguments), most] for (arguments, _), most in zip(form.pairs, sizes, strict=True)]
        answer = self._ordered({**order, "function": form.function, "calls": calls}, count=len(calls))
        passed, reason = 0, "" if answer else "it ends its tests"
        for place, (pair, result) in enumerate(zip(form.pairs, answer.get("results", ()), strict=False), start=1):
            expected, value = pair[1], result.get("value")
            agrees = values_agree(expected, value, self._tolerance) or (
                form.wrapped and values_agree(expected[0], value, self._tolerance)
            )
            passed += "value" in result and agrees
            if not ("value" in result and agrees):
                reason = reason or f"test {place}: {result.get('wrong', 'another result')}"
        return passed, len(form.pairs), reason

    def _ordered(self, order: Mapping[str, Any], *, count: int) -> dict[str, Any]:
        """The report on an order of ``remote_tests``; empty if the program put an end to that or to its server's
        patience. ServerFailure: it failed there by itself."""
        token = secrets.token_hex(16)
        seconds = min(order["seconds"] * count, self._total_seconds)
        sent = json.dumps({**order, "token": token, "total_seconds": seconds})
        code = "from credo.verify.remote_tests import main\nmain()\n"
        limits = {"seconds": seconds + _OWN_SECONDS, "memory_mb": order["memory_mb"] + _OWN_MEMORY_MB}
        printed, fault = self._run(code, sent, _sent_along(), **limits)
        _, found, report = printed.rpartition(token)
        if not found and fault.startswith("exit status 1,"):
            raise ServerFailure(f"what runs the tests fails on the server: {fault}")
        try:
            return json.loads(report) if found else {}
        except ValueError:  # cut off: the program has returned far too much
            return {}

    def _run(
        self, code: str, stdin: str, files: Mapping[str, str], *, seconds: float, memory_mb: int
    ) -> tuple[str, str]:
        """What a program prints, and why it failed if it did. ServerFailure, every time; Refusal."""
        request = {"code": code, "language": "python", "stdin": stdin, "files": files}
        request |= {"run_timeout": seconds, "memory_limit_MB": int(memory_mb)}
        body = json.dumps(request).encode("ascii")
        failure, wait = "", self._backoff
        for attempt in range(self._attempts):
            if attempt and self._closing.wait(wait * random.uniform(0.5, 1.0)):
                raise ServerFailure("the verifier was closed")
            wait *= 2 if attempt else 1
            try:
                return ran(self._post(body, seconds + _MARGIN_SECONDS))
            except ServerFailure as error:
                failure = str(error)
            except (OSError, HTTPException) as error:
                failure = f"{type(error).__name__}: {error}"
        raise ServerFailure(f"the sandbox server failed {self._attempts} times, the last time with {failure}")

    def _post(self, body: bytes, timeout: float) -> Any:
        connect = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        connection = connect(self._parts.hostname or "", self._parts.port, timeout=timeout)
        try:
            path = f"{self._parts.path.rstrip('/')}/run_code"
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            if reply.status == 429 or reply.status >= 500:
                raise ServerFailure(f"HTTP status {reply.status}")
            if reply.status != 200:
                raise Refusal(f"the sandbox server refuses the request with HTTP status {reply.status}")
            content = reply.read(_LONGEST_ANSWER)
        finally:
            connection.close()
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ServerFailure("an answer that is not JSON") from error


def ran(answer: Any) -> tuple[str, str]:
    """Standard output, and why the program failed ("" if it did not). ServerFailure: the answer tells neither."""
    match answer:
        case {"status": "SandboxError"}:
            raise ServerFailure(f"its own error: {str(answer.get('message'))[:200]}")
        case {"status": "Success" | "Failed", "run_result": {"status": "TimeLimitExceeded"}}:
            return "", "time limit exceeded"
        case {
            "status": "Success" | "Failed",
            "run_result": {"status": "Finished", "return_code": int(status), "stdout": str() | None as printed},
        }:
            words = (answer["run_result"].get("stderr") or "").strip().splitlines()
            return (
                printed or "",
                "" if status == 0 else f"exit status {status}{f', {words[-1][:150]}' if words else ''}",
            )
    raise ServerFailure(f"an answer of another form: {str(answer)[:100]}")


@cache
def _sent_along() -> Mapping[str, str]:
    """Our files that run there, by their places there, in base64: two that are started, and all that they import."""
    texts = {"credo/__init__.py": b"", "credo/verify/__init__.py": b""}
    pending = ["remote_tests", "zygote"]
    while pending:
        name = pending.pop()
        if (place := f"credo/verify/{name}.py") not in texts:
            texts[place] = Path(__file__).with_name(f"{name}.py").read_bytes()
            for node in ast.walk(ast.parse(texts[place])):
                if isinstance(node, ast.ImportFrom) and node.module == "credo.verify":
                    pending += [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("credo.verify."):
                    pending.append((node.module or "").removeprefix("credo.verify."))
    return {place: b64encode(text).decode("ascii") for place, text in texts.items()}


def _is_text(program: str) -> bool:
    try:
        program.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
