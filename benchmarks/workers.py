"""Processes that stand ready and do one thing when asked, so that contenders take turns and only one of them works.

Each end of the pipe writes a line of JSON at a time. Standard library alone: a competitor's own Python reads this too.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIMIT = 3600.0
"""Seconds that one answer may take."""


class Worker:
    """``python script --work``, in a process of its own; what it prints goes to ``log``."""

    def __init__(self, script: Path, job: Mapping[str, Any], log: Path, python: str = sys.executable) -> None:
        """Raises RuntimeError, here and in :meth:`ask`, if the process dies or takes longer than ``LIMIT``."""
        self.log = log
        threads = str(job["threads"])
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [python, script, "--work"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            )
        self.about = self.ask(job)
        """What it said of itself."""

    def ask(self, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer to ``request``; in between the worker does nothing."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps(request or {}), file=self.process.stdin, flush=True)
            ready, _, _ = select.select([self.process.stdout], [], [], LIMIT)
            line = self.process.stdout.readline() if ready else ""
        except BrokenPipeError:
            line = ""
        if not line:
            self.close()
            raise RuntimeError(f"A worker gave no answer; its last words:\n{self.log.read_text()[-3000:]}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.communicate()


class Requests:
    """The worker's end. What libraries print to standard output goes to standard error from here on."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def wait(self) -> dict[str, Any]:
        """The next request; the first is the job. Leaves the process when there will be no more."""
        line = sys.stdin.readline()
        if not line:
            sys.exit(0)
        return json.loads(line)

    def answer(self, answer: Mapping[str, Any]) -> None:
        """Sends an answer."""
        print(json.dumps(answer), file=self._answers, flush=True)
