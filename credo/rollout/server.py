"""One vLLM server: its HTTP verbs, each with a limit of time, and what it answers. Knows nothing of other servers."""

from __future__ import annotations

import json
import math
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from credo.rollout.server_weights import BACKEND
from credo.types import Rollout

LOADING = "loading"
"""The version of weights that are neither the old ones nor the new."""
COMMAND = (
    "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --enable-scale-out --logprobs-mode processed_logprobs "
    f'--weight-transfer-config \'{{"backend": "{BACKEND}"}}\' '
    "--worker-extension-cls credo.rollout.vllm_worker.Extension"
)
"""How a server is started; credo must be installed beside vLLM there."""
_LONGEST_ANSWER = 256 << 20


class ServerFailure(Exception):
    """A server did not do what it was asked; another one may, or the same one later."""


class Unfit(ServerFailure):
    """A server was started in another way than a run needs."""


class Refusal(Exception):
    """A server will not have this request, and no other would."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long is waited, in seconds, and how often a rollout is tried."""

    connect: float = 10.0
    control: float = 60.0
    """For health, settings and versions."""
    rollout: float = 1800.0
    """For one response, the wait for its turn on the server included; as long for the last one before an update."""
    weights: float = 900.0
    """For reading new weights."""
    gone: float = 900.0
    """Without any server that can be asked, before the run stops."""
    check: float = 5.0
    """Between two looks at a server; one that failed again and again is left alone for up to twelve times as long."""
    attempts: int = 6
    backoff: float = 0.5
    """Before the second attempt at a rollout; doubles from one to the next."""

    @property
    def update(self) -> float:
        """No look at a server with all that may follow from it takes longer."""
        return self.rollout + 2 * self.weights + 10 * (self.connect + self.control)


class OpenSockets:
    """The connections of one call, so that giving it up ends them, and with them the work on the servers."""

    def __init__(self) -> None:
        self._sockets: set[socket.socket] = set()
        self._lock, self._closed = threading.Lock(), False

    @contextmanager
    def holding(self, opened: socket.socket) -> Iterator[None]:
        """Raises ServerFailure if the call has been given up."""
        with self._lock:
            if self._closed:
                raise ServerFailure("the call was given up")
            self._sockets.add(opened)
        try:
            yield
        finally:
            with self._lock:
                self._sockets.discard(opened)

    def close(self) -> None:
        """Ends every connection, and those that are still to come."""
        self._closed = True
        self.drop()

    def drop(self) -> None:
        """Ends every connection; whoever waits for an answer on one gets an error at once."""
        with self._lock:
            for opened in self._sockets:
                try:
                    opened.shutdown(socket.SHUT_RDWR)
                except OSError:  # it is closed already
                    continue


