"""Starts a run in the place that ``launch`` names: this process, one of those that torchrun started, or Ray's workers.

Every rank calls the same ``train``; nothing here schedules, restarts or moves numbers, for which torchrun and Ray Train
are there. Workers of a cluster start in the folder in which the command was given, so that relative paths hold; it has
to be on storage that all machines see, as the run's folder has.
"""

# Ray is an extra, whose names no type checker knows where it is not installed:
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from credo.config import LaunchConfig, PrmTrainingRecipe, SftRecipe, TrainConfig
from credo.config.checks import unread
from credo.dist.join import joined
from credo.dist.world import World
from credo.interruption import Interruption, ask_to_end
from credo.run_folder import LOG
from credo.sft import sft
from credo.train import train

if TYPE_CHECKING:
    from ray.train import Result
    from ray.train.torch import TorchTrainer

STOP = ".stop"
"""Beside the files of a run: workers look for it after each step, and end the run."""
SNAPSHOT = "checkpoint_manager_snapshot.json"
"""What Ray Train remembers of the checkpoints that it was told of; its folder of a run is the run's own."""
POLL = 0.5
"""Seconds between two looks of Ray Train at its workers; a step cannot be shorter than that."""


def launch(config: TrainConfig, options: LaunchConfig, *, resume: str = "auto") -> None:
    """Trains ``config`` where ``options`` say.

    Raises ValueError for what the user can mend and RuntimeError for a run that cannot go on, also where that happened
    to a worker elsewhere.
    """
    if resume != "auto" and (retries := options.retries or int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))):
        raise ValueError(
            f"Lost ranks would be started again {retries} times, but --resume {resume} keeps such a run from going on. "
            "Begin without launch.retries or torchrun's --max-restarts; then leave --resume out, and they may stay."
        )
    match _place(options):
        case "ray":
            _on_ray(config, options, resume)
        case "torchrun":
            _train(config, options, resume)
        case "local":
            options.refuse_ranks("in one process, which neither torchrun nor Ray started", config.checkpoint)
            _train(config, options, resume)


def launch_sft(recipe: SftRecipe) -> None:
    """Tunes on the demonstrations of ``recipe``, in this process or as one of those that torchrun started.

    Raises as :func:`launch`.
    """
    with _ranks_of_torchrun(recipe) as world:
        sft(recipe.config, world=world)


def launch_prm_training(recipe: PrmTrainingRecipe) -> None:
    """Trains the offline PRM of ``recipe``, as :func:`launch_sft` does."""
    from credo.offline.training import train_prm

    with _ranks_of_torchrun(recipe) as world:
        train_prm(recipe.config, world=world)


def _place(options: LaunchConfig) -> Literal["local", "torchrun", "ray"]:
    """What ``launch.kind`` stands for in this process. Raises ValueError if it was started in another way."""
    started = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    ranks = int(os.environ["WORLD_SIZE"]) if started else 1
    if options.kind == "auto":
        return "torchrun" if started else "local"
    if options.kind == "torchrun" and not started:
        raise ValueError(
            "launch.kind = 'torchrun', but torchrun did not start this process; type "
            "`torchrun --standalone --nproc-per-node 2 -m credo.cli` in place of `credo` for two ranks on this machine."
        )
    if options.kind != "torchrun" and ranks > 1:
        raise ValueError(
            f"launch.kind = '{options.kind}', but torchrun started {ranks} of these processes, and each would run for "
            "itself into one folder; leave launch.kind at 'auto', or start one process without torchrun."
        )
    return options.kind


def _train(
    config: TrainConfig,
    options: LaunchConfig,
    resume: str,
    report: Callable[[int, Mapping[str, float]], None] | None = None,
) -> None:
    """Runs ``config`` as one of the ranks that are there."""
    with _ranks(config.run.device, options) as world:
        train(config, resume=resume, world=world, report=report)


@contextmanager
def _ranks(device: str, options: LaunchConfig) -> Iterator[World]:
    """The ranks that are there."""
    with joined(device, timeout=options.timeout, sharding=options.sharding, offload=options.offload) as world:
        if world.size == 1 and not world.offload:
            unread(options, "launch", "sharding", cause="in a world of one rank")
        if world.device == "cpu":
            unread(options, "launch", "offload", cause="where models are in the host's memory already")
        yield world


