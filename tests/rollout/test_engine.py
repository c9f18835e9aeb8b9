"""The scripted engine keeps the promises of every engine: order, seeds, limits, finish reasons, progress."""

from __future__ import annotations

import pytest

from credo.rollout.engine import RolloutEngine, SamplingParams, ScriptedEngine

EOS = 9
PARAMS = SamplingParams(max_tokens=4)


def engine(*responses: tuple[int, ...]) -> RolloutEngine:
    """Response ``k`` of every prompt is ``responses[k]``."""
    return ScriptedEngine(lambda prompt, k, seed: responses[k], eos_id=EOS)


def test_responses_come_in_the_order_of_prompts_and_k_with_the_seed_of_their_prompt():
    calls: list[tuple[tuple[int, ...], int, int]] = []

    def respond(prompt: tuple[int, ...], k: int, seed: int) -> tuple[int, ...]:
        calls.append((prompt, k, seed))
        return (*prompt, k, seed)

    groups = ScriptedEngine(respond, eos_id=EOS).sample([(1,), (2, 3)], 2, PARAMS, [50, 60])
    assert calls == [((1,), 0, 50), ((1,), 1, 50), ((2, 3), 0, 60), ((2, 3), 1, 60)]
    assert [[rollout.prompt_ids for rollout in group] for group in groups] == [[(1,), (1,)], [(2, 3), (2, 3)]]
    assert [[rollout.response_ids for rollout in group] for group in groups] == [
        [(1, 0, 50), (1, 1, 50)],
        [(2, 3, 0, 60), (2, 3, 1, 60)],
    ]


def test_responses_end_at_the_end_token_or_at_the_limit():
    group = engine((1, EOS), (1, 2, 3, EOS), (1, 2, 3, 4, EOS), (1, 2)).sample([(7,)], 4, PARAMS, [0])[0]
    assert [rollout.response_ids for rollout in group] == [(1, EOS), (1, 2, 3, EOS), (1, 2, 3, 4), (1, 2)]
    assert [rollout.finish for rollout in group] == ["stop", "stop", "length", "length"]
    assert [rollout.logprobs for rollout in group] == [(0.0,) * length for length in (2, 4, 4, 2)]


def test_progress_counts_every_token():
    counts: list[int] = []
    engine((1, EOS), (1, 2, 3, 4, 5)).sample([(7,), (8,)], 2, PARAMS, [0, 1], counts.append)
    assert sum(counts) == 2 * (2 + 4)


def test_every_prompt_needs_its_seed():
    with pytest.raises(ValueError, match="zip"):
        engine((EOS,)).sample([(1,), (2,)], 1, PARAMS, [0])


def test_a_script_takes_any_weights_and_stays_the_same():
    scripted = engine((1, EOS))
    before = scripted.sample([(7,)], 1, PARAMS, [0])
    scripted.load_weights([])
    assert scripted.sample([(7,)], 1, PARAMS, [0]) == before
