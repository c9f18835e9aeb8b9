"""Samples from vLLM servers: one copy of the weights on each, renewed after every update and known by its version.

A server is started by the command in :data:`credo.rollout.server.COMMAND`. New weights travel by vLLM's own weight
transfer (pause, start, update, finish, resume), through a folder that trainer and servers can both see; a server that
comes back reads the same folder, without the trainer's help. Tested on the CPU with vLLM 0.32; not run on a GPU, where
nothing changes but that vLLM's NCCL and CUDA IPC transfers, which are not used, would be faster.
"""

from __future__ import annotations

import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from credo.rollout.engine import Progress, SamplingParams
from credo.rollout.server import Limits, OpenSockets, Refusal, Server, ServerFailure
from credo.rollout.server_pool import ServerPool
from credo.rollout.server_weights import write_weights
from credo.rollout.vllm_shared import PROBE_OPTIONS, Probe, check_temperature, probe_tokens, request_options
from credo.seeds import mixed_seed
from credo.types import Rollout

Value = TypeVar("Value")
Answer = TypeVar("Answer")
FOLDER = "served-weights"
LIMITS = Limits()


class ServerEngine:
    """Asks for up to ``concurrent`` responses at once, each from the server with the fewest under way.

    What is drawn depends on the seed of a rollout alone, but for rounding, whichever server draws it and however often
    it was tried. Every rollout comes from one version of the weights, at most ``max_lag`` updates old. On several ranks
    all have an engine and sample through it; the first one alone brings weights to the servers.
    """

    def __init__(
        self,
        servers: Sequence[str],
        *,
        folder: Path,
        eos_ids: frozenset[int],
        concurrent: int,
        context: int,
        vocabulary: int,
        probe: Probe,
        compute: Literal["fp32", "bf16"] = "fp32",
        max_lag: int = 0,
        first: bool = True,
        together: Callable[[Any], Any] = lambda value: value,
        limits: Limits = LIMITS,
    ) -> None:
        """Collective. ``folder`` is where weights are left for the servers; ``context`` and ``vocabulary`` are those
        of the model; ``together`` returns the first rank's value on every rank.

        Raises ValueError if a server was started in another way than needed, RuntimeError if none answers.
        """
        self.eos_ids, self.probe, self.max_lag = eos_ids, probe, max_lag
        self._concurrent, self._context, self._limits = concurrent, context, limits
        self._first, self._together = first, together
        self._dtype = torch.bfloat16 if compute == "bf16" else torch.float32
        self._probes = probe_tokens(vocabulary, context)
        self._folder = folder.resolve() / FOLDER
        self._run: str = together(secrets.token_hex(4))
        self._number = self._failed_before = 0
        self._gap = float("nan")
        self._pool = ServerPool([Server(url, limits) for url in servers], self._renewed, limits)
        try:
            self._agreed(self._check_servers)
        except BaseException:
            self.close()
            raise

    @property
    def summary(self) -> str:
        """How the model is sampled from, for the log."""
        return f"{self._pool.ready()} vLLM servers"

    @property
    def metrics(self) -> Mapping[str, float]:
        """Of the last check and since the last update, for the log of a step."""
        return {
            "rollout/probe_gap": self._gap,
            "rollout/retries": float(self._pool.failed - self._failed_before),
            "rollout/servers": float(self._pool.ready()),
        }

    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        n: int,
        params: SamplingParams,
        seeds: Sequence[int],
        progress: Progress | None = None,
    ) -> list[list[Rollout]]:
        """See :class:`credo.rollout.engine.RolloutEngine`; progress is told of whole responses.

        Raises RuntimeError if no server could be asked for too long, or if a rollout failed too often.
        """
        assert len(prompts) == len(seeds)
        assert self._number, "weights are loaded before the first sample"
        check_temperature(params.temperature)
        asked = [
            (prompt, request_options(params, mixed_seed(seed, k), self.eos_ids))
            for prompt, seed in zip(prompts, seeds, strict=True)
            for k in range(n)
        ]

        def count(rollout: Rollout) -> None:
            if progress is not None:
                progress(len(rollout.response_ids))

        rollouts = self._answers(Server.sample, asked, self.max_lag, count)
        return [rollouts[i * n : (i + 1) * n] for i in range(len(prompts))]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Collective. Brings ``weights``, by the names that they have in transformers, to every server that can be
        reached, and checks one against the trainer's; the others get them when they are back.

        Goes through ``weights`` to the end on every rank. Raises RuntimeError if no server took them.
        """
        number = self._number + 1
        written = partial(write_weights, weights, self._folder / self._version(number), self._dtype)
        if not self._first:
            for _ in weights:
                continue
        self._agreed(written)
        self._number, self._failed_before = number, self._pool.failed
        own = self._agreed(self._push)
        if not self._first:
            self._pool.look()
        trained = self.probe.of(self._probes)
        if self._first:
            self._gap = self.probe.gap(own, trained)
        self._gap = self._together(self._gap)

    def close(self) -> None:
        """Leaves the servers as they are, and takes away the weights that were there for them."""
        self._pool.close()
        if self._first:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _check_servers(self) -> None:
        """Raises ValueError or RuntimeError unless at least one server answers and all that do are fit."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._pool.look(at_all=True)
        if wrong := self._pool.unfit():
            raise ValueError(f"rollout.servers: {'; '.join(wrong)}")
        if not self._pool.ready():
            self.probe.warn(f"Waiting up to {self._limits.gone:.0f} s for a server ({self._pool.said()}).")
        self._pool.wait_for_one(0)

    def _push(self) -> Float[Tensor, "B T"]:
        """Brings the newest weights to the servers, with ``max_lag`` to one before it returns; what that one makes of
        the probe."""
        self._pool.look(wait=self.max_lag == 0)
        self._pool.wait_for_one(self._number)
        for old in self._folder.iterdir():
            if (self._number_of(old.name) or 0) < self._number - self.max_lag:
                shutil.rmtree(old, ignore_errors=True)
        asked = [(tuple(row), PROBE_OPTIONS) for row in self._probes.tolist()]
        return torch.tensor(self._answers(Server.score, asked, lag=0))

    def _agreed(self, work: Callable[[], Value]) -> Value:
        """Collective. What ``work`` returns on the first rank, which alone does it; its error on all of them."""
        outcome: tuple[Value | None, Exception | None] = (None, None)
        if self._first:
            try:
                outcome = work(), None
            except (RuntimeError, ValueError) as error:
                outcome = None, error
        result, error = self._together(outcome)
        if error is not None:
            raise error
        return result

    def _renewed(self, server: Server) -> int:
        """The number of the weights on ``server``, which are then the newest on the first rank."""
        number = self._number
        held = self._number_of(server.version())
        if not self._first:
            if held is None:
                raise ServerFailure(f"{server.url}: it waits for the first rank to bring it weights")
            return held
        if held != number or number == 0:
            server.check_settings(self._context)
        if held != number and number > 0:
            server.bring(self._folder / self._version(number), self._version(number))
        return number

    def _answers(
        self,
        ask: Callable[[Server, tuple[int, ...], Mapping[str, Any], OpenSockets], tuple[Answer, str]],
        asked: Sequence[tuple[tuple[int, ...], Mapping[str, Any]]],
        lag: int,
        done: Callable[[Answer], None] = lambda answer: None,
    ) -> list[Answer]:
        """The answer to each request, in their order, from weights at most ``lag`` updates old; ``done`` hears of each
        as it comes. Interrupted, or after an error, it leaves no request behind."""
        if not asked:
            return []
        calls, given_up = OpenSockets(), threading.Event()
        with ThreadPoolExecutor(min(self._concurrent, len(asked)), thread_name_prefix="servers") as threads:
            try:
                futures = [threads.submit(self._answer, ask, *request, lag, calls, given_up) for request in asked]
                for future in as_completed(futures):
                    done(future.result())
            except BaseException:
                given_up.set()
                threads.shutdown(wait=False, cancel_futures=True)
                calls.close()
                self._pool.notify()
                raise
        return [future.result() for future in futures]

    def _answer(
        self,
        ask: Callable[[Server, tuple[int, ...], Mapping[str, Any], OpenSockets], tuple[Answer, str]],
        prompt: tuple[int, ...],
        options: Mapping[str, Any],
        lag: int,
        calls: OpenSockets,
        given_up: threading.Event,
    ) -> Answer:
        """One request, tried on one server after the other."""
        failure = ServerFailure("it was not asked")
        for attempt in range(self._limits.attempts):
            if attempt and given_up.wait(self._limits.backoff * 2 ** (attempt - 1)):
                break
            server = self._pool.take(lambda: max(1, self._number - lag), given_up)
            try:
                answer, version = ask(server, prompt, options, calls)
                self._check_version(server, version, lag)
            except ServerFailure as error:
                failure = error
                self._pool.give_back(server, error)
            except Refusal as error:
                self._pool.give_back(server)
                raise RuntimeError(f"A server refuses what it is asked for: {error}") from error
            except BaseException:
                self._pool.give_back(server)
                raise
            else:
                self._pool.give_back(server)
                return answer
        raise RuntimeError(
            f"A rollout failed {self._limits.attempts} times, the last time at {failure}. Look at the log of that "
            "server; fewer rollout.concurrent or rollout.max_tokens ask less of it."
        )

    def _check_version(self, server: Server, version: str, lag: int) -> None:
        number = self._number_of(version)
        if number is None or number < self._number - lag:
            raise ServerFailure(
                f"{server.url}: it sampled with weights of version '{version}', where '{self._version(self._number)}' "
                f"or at most {lag} before it are asked for (rollout.max_lag)"
            )

    def _version(self, number: int) -> str:
        """Names a version of this run's weights, so that what another run has left on a server is not taken for it."""
        return f"{self._run}-{number}"

    def _number_of(self, version: str) -> int | None:
        run, _, number = version.rpartition("-")
        return int(number) if run == self._run and number.isdigit() else None