def _ranks_of_torchrun(recipe: SftRecipe | PrmTrainingRecipe) -> AbstractContextManager[World]:
    """The ranks that torchrun started, or this process alone."""
    if _place(recipe.launch) == "local":
        recipe.launch.refuse_ranks("in one process, which torchrun did not start", recipe.checkpoint)
    return _ranks(recipe.run.device, recipe.launch)


def _on_ray(config: TrainConfig, options: LaunchConfig, resume: str) -> None:
    try:
        import_module("ray.train.torch")
    except ImportError as error:
        raise ValueError(
            f"launch.kind = 'ray', but Ray Train cannot be imported ({error}); pip install 'credo[ray]', or start the "
            "ranks by torchrun."
        ) from None
    folder = (Path(config.run.folder) / config.run.name).resolve()
    (folder / STOP).unlink(missing_ok=True)
    (folder / SNAPSHOT).unlink(missing_ok=True)  # it names checkpoints that the run has since deleted
    logging.getLogger("ray").setLevel(logging.INFO if _verbose() else logging.ERROR)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(POLL))
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(options.timeout))
    if options.workers == 0:
        _trainer(config, options, resume, folder, gpus=False).fit()
        return
    with _cluster() as resources:
        gpus = config.run.device == "cuda" or (config.run.device == "auto" and resources.get("GPU", 0) > 0)
        room = int(resources.get("GPU" if gpus else "CPU", 0))
        if room < options.workers:
            print(
                f"Ray has room for {room} of {options.workers} workers, which need {'a GPU' if gpus else 'a CPU'} "
                f"each; waiting up to {options.timeout:.0f} s for more (launch.timeout).",
                flush=True,
            )
        _fit(_trainer(config, options, resume, folder, gpus=gpus), folder)


@contextmanager
def _cluster() -> Iterator[Mapping[str, float]]:
    """Connects to the cluster of RAY_ADDRESS or of ``ray start``, else starts one here until the end of the block; the
    resources it has now."""
    import ray

    if ray.is_initialized():  # by a program that calls us; it is its own to end
        yield ray.cluster_resources()
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(include_dashboard=False, logging_level=logging.getLogger("ray").level, log_to_driver=_verbose())
    except ConnectionError as error:
        raise RuntimeError(
            f"{error}. Check RAY_ADDRESS, and set RAY_AUTH_MODE=token if that cluster asks for its token; `ray stop` "
            "forgets a cluster of this machine that is gone."
        ) from None
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def _trainer(config: TrainConfig, options: LaunchConfig, resume: str, folder: Path, *, gpus: bool) -> TorchTrainer:
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    failure = FailureConfig(max_failures=options.retries, controller_failure_limit=options.retries)
    work = _Work(config=config, options=options, resume=resume, home=os.getcwd(), folder=folder)
    return TorchTrainer(
        work.__call__,
        scaling_config=ScalingConfig(num_workers=options.workers, use_gpu=gpus),
        torch_config=TorchConfig(
            backend="cpu:gloo,cuda:nccl" if gpus else "gloo", timeout_s=max(1, round(options.timeout))
        ),
        run_config=RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            failure_config=failure,
            callbacks=[_refusing()],
            worker_runtime_env=None if gpus else {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}},
            logging_config=LoggingConfig(log_level="INFO" if _verbose() else "CRITICAL"),
        ),
    )