class Server:
    """The server at ``url``, http://HOST:PORT. Every method raises ServerFailure with what the server said."""

    def __init__(self, url: str, limits: Limits) -> None:
        """Raises ValueError for an address that is none."""
        self.url, self._limits, self._under_way = url.rstrip("/"), limits, OpenSockets()
        try:
            self._parts = urlsplit(url)
            self._port = self._parts.port
        except ValueError as error:
            raise ValueError(f"rollout.servers: expected http://HOST:PORT, got '{url}' ({error}).") from None

    def sample(self, prompt: tuple[int, ...], options: Mapping[str, Any], calls: OpenSockets) -> tuple[Rollout, str]:
        """One response and the version of the weights that all of it was sampled with. Refusal: an invalid request."""
        answer = self._generate(prompt, options, calls)
        try:
            return read_rollout(answer, prompt)
        except ServerFailure as failure:
            raise ServerFailure(f"{self.url}: {failure}") from None

    def score(self, prompt: tuple[int, ...], options: Mapping[str, Any], calls: OpenSockets) -> tuple[list[float], str]:
        """The log-prob of each token of ``prompt`` but the first, and the version of the weights."""
        answer = self._generate(prompt, options, calls)
        try:
            entries = answer["prompt_logprobs"][1:]
            scores = [float(entry[str(token)]["logprob"]) for token, entry in zip(prompt[1:], entries, strict=True)]
            return scores, one_version(answer["choices"][0]["weight_versions"])
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise ServerFailure(
                f"{self.url}: an answer without log-probs of the prompt: {str(answer)[:200]}"
            ) from error

    def version(self) -> str:
        """The version of its weights, from a server that is well; LOADING from one that is paused for an update."""
        self._ask("GET", "/health", self._limits.control)
        paused = self._ask("GET", "/is_paused", self._limits.control)
        match self._ask("GET", "/weight_info", self._limits.control):
            case {"weight_version": str(version)}:
                return version if paused == {"is_paused": False} else LOADING
            case answer:
                raise ServerFailure(f"{self.url}: an answer without the version of its weights: {str(answer)[:200]}")

    def hang_up(self) -> None:
        """Breaks off all that it was asked and has not answered, which need not wait for its limits then."""
        self._under_way.drop()

    def check_settings(self, context: int) -> None:
        """Raises Unfit unless it was started for this: with new weights from a folder, with log-probs of what was
        drawn from, for prompts with responses of ``context`` tokens."""
        answer = self._ask("GET", "/server_info?config_format=json", self._limits.control)
        match answer:
            case {"vllm_config": {"model_config": {"logprobs_mode": str(mode), "max_model_len": int(longest)}, **rest}}:
                transfer = rest.get("weight_transfer_config")
            case _:
                raise ServerFailure(f"{self.url}: settings of another form: {str(answer)[:200]}")
        wrong = []
        if mode != "processed_logprobs":
            wrong.append(f"--logprobs-mode is {mode}, which is of another distribution than the one drawn from")
        if not isinstance(transfer, dict) or transfer.get("backend") != BACKEND:
            wrong.append(f"--weight-transfer-config is {transfer or 'not set'}, which cannot read our weights")
        if longest < context:
            wrong.append(f"--max-model-len is {longest}, and a prompt with its response has up to {context} tokens")
        if wrong:
            raise Unfit(f"{self.url}: {'; '.join(wrong)}. Start it by: {COMMAND}")

    def bring(self, weights: Path, version: str) -> None:
        """Lets the responses under way end, loads ``weights``, and goes on with them under the name ``version``.

        Whatever breaks off leaves it paused, under the version LOADING.
        """
        control = self._limits.control
        self._ask("POST", "/pause?mode=wait&clear_cache=true", self._limits.rollout)
        self._ask("POST", "/update_weight_version", control, {"new_version": LOADING})
        self._ask("POST", "/init_weight_transfer_engine", control, {"init_info": {"parent": str(weights.parent)}})
        try:
            self._ask("POST", "/start_weight_update", control)
        except ServerFailure:  # an update that broke off is still open
            self._ask("POST", "/finish_weight_update", control)
            self._ask("POST", "/start_weight_update", control)
        self._ask("POST", "/update_weights", self._limits.weights, {"update_info": {"folder": weights.name}})
        self._ask("POST", "/finish_weight_update", self._limits.weights, {"weight_version": version})
        answer = self._ask("POST", "/reset_prefix_cache", control)
        if answer != {"success": True}:
            raise ServerFailure(f"{self.url}: it keeps what it has cached of the old weights: {str(answer)[:200]}")
        self._ask("POST", "/resume", control)

    def _generate(self, prompt: tuple[int, ...], options: Mapping[str, Any], calls: OpenSockets) -> Any:
        body = {"token_ids": list(prompt), "sampling_params": options}
        return self._ask("POST", "/inference/v1/generate", self._limits.rollout, body, calls)

    def _ask(
        self,
        verb: str,
        path: str,
        limit: float,
        body: Mapping[str, Any] | None = None,
        calls: OpenSockets | None = None,
    ) -> Any:
        """The answer as JSON, within ``limit`` seconds."""
        try:
            status, content = self._exchange(verb, path, limit, body, calls or OpenSockets())
        except (OSError, HTTPException) as error:
            said = str(error) or type(error).__name__
            raise ServerFailure(f"{self.url}: {verb} {path.partition('?')[0]}: {said}") from error
        said = f"{self.url}: {verb} {path.partition('?')[0]}: HTTP status {status}: {_words(content)}"
        match status:
            case 200:
                pass
            case 400 | 422:
                raise Refusal(said)
            case 403 | 404:
                raise Unfit(f"{said} Start it by: {COMMAND}")
            case _:
                raise ServerFailure(said)
        try:
            return json.loads(content) if content else None
        except (ValueError, RecursionError) as error:
            said = content[:100].decode(errors="replace")
            raise ServerFailure(f"{self.url}: {verb} {path}: an answer that is not JSON: {said!r}") from error

    def _exchange(
        self, verb: str, path: str, limit: float, body: Mapping[str, Any] | None, calls: OpenSockets
    ) -> tuple[int, bytes]:
        ends = monotonic() + limit
        connect = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        connection = connect(self._parts.hostname or "", self._port, timeout=self._limits.connect)
        try:
            connection.connect()
            opened = connection.sock
            with calls.holding(opened), self._under_way.holding(opened):
                opened.settimeout(limit)
                sent = None if body is None else json.dumps(body).encode("ascii")
                connection.request(verb, f"{self._parts.path.rstrip('/')}{path}", sent, _HEADERS)
                reply = connection.getresponse()
                content = b""
                while len(content) < _LONGEST_ANSWER and (part := reply.read1(1 << 20)):
                    content += part
                    if not reply.isclosed():
                        opened.settimeout(max(ends - monotonic(), 1e-3))
                if reply.length:
                    raise HTTPException(f"an answer that breaks off after {len(content)} bytes")
                return reply.status, content
        finally:
            connection.close()


