"""The child's side of the channel, spoken to by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from credo.verify.worker import HEADER, pack

SETTINGS = {
    "extraction": {"kind": "auto", "pattern": ""},
    "strictness": {"need_units": False, "decimal_digits": 6},
    "deadline": 5.0,
    "memory_mb": 2048,
}
PROGRAM = "from credo.verify.worker import main; main()"


def conversation(*messages: dict) -> list[dict]:
    """What a child answers to all messages at once, until it ends with its input."""
    root = Path(__file__).parents[2]
    sent = b"".join(map(pack, messages))
    child = subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, input=sent, capture_output=True, timeout=60)
    assert child.returncode == 0, child.stderr.decode()
    replies, rest = [], child.stdout
    while rest:
        end = HEADER.size + HEADER.unpack_from(rest)[0]
        replies.append(json.loads(rest[HEADER.size : end]))
        rest = rest[end:]
    return replies


def test_a_frame_is_a_length_and_ascii():
    frame = pack({"response": "\ud800 é\x00"})
    assert HEADER.unpack_from(frame)[0] == len(frame) - HEADER.size
    assert frame[HEADER.size :].isascii()
    assert json.loads(frame[HEADER.size :]) == {"response": "\ud800 é\x00"}


def test_it_serves_until_its_input_ends():
    task = {"kind": "exact", "response": " \ud800\x00 ", "answer": "\ud800\x00", "extra": {}}
    replies = conversation(SETTINGS, {"warm": "exact"}, task, task | {"response": "b"})
    assert replies[0] == {"ready": "exact"}
    assert [reply["score"] for reply in replies[1:]] == [1.0, 0.0]
    assert conversation() == []


def test_reasons_are_cut():
    (reply,) = conversation(SETTINGS, {"kind": "x" * 10_000, "response": "a", "answer": "a", "extra": {}})
    assert len(reply["unknown"]) == 500