def _refusing() -> Any:
    """Ends the run at once for a user's mistake, which starting the workers again would not mend."""
    from ray.train import UserCallback

    class Refusing(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
            for error in map(_cause, worker_exceptions.values()):
                if type(error) is ValueError:
                    raise error

    return Refusing()


def _fit(trainer: TorchTrainer, folder: Path) -> None:
    """Waits for the workers and prints what they log. The first Ctrl-C or SIGTERM lets them finish their step and save
    it, a second Ctrl-C ends all of them at once."""
    outcome: list[Result | BaseException] = []

    def fit() -> None:
        try:
            outcome.append(trainer.fit())
        except BaseException as error:  # raised below, in the thread that asked
            outcome.append(error)

    fitting, told = threading.Thread(target=fit, daemon=True), False
    log = folder / LOG
    seen = log.stat().st_size if log.exists() else 0
    with Interruption().listening() as interruption:
        fitting.start()
        try:
            while fitting.is_alive():
                fitting.join(POLL)
                seen = _print_log(log, seen)
                if interruption.requested and not told:
                    told = True
                    (folder / STOP).touch()
                    print("Stopping after this step; Ctrl-C again ends the run at once.", flush=True)
        finally:
            (folder / STOP).unlink(missing_ok=True)
    _print_log(log, seen)
    if isinstance(outcome[0], BaseException):
        raise _told(outcome[0]) from (outcome[0] if _verbose() else None)


def _print_log(path: Path, seen: int) -> int:
    """Prints the lines of a run's log from byte ``seen`` on, without their time; returns where they end."""
    if not path.exists():
        return seen
    with path.open("rb") as file:
        file.seek(seen)
        fresh = file.read()
    whole = fresh[: fresh.rfind(b"\n") + 1]
    for line in whole.decode().split("\n")[:-1]:
        print(line.partition("  ")[2], flush=True)
    return seen + len(whole)


def _told(error: BaseException) -> BaseException:
    """What a person should read of the error with which Ray Train ended."""
    from ray.exceptions import RayActorError
    from ray.train import ControllerError, WorkerGroupError
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    if isinstance(error, ControllerError):
        if isinstance(error.controller_failure, WorkerGroupStartupTimeoutError):
            return RuntimeError(
                f"Ray found no room for {error.controller_failure.num_workers} workers within launch.timeout; ask for "
                "fewer launch.workers, or give the cluster more machines."
            )
        return error.controller_failure if type(error.controller_failure) is ValueError else error
    if not isinstance(error, WorkerGroupError):
        return error
    causes = {rank: _cause(failure) for rank, failure in sorted(error.worker_failures.items())}
    for rank, cause in causes.items():
        if isinstance(cause, RayActorError):
            return RuntimeError(
                f"Ray's worker {rank} died: it was killed, its machine ran out of memory, or is gone. The run goes on "
                "from its newest checkpoint when the command is given again; by itself with launch.retries."
            )
    plain = [cause for cause in causes.values() if isinstance(cause, OSError) or type(cause) is RuntimeError]
    return plain[0] if plain else error


def _verbose() -> bool:
    """Whether all that Ray says is wanted, for a report."""
    return bool(os.environ.get("CREDO_TRACEBACK"))


def _cause(error: BaseException) -> BaseException:
    """The error that a worker raised or died of, out of what Ray Train wraps it in."""
    return getattr(error, "_base_exc", None) or getattr(error, "health_check_failure", error)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What each of Ray's workers does. It travels there pickled."""

    config: TrainConfig
    options: LaunchConfig
    resume: str
    home: str
    folder: Path

    def __call__(self) -> None:
        try:
            os.chdir(self.home)
        except OSError as error:
            raise ValueError(
                f"The folder {self.home}, in which the run was launched, cannot be entered on a worker's machine "
                f"({error.strerror}); launch from storage that all machines see."
            ) from None
        report = _Report(self.folder)
        _train(self.config, self.options, self.resume, report)
        report.finish()


@dataclass
class _Report:
    """Tells Ray of each step: its metrics and, from the first rank, the newest checkpoint if Ray does not know it."""

    folder: Path
    _metrics: dict[str, float] = field(default_factory=dict)
    _known: Path | None = None

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        """Collective. Also ends the run if the driver was told to."""
        self._metrics = {"step": step, **metrics}
        self.finish()
        if (self.folder / STOP).exists():
            ask_to_end()

    def finish(self) -> None:
        """Collective. Sends what was seen last: a checkpoint is written after the metrics of its step."""
        from ray import train
        from ray.train import CheckpointUploadMode

        newest = None
        if train.get_context().get_world_rank() == 0:
            newest = max((self.folder / "checkpoints").glob("step-??????"), default=None)
        new = newest if newest != self._known else None
        self._known = newest
        train.report(
            self._metrics,
            checkpoint=train.Checkpoint.from_directory(new) if new else None,
            checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
        )
