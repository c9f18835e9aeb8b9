"""A run whose responses come from vLLM servers, up to its last checkpoint; the servers' model is made up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from credo.rollout.server_weights import read_weights
from credo.train import train
from tests.rollout.fake_vllm import GENERATE, FakeVllm
from tests.tiny import LETTERS, lines, tiny_config, tiny_model

STEPS = 3
AHEAD = {"rollout__ahead": True, "policy__importance_cap": 2.0}


class Keeping(FakeVllm):
    """Takes the weights of any model, remembers them, and which of them it answered by."""

    def start(self) -> None:
        """As of a process that has just started."""
        super().start()
        self.held: list[dict[str, Tensor]] = []
        self.answered_by: list[str] = []

    def answer(self, path: str, body: Any) -> Any:
        """As vLLM would."""
        if path == "/update_weights":
            self.held.append(dict(read_weights(self._parent / body["update_info"]["folder"])))
            return {}
        if path == GENERATE and "prompt_logprobs" not in body["sampling_params"]:
            self.answered_by.append(self.version.partition("-")[2])
        return super().answer(path, body)


@pytest.fixture
def servers() -> Iterator[list[Keeping]]:
    made = [Keeping(), Keeping()]
    yield made
    for server in made:
        server.kill()


@pytest.mark.parametrize(("changes", "batches"), [({}, [1, 2, 3]), (AHEAD, [1, 1, 2, 3])])
def test_servers_have_the_weights_of_each_step(
    tmp_path: Path,
    servers: list[Keeping],
    changes: dict[str, Any],
    batches: list[int],
    capsys: pytest.CaptureFixture[str],
):
    """``batches`` are the weights that sampled each: with ``ahead``, the next while those of before learn."""
    tiny_model(tmp_path / "model", alphabet=f"{LETTERS}=efghijkl")
    served = {"rollout__engine": "vllm-server", "rollout__servers": [server.url for server in servers]}
    run = train(tiny_config(tmp_path, run__steps=STEPS, **served, **changes))
    metrics = lines(run / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [1, 2, 3]
    assert {row["rollout/servers"] for row in metrics} == {2.0}
    assert "more than rollout.probe_threshold" in capsys.readouterr().out, "what answers is not what learns"
    for server in servers:
        assert len(server.held) == 1 + STEPS
        assert all(not equal(*pair) for pair in zip(server.held, server.held[1:], strict=False))
        assert equal(server.held[-1], load_file(run / "checkpoints" / "step-000003" / "policy" / "model.safetensors"))
    by = Counter(version for server in servers for version in server.answered_by)
    assert by == Counter(16 * [str(version) for version in batches])
    rows = [row for path in sorted((run / "rollouts").iterdir()) for row in lines(path)]
    assert len(rows) == STEPS * 16
    assert all(len(row["tokens"]) <= 2 and set(row["logprobs"]) == {-0.5} for row in rows)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Of the weights that both have: shared ones are not saved twice."""
    assert len(one.keys() & other.keys()) > 5
    return all(torch.equal(one[name], other[name]) for name in one.keys() & other.keys())
