"""What a person sees: lines in the terminal and in the log, signs of life in a pipe, a bar in a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from credo import console
from credo.console import Console, duration, first_line


def test_lines_go_to_the_terminal_and_with_the_time_to_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    speaker = Console(tmp_path / "log.txt")
    speaker.say("first ü")
    speaker.warn("second")
    assert capsys.readouterr().out == "first ü\nwarning: second\n"
    logged = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", "", line) for line in logged] == ["first ü", "warning: second"]
    assert all(re.match(r"\d{4}-", line) for line in logged)


def test_a_quiet_one_neither_speaks_nor_writes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.setattr(console, "PIPE_INTERVAL", 0.0)
    speaker = Console(tmp_path / "log.txt", quiet=True)
    speaker.say("first")
    speaker.warn("second")
    for live in (False, True):
        speaker.live = live
        with speaker.stage("sampling", "tokens", total=10) as advance:
            advance(10)
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "log.txt").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_a_log_for_which_there_is_no_room_ends_nothing(capsys: pytest.CaptureFixture[str]):
    Console(Path("/dev/full")).say("said")
    assert capsys.readouterr().out == "said\n"


def test_an_older_log_is_kept(tmp_path: Path):
    Console(tmp_path / "log.txt").say("before")
    Console(tmp_path / "log.txt").say("after")
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 2


def test_a_short_stage_is_silent_in_a_pipe(capsys: pytest.CaptureFixture[str]):
    with Console().stage("sampling", "tokens", total=10) as advance:
        advance(10)
    assert capsys.readouterr().out == ""


def test_a_long_stage_shows_that_it_is_alive(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.setattr(console, "PIPE_INTERVAL", 0.0)
    with Console(tmp_path / "log.txt").stage("rows.jsonl", "rows", total=3000) as advance:
        advance(1000)
        advance(500)
    first, second = capsys.readouterr().out.splitlines()
    assert "1,000 rows of 3,000" in first
    assert "1,500 rows of 3,000" in second
    assert not (tmp_path / "log.txt").exists(), "signs of life are not worth keeping"


def test_a_stage_without_an_end_promises_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(console, "PIPE_INTERVAL", 0.0)
    with Console().stage("sampling", "tokens") as advance:
        advance(7)
    assert "sampling: 7 tokens," in (said := capsys.readouterr().out)
    assert "left" not in said


def test_a_terminal_gets_a_bar_that_disappears():
    program = (
        "from credo.console import Console\n"
        "with Console().stage('sampling', 'tokens', 10) as advance: advance(4); advance(5)\n"
        "Console().say('done')"
    )
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", program], stdout=theirs, stderr=subprocess.STDOUT) as process:
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
    os.close(ours)
    assert process.returncode == 0, shown
    assert b"9 tokens" in shown
    assert shown.rstrip().endswith(b"done")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # how Linux says that nobody holds the other end
        return b""


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1.0, "0s"), (0.4, "0s"), (59.4, "59s"), (60.0, "1m00s"), (125.0, "2m05s"), (3599.6, "1h00m"), (7380.0, "2h03m")],
)
def test_durations(seconds: float, said: str):
    assert duration(seconds) == said


@pytest.mark.parametrize(("said", "first"), [("one\ntwo", "one"), ("\n one. ", "one."), ("", "ValueError")])
def test_an_error_is_told_in_a_line_even_if_it_says_nothing(said: str, first: str):
    assert first_line(ValueError(said)) == first
