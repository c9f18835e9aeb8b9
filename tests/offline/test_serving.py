"""``credo prm serve`` as a process: a load as in benchmarks/serving.py, told to stop at work, and mistakes."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_model

from credo.offline.serving import serve
from credo.options.offline import PrmServeOptions


def benchmark() -> Any:
    """The module ``benchmarks/serving.py``."""
    spec = importlib.util.spec_from_file_location(
        "serving_load", Path(__file__).parents[2] / "benchmarks" / "serving.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["serving_load"] = module
    spec.loader.exec_module(module)
    return module


def test_under_load_nothing_is_lost_or_wrong(tmp_path: Path):
    load = benchmark()
    for seed, name in enumerate(("phi", "ref")):
        tiny_model(tmp_path / name, seed=seed)
    phi, ref = str(tmp_path / "phi"), str(tmp_path / "ref")
    server, port = load.started([phi, "--reference", ref, "--threads", "1", "--waiting", "20"])
    try:
        findings = load.Findings()
        first, second, last = (load.tasks(300, seed=seed, characters="abcd=", longest=8) for seed in range(3))
        asyncio.run(load.load(port, first, findings, clients=40))
        assert sum(findings.done.values()) == 300
        assert min(findings.done[kind] for kind in load.SHARES) > 0
        assert findings.wrong == []
        assert load.difference(findings, phi, ref) < 1e-6
        before = load.resident(server.pid)
        asyncio.run(load.load(port, second, findings, clients=40))
        assert load.resident(server.pid) < before + 20
        said = asyncio.run(load.stopped_at_work(server, port, last[:20]))
        sound = sum(task.kind == "sound" for task in last[:20])
        assert f"statuses {{200: {sound}}}, lost {{}}, exit status 0" in said
    finally:
        server.kill()
        assert "Ended after" in server.communicate()[0]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"waiting": 0}, "--waiting"),
        ({"max_bytes": 0}, "--max-bytes"),
        ({"max_tokens": 0}, "--max-tokens"),
        ({"timeout": 0.0}, "--timeout"),
        ({"timeout": float("inf")}, "--timeout"),
        ({"port": 65536}, "--port"),
        ({"host": "nowhere.invalid"}, "nowhere"),
        ({"port": 0}, "absent"),
    ],
)
def test_mistakes(changes: dict[str, Any], named: str):
    with pytest.raises(ValueError, match=named):
        serve(PrmServeOptions(prm="./absent", threads=1, device="cpu", **changes))


def test_a_port_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port}"):
            serve(PrmServeOptions(prm="./absent", port=port))
