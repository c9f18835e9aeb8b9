"""Where a run runs: in one process, in those that torchrun started, or in the workers of a Ray cluster.

Nothing that a run computes depends on it, so it is no part of a run's configuration: what was started on four ranks may
go on in one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from credo.config.checks import above_zero, at_least, require, unread
from credo.config.running import CheckpointConfig
from credo.config.train import TrainConfig

Tree = TypeVar("Tree", bound=Any)


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """Where the run runs. None of it stands in the run's `config.toml`, and a resumed run may set all of it anew."""

    kind: Literal["auto", "local", "torchrun", "ray"] = "auto"
    """This process, one of those that torchrun started, or workers of a Ray cluster (needs the extra `ray`); auto is
    torchrun in a process that it started, else local."""
    workers: int = 1
    """Ray's workers, with a GPU each where models live on GPUs; 0 runs in this process, without a cluster."""
    sharding: Literal["none", "full"] = "none"
    """With several ranks, or with `launch.offload`: each holds whole models, or all share weights, gradients and
    optimiser state (FSDP2)."""
    offload: bool = False
    """Each rank, or the only one, keeps its share in the host's memory and fetches layers to the GPU when they run."""
    timeout: float = 1800.0
    """Seconds that a rank waits for the others, and Ray for room for its workers, before the run stops; half of it for
    a checkpoint's copy in `checkpoint.remote`."""
    retries: int = 0
    """Times that Ray starts its workers again after one was lost; they go on from the newest checkpoint."""

    def __post_init__(self) -> None:
        at_least(0, self, "launch", "workers", "retries")
        above_zero(self, "launch", "timeout")
        if self.kind == "local":
            self.refuse_ranks("with launch.kind = 'local'")
        if self.kind != "ray":
            unread(self, "launch", "workers", "retries", cause=f"with launch.kind = '{self.kind}'")
        elif self.workers == 0:
            unread(self, "launch", "timeout", "retries", cause="with launch.workers = 0")
        if self.kind == "ray" and self.workers < 2 and not self.offload:
            unread(self, "launch", "sharding", cause=f"with launch.workers = {self.workers}")
        if self.sharding == "none":
            unread(self, "launch", "offload", cause="with launch.sharding = 'none'")

    def refuse_ranks(self, cause: str, checkpoint: CheckpointConfig | None = None) -> None:
        """Raises ValueError if something is said about several ranks, of which ``cause`` leaves but one. That one may
        have to wait for a ``checkpoint``, if it is known."""
        waits = checkpoint is None or checkpoint.asynchronous or checkpoint.remote
        unread(self, "launch", *([] if waits else ["timeout"]), *([] if self.offload else ["sharding"]), cause=cause)

    def refuse_ray(self, command: str) -> None:
        """Raises ValueError for workers of Ray, which ``command`` does not run on."""
        require(
            self.kind != "ray",
            f"launch.kind: `credo {command}` runs in one process or in those of torchrun, not on 'ray'.",
        )


@dataclass(frozen=True, kw_only=True)
class TrainRecipe(TrainConfig):
    """What a recipe of `credo train` may say: a run's configuration, and where it runs."""

    launch: LaunchConfig = field(default_factory=LaunchConfig)

    @property
    def config(self) -> TrainConfig:
        """The configuration alone."""
        return without_launch(TrainConfig, self)


def without_launch(tree: type[Tree], recipe: Tree) -> Tree:
    """What ``recipe`` says as a ``tree``, of which it is a subclass with a section more."""
    return tree(**{section.name: getattr(recipe, section.name) for section in fields(tree)})
