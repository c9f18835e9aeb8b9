"""A server that runs programs, in a thread here, and misbehaves: verdicts when it is well, unknowns when it is not."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from credo.types import Problem, Unknown, Verdict
from credo.verify.http import SandboxVerifier, ServerFailure, ran

Misdeed = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """SandboxFusion's ``/run_code`` as far as it is used. ``misdeeds`` are done to the next requests, one each."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.misdeeds: list[Misdeed] = []
        self.always: Misdeed | None = None
        self.now = self.most = 0
        self._lock = threading.Lock()
        server = self

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    server.requests.append(request)
                    misdeed = server.misdeeds.pop(0) if server.misdeeds else server.always
                    server.now += 1
                    server.most = max(server.most, server.now)
                ran = None if misdeed or self.path != "/run_code" else run_code(request)
                with server._lock:
                    server.now -= 1  # before the answer, after which the next request may come
                if misdeed:
                    misdeed(self)
                else:
                    answer(self, ran, 200 if ran else 404)

            def log_message(self, format: str, *values: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def answer(connection: BaseHTTPRequestHandler, value: object, status: int = 200) -> None:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    connection.send_response(status)
    connection.send_header("Content-Length", str(len(body)))
    connection.end_headers()
    connection.wfile.write(body)


def run_code(request: Mapping[str, Any]) -> dict[str, Any]:
    assert request["language"] == "python"
    with tempfile.TemporaryDirectory() as folder:
        for name, content in request["files"].items():
            Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
            Path(folder, name).write_bytes(base64.b64decode(content))
        Path(folder, "main.py").write_text(request["code"])
        result: dict[str, Any]
        try:
            ended = subprocess.run(
                [sys.executable, "main.py"],
                cwd=folder,
                input=request["stdin"],
                capture_output=True,
                text=True,
                timeout=request["run_timeout"],
            )
            result = {"status": "Finished", "return_code": ended.returncode}
            result |= {"stdout": ended.stdout, "stderr": ended.stderr}
        except subprocess.TimeoutExpired:
            result = {"status": "TimeLimitExceeded", "return_code": None, "stdout": "", "stderr": ""}
    success = result["return_code"] == 0
    return {"status": "Success" if success else "Failed", "message": "", "compile_result": None, "run_result": result}


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def server(running: Server) -> Server:
    running.misdeeds, running.always, running.requests, running.most = [], None, [], 0
    return running


def verifier(server: Server, **options: Any) -> SandboxVerifier:
    values = {"seconds": 5.0, "partial": False, "backoff": 0.01, "concurrent": 2} | options
    made = SandboxVerifier(server.url, **values)
    server.requests.clear()
    return made


@pytest.fixture(scope="module")
def shared(running: Server) -> Iterator[SandboxVerifier]:
    made = verifier(running, attempts=3)
    yield made
    made.close()


def task(tests: Mapping[str, Any], program: str) -> tuple[Problem, str]:
    return Problem(id="1", kind="code", prompt="", answer="", source="t", extra={"tests": tests}), program  # type: ignore[arg-type]


ONE = {"inputs": ["1 2\n"], "outputs": ["3\n"]}
ADD = {"inputs": ["1 2\n", "5 6\n"], "outputs": ["3\n", "11\n"]}
CALL = {"inputs": [[1, 2], [5, 6]], "outputs": [[3], [11]], "fn_name": "add"}
ASSERTS = {"asserts": "assert add(1, 2) == 3\nassert add([1], [2]) == [1, 2]"}
CHECK = {"asserts": "def check(candidate):\n    assert candidate(1, 2) == 3\n", "entry_point": "add"}
PLUS = "def add(a, b):\n    return a + b\n"
MINUS = "def add(a, b):\n    return a - b\n"


def scores(judged: list[Verdict | Unknown]) -> list[float | None]:
    return [verdict.score if isinstance(verdict, Verdict) else None for verdict in judged]


def test_every_form_of_tests(server: Server):
    tasks = [
        task(ADD, "print(sum(map(int, input().split())))"),
        task(ADD, "print(3)"),
        task(ADD, "print(3"),
        task(CALL, PLUS + "print('noise')"),
        task(CALL, "class Solution:\n    def add(self, a, b):\n        return a + b"),
        task(CALL, MINUS),
        task(ASSERTS, PLUS),
        task(ASSERTS, MINUS),
        task(CHECK, PLUS),
        task(CHECK, "raise SystemExit(0)"),
        task(CHECK, ""),
        task(CHECK, "x = '\ud800'"),
    ]
    judge = verifier(server)
    server.most = 0
    judged = judge.verify(tasks)
    assert scores(judged) == [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0], judged
    assert "1 of 2 tests" in judged[1].reason
    assert "SyntaxError" in judged[2].reason
    assert server.most == 2, "the limit on requests in flight"
    sent = json.dumps([request | {"files": {}} for request in server.requests if "assert" not in request["stdin"]])
    assert "[1, 2]" in sent
    without_tokens = re.sub(r"[0-9a-f]{12,}", "", sent).replace(": 11", "")
    assert "11" not in without_tokens, "what is expected stays here"


def test_partial_scores_count_every_test(server: Server):
    judge = verifier(server, partial=True)
    tasks = [task(ADD, "print(11)"), task(CALL, "def add(a, b): return 3"), task(ASSERTS, "def add(a, b): return 3")]
    assert scores(judge.verify(tasks)) == [0.5, 0.5, 0.5]


def test_programs_that_want_more_than_they_earn(server: Server):
    endless = verifier(server, seconds=0.7).verify([task(ADD, "while True: pass"), task(CHECK, "while True: pass")])
    assert scores(endless) == [0.0, 0.0]
    assert "time" in endless[0].reason
    programs = [
        "import os, sys\nprint('x', flush=True)\nos._exit(0)",
        "class Same:\n    def __eq__(self, other): return True\ndef add(a, b): return Same()",
        "import os\nfor fd in range(3, 10):\n    try: os.write(fd, b'{\"passed\": 1}')\n    except OSError: pass",
        "def add(a, b):\n    import sys; sys.exit(0)",
        "import builtins\nbuiltins.AssertionError = ValueError\nassert False",
    ]
    assert 1.0 not in scores(verifier(server, seconds=1.0).verify([task(CHECK, program) for program in programs]))


@pytest.mark.parametrize(
    "tests",
    [
        {},
        {"inputs": [], "outputs": []},
        {"inputs": ["1"], "outputs": []},
        {"asserts": "assert ("},
        {"inputs": ["1"], "outputs": ["x" * (2 << 20)]},
    ],
    ids=range(5),
)
def test_tests_that_judge_nothing_are_unknown(tests: Mapping[str, Any], server: Server, shared: SandboxVerifier):
    assert scores(shared.verify([task(tests, PLUS)])) == [None]


def status(code: int) -> Misdeed:
    return lambda connection: answer(connection, {"detail": "no"}, code)


def reset(connection: BaseHTTPRequestHandler) -> None:
    connection.connection.close()


def own_error(connection: BaseHTTPRequestHandler) -> None:
    answer(connection, {"status": "SandboxError", "message": "no room", "run_result": None})


MISDEEDS: dict[str, Misdeed] = {
    "500": status(500),
    "429": status(429),
    "garbage": lambda connection: answer(connection, b"<html>"),
    "short": lambda connection: answer(connection, {"status": "Success"}),
    "list": lambda connection: answer(connection, []),
    "reset": reset,
    "own": own_error,
}


@pytest.mark.parametrize("misdeed", MISDEEDS.values(), ids=MISDEEDS)
def test_what_passes_is_asked_again_and_what_stays_is_unknown(
    misdeed: Misdeed, server: Server, shared: SandboxVerifier
):
    asked = [task(ONE, "print(3)")]
    server.misdeeds = [misdeed] * 2
    assert scores(shared.verify(asked)) == [1.0]
    assert len(server.requests) == 3
    server.always = misdeed
    (judged,) = shared.verify(asked)
    assert isinstance(judged, Unknown)
    assert "3 times" in judged.reason
    assert len(server.requests) == 6
    server.always = None
    assert scores(shared.verify(asked)) == [1.0], "and it comes back"


def test_a_request_the_server_will_not_have_is_asked_once(server: Server, shared: SandboxVerifier):
    server.always = status(422)
    (judged,) = shared.verify([task(ONE, "print(3)")])
    assert isinstance(judged, Unknown)
    assert "422" in judged.reason
    assert len(server.requests) == 1


def test_a_server_that_hangs_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("credo.verify.http._MARGIN_SECONDS", 0.1)
    judge = verifier(server, attempts=2)
    server.always = lambda connection: time.sleep(1.5)
    started = time.monotonic()
    (judged,) = judge.verify([task({**ADD, "time_limit": 0.2}, "print(3)")])
    assert time.monotonic() - started < 1.4
    assert isinstance(judged, Unknown)
    time.sleep(1.0)


def test_nothing_starts_without_a_sound_server(server: Server):
    with pytest.raises(ValueError, match="HOST:PORT"):
        SandboxVerifier("127.0.0.1:8080")
    with pytest.raises(ValueError, match=r"does not judge programs.*refused"):
        SandboxVerifier("http://127.0.0.1:9", attempts=2, backoff=0.01)
    server.always = status(404)
    with pytest.raises(ValueError, match="404"):
        verifier(server)
    finished = {"status": "Finished", "return_code": 0, "stdout": "", "stderr": ""}
    server.always = lambda connection: answer(connection, {"status": "Success", "run_result": finished})
    with pytest.raises(ValueError, match="judges a test program wrongly"):
        verifier(server)


def test_closing_ends_the_waiting(server: Server):
    judge = verifier(server, attempts=9, backoff=60.0)
    server.always = status(500)
    judged: list[Verdict | Unknown] = []
    thread = threading.Thread(target=lambda: judged.extend(judge.verify([task(CHECK, PLUS)])))
    thread.start()
    time.sleep(0.3)
    judge.close()
    judge.close()
    thread.join(5)
    assert scores(judged) == [None]


def test_what_an_answer_says():
    def answer_of(outcome: str, **result: Any) -> dict[str, Any]:
        return {"status": outcome, "message": "m", "run_result": result}

    finished = {"status": "Finished", "stdout": "out", "stderr": "a\nlast\n"}
    assert ran(answer_of("Success", **finished, return_code=0)) == ("out", "")
    assert ran(answer_of("Failed", **finished, return_code=1)) == ("out", "exit status 1, last")
    assert ran(answer_of("Failed", status="TimeLimitExceeded"))[1] == "time limit exceeded"
    for other in (answer_of("SandboxError"), answer_of("Failed", status="Error"), {"status": "Success"}, [], "x", None):
        with pytest.raises(ServerFailure):
            ran(other)
