"""Files by hash: what is right is used, what is wrong is refused with both hashes, what is unpinned is not taken."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from credo.data.fetch import cache, checked, from_address, sha256_of, split_pin

CONTENT = b'{"prompt": "x", "answer": "1"}\n'
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where a file is served, with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "set.jsonl").write_bytes(CONTENT)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "served")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/set.jsonl"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_hash_is_of_all_files_in_their_order(tmp_path: Path):
    first, second = tmp_path / "1", tmp_path / "2"
    first.write_bytes(b"ab")
    second.write_bytes(b"c")
    assert sha256_of([first, second]) == hashlib.sha256(b"abc").hexdigest() != sha256_of([second, first])


def test_a_wrong_file_is_refused_with_both_hashes(tmp_path: Path):
    path = tmp_path / "set.jsonl"
    path.write_bytes(CONTENT)
    assert checked([path], SHA256, "math500") == checked([path], "", "math500") == SHA256
    with pytest.raises(ValueError, match=f"(?s)math500.*{SHA256}.*{'0' * 64}"):
        checked([path], "0" * 64, "math500")


def test_a_pin_is_taken_off_a_source():
    assert split_pin("math500") == ("math500", "")
    assert split_pin(f"x.jsonl#sha256={SHA256}") == ("x.jsonl", SHA256)
    for pin in ("", "12", SHA256.upper()):
        with pytest.raises(ValueError, match="64 digits"):
            split_pin(f"x.jsonl#sha256={pin}")


def test_a_file_at_an_address_is_brought_once(address: str, tmp_path: Path):
    path = from_address(address, SHA256)
    assert (path.read_bytes(), path.suffix) == (CONTENT, ".jsonl")
    (tmp_path / "served" / "set.jsonl").unlink()
    assert from_address(address, SHA256) == path
    path.write_bytes(b"other")
    with pytest.raises(ValueError, match=SHA256):
        from_address(address, SHA256)


def test_what_has_no_checksum_is_not_taken_but_its_hash_is_said(address: str):
    with pytest.raises(ValueError, match=f"{address}#sha256={SHA256}"):
        from_address(address, "")
    with pytest.raises(ValueError, match=f"(?s){SHA256}.*{'0' * 64}"):
        from_address(address, "0" * 64)
    assert not list(cache().iterdir()), "nothing that was refused is kept"


def test_an_address_without_anything_is_one_sentence(address: str):
    with pytest.raises(ValueError, match="not found"):
        from_address(address.replace("set", "absent"), SHA256)
    with pytest.raises(ValueError, match="could not be fetched"):
        from_address("http://localhost/a set.jsonl", SHA256)
    with pytest.raises(ValueError, match="could not be fetched"):
        from_address("http://127.0.0.1:1/set.jsonl", SHA256)


HUB = """
import pathlib, sys
from credo.data.fetch import from_hub

def say(place):
    try:
        print([path.name for path in from_hub("math500", place)])
    except ValueError as error:
        print(error)

place = pathlib.Path(sys.argv[1]) / "hub" / "datasets--someone--MATH-500"
say("someone/MATH-500:test*.jsonl")
for name in ("refs/main", "snapshots/abc/test2.jsonl", "snapshots/abc/test1.jsonl", "snapshots/abc/README.md"):
    (place / name).parent.mkdir(parents=True, exist_ok=True)
    (place / name).write_text("abc")
say("someone/MATH-500:test*.jsonl")
say("someone/MATH-500:*.parquet")
"""


def test_files_come_from_the_hub_s_cache_where_it_is_out_of_reach(tmp_path: Path):
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path), "PATH": "/usr/bin"}
    command = [sys.executable, "-c", HUB, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=True)
    absent, found, other = run.stdout.strip().splitlines()
    assert "someone/MATH-500" in absent
    assert "--data-folder" in absent
    assert found == "['test1.jsonl', 'test2.jsonl']"
    assert "holds no *.parquet" in other
