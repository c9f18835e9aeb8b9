"""What clusters do to a run, and what is left of it: ranks and verifiers killed, NaN, full disks, lost networks."""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from disturbed import eventful_recipe, filtered, started, steps_of
from ranks import STARTER, run_ranks
from safetensors.torch import load_file
from tiny import PAIRS, lines, tiny_model, tiny_problems, tiny_recipe, untimed

from credo.assemble import assemble
from credo.checkpoint import newest_whole
from credo.cli import main
from credo.config import ArchitectureConfig, TrainConfig
from credo.console import Console
from credo.dist.shard import whole
from credo.dist.world import World
from credo.models.causal import build_model, save_model
from credo.recipe import read_recipe
from credo.train import prime_step, train
from credo.verify_resume import compare

ROOT = Path(__file__).parents[2]
LONGEST_WAIT = 200.0
STEPS = 10
CHANGES: dict[str, Any] = {**filtered(STEPS), "checkpoint__every": 5}


def run_of(recipe: Path) -> Path:
    return recipe.parent / "runs" / "run"


def assert_same(one: Path, other: Path, *, step: int = STEPS) -> None:
    """Bit for bit, but for torch's own generator, from which no run draws and which starts anew in each process."""
    compared = {found.what: found for found in compare(one, other, step)}
    del compared["random state"]
    assert not [found for found in compared.values() if found.difference]
    assert compared["policy: optimiser"].count
    assert compared["rollouts"].count


def wait_until(so: Callable[[], bool], alive: Callable[[], bool], *, poll: float = 0.003) -> None:
    limit = time.monotonic() + LONGEST_WAIT
    while not so():
        assert time.monotonic() < limit, "nothing moves"
        assert alive(), "the run ended"
        time.sleep(poll)


def children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


# Ranks


