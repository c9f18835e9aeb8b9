"""Size, time and hang-ups of one request, as an ASGI server would bring them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from credo.offline import limits
from credo.offline.limits import Limits, Message, Receive, Send


class Exchange:
    """A client that sends ``parts``, and hangs up after them if it is ``impatient``."""

    def __init__(self, parts: Sequence[bytes], *, impatient: bool = False, head: Sequence[Any] = ()) -> None:
        self.parts, self.impatient, self.head = list(parts), impatient, list(head)
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        if self.parts:
            return {"type": "http.request", "body": self.parts.pop(0), "more_body": bool(self.parts)}
        if not self.impatient:
            await asyncio.get_running_loop().create_future()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def through(self, within: Limits) -> tuple[int, bytes] | None:
        """Status and body of the answer, if there is one."""
        scope = {"type": "http", "headers": self.head}
        asyncio.run(asyncio.wait_for(within(scope, self.receive, self.send), 10))
        return (self.sent[0]["status"], self.sent[1]["body"]) if self.sent else None


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


class Slow:
    """An application that never answers, and knows when it was told to stop."""

    def __init__(self) -> None:
        self.cancelled = False

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled = True
            raise


def test_a_body_within_the_limit_arrives_whole():
    within = Limits(echo, max_bytes=5, seconds=5.0)
    assert Exchange([b"ab", b"", b"cde"]).through(within) == (200, b"abcde")
    assert within.statuses == {200: 1}


def test_a_body_over_the_limit_is_read_to_its_end_and_refused():
    within = Limits(echo, max_bytes=5, seconds=5.0)
    exchange = Exchange([b"abc", b"def", b"ghi"])
    answer = exchange.through(within)
    assert answer is not None
    assert answer[0] == 413
    assert "5 bytes" in json.loads(answer[1])["detail"]
    assert exchange.parts == []


@pytest.mark.parametrize("head", [[(b"content-length", b"101")], []])
def test_what_is_far_too_large_is_not_read_to_its_end(head: list[Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "READ_BEYOND", 100)
    exchange = Exchange([b"x" * 60, b"x" * 60, b"x" * 60], head=head)
    answer = exchange.through(Limits(echo, max_bytes=5, seconds=5.0))
    assert answer is not None
    assert answer[0] == 413
    assert exchange.parts


def test_what_takes_too_long_is_told_so_and_stopped():
    slow = Slow()
    answer = Exchange([b"x"]).through(Limits(slow, max_bytes=5, seconds=0.05))
    assert answer is not None
    assert answer[0] == 504
    assert slow.cancelled


def test_a_body_that_never_ends_takes_too_long():
    async def receive() -> Message:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"", "more_body": True}

    exchange = Exchange([])
    exchange.receive = receive
    answer = exchange.through(Limits(echo, max_bytes=5, seconds=0.05))
    assert answer is not None
    assert answer[0] == 504


@pytest.mark.parametrize("parts", [[b"x"], []])
def test_nothing_is_done_for_who_hung_up(parts: list[bytes]):
    slow = Slow()
    within = Limits(slow, max_bytes=5, seconds=5.0)
    assert Exchange(parts, impatient=True).through(within) is None
    assert within.hung_up == 1
    assert slow.cancelled == bool(parts)
    assert not within.statuses


def test_what_the_application_raises_is_raised():
    async def broken(scope: Message, receive: Receive, send: Send) -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        Exchange([b"x"]).through(Limits(broken, max_bytes=5, seconds=5.0))
