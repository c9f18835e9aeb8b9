"""What counts as an address and as an answer of a server."""

from __future__ import annotations

from typing import Any

import pytest

from credo.rollout.server import Limits, Server, ServerFailure, one_version, read_rollout

SPANS = [{"version": "a-1", "start": 0, "end": 2}]
CHOICE: dict[str, Any] = {
    "token_ids": [7, 1],
    "finish_reason": "stop",
    "logprobs": {"content": [{"token_id": 7, "logprob": -0.5}, {"token_id": 1, "logprob": -1.5}]},
    "weight_versions": SPANS,
}


def test_a_response_with_its_log_probs_and_version():
    rollout, version = read_rollout({"choices": [CHOICE]}, (3, 4))
    assert (rollout.prompt_ids, rollout.response_ids, rollout.logprobs) == ((3, 4), (7, 1), (-0.5, -1.5))
    assert (rollout.finish, version) == ("stop", "a-1")


@pytest.mark.parametrize(
    "change",
    [
        {"token_ids": []},
        {"token_ids": [7]},
        {"token_ids": [7, 2]},
        {"token_ids": ["7", "1"]},
        {"finish_reason": "abort"},
        {"logprobs": None},
        {"logprobs": {"content": [{"token_id": 7, "logprob": float("nan")}, {"token_id": 1, "logprob": -1.5}]}},
        {"logprobs": {"content": [{"token_id": 7, "logprob": 0.5}, {"token_id": 1, "logprob": -1.5}]}},
        {"logprobs": {"content": [{"token_id": 7, "logprob": "x"}, {"token_id": 1}]}},
        {"weight_versions": None},
        {"weight_versions": []},
        {"weight_versions": ["a-1"]},
        {"weight_versions": [*SPANS, {"version": "a-2", "start": 2, "end": 3}]},
    ],
    ids=str,
)
def test_anything_else_is_a_failure(change: dict[str, Any]):
    with pytest.raises(ServerFailure):
        read_rollout({"choices": [{**CHOICE, **change}]}, (3, 4))


@pytest.mark.parametrize("answer", [None, [], "x", {}, {"choices": []}, {"choices": [CHOICE, CHOICE]}])
def test_an_answer_has_one_choice(answer: Any):
    with pytest.raises(ServerFailure):
        read_rollout(answer, (3, 4))


def test_a_pause_between_two_spans_of_one_version_changes_nothing():
    assert one_version([*SPANS, {"version": "a-1", "start": 2, "end": 3}]) == "a-1"


@pytest.mark.parametrize("url", ["http://host:99999", "http://host:port", "http://[host:8000"])
def test_an_address_that_is_none_is_refused(url: str):
    with pytest.raises(ValueError, match=r"rollout\.servers"):
        Server(url, Limits())