def trained(world: World, path: Path, flags: Sequence[str] = ()) -> None:
    train(read_recipe(TrainConfig, [path], flags), world=world)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks that nobody disturbs."""
    path = tiny_recipe(tmp_path_factory.mktemp("undisturbed"), **CHANGES)
    run_ranks(2, trained, path)
    return run_of(path)


def killed(world: World, path: Path, step: int) -> None:
    """Dies when the metrics of ``step`` are written and its rollouts are not."""

    def die(made: int, metrics: Mapping[str, float]) -> None:
        if made == step:
            os.kill(os.getpid(), signal.SIGKILL)

    train(read_recipe(TrainConfig, [path]), world=world, report=die)


AHEAD = {"rollout__ahead": True, "policy__importance_cap": 2.0}
ADAPTERS = {"lora__rank": 2}
AVERAGE = {"prm__ema": 0.5}


@pytest.mark.parametrize(
    ("sharding", "changes"), [("none", {}), ("full", {}), ("none", AHEAD), ("full", ADAPTERS), ("full", AVERAGE)]
)
def test_two_ranks_killed_in_mid_step_go_on_bit_for_bit_and_one_goes_on_nearly_so(
    tmp_path: Path, undisturbed: Path, sharding: Any, changes: dict[str, Any]
):
    path, alone = tiny_recipe(tmp_path, **CHANGES, **changes), tmp_path / "alone"
    if sharding != "none" or changes:
        changed = tiny_recipe(tmp_path / "undisturbed", **CHANGES, **changes)
        run_ranks(2, trained, changed, sharding=sharding)
        undisturbed = run_of(changed)
    with pytest.raises(AssertionError, match="exit status -9"):
        run_ranks(2, killed, path, STEPS // 2 + 1, sharding=sharding)
    assert [folder.name for folder in (run_of(path) / "checkpoints").iterdir()] == ["step-000005"]
    shutil.copytree(run_of(path), alone / "run")

    run_ranks(2, trained, path, sharding=sharding)
    assert_same(run_of(path), undisturbed)
    run_ranks(1, trained, path, ("--run.folder", str(alone)))
    assert_close(alone / "run", undisturbed, 1e-6)


def assert_close(one: Path, other: Path, tolerance: float) -> None:
    """Weights, and metrics relative to those above 1, at the last step."""
    for role in ("policy", "prm"):
        here, there = (
            load_file(run / "checkpoints" / f"step-{STEPS:06d}" / role / "model.safetensors") for run in (one, other)
        )
        assert max((here[name] - there[name]).abs().max().item() for name in here) <= tolerance
    for mine, theirs in zip(*(untimed(lines(run / "metrics.jsonl")) for run in (one, other)), strict=True):
        for name, value in mine.items():
            assert value == theirs[name] or abs(value - theirs[name]) <= tolerance * max(1.0, abs(value)), name


@contextmanager
def torchrun(path: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Two ranks of the recipe at ``path``; what they say goes to ``said.txt`` beside it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]
    command += ["-m", "credo.cli", "train", str(path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (path.parent / "said.txt").open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, text=True, env=environment)
        try:
            yield process
        finally:
            ranks = children(process.pid) if process.poll() is None else []
            for pid in [process.pid, *ranks]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def rank_of(pid: int) -> str:
    variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(variable.split("=", 1) for variable in variables if "=" in variable)["RANK"]


def test_torchrun_starts_ranks_again_when_one_is_killed_in_mid_step(tmp_path: Path, undisturbed: Path):
    path = tiny_recipe(tmp_path, **CHANGES)
    with torchrun(path, "--max-restarts", "2") as process:
        wait_until(lambda: steps_of(run_of(path)) >= 6, lambda: process.poll() is None)
        (victim,) = [pid for pid in children(process.pid) if rank_of(pid) == "1"]
        time.sleep(0.02)
        os.kill(victim, signal.SIGKILL)
        assert process.wait(LONGEST_WAIT) == 0
    assert (run_of(path) / "log.txt").read_text().count("Resumed after step 5") == 1
    assert steps_of(run_of(path)) == STEPS
    assert_same(run_of(path), undisturbed)


def talkative(folder: Path) -> Path:
    """A recipe of which most of the time is sampling."""
    shape = ArchitectureConfig(
        layers=1, width=16, heads=2, positions=512, alphabet="abcd=" + "".join(map(chr, range(200, 300)))
    )
    built = build_model(shape, seed=0)
    save_model(built.model, built.tokenizer, folder / "model")
    return tiny_recipe(folder, run__steps=4, rollout__max_tokens=300, checkpoint__every=100)


def test_ranks_told_to_stop_while_they_sample_save_in_time_and_go_on(tmp_path: Path):
    path, undisturbed = (talkative(tmp_path / name) for name in ("stopped", "undisturbed"))
    with torchrun(path) as process:
        wait_until(lambda: steps_of(run_of(path)) >= 2, lambda: process.poll() is None)
        time.sleep(0.1)
        told = time.monotonic()
        process.terminate()
        process.wait(LONGEST_WAIT)
        assert time.monotonic() - told < 20
    said = (path.parent / "said.txt").read_text()
    assert "Stopped after step 2" in said
    assert "credo: " not in said, "no rank ends with an error; torchrun itself says that it was told to stop"
    found = newest_whole(run_of(path) / "checkpoints", pytest.fail)
    assert found is not None
    assert found.step == steps_of(run_of(path)) == 2
    for recipe in (path, undisturbed):
        run_ranks(2, trained, recipe)
    assert_same(run_of(path), run_of(undisturbed), step=4)
    rows = lines(run_of(undisturbed) / "metrics.jsonl")
    assert sum(row["time/sample"] for row in rows) > 0.5 * sum(row["time/step"] for row in rows)


def poisoned(world: World, path: Path) -> tuple[list[float], list[bool], list[dict[str, Any]]]:
    """Three steps, in the second of which the gradient of the last rank is NaN: what was skipped, and what changed."""
    config = read_recipe(TrainConfig, [path])
    parts = assemble(config, world, Console(quiet=True))
    spoiling = False

    def spoil(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if spoiling and output.requires_grad:
            output.register_hook(lambda gradient: gradient * math.nan)

    parts.policy.model.get_input_embeddings().register_forward_hook(spoil)
    weights = [state(parts.policy.model)]
    skipped = []
    with closing(parts.verifier), closing(parts.engine):
        for step in range(3):
            spoiling = step == 1 and world.rank == world.size - 1
            groups = parts.collector.collect(config.rollout.prompts, parts.policy.version).groups
            skipped.append(prime_step(parts, groups, config, step).metrics["policy/skipped_steps"])
            weights.append(state(parts.policy.model))
    changed = [
        any(not torch.equal(before[name], after[name]) for name in before)
        for before, after in itertools.pairwise(weights)
    ]
    return skipped, changed, [{name: weight.tolist() for name, weight in kept.items()} for kept in weights]


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: whole(weight.detach()).clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_nan_in_the_gradient_of_one_rank_is_skipped_by_all(tmp_path: Path, sharding: Any):
    one, other = run_ranks(2, poisoned, tiny_recipe(tmp_path), sharding=sharding)
    skipped, changed, _ = one
    assert skipped == [0.0, 1.0, 0.0]
    assert changed == [True, False, True]
    assert other == one


# Processes that judge


def test_verifiers_killed_again_and_again_invent_no_verdict(tmp_path: Path):
    path, chance = (
        tiny_recipe(tmp_path, run__steps=12, verify__workers=2, verify__max_unknown_share=1.0),
        random.Random(7),
    )
    run, killed = run_of(path), 0
    with started(path) as process:
        for step in range(1, 12):
            wait_until(lambda: steps_of(run) >= step, process.is_alive)
            time.sleep(chance.random() * 0.05)
            for child in children(process.pid or 0):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                    killed += 1
        process.join(LONGEST_WAIT)
        assert process.exitcode == 0
    assert killed > 8
    rows = [row for rollouts in sorted((run / "rollouts").iterdir()) for row in lines(rollouts)]
    assert all(row["score"] == float(row["response"][:1] == row["answer"]) for row in rows)
    unknown = sum(row["verify/unknown"] for row in lines(run / "metrics.jsonl"))
    assert len(rows) + unknown >= 12 * 16


# Disks


def until_evaluations_find_no_room(world: World, path: Path) -> str:
    """What the rank says when evaluation.jsonl cannot grow any more, nor any file as long on the first rank."""

    def fill(step: int, metrics: Mapping[str, float]) -> None:
        if step == 2 and world.is_first:
            size = (run_of(path) / "evaluation.jsonl").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    out = contextlib.redirect_stdout(io.StringIO())  # which may be such a file too
    with out, pytest.raises((RuntimeError, OSError)) as error:
        train(read_recipe(TrainConfig, [path]), world=world, report=fill)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return str(error.value)


def test_a_disk_without_room_for_an_evaluation_is_said_on_all_ranks(tmp_path: Path):
    held_out = tiny_problems(tmp_path / "held-out.jsonl", PAIRS[:2])
    evaluated = {"evaluation__sources": [str(held_out)], "evaluation__every": 1}
    path = tiny_recipe(tmp_path, checkpoint__every=100, checkpoint__rollouts_every=0, **evaluated)
    first, second = run_ranks(2, until_evaluations_find_no_room, path)
    assert "File too large" in first
    assert re.search("Rank 0 of 2 failed in 'evaluating'.*File too large", second)


def on_a_disk_of_its_own(world: World, path: Path, folder: Path) -> str:
    """What the rank says of a run whose folder is another one on each rank."""
    (folder / str(world.rank)).mkdir(parents=True, exist_ok=True)
    os.chdir(folder / str(world.rank))
    try:
        trained(world, path, ("--run.folder", "runs"))
    except RuntimeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_ranks_that_do_not_see_the_checkpoint_of_the_first_one_say_so(tmp_path: Path, sharding: Any):
    path = tiny_recipe(tmp_path, run__steps=2)
    assert run_ranks(1, on_a_disk_of_its_own, path, tmp_path) == [""]
    path = tiny_recipe(tmp_path, run__steps=4)
    first, second = run_ranks(2, on_a_disk_of_its_own, path, tmp_path, sharding=sharding)
    assert "does not see runs/run/checkpoints/step-000002" in second
    assert re.search("Rank 1 of 2 failed .*does not see runs/run/checkpoints/step-000002", first)


def until_it_is_full(world: World, path: Path, disk: Path, room: int) -> str:
    """What the rank says when ``room`` bytes are left on the disk after the first checkpoint."""

    def fill(step: int, metrics: Mapping[str, float]) -> None:
        if step == 2 and world.is_first:
            (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - room))

    try:
        train(read_recipe(TrainConfig, [path]), world=world, report=fill)
    except (RuntimeError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def on_a_small_disk(folder: Path, disk: Path) -> None:
    """Writes what two ranks say of a disk that becomes full, and what is left; for a process with a disk of its own."""
    changes = {**CHANGES, "run__folder": str(disk), "run__steps": 4, "checkpoint__every": 1}
    for room in (1_000, 100_000):
        path = tiny_recipe(folder, **changes, run__name=f"room-{room}")
        run = disk / f"room-{room}"
        said = run_ranks(2, until_it_is_full, path, disk, room)
        (disk / "ballast").unlink()
        found = newest_whole(run / "checkpoints", print)
        run_ranks(2, trained, path)
        end = {"said": said, "step": found and found.step, "mended": steps_of(run)}
        with (folder / "ends.jsonl").open("a") as file:
            file.write(json.dumps(end) + "\n")


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare to mount a small disk")
def test_a_full_disk_ends_all_ranks_with_a_sentence(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    alone, mount = ["unshare", "-rm", "sh", "-c"], f"mount -t tmpfs -o size=4m none '{disk}'"
    if subprocess.run([*alone, mount], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    (tmp_path / "full.py").write_text(
        "import sys\nfrom pathlib import Path\nfrom test_faults import on_a_small_disk\n"
        "if __name__ == '__main__':\n    on_a_small_disk(Path(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    tests = Path(__file__).parents[1]
    places = os.pathsep.join(map(str, (tests, tests / "end_to_end", ROOT)))
    command = f"{mount} && exec '{sys.executable}' '{tmp_path}/full.py' '{tmp_path}/recipe' '{disk}'"
    run = subprocess.run(
        [*alone, command], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": places}, timeout=LONGEST_WAIT
    )
    assert run.returncode == 0, run.stderr
    small, larger = lines(tmp_path / "recipe" / "ends.jsonl")
    for end in (small, larger):
        assert all("No space left on device" in said for said in end["said"])
        assert "Rank 0 of 2 failed" in end["said"][1]
        assert (end["step"], end["mended"]) == (1, 4)
    assert "The checkpoint of step 2 could not be written" in larger["said"][0]


# Kills


MANY = 30


def long_recipe(folder: Path) -> Path:
    return eventful_recipe(folder, MANY, prm__warmup_steps=10, evaluation__every=7, checkpoint__every=2)


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = long_recipe(tmp_path_factory.mktemp("long") / "x")
    with started(path) as process:
        process.join(LONGEST_WAIT)
    return run_of(path)


def killed_at(path: Path, moment: Callable[[Callable[[], bool]], None]) -> bool:
    """Starts the run, kills it when ``moment`` returns, which is told how to ask whether it is alive."""
    with started(path) as process:
        moment(process.is_alive)
        process.kill()
        process.join(LONGEST_WAIT)
        return process.exitcode == -signal.SIGKILL


def step_saved(run: Path) -> int:
    found = newest_whole(run / "checkpoints", pytest.fail) if run.exists() else None
    return found.step if found else 0


def test_twenty_kills_at_random_moments_change_nothing(tmp_path: Path, long_run: Path):
    path, chance, kills = long_recipe(tmp_path / "x"), random.Random(20251123), 0
    run = run_of(path)
    while kills < 20:
        begun = step_saved(run)
        more = chance.choice([0, 1, 2, 3]) if begun < MANY - 4 else 0

        def moment(alive: Callable[[], bool]) -> None:
            if more:
                wait_until(lambda: steps_of(run) >= begun + more, alive)
            time.sleep(chance.random() * (0.1 if more else 0.6))

        kills += killed_at(path, moment)
        assert step_saved(run) >= begun
    with started(path) as process:
        process.join(LONGEST_WAIT)
        assert process.exitcode == 0
    assert_same(run, long_run, step=MANY)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_run_killed_while_it_saves_goes_on_from_the_checkpoint_before(tmp_path: Path, asynchronous: bool):
    tiny_model(tmp_path / "model", width=256)
    path = tiny_recipe(tmp_path, run__steps=24, checkpoint__every=1, checkpoint__asynchronous=asynchronous)
    run, chance, halves = run_of(path), random.Random(7), 0

    def half_written() -> list[Path]:
        return [] if not run.exists() else list((run / "checkpoints").glob("*.tmp"))

    for _ in range(5):
        begun = step_saved(run)

        def moment(alive: Callable[[], bool]) -> None:
            wait_until(lambda: step_saved(run) > begun, alive)
            wait_until(lambda: bool(half_written()), alive, poll=0.0)
            time.sleep(chance.random() * 0.03)

        assert killed_at(path, moment)
        halves += bool(half_written())
        assert step_saved(run) > begun
    assert halves > 1, "some were half written"
    with started(path) as process:
        process.join(LONGEST_WAIT)
        assert process.exitcode == 0
    assert steps_of(run) == step_saved(run) == 24
    assert not half_written()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_twenty_kills_of_the_demo_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    main(["sft", str(ROOT / "recipes" / "demo-sft.toml"), "--run.steps", "500", "--run.threads", "1"])
    flags = ["--run.threads", "1", "--checkpoint.every", "2", "--checkpoint.keep", "3"]
    command = ["train", str(ROOT / "recipes" / "demo.toml"), *flags, "--run.name"]
    main([*command, "undisturbed"])
    run, chance, kills, status = tmp_path / "runs" / "killed", random.Random(20251123), 0, None
    while status != 0:
        process = STARTER.Process(target=main, args=([*command, "killed"],))
        process.start()
        begun = step_saved(run)
        more = chance.choice([0, 0, 1, 2]) if begun < 36 else 0
        if kills < 20:
            wait_until(lambda: steps_of(run) >= begun + more, process.is_alive, poll=0.05)
            process.join(1.5 * chance.random())
            process.kill()
        process.join(1000)
        status = process.exitcode
        assert status in (0, -signal.SIGKILL)
        kills += status != 0
    assert kills == 20
    assert_same(run, tmp_path / "runs" / "undisturbed", step=45)


# Networks


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


@contextmanager
def two_hosts() -> Iterator[tuple[list[str], Callable[[bool], None]]]:
    """Two network namespaces joined by a wire, and what cuts it and mends it."""
    hosts = [f"credo-{os.getpid()}-{index}" for index in range(2)]
    with ExitStack() as undo:
        try:
            for host in hosts:
                ip("netns", "add", host)
                undo.callback(subprocess.run, ["ip", "netns", "del", host], capture_output=True)
            ip("link", "add", "wire0", "netns", hosts[0], "type", "veth", "peer", "name", "wire1", "netns", hosts[1])
            for index, host in enumerate(hosts):
                ip("-n", host, "addr", "add", f"10.199.0.{index + 1}/24", "dev", f"wire{index}")
                for device in ("lo", f"wire{index}"):
                    ip("-n", host, "link", "set", device, "up")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"this system lets nobody make a network: {error}")
        yield hosts, lambda whole: ip("-n", hosts[1], "link", "set", "wire1", "up" if whole else "down")


@contextmanager
def on_two_hosts(path: Path, hosts: list[str], timeout: float) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A rank of the recipe at ``path`` on each host; what they say goes to ``said-N.txt`` beside it."""
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "10.199.0.1", "MASTER_PORT": "29511", "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        ranks = []
        for rank, host in enumerate(hosts):
            said = stack.enter_context((path.parent / f"said-{rank}.txt").open("w"))
            own = {"RANK": str(rank), "LOCAL_RANK": "0", "GLOO_SOCKET_IFNAME": f"wire{rank}", "PYTHONPATH": str(ROOT)}
            command = ["ip", "netns", "exec", host, sys.executable, "-m", "credo.cli", "train", str(path)]
            command += ["--launch.timeout", str(timeout)]
            process = subprocess.Popen(command, stdout=said, stderr=said, env=os.environ | place | own)
            stack.callback(process.wait)
            stack.callback(process.kill)
            ranks.append(process)
        yield ranks


