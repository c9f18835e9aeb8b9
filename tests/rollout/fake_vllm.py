"""A server with the HTTP verbs of vLLM 0.32 that the engine uses, and with its faults, in this process.

Its model is one number, the weight ``bias`` of the folder that it is told to load: every token has the log-prob
``-bias``, so an answer tells which weights it came from. The tokens depend on the prompt and the seed alone.
"""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from credo.rollout.server_weights import read_weights
from credo.seeds import mixed_seed

Fault = Literal["die", "hang", "error", "garbage", "other tokens", "no versions", "two versions", "half", "slow", "bad"]
GENERATE = "/inference/v1/generate"
VOCABULARY, END = 16, 1


class FakeVllm:
    """Started at once; ``faults`` holds what goes wrong at a path, until it is taken out again."""

    def __init__(self) -> None:
        self.faults: dict[str, Fault] = {}
        self.settings: dict[str, Any] = {
            "model_config": {"logprobs_mode": "processed_logprobs", "max_model_len": 64},
            "weight_transfer_config": {"backend": "folder"},
        }
        self.asked: list[tuple[str, Any]] = []
        self.most_at_once = 0
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """As it is after its process has started: none of our weights, nothing paused."""
        self.version, self.bias = "default", 0.5
        self.paused = self.updating = False
        self.under_way = 0
        self.changed, self.killed, self._stopped = threading.Condition(), threading.Event(), threading.Event()
        self._server = _Server(("127.0.0.1", self._port), type("Handler", (_Handler,), {"fake": self}))
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def kill(self) -> None:
        """Breaks every connection off and listens no more."""
        self.killed.set()
        with self.changed:
            self.changed.notify_all()
        self._server.shutdown()
        self._server.break_off()
        self._server.server_close()
        self._thread.join()
        self._stopped.set()

    def restart(self) -> None:
        """Starts again what has been killed, or is about to die."""
        assert self._stopped.wait(10)
        self.faults.clear()
        self.start()

    def count(self, path: str) -> int:
        """How often it was asked for something."""
        return sum(asked == path for asked, _ in self.asked)

    def answer(self, path: str, body: Any) -> Any:
        """What vLLM would say; ValueError is a status of 500."""
        match path:
            case "/health":
                return None
            case "/is_paused":
                return {"is_paused": self.paused}
            case "/weight_info":
                return {"weight_version": self.version}
            case "/server_info":
                return {"vllm_config": self.settings}
            case "/pause":
                with self.changed:
                    self.paused = True
                    self.changed.wait_for(lambda: self.under_way == 0 or self.killed.is_set())
            case "/resume":
                with self.changed:
                    self.paused = False
                    self.changed.notify_all()
            case "/update_weight_version":
                self.version = body["new_version"]
            case "/init_weight_transfer_engine":
                self._parent = Path(body["init_info"]["parent"])
            case "/start_weight_update":
                self._expect(not self.updating, "already active")
                self.updating = True
            case "/update_weights":
                self._expect(self.updating, "start_weight_update must be called before update_weights")
                self.updating = False  # as it is after an error
                self.bias = dict(read_weights(self._parent / body["update_info"]["folder"]))["bias"].item()
                self.updating = True
            case "/finish_weight_update":
                self._expect(self.updating, "called without a matching start_weight_update")
                self.updating, self.version = False, (body or {}).get("weight_version", self.version)
            case "/reset_prefix_cache":
                return {"success": True}
            case "/inference/v1/generate":
                return self._generated(body["token_ids"], body["sampling_params"])
            case _:
                raise LookupError(path)
        return {}

    def _generated(self, prompt: list[int], options: dict[str, Any]) -> Any:
        with self.changed:
            self.changed.wait_for(lambda: not self.paused or self.killed.is_set())
            self.under_way += 1
            self.most_at_once = max(self.most_at_once, self.under_way)
        if self.faults.get(GENERATE) == "slow":
            self.killed.wait(0.1)
        seed = options.get("seed", 0)
        tokens = [2 + mixed_seed(seed, len(prompt), place) % 14 for place in range(options["max_tokens"])]
        if seed % 2:
            tokens[-1] = END
        choice = {
            "finish_reason": "stop" if seed % 2 else "length",
            "token_ids": tokens,
            "weight_versions": [{"version": self.version, "start": 0, "end": len(tokens)}],
            "logprobs": {"content": [{"token_id": token, "logprob": -self.bias} for token in tokens]},
        }
        with self.changed:
            self.under_way -= 1
            self.changed.notify_all()
        scored = [None, *({str(token): {"logprob": -self.bias}} for token in prompt[1:])]
        return {"choices": [choice], "prompt_logprobs": scored if "prompt_logprobs" in options else None}

    def _expect(self, condition: bool, otherwise: str) -> None:
        if not condition:
            raise ValueError(otherwise)


class _Server(ThreadingHTTPServer):
    daemon_threads, block_on_close, request_queue_size = True, False, 128

    def __init__(self, *arguments: Any) -> None:
        self._open: list[socket.socket] = []
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.append(request)
        super().process_request(request, client_address)

    def break_off(self) -> None:
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone, or a server that is to be."""


class _Handler(BaseHTTPRequestHandler):
    fake: FakeVllm
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._respond(None)

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._respond(json.loads(content) if content else None)

    def _respond(self, body: Any) -> None:
        path, fake = urlsplit(self.path).path, self.fake
        fake.asked.append((path, body))
        match fault := fake.faults.get(path):
            case "die":
                threading.Thread(target=fake.kill, daemon=True).start()
                fake.killed.wait(10)
                self.close_connection = True
                return
            case "hang":
                fake.killed.wait(10)
                self.close_connection = True
                return
            case "error":
                self._send(500, {"error": {"message": "engine died", "code": 500}})
                return
            case "bad":
                self._send(400, {"error": {"message": "the prompt is too long", "code": 400}})
                return
            case "garbage":
                self._send(200, b"\x00<html>")
                return
        try:
            answer = fake.answer(path, body)
        except LookupError:
            self._send(404, {"detail": "Not Found"})
        except (ValueError, OSError) as error:
            self._send(500, {"error": {"message": str(error), "code": 500}})
        else:
            self._send(200, _spoilt(answer, fault), cut=fault == "half")

    def _send(self, status: int, content: Any, *, cut: bool = False) -> None:
        sent = content if isinstance(content, bytes) else b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent[: len(sent) // 2] if cut else sent)
        self.close_connection = True

    def log_message(self, *arguments: Any) -> None:
        """Tests are quiet."""


def _spoilt(answer: Any, fault: Fault | None) -> Any:
    """A response that cannot be used."""
    choice = answer["choices"][0] if answer and "choices" in answer else {}
    match fault:
        case "other tokens":
            choice["logprobs"]["content"][0]["token_id"] += 1
        case "no versions":
            choice["weight_versions"] = None
        case "two versions":
            choice["weight_versions"] = [{**choice["weight_versions"][0], "version": name} for name in ("a-1", "a-2")]
    return answer
