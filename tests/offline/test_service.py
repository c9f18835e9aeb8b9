"""Requests and replies: equal to credo prm score, whatever they are scored with, and refusals that say why."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPConnection
from typing import Any

import pytest
from tiny import tiny_model

from credo.console import Console
from credo.data.responses import Response
from credo.offline.scorer import Scorer, open_scorer
from credo.offline.service import (
    Line,
    ScoreReply,
    ScoreRequest,
    Tokenised,
    application,
    replies,
    scoring_line,
    tokenised,
)
from credo.offline.serving import server_of
from credo.offline.turns import Turns
from credo.options.offline import AggregationOptions, ScorerOptions

LIMIT = 10.0
ASKED = {"prompt": "ab=", "responses": ["aab", "c"]}
LEVELS: Any = ("token", "step", "sequence")
Ask = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("phi", "ref")):
        tiny_model(folder / name, seed=seed, alphabet="abcd=\n ")
    options = ScorerOptions(prm=str(folder / "phi"), reference=str(folder / "ref"), threads=1, device="cpu")
    return open_scorer(options, Console(quiet=True))


@pytest.fixture(scope="module")
def ask(scorer: Scorer) -> Iterator[Ask]:
    line = scoring_line(scorer, max_tokens=40, places=8)
    with Listening(line) as asks:
        yield asks


class Listening:
    """``line`` behind HTTP, in this process; gives what asks it."""

    def __init__(self, line: Line, *, seconds: float = LIMIT) -> None:
        self.line = line
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.server = server_of(application(line, {"prm": "phi"}, max_bytes=2000, seconds=seconds))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})

    def __enter__(self) -> Ask:
        self.thread.start()
        return self.asks

    def __exit__(self, *raised: object) -> None:
        self.server.should_exit = True
        self.thread.join(LIMIT)
        self.listener.close()
        self.line.close(LIMIT)
        assert not self.thread.is_alive()

    def asks(self, path: str = "/score", body: Any = None, *, plain: bool = False) -> tuple[int, Any]:
        """Status and body of the answer; ``body`` as it stands if it is bytes."""
        connection = HTTPConnection("127.0.0.1", self.listener.getsockname()[1], timeout=LIMIT)
        sent = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        connection.request("POST" if sent else "GET", path, sent, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
        connection.close()
        return answer.status, said.decode() if plain else json.loads(said)


def direct(scorer: Scorer, text: str, *, finished: bool = True, **aggregation: Any) -> Any:
    response = Response(prompt="ab=", text=text, score=None, problem="", source="", finished=finished, row={})
    return scorer.scored([response], AggregationOptions(**aggregation))[0]


@pytest.mark.parametrize("aggregate", ["min", "sum", "mean", "last", "product"])
@pytest.mark.parametrize("level", ["token", "step"])
@pytest.mark.parametrize("form", ["single", "accumulated"])
def test_scores_are_those_of_prm_score(scorer: Scorer, aggregate: Any, level: Any, form: Any):
    request = ScoreRequest(prompt="ab=", responses=("aa\nb", "c"), level=level, form=form, aggregate=aggregate)
    (reply,) = replies([tokenised(request, scorer=scorer, max_tokens=99)], scorer=scorer)
    for text, found in zip(request.responses, reply.results, strict=True):
        expected = direct(scorer, text, aggregate=aggregate, level=level, form=form)
        assert found.score == pytest.approx(expected.score, abs=1e-6)


def test_rewards_come_with_what_they_belong_to(scorer: Scorer):
    request: dict[str, Any] = {"prompt": "ab=", "responses": ("aa\nb",)}
    asked = [tokenised(ScoreRequest(**request, level=level), scorer=scorer, max_tokens=99) for level in LEVELS]
    token, step, whole = (reply.results[0] for reply in replies(asked, scorer=scorer))
    expected = direct(scorer, "aa\nb")
    assert token.texts == ("a", "a", "\n", "b", "<eos>")
    assert token.rewards == pytest.approx(expected.token_rewards.tolist(), abs=1e-6)
    assert step.texts == ("aa\n", "b<eos>")
    assert step.rewards == pytest.approx(expected.step_rewards.tolist(), abs=1e-6)
    assert whole.texts == ()
    assert whole.rewards == pytest.approx([sum(token.rewards)], abs=1e-6)


def test_a_response_that_goes_on_has_no_end_token(scorer: Scorer):
    request = ScoreRequest(prompt="ab=", responses=("aab",), finished=False, level="token")
    (reply,) = replies([tokenised(request, scorer=scorer, max_tokens=99)], scorer=scorer)
    assert reply.results[0].texts == ("a", "a", "b")
    assert reply.results[0].score == pytest.approx(direct(scorer, "aab", finished=False).score, abs=1e-6)


def test_what_is_scored_together_does_not_matter(scorer: Scorer):
    requests = [
        tokenised(ScoreRequest(prompt="a" * n, responses=("b" * n, "c")), scorer=scorer, max_tokens=99)
        for n in range(1, 7)
    ]
    together = replies(requests, scorer=scorer)
    for request, reply in zip(requests, together, strict=True):
        (alone,) = replies([request], scorer=scorer)
        for one, other in zip(reply.results, alone.results, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-6)


def test_over_http(ask: Ask, scorer: Scorer):
    status, reply = ask(body=ASKED)
    assert status == 200
    assert [found["score"] for found in reply["results"]] == pytest.approx(
        [direct(scorer, text).score for text in ("aab", "c")], abs=1e-6
    )
    messages = [{"role": "user", "content": "ab="}]
    assert ask(body={"messages": messages, "responses": ["aab", "c"]}) == (200, reply)


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (b'{"prompt": "ab=", "responses": ["a"]', 422, "JSON"),
        (b"[" * 1500, 400, "body"),
        (b"\xff\xfe{", 400, "body"),
        (b" " * 2001, 413, "2,000 bytes"),
        (["a"], 422, "dictionary"),
        ({"prompt": "ab="}, 422, "responses"),
        (ASKED | {"responses": []}, 422, "responses is empty"),
        (ASKED | {"responses": [1]}, 422, "responses.0"),
        (ASKED | {"respones": ["a"]}, 422, "respones"),
        (ASKED | {"messages": [{"role": "user", "content": "a"}]}, 422, "not both"),
        ({"responses": ["a"]}, 422, "prompt"),
        ({"responses": ["a"], "messages": []}, 422, "messages"),
        ({"responses": ["a"], "messages": [{"role": "wizard", "content": "a"}]}, 422, "messages.0.role"),
        (ASKED | {"level": "word"}, 422, "level"),
        (ASKED | {"aggregate": "__import__('os')"}, 422, "aggregate"),
        (ASKED | {"step_boundary": "regex"}, 422, "step_boundary"),
        (ASKED | {"level": float("nan")}, 422, "level"),
        (ASKED | {"responses": ["\ud800"]}, 422, "surrogate"),
        ({"prompt": "", "responses": ["a"]}, 422, "no token"),
        (ASKED | {"responses": ["a" * 20]}, 422, "16 tokens"),
        (ASKED | {"responses": ["abc"] * 6}, 422, "40 tokens"),
    ],
)
def test_refusals_say_why(body: Any, status: int, named: str, ask: Ask):
    found, reply = ask(body=body)
    assert (found, named in reply["detail"]) == (status, True), reply
    assert ask(body=ASKED)[0] == 200


def test_health_metrics_and_description(ask: Ask):
    ask(body=ASKED)
    assert ask("/health") == (200, {"status": "ready", "waiting": 0, "prm": "phi"})
    status, counters = ask("/metrics", plain=True)
    assert status == 200
    values = dict(line.rsplit(" ", 1) for line in counters.splitlines())
    assert int(values['credo_answers_total{status="200"}']) >= 1
    assert int(values["credo_scored_tokens_total"]) >= 11
    described = ask("/openapi.json")[1]
    assert set(described["paths"]["/score"]["post"]["responses"]) >= {"200", "413", "422", "503", "504"}
    assert described["components"]["schemas"]["ScoreRequest"]["properties"]["finished"]["description"]
    assert ask("/absent")[0] == 404


class Held:
    """A line of one place whose work waits until it may go on."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.scored: list[str | None] = []
        self.line: Line = Turns(self.prepare, lambda request: 1, self.work, budget=1, places=1)

    def prepare(self, request: ScoreRequest) -> Tokenised:
        return Tokenised(request=request, rows=())

    def work(self, requests: Sequence[Tokenised]) -> list[ScoreReply]:
        self.begun.set()
        assert self.go.wait(LIMIT)
        self.scored += [request.request.prompt for request in requests]
        return [ScoreReply(results=()) for _ in requests]