_HEADERS = {"Content-Type": "application/json", "Connection": "close"}


def read_rollout(answer: Any, prompt: tuple[int, ...]) -> tuple[Rollout, str]:
    """A response and the version of its weights from vLLM's answer. ServerFailure: the answer does not say."""
    match answer:
        case {
            "choices": [
                {
                    "token_ids": [_, *_] as tokens,
                    "finish_reason": "stop" | "length" as finish,
                    "logprobs": {"content": [*entries]},
                    "weight_versions": [_, *_] as spans,
                }
            ]
        }:
            try:
                logprobs = tuple(float(entry["logprob"]) for entry in entries)
                told = [entry["token_id"] for entry in entries]
            except (KeyError, TypeError, ValueError) as error:
                raise ServerFailure(f"log-probs of another form: {str(entries)[:200]}") from error
            if told != tokens or not all(type(token) is int for token in tokens):
                raise ServerFailure(f"log-probs of other tokens than those of the response: {str(answer)[:200]}")
            if not all(math.isfinite(logprob) and logprob < 1e-3 for logprob in logprobs):
                raise ServerFailure(f"log-probs that are none: {str(logprobs)[:200]}")
            made = Rollout(prompt_ids=prompt, response_ids=tuple(tokens), logprobs=logprobs, finish=finish)
            return made, one_version(spans)
    raise ServerFailure(f"an answer that is no response with log-probs and weight versions: {str(answer)[:200]}")


def one_version(spans: Any) -> str:
    """The version of the weights that a whole response was sampled with. ServerFailure: there were several."""
    try:
        versions = {str(span["version"]) for span in spans}
    except (KeyError, TypeError) as error:
        raise ServerFailure(f"weight versions of another form: {str(spans)[:200]}") from error
    if len(versions) != 1:
        raise ServerFailure(f"a response from weights of the versions {', '.join(sorted(versions))}")
    return versions.pop()


def _words(content: bytes) -> str:
    """What an error says in vLLM's form, or the beginning of another one."""
    try:
        match json.loads(content):
            case {"error": {"message": str(message)}} | {"error": str(message)} | {"detail": str(message)}:
                return message[:300]
    except (ValueError, RecursionError):
        pass
    return content[:300].decode(errors="replace")
