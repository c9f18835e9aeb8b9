"""Sections about where rollouts come from: problems, sampling, verdicts, the filter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from credo.config.checks import above_zero, at_least, require, share, unread

Template = Literal["auto", "chat", "plain"]
Extract = Literal["auto", "whole", "boxed", "answer_tag", "last_number", "regex"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Problems to train on, and how their prompts are written."""

    train: tuple[str, ...]
    """Sources: .jsonl or .parquet files, folders of them, or `gym:FAMILY?size=..&seed=..&parameter=..`."""
    kind: Literal["math", "code", "exact", "regex"] = "math"
    """How answers of files are judged where a row does not say; gym problems judge themselves, and rows with tests are
    programs."""
    max_bad_share: float = 0.0
    """Share of unreadable rows that is skipped and counted; 0 refuses the first one."""
    max_prompt_tokens: int = 1024
    """Longer prompts are refused, or dropped and counted with `data.drop_long_prompts`."""
    drop_long_prompts: bool = False
    """Drop and count prompts over the limit instead of refusing them."""
    template: Template = "auto"
    """Chat template or plain text; auto follows the row and the tokenizer."""
    system: str = ""
    """System message put before every conversation."""
    suffix: str = ""
    """Text put after every prompt, e.g. how to present the answer."""

    def __post_init__(self) -> None:
        require(len(self.train) > 0, "data.train: no source given; name a file or a `gym:` family.")
        require(0 <= self.max_bad_share < 1, f"data.max_bad_share: expected 0 to below 1, got {self.max_bad_share}.")
        at_least(1, self, "data", "max_prompt_tokens")
        if self.template == "plain":
            unread(self, "data", "system", cause="with data.template = 'plain'")


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """Sampling from the policy."""

    prompts: int = 32
    """Prompts of one training step, after filtering."""
    per_prompt: int = 4
    """Responses to each prompt (K)."""
    temperature: float = 1.0
    """Sampling temperature; the clipped surrogate uses the same."""
    top_k: int = 0
    """Only so many of the most likely tokens are drawn; 0 is off. The update's log-probs are of the whole distribution
    all the same, as with `top_p` and `min_p`; `policy.importance_cap` weighs tokens by how much of it was left."""
    top_p: float = 1.0
    """Nucleus sampling; 1 is off."""
    min_p: float = 0.0
    """Only tokens at least so many times as likely as the most likely one are drawn; 0 is off."""
    max_tokens: int = 256
    """Longest response, in tokens."""
    stop: tuple[str, ...] = ()
    """Texts that end a response, here and in evaluation. The token that completes one is the response's last: it is
    judged and learnt from like the others, so `</answer>` still closes its tag."""
    concurrent: int = 256
    """Sequences decoded at once: bounds the key-value cache."""
    cache_gb: float = 0.0
    """GiB that keys and values may take: fewer sequences are decoded at once if these are long; 0 has no such bound."""
    engine: Literal["torch", "vllm", "vllm-server"] = "torch"
    """What samples: the policy itself, vLLM with a second copy of its weights (the extra of that name), or servers of
    vLLM with a copy each."""
    servers: tuple[str, ...] = ()
    """Addresses of vLLM servers, http://HOST:PORT; `credo/rollout/server.py` has the command that starts one."""
    max_lag: int = 0
    """Servers: updates that the weights which a response was sampled with may be behind the newest ones."""
    ahead: bool = False
    """Sample the next batch while the models learn from the last: responses are one update old when they are learnt
    from, which `policy.importance_cap` must correct."""
    packed: bool = True
    """Sample from a copy of the policy's weights in the layout and precision of the fastest products; false samples
    with the policy's own modules, slower and without the copy."""
    probe_threshold: float = 0.2
    """vLLM: after every update, warn if its log-probs of probe tokens are further than this from the trainer's on
    average. On SmolLM2-135M rounding makes 0.00001 of it in fp32 and 0.09 in bf16."""

    def __post_init__(self) -> None:
        above_zero(self, "rollout", "temperature", "top_p", "probe_threshold")
        share(self, "rollout", "top_p", "min_p")
        at_least(0, self, "rollout", "top_k", "cache_gb", "max_lag")
        at_least(1, self, "rollout", "prompts", "per_prompt", "max_tokens", "concurrent")
        if self.engine == "torch":
            unread(self, "rollout", "probe_threshold", cause="with rollout.engine = 'torch': one copy of the weights")
        else:
            unread(self, "rollout", "packed", cause=f"with rollout.engine = '{self.engine}', which has its own copy")
        self._check_servers()
        require("" not in self.stop, "rollout.stop: the empty text is in every response; take it out.")

    def _check_servers(self) -> None:
        if self.engine != "vllm-server":
            unread(self, "rollout", "servers", "max_lag", cause=f"with rollout.engine = '{self.engine}'")
            return
        unread(self, "rollout", "cache_gb", cause="with rollout.engine = 'vllm-server'; it is an option of a server")
        require(len(self.servers) > 0, "rollout.servers: none given; name those that rollout.engine is to ask.")
        require(len(set(self.servers)) == len(self.servers), "rollout.servers: one is given twice; take it out.")
        for url in self.servers:
            require(
                re.fullmatch(r"https?://[^/\s]+/?", url) is not None,
                f"rollout.servers: expected http://HOST:PORT, got '{url}'.",
            )

    @property
    def cuts(self) -> dict[str, int | float]:
        """The options that keep tokens from ever being drawn, as far as they are set."""
        off = {"rollout.top_k": 0, "rollout.top_p": 1, "rollout.min_p": 0}
        here = {"rollout.top_k": self.top_k, "rollout.top_p": self.top_p, "rollout.min_p": self.min_p}
        return {name: value for name, value in here.items() if value != off[name]}


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Judging responses."""

    kind: str = "auto"
    """By the kind of each problem, or all by a function of yours: `python:MODULE:FUNCTION`, a TRL reward function
    `trl:MODULE:FUNCTION`, or verl's `verl:FILE.py`."""
    extract: Extract = "auto"
    """Where the answer stands in a response."""
    pattern: str = ""
    """Regular expression for `verify.extract = "regex"`; the last match counts, its first group if it has one."""
    need_units: bool = False
    """Maths: an answer without the unit, percent sign or base of the right one is wrong."""
    decimal_digits: int = 6
    """Maths: significant digits from which a decimal may stand for the number that it rounds; never for a whole one."""
    workers: int = 2
    """Verifier processes."""
    deadline: float = 5.0
    """Seconds for one response, past which its verdict is unknown; for a program, seconds for each of its tests."""
    memory_mb: int = 2048
    """Memory limit of one worker."""
    max_unknown_share: float = 0.1
    """Above this share of unknown verdicts in one step the run stops."""

    def __post_init__(self) -> None:
        require(
            (self.extract == "regex") == bool(self.pattern),
            "verify.pattern: goes with verify.extract = 'regex' and only with it; set both or neither.",
        )
        judges = ("auto", "python:", "trl:", "verl:")
        require(
            self.kind == "auto" or self.kind.startswith(judges[1:]),
            f"verify.kind: expected auto, python:MODULE:FUNCTION, trl:MODULE:FUNCTION or verl:FILE.py, got "
            f"'{self.kind}'.",
        )
        if self.kind != "auto":
            unread(self, "verify", "extract", "pattern", "need_units", "decimal_digits", cause="with verify.kind set")
        at_least(1, self, "verify", "workers", "decimal_digits")
        at_least(512, self, "verify", "memory_mb")
        above_zero(self, "verify", "deadline")
        share(self, "verify", "max_unknown_share")


