"""``credo prm serve``: the scorer of ``credo prm score`` behind HTTP, from its start to its clean end."""

from __future__ import annotations

import math
import socket
from contextlib import closing
from typing import TYPE_CHECKING

from credo.console import Console
from credo.interruption import Interruption
from credo.offline.limits import Limits
from credo.offline.scorer import Scorer, open_scorer
from credo.offline.service import application, scoring_line
from credo.options.offline import PrmServeOptions

if TYPE_CHECKING:
    from uvicorn import Server

BACKLOG = 1024
"""Connections that the system holds until they are accepted."""


def serve(options: PrmServeOptions) -> None:
    """Answers until SIGTERM or Ctrl-C, then finishes what it has taken and refuses new connections.

    Raises ValueError for what the user can mend.
    """
    _check(options)
    console = Console()
    with closing(_listening(options)) as listener:
        scorer = open_scorer(options, console)
        line = scoring_line(scorer, max_tokens=options.max_tokens, places=options.waiting)
        described = _described(options, scorer)
        app = application(line, described, max_bytes=options.max_bytes, seconds=options.timeout)
        host, port = listener.getsockname()[:2]
        console.say(f"Scoring at http://{f'[{host}]' if ':' in host else host}:{port}/score; Ctrl-C ends it.")
        try:
            with Interruption().listening():
                server_of(app).run(sockets=[listener])
        finally:
            line.close(options.timeout)
    answers = sum(app.statuses.values())
    console.say(f"Ended after {answers:,} answers in {line.taken:,} turns of {line.spent:,} tokens.")


def server_of(app: Limits) -> Server:
    """What speaks HTTP for ``app``. When it stops it waits for the answers that are due."""
    from uvicorn import Config, Server

    return Server(
        Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            proxy_headers=False,
            access_log=False,
            log_level="error",
            server_header=False,
            timeout_graceful_shutdown=math.ceil(app.seconds) + 1,
        )
    )


def _check(options: PrmServeOptions) -> None:
    if min(options.waiting, options.max_bytes, options.max_tokens) < 1 or not 0 < options.timeout < math.inf:
        raise ValueError("--waiting, --max-bytes and --max-tokens are 1 or more, --timeout is seconds above 0.")
    if not 0 <= options.port < 2**16:
        raise ValueError(f"--port: expected 0 to 65535, got {options.port}.")
    try:
        import fastapi
        import uvicorn
    except ImportError as error:
        raise ValueError(f"credo prm serve needs FastAPI ({error}); pip install 'credo[serve]'.") from error
    del fastapi, uvicorn


def _listening(options: PrmServeOptions) -> socket.socket:
    """Taken before the models are loaded: a port in use is known at once."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        return socket.create_server((options.host, options.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ValueError(
            f"Cannot listen at {options.host} port {options.port} ({error.strerror}); choose another --host or --port."
        ) from error


def _described(options: PrmServeOptions, scorer: Scorer) -> dict[str, object]:
    record, reference = scorer.prm.record, options.reference
    if reference == "auto" and record is not None:
        reference = record.reference
    return {"prm": options.prm, "reference": reference, "beta": scorer.beta}
