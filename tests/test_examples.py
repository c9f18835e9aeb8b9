"""The templates for clusters: their commands are ones that credo takes, and the batch script stops and queues again."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from credo.config import TrainRecipe
from credo.recipe import read_recipe

ROOT = Path(__file__).parents[1]
SLURM, KUBERAY = ROOT / "examples" / "slurm.sbatch", ROOT / "examples" / "kuberay.yaml"


def commented(path: Path, command: str) -> list[str]:
    """The words after ``command`` in the comment at the top of ``path``."""
    line = next(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith(f"#   {command}"))
    return shlex.split(line.removeprefix(f"#   {command}"))


def test_slurm_is_told_to_queue_again_and_to_warn_in_time():
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", SLURM.read_text(encoding="utf-8"), re.MULTILINE))
    assert "requeue" in options
    assert options["ntasks-per-node"] == "1"
    warned = re.fullmatch(r"B:TERM@(\d+)", options["signal"])
    patience = re.search(r"TORCH_ELASTIC_SHUTDOWN_TIMEOUT=(\d+)", SLURM.read_text(encoding="utf-8"))
    assert warned
    assert patience
    assert 60 <= int(patience[1]) < int(warned[1])


def test_the_command_for_slurm_is_one_that_credo_takes(monkeypatch: pytest.MonkeyPatch):
    script, recipe, *flags = commented(SLURM, "sbatch")
    assert ROOT / script == SLURM
    monkeypatch.chdir(ROOT)
    assert read_recipe(TrainRecipe, [Path(recipe)], flags).launch.sharding == "full"


FAKES = {
    "srun": 'shift; exec "$@"',
    "scontrol": 'if [ "$1" = show ]; then echo n1; echo n2; else echo "$@" >> said; fi',
    "scancel": 'echo "$@" >> said; kill -TERM "$(cat torchrun.pid)"',
    "torchrun": 'trap "echo saved >> said; exit 3" TERM; echo "$@" > started; echo $$ > torchrun.pid\n'
    '[ "$LASTS" = yes ] || exit 0\nwhile :; do sleep 0.05; done',
}
"""What a cluster does, as far as the script sees it."""


def cluster(folder: Path, *, lasts: bool) -> dict[str, str]:
    """The environment of a job, with the programs of a cluster in ``folder``."""
    for name, body in FAKES.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    job = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_ID": "7"}
    return {**os.environ, **job, "PATH": f"{folder}:{os.environ['PATH']}", "LASTS": "yes" if lasts else "no"}


def test_the_batch_script_starts_a_rank_on_each_gpu_of_each_machine(tmp_path: Path):
    job = [str(SLURM), "recipes/demo.toml", "--run.name", "two words"]
    subprocess.run(["bash", *job], env=cluster(tmp_path, lasts=False), cwd=tmp_path, check=True, timeout=30)
    started = (tmp_path / "started").read_text()
    assert "--nnodes 2 --nproc-per-node 8 " in started
    assert "--rdzv-endpoint n1:29500 --rdzv-id 7-0 " in started
    assert started.endswith("-m credo.cli train recipes/demo.toml --run.name two words\n")
    assert not (tmp_path / "said").exists(), "a run that ended is not queued again"


def test_a_job_that_is_told_to_stop_lets_the_ranks_save_and_is_queued_again(tmp_path: Path):
    job = subprocess.Popen(["bash", str(SLURM), "recipes/demo.toml"], env=cluster(tmp_path, lasts=True), cwd=tmp_path)
    deadline = time.monotonic() + 30
    while not (tmp_path / "torchrun.pid").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=30) != 0
    assert (tmp_path / "said").read_text().splitlines() == ["--signal=TERM 7", "saved", "requeue 7"]


def test_a_batch_script_without_a_recipe_says_how_it_is_used(tmp_path: Path):
    done = subprocess.run(["bash", str(SLURM)], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("usage: sbatch examples/slurm.sbatch RECIPE.toml")


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(KUBERAY.read_text(encoding="utf-8"))


def test_kubernetes_starts_a_worker_for_each_gpu(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    shell, option, line = shlex.split(job["spec"]["entrypoint"])
    assert (shell, option) == ("bash", "-c")
    place, command = line.split(" && ")
    program, train, recipe, *flags = command.split()
    assert (place.split()[0], program, train) == ("cd", "credo", "train")
    monkeypatch.chdir(ROOT)
    launch = read_recipe(TrainRecipe, [Path(recipe)], flags).launch
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    gpus = [container(group)["resources"]["limits"]["nvidia.com/gpu"] for group in groups]
    assert launch.kind == "ray"
    assert launch.workers == sum(group["replicas"] * int(count) for group, count in zip(groups, gpus, strict=True))


def test_kubernetes_mounts_the_run_s_folder_everywhere(job: dict[str, Any]):
    place = shlex.split(job["spec"]["entrypoint"])[2].split()[1]
    groups = [job["spec"]["rayClusterSpec"]["headGroupSpec"], *job["spec"]["rayClusterSpec"]["workerGroupSpecs"]]
    for group in groups:
        mounts = {mount["mountPath"]: mount["name"] for mount in container(group)["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
        assert "persistentVolumeClaim" in volumes[mounts[place]]
        assert set(mounts.values()) == set(volumes)


def container(group: dict[str, Any]) -> dict[str, Any]:
    """The one container of a pod."""
    (only,) = group["template"]["spec"]["containers"]
    return only