def test_one_more_than_may_wait_is_told_to_come_back_and_who_hangs_up_makes_place():
    held = Held()
    service = Listening(held.line)

    async def story() -> None:
        first = asyncio.create_task(asyncio.to_thread(ask, body=ASKED | {"prompt": "first"}))
        await asyncio.to_thread(held.begun.wait, LIMIT)
        impatient = HTTPConnection("127.0.0.1", service.listener.getsockname()[1])
        body = json.dumps(ASKED | {"prompt": "impatient"})
        impatient.request("POST", "/score", body, {"Content-Type": "application/json"})
        while not held.line.waiting:
            await asyncio.sleep(0.01)
        assert (await asyncio.to_thread(ask, body=ASKED))[0] == 503
        impatient.close()
        while held.line.waiting:
            await asyncio.sleep(0.01)
        last = asyncio.create_task(asyncio.to_thread(ask, body=ASKED | {"prompt": "last"}))
        while not held.line.waiting:
            await asyncio.sleep(0.01)
        held.go.set()
        assert [(await first)[0], (await last)[0]] == [200, 200]

    with service as ask:
        asyncio.run(asyncio.wait_for(story(), LIMIT))
    assert held.scored == ["first", "last"]


def test_what_takes_too_long_is_refused_and_dropped():
    held = Held()
    with Listening(held.line, seconds=0.3) as ask:
        assert ask(body=ASKED)[0] == 504
        assert ask(body=ASKED | {"prompt": "second"})[0] == 504
        held.go.set()
    assert held.scored == ["ab="]


def test_without_anyone_to_score_health_says_so():
    held = Held()
    held.line.close(LIMIT)
    with Listening(held.line) as ask:
        assert ask("/health")[0] == 503
        assert ask(body=ASKED)[0] == 503