@dataclass(frozen=True, kw_only=True)
class SandboxConfig:
    """Where the programs of `code` problems run. `verify.deadline` bounds one test, `verify.memory_mb` their memory."""

    min_level: int = 2
    """Refuse to start on a machine that offers less: 1 limits of the process, 2 namespaces, 3 also a filter of system
    calls."""
    url: str = ""
    """Run them on a SandboxFusion server at http://HOST:PORT instead."""
    partial: bool = True
    """Score the share of tests passed, as the paper does; false is all or nothing."""
    float_tolerance: float = 0.0
    """Numbers in the output may differ by this much, relative or absolute; 0 compares text."""

    def __post_init__(self) -> None:
        require(self.min_level in (1, 2, 3), f"sandbox.min_level: expected 1, 2 or 3, got {self.min_level}.")
        at_least(0, self, "sandbox", "float_tolerance")
        if self.url:
            require(
                self.url.startswith(("http://", "https://")),
                f"sandbox.url: expected http://HOST:PORT, got '{self.url}'.",
            )
            unread(self, "sandbox", "min_level", cause="with sandbox.url, whose server isolates programs")


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which groups of rollouts are trained on."""

    accuracy_low: float = 0.2
    """Keep groups with at least this mean score."""
    accuracy_high: float = 0.8
    """Keep groups with at most this mean score."""
    drop_unanimous: bool = False
    """Drop groups whose responses all have the same score, which the accuracy band lets by where scores are partial."""
    truncated: Literal["keep", "drop_response", "drop_group"] = "keep"
    """Responses that ran into `rollout.max_tokens`: judged like others, left out, or reason to drop their group."""
    length_matched: bool = False
    """Control: keep only pairs of a correct and a wrong response of nearly equal length, so that length is no clue."""
    memory_floor: float = 1.0
    """Least chance with which a prompt is drawn again when its solve rate so far speaks against it; 1 has no memory."""
    max_rounds: int = 8
    """Rounds of sampling in one step before it goes on with what it has."""
    max_empty_steps: int = 3
    """Steps in a row that keep no group before the run stops."""

    def __post_init__(self) -> None:
        require(
            0 <= self.accuracy_low <= self.accuracy_high <= 1,
            "filter.accuracy_low, filter.accuracy_high: expected 0 <= low <= high <= 1, got "
            f"{self.accuracy_low} and {self.accuracy_high}.",
        )
        above_zero(self, "filter", "memory_floor")
        share(self, "filter", "memory_floor")
        at_least(1, self, "filter", "max_rounds", "max_empty_steps")
