"""The next batch sampled and judged while the models learn from the last one: one step off, and off by default.

A batch is then older by one update than the policy that learns from it; ``policy.importance_cap`` corrects for that.
What is in flight is waited for before anything that would disturb it, so a checkpoint holds it whole, and a resumed run
goes on exactly.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor

from credo.collect import Collection, Collector, group_values
from credo.rollout.engine import Progress, RolloutEngine, SamplingParams
from credo.types import Rollout


class AheadCollector:
    """A collector with one collection in hand; ``collector`` must have an engine with weights of its own."""

    def __init__(self, collector: Collector) -> None:
        self.collector = collector
        self._ready: tuple[int, Collection] | None = None
        """The policy's version that sampled, and what came of it."""
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def collect(self, count: int, policy_version: int, progress: Progress | None = None) -> Collection:
        """What was sampled ahead, or at the start of a run what is sampled now; then begins the next.

        Raises what sampling ahead raised, which nobody hears of who does not ask for its batch.
        """
        self.settle()
        error, self._error = self._error, None
        if error is not None:
            raise error
        ready = self._ready or (policy_version, self.collector.collect(count, policy_version, progress))
        self._ready = None
        self._begin(count, policy_version)
        version, collection = ready
        lag = {"rollout/lag": float(policy_version - version)}
        return replace(collection, metrics={**collection.metrics, **lag})

    def settle(self) -> None:
        """Waits until nothing is being sampled ahead."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @contextmanager
    def undone_by(self, error: type[BaseException]) -> Iterator[None]:
        """As :meth:`credo.collect.Collector.undone_by`; what is in hand stays in hand."""
        self.settle()
        before = self._ready, self._error
        with self.collector.undone_by(error):
            try:
                yield
            except error:
                self.settle()
                self._ready, self._error = before
                raise

    def state(self) -> dict[str, Any]:
        """The collector's state and the batch in hand, as JSON values."""
        self.settle()
        if self._ready is None:
            return self.collector.state()
        version, collection = self._ready
        ready = {
            "version": version,
            "groups": [group_values(group) for group in collection.groups],
            "metrics": dict(collection.metrics),
        }
        return {**self.collector.state(), "ahead": ready}

    def restore(self, state: Mapping[str, Any]) -> None:
        """As it was when ``state`` was taken."""
        self.settle()
        self.collector.restore(state)
        self._ready = self._error = None
        ready = state.get("ahead")
        if ready is not None:
            groups = tuple(self.collector.group(values) for values in ready["groups"])
            self._ready = ready["version"], Collection(groups=groups, metrics=ready["metrics"])

    def _begin(self, count: int, version: int) -> None:
        def work() -> None:
            try:
                with self.collector.undone_by(BaseException):  # a checkpoint before the error is raised lacks nothing
                    self._ready = version, self.collector.collect(count, version)
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=work, name="sampling ahead", daemon=True)
        self._thread.start()


class SettledEngine:
    """The engine as everyone else sees it: nobody samples from it, or changes its weights, in the middle of a batch."""

    def __init__(self, engine: RolloutEngine, collector: AheadCollector) -> None:
        self.engine, self.collector = engine, collector

    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        n: int,
        params: SamplingParams,
        seeds: Sequence[int],
        progress: Progress | None = None,
    ) -> list[list[Rollout]]:
        """See :class:`credo.rollout.engine.RolloutEngine`."""
        self.collector.settle()
        return self.engine.sample(prompts, n, params, seeds, progress)

    @property
    def metrics(self) -> Mapping[str, float]:
        """What the engine says of itself."""
        return self.engine.metrics

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Sample from these weights from now on."""
        self.collector.settle()
        self.engine.load_weights(weights)

    def close(self) -> None:
        """Frees what sampling took."""
        self.collector.settle()
        self.engine.close()
