"""Where metrics go: a JSON line a step always, and trackers where asked for. Loggers know numbers, not training."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from credo.config import RunConfig, Tracker


@runtime_checkable
class Logger(Protocol):
    """Receives the metrics of each step."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes down ``metrics``."""
        ...

    def close(self) -> None:
        """Writes what is still held back."""
        ...


class JsonlLogger:
    """One object a line, whole and on disk when ``log`` returns."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("a", encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends ``{"step": step, ...}``; what is not a number in JSON becomes null."""
        values = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self.file.close()


class RecordingLogger:
    """A test double that remembers."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, dict[str, float]]] = []

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keeps a copy."""
        self.steps.append((step, dict(metrics)))

    def close(self) -> None:
        """Nothing is held back."""


class TensorBoardLogger:
    """Scalars in a TensorBoard event file."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One scalar a metric."""
        for key, value in metrics.items():
            self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        """Flushes and closes the event file."""
        self.writer.close()


class RunLogger:
    """Weights & Biases or trackio, which share one interface."""

    def __init__(self, module: Any, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        self.run = module.init(project="credo", name=name, config=dict(config))
        self.module = module

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Sends one step."""
        self.module.log(dict(metrics), step=step)

    def close(self) -> None:
        """Waits for what is still being sent."""
        self.module.finish()


class Loggers:
    """Several loggers as one."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self.loggers = tuple(loggers)

    def begin(self, metrics: Path, run: RunConfig, config: Mapping[str, Any]) -> None:
        """Opens those of a ``run``: the file of its ``metrics``, and its trackers."""
        trackers = [tracker(kind, run.name, metrics.parent, config) for kind in run.trackers]
        self.loggers = (JsonlLogger(metrics), *trackers)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tells every logger."""
        for logger in self.loggers:
            logger.log(step, metrics)

    def close(self) -> None:
        """Closes every logger."""
        for logger in self.loggers:
            logger.close()


def tracker(kind: Tracker, name: str, folder: Path, config: Mapping[str, Any]) -> Logger:
    """The tracker called ``kind``. Raises ValueError if its extra is not installed."""
    try:
        match kind:
            case "tensorboard":
                return TensorBoardLogger(folder / "tensorboard")
            case "wandb":
                import wandb  # pyright: ignore[reportMissingImports]

                return RunLogger(wandb, name, folder, config)
            case "trackio":
                import trackio  # pyright: ignore[reportMissingImports]

                return RunLogger(trackio, name, folder, config)
    except ImportError:
        raise ValueError(f"run.trackers: '{kind}' is not installed; pip install 'credo[{kind}]'.") from None
