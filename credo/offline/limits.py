"""What one HTTP request may take of size and time, around any ASGI application; and that its client is still there.

A body is read whole before the application sees the request, and not kept beyond its limit. It knows no scoring.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

READ_BEYOND = 64 * 2**20
"""Bytes of a body that are still read, to be forgotten, so that a client that only writes hears the refusal."""


class _TooLarge(Exception):
    """The body is over the limit."""


class _HungUp(Exception):
    """The client does not wait for the answer."""


class Limits:
    """``application`` with 413 for a body over ``max_bytes``, 504 after ``seconds``, and no work for who hung up.

    The application is cancelled where its answer comes too late or is not waited for.
    """

    def __init__(self, application: Application, *, max_bytes: int, seconds: float) -> None:
        self.application, self.max_bytes, self.seconds = application, max_bytes, seconds
        self.statuses: Counter[int] = Counter()
        """Answers so far, by status."""
        self.hung_up = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers one request."""
        started = False

        async def counted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self.statuses[message["status"]] += 1
            await send(message)

        try:
            async with asyncio.timeout(self.seconds):
                await self._answer(scope, await self._body(scope, receive), receive, counted)
        except _TooLarge:
            await _refuse(counted, 413, f"The body is larger than {self.max_bytes:,} bytes; send fewer responses.")
        except _HungUp:
            self.hung_up += 1
        except TimeoutError:
            if not started:
                await _refuse(counted, 504, f"There was no answer within {self.seconds:g} seconds; send less at once.")

    async def _body(self, scope: Message, receive: Receive) -> bytes:
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if declared.isdigit() and int(declared) > READ_BEYOND:
            raise _TooLarge
        body, size, more = bytearray(), 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _HungUp
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size > READ_BEYOND:
                raise _TooLarge
            if size <= self.max_bytes:
                body += part
        if size > self.max_bytes:
            raise _TooLarge
        return bytes(body)

    async def _answer(self, scope: Message, body: bytes, receive: Receive, send: Send) -> None:
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> Message:
            return pending.pop() if pending else await asyncio.get_running_loop().create_future()

        answer = asyncio.ensure_future(self.application(scope, replayed, send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise _HungUp
            await answer
        finally:
            answer.cancel()
            gone.cancel()
            await asyncio.gather(answer, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse(send: Send, status: int, why: str) -> None:
    body = json.dumps({"detail": why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