@pytest.mark.slow
@pytest.mark.parametrize("timeout", [120.0, 10.0])
def test_two_hosts_that_lose_each_other_for_half_a_minute(tmp_path: Path, timeout: float):
    changes = {**CHANGES, "run__steps": 60, "filter__max_empty_steps": 60}
    path, undisturbed = (tiny_recipe(tmp_path / name, **changes) for name in ("parted", "undisturbed"))
    run = run_of(path)
    run_ranks(2, trained, undisturbed)
    with two_hosts() as (hosts, connect):
        with on_two_hosts(path, hosts, timeout) as ranks:
            wait_until(lambda: steps_of(run) >= 7, lambda: ranks[0].poll() is None)
            connect(False)
            lost, cut = steps_of(run), time.monotonic()
            if timeout < 30:
                for process in ranks:
                    assert process.wait(timeout + 25) == 1
            time.sleep(max(0.0, cut + 30 - time.monotonic()))
            assert lost <= steps_of(run) <= lost + 1
            saved = newest_whole(run / "checkpoints", pytest.fail)
            assert saved is not None
            assert saved.step >= 5
            connect(True)
            if timeout > 30:
                for process in ranks:
                    assert process.wait(LONGEST_WAIT) == 0
        if timeout < 30:
            for rank in range(2):
                said = (path.parent / f"said-{rank}.txt").read_text()
                assert re.search(rf"credo: Rank {rank} of 2 waited \d+ s in '[\w ]+' for the others: Timed out", said)
            with on_two_hosts(path, hosts, timeout) as ranks:
                for process in ranks:
                    assert process.wait(LONGEST_WAIT) == 0
    assert_same(run, run_of(undisturbed), step=60)


# Clocks


def test_nothing_waits_by_a_clock_that_jumps():
    wall = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
    asked = {
        f"{path.name}:{node.lineno}"
        for path in (ROOT / "credo").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Attribute) and ast.unparse(node).removeprefix("datetime.") in wall)
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "time"
            and {"time", "time_ns"} & {a.name for a in node.names}
        )
    }
    assert not asked, "monotonic() and perf_counter() do not jump"
