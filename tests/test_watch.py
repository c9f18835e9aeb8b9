"""The watch: warns once, counts over steps, stops what cannot go on, and forgets nothing over a resume."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import tiny_values

from credo.config import TrainConfig
from credo.console import Console
from credo.recipe import build
from credo.watch import DOUBTFUL_STEPS, Watch

FILTER = {f"filter/{reason}": 0.0 for reason in ("too_hard", "too_easy", "truncated", "unjudged")}


def watch(**changes: Any) -> Watch:
    return Watch(build(TrainConfig, tiny_values(**changes)), Console())


def metrics(kept: float = 4.0, reused: float = 0.0, **more: float) -> dict[str, float]:
    values = FILTER | {"filter/kept": kept, "filter/reused": reused, "filter/drawn": 8.0}
    return values | {key.replace("__", "/"): value for key, value in more.items()}


def see_pairs(watched: Watch, *accuracies: float) -> None:
    for step, accuracy in enumerate(accuracies, start=1):
        watched.see(step, metrics(prm__informative_pair_accuracy=accuracy), empty=False)


def test_empty_steps_in_a_row_stop_the_run(capsys: pytest.CaptureFixture[str]):
    watched = watch(filter__max_empty_steps=3)
    for step in (1, 2):
        watched.see(step, metrics(kept=0.0, filter__too_hard=8.0), empty=True)
    assert capsys.readouterr().out.count("too_hard 8") == 2
    with pytest.raises(RuntimeError, match="too_hard 8"):
        watched.see(3, metrics(kept=0.0, filter__too_hard=8.0), empty=True)


def test_a_full_step_between_them_starts_the_count_again():
    watched = watch(filter__max_empty_steps=2)
    for step in range(1, 8):
        watched.see(step, metrics(), empty=step % 2 == 0)


def test_a_short_batch_is_said(capsys: pytest.CaptureFixture[str]):
    watched = watch(rollout__prompts=4)
    watched.see(1, metrics(kept=3.0, reused=1.0), empty=False)
    assert capsys.readouterr().out == ""
    watched.see(2, metrics(kept=2.0, reused=1.0), empty=False)
    assert "3 of 4" in capsys.readouterr().out


def test_non_finite_steps_are_counted_over_the_whole_run_and_both_models():
    watched = watch(training__max_nonfinite_steps=3)
    watched.see(1, metrics(policy__skipped_steps=1.0, prm__skipped_steps=1.0), empty=False)
    watched.see(2, metrics(), empty=False)
    watched.see(3, metrics(policy__skipped_steps=1.0), empty=False)
    with pytest.raises(RuntimeError, match="nonfinite"):
        watched.see(4, metrics(prm__skipped_steps=1.0), empty=False)


def test_no_non_finite_step_may_be_the_limit():
    with pytest.raises(RuntimeError, match="1 optimiser step"):
        watch(training__max_nonfinite_steps=0).see(1, metrics(policy__skipped_steps=1.0), empty=False)


def test_a_doubtful_prm_is_told_once_until_it_recovers(capsys: pytest.CaptureFixture[str]):
    watched = watch()
    see_pairs(watched, *[0.4] * (DOUBTFUL_STEPS - 1))
    assert "chance" not in capsys.readouterr().out
    see_pairs(watched, 0.4, 0.3, 0.2)
    assert capsys.readouterr().out.count("chance") == 1
    see_pairs(watched, 0.6, *[0.4] * DOUBTFUL_STEPS)
    assert capsys.readouterr().out.count("chance") == 1


def test_chance_itself_is_not_doubtful(capsys: pytest.CaptureFixture[str]):
    see_pairs(watch(), *[0.5] * (2 * DOUBTFUL_STEPS))
    assert capsys.readouterr().out == ""


def test_the_mean_of_the_last_pair_accuracies():
    watched = watch()
    assert watched.recent_pair_accuracy != watched.recent_pair_accuracy, "NaN before the first"
    see_pairs(watched, 0.0, *[0.75] * DOUBTFUL_STEPS)
    assert watched.recent_pair_accuracy == 0.75


def test_a_run_without_prm_is_watched_too():
    watched = watch(prm__enabled=False, filter__accuracy_low=0.2, filter__accuracy_high=0.8)
    watched.see(1, metrics(), empty=False)
    assert list(watched.pair_accuracies) == []


def test_counts_go_on_after_a_resume(capsys: pytest.CaptureFixture[str]):
    before = watch(filter__max_empty_steps=2, training__max_nonfinite_steps=1)
    see_pairs(before, *[0.4] * (DOUBTFUL_STEPS - 1))
    before.see(5, metrics(policy__skipped_steps=1.0), empty=False)
    before.see(6, metrics(kept=0.0), empty=True)
    for more in (metrics(kept=0.0), metrics(policy__skipped_steps=1.0)):
        after = watch(filter__max_empty_steps=2, training__max_nonfinite_steps=1)
        after.restore(before.state())
        with pytest.raises(RuntimeError):
            after.see(7, more, empty="policy/skipped_steps" not in more)
    after = watch()
    after.restore(before.state())
    capsys.readouterr()
    see_pairs(after, 0.4)
    assert "chance" in capsys.readouterr().out
