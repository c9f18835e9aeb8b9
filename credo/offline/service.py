"""What ``credo prm serve`` answers: requests and replies as JSON has them, and the FastAPI application between.

A request chooses among names and gives text, which is tokenised and nothing else. Regular expressions are not taken
from clients: one can be made to run without end.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from credo.algo.reward_aggregation import Aggregation, Form, aggregated, rewards_at
from credo.data.responses import Response
from credo.models.row_logprobs import Tokens
from credo.offline.limits import Limits
from credo.offline.material import tokens_of
from credo.offline.scorer import Scorer
from credo.offline.turns import LineFull, Turns
from credo.types import Message

SURROGATE = re.compile("[\ud800-\udfff]")
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The body is no JSON at all."},
    413: {"description": "The body is too large."},
    422: {"description": "The request cannot be scored; the detail says why."},
    503: {"description": "Too many requests wait; try again after Retry-After seconds."},
    504: {"description": "There was no answer in time."},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """Responses to one prompt, and what is asked of them."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "use_attribute_docstrings": True}

    responses: tuple[str, ...]
    """Texts to score, one or more."""
    prompt: str | None = None
    """Text that the responses continue as it stands."""
    messages: tuple[Message, ...] | None = None
    """In place of it a conversation, which goes through the chat template."""
    finished: bool = True
    """False for responses that go on or were cut off: no end-of-sequence token follows them."""
    level: Literal["token", "step", "sequence"] = "sequence"
    """A reward for every token, for every step, or for the response as a whole."""
    form: Form = "single"
    """Each reward alone, or with all before it (the Q value of the prefix)."""
    aggregate: Aggregation = "sum"
    """How the rewards of a response become its score."""
    step_boundary: Literal["newline", "sentence"] = "newline"
    """What ends a step."""

    def __post_init__(self) -> None:
        if not self.responses:
            raise ValueError("responses is empty; give one or more texts.")
        if (self.prompt is None) == (self.messages is None) or self.messages == ():
            raise ValueError("Give prompt, a text, or messages, a list of one or more; not both.")
        texts = [*self.responses, self.prompt or "", *(turn.content for turn in self.messages or ())]
        if any(SURROGATE.search(text) for text in texts):
            raise ValueError("A text holds half a character (a lone surrogate), which no tokenizer reads.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredResponse:
    """What one response is worth."""

    score: float
    """The aggregate of the rewards."""
    rewards: tuple[float, ...]
    texts: tuple[str, ...]
    """The token or step that each reward belongs to; empty for whole responses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreReply:
    """One entry for each of the responses, in their order."""

    results: tuple[ScoredResponse, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenised:
    """A request with the tokens of its responses."""

    request: ScoreRequest
    rows: tuple[Tokens, ...]

    @property
    def tokens(self) -> int:
        """All of them, prompts included."""
        return sum(len(prompt) + len(response) for prompt, response in self.rows)


Line = Turns[ScoreRequest, Tokenised, ScoreReply]


def scoring_line(scorer: Scorer, *, max_tokens: int, places: int) -> Line:
    """A line of requests before ``scorer``, whose turns are its micro-batches."""
    prepare = partial(tokenised, scorer=scorer, max_tokens=max_tokens)
    work = partial(replies, scorer=scorer)
    return Turns(prepare, lambda request: request.tokens, work, budget=scorer.token_budget, places=places)


def tokenised(request: ScoreRequest, *, scorer: Scorer, max_tokens: int) -> Tokenised:
    """``request`` as tokens. Raises ValueError for more than ``max_tokens`` or than the model has positions for."""
    start, rows, tokens = scorer.prm.start, [], 0
    positions = getattr(start.model.config.get_text_config(), "max_position_embeddings", None) or max_tokens
    for text in request.responses:
        prompt = request.messages if request.prompt is None else request.prompt
        assert prompt is not None
        response = Response(
            prompt=prompt, text=text, score=None, problem="", source="", finished=request.finished, row={}
        )
        rows.append(tokens_of(response, start.tokenizer, scorer.prompting))
        length = len(rows[-1][0]) + len(rows[-1][1])
        if length > positions:
            raise ValueError(f"A prompt with its response is over the {positions:,} tokens that the model takes.")
        tokens += length
        if tokens > max_tokens:
            raise ValueError(f"The request is over {max_tokens:,} tokens, prompts included; send fewer responses.")
    return Tokenised(request=request, rows=tuple(rows))


def replies(requests: Sequence[Tokenised], *, scorer: Scorer) -> list[ScoreReply]:
    """The replies to ``requests``, whose responses are scored together."""
    rewards = iter(scorer.rewards([row for request in requests for row in request.rows]))
    return [
        ScoreReply(results=tuple(_scored(request.request, row, next(rewards), scorer) for row in request.rows))
        for request in requests
    ]


def _scored(request: ScoreRequest, row: Tokens, rewards: Float[Tensor, " N"], scorer: Scorer) -> ScoredResponse:
    ends = _ends(request, row, scorer)
    chosen = rewards_at(rewards, ends, form=request.form)
    decode = scorer.prm.start.tokenizer.decode
    places = [0, *(ends.nonzero().flatten() + 1).tolist()]
    parts = [] if request.level == "sequence" else [list(row[1][start:end]) for start, end in pairwise(places)]
    return ScoredResponse(
        score=aggregated(chosen, request.aggregate).item(),
        rewards=tuple(chosen.tolist()),
        texts=tuple(str(decode(part)) for part in parts),
    )


def _ends(request: ScoreRequest, row: Tokens, scorer: Scorer) -> Bool[Tensor, " N"]:
    match request.level:
        case "token":
            return torch.ones(len(row[1]), dtype=torch.bool)
        case "step":
            return scorer.step_ends(row, request.step_boundary)
        case "sequence":
            return torch.arange(len(row[1])) == len(row[1]) - 1


def application(line: Line, described: Mapping[str, Any], *, max_bytes: int, seconds: float) -> Limits:
    """The ASGI application that asks ``line``; ``described`` is what /health says of the PRM."""
    from fastapi import FastAPI, HTTPException
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import PlainTextResponse

    from credo import __version__

    api = FastAPI(title="credo prm serve", version=__version__, docs_url=None, redoc_url=None)
    api.add_exception_handler(RequestValidationError, _refused)
    api.add_exception_handler(LineFull, _full)
    limits = Limits(api, max_bytes=max_bytes, seconds=seconds)

    @api.post("/score", responses=REFUSALS)
    async def score(request: ScoreRequest) -> ScoreReply:
        """Rewards of responses to one prompt by the implicit PRM."""
        future = line.ask(request)
        try:
            return await asyncio.wrap_future(future)
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        finally:
            line.drop(future)

    @api.get("/health", responses={503: {"description": "Nobody is there to score."}})
    async def health() -> dict[str, Any]:
        """What is served, and how many requests wait."""
        if not line.alive:
            raise LineFull
        return {"status": "ready", "waiting": line.waiting, **described}

    @api.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        """Counters since the start, as Prometheus reads them."""
        return counters(line, limits)

    return limits


def counters(line: Line, limits: Limits) -> str:
    """What /metrics says: a line for each counter."""
    values = {f'credo_answers_total{{status="{status}"}}': count for status, count in sorted(limits.statuses.items())}
    values |= {
        "credo_hung_up_total": limits.hung_up,
        "credo_waiting": line.waiting,
        "credo_turns_total": line.taken,
        "credo_scored_tokens_total": line.spent,
    }
    return "".join(f"{name} {value}\n" for name, value in values.items())


async def _refused(_: Any, error: Any) -> Any:
    """The answer to a request that is none, a RequestValidationError."""
    from fastapi.responses import JSONResponse

    return JSONResponse({"detail": _in_words(error.errors())}, 422)


async def _full(_: Any, error: Any) -> Any:
    """The answer where the line is full."""
    from fastapi.responses import JSONResponse

    return JSONResponse({"detail": "Too many requests wait; try again."}, 503, headers={"Retry-After": "1"})


def _in_words(errors: Sequence[Any]) -> str:
    """What is wrong with a request, without repeating what it said."""
    found = [f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}" for error in errors[:5]]
    return "; ".join(found)
