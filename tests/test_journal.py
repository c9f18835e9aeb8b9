"""What a run writes down: rollouts token by token, evaluations once, dumps, and a start refused on other weights."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch
from tiny import PAIRS, collector_of, lines, tiny_config, tiny_groups, tiny_model, tiny_problems, untimed

from credo.algo.masked import row_sum
from credo.assemble import Parts, assemble
from credo.checkpoint import read
from credo.config import TrainConfig
from credo.dist.world import World
from credo.journal import Journal, Step, rollout_rows
from credo.models import precision
from credo.run_folder import RunFolder
from credo.train import prime_step, train
from credo.types import Group

OUTCOME_ONLY = {"prm__enabled": False, "filter__accuracy_low": 0.2, "filter__accuracy_high": 0.8}
METRICS = {
    "rollout/accuracy": 0.5,
    "rollout/mean_length": 2.0,
    "filter/kept": 2.0,
    "filter/reused": 0.0,
    "filter/drawn": 2.0,
    "time/step": 30.0,
}


@contextmanager
def opened(config: TrainConfig) -> Iterator[tuple[Journal, Parts]]:
    with (
        RunFolder(Path(config.run.folder) / config.run.name) as folder,
        closing(Journal(config, folder, "auto", World())) as journal,
    ):
        parts = assemble(config, World(), journal.console)
        with closing(parts.verifier):
            yield journal, parts


def stepped(config: TrainConfig, parts: Parts) -> tuple[tuple[Group, ...], Step]:
    """Sampled groups, and one training step on them."""
    prompts = [tuple(parts.start.tokenizer(text)["input_ids"]) for text in ("ab=", "cd=")]  # pyright: ignore
    groups = tiny_groups(parts.start, prompts=prompts, per_prompt=4, max_tokens=3)
    return groups, prime_step(parts, groups, config, 0)


def test_a_rollout_is_written_token_by_token(tmp_path: Path):
    config = tiny_config(tmp_path, prm__update="before", rollout__prompts=2)
    with opened(config) as (_, parts):
        groups, made = stepped(config, parts)
        rows = rollout_rows(groups, made, parts)
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    assert made.log_ratios is not None
    assert len(rows) == len(rollouts) == 8
    for index, (row, rollout) in enumerate(zip(rows, rollouts, strict=True)):
        assert row["prompt"] == ("ab=" if index < 4 else "cd=")
        assert "".join(row["tokens"]) == parts.start.tokenizer.decode(list(rollout.response_ids))
        assert row["logprobs"] == list(rollout.logprobs)
        assert (row["score"], row["finish"]) == (float(index % 2), rollout.finish)
        for name in ("tokens", "logprobs", "advantages", "log_ratios", "process_rewards"):
            assert len(row[name]) == len(rollout.response_ids)
        assert sum(row["log_ratios"]) == pytest.approx(
            row_sum(made.log_ratios, made.batch.mask)[index].item(), abs=1e-6
        )
    largest = max(abs(sum(row["process_rewards"][start:])) for row in rows for start in range(len(row["tokens"])))
    assert largest == pytest.approx(1.0, abs=1e-3), "official: scaled by the largest return of the batch"
    json.dumps(rows)


def test_process_rewards_are_those_of_the_semantics(tmp_path: Path):
    config = tiny_config(tmp_path, prm__update="before", advantage__semantics="paper", prm__beta=0.5)
    with opened(config) as (_, parts):
        rows = rollout_rows(*stepped(config, parts), parts)
    assert all(row["process_rewards"] == pytest.approx([0.5 * q for q in row["log_ratios"]]) for row in rows)


def test_without_a_prm_there_is_nothing_to_say_of_it(tmp_path: Path):
    config = tiny_config(tmp_path, **OUTCOME_ONLY)
    with opened(config) as (_, parts):
        rows = rollout_rows(*stepped(config, parts), parts)
    assert not any({"log_ratios", "process_rewards"} & row.keys() for row in rows)


def test_rollouts_are_written_as_often_as_asked(tmp_path: Path):
    for every, expected in ((0, []), (1, [1, 2, 3]), (2, [2])):
        folder = train(tiny_config(tmp_path, run__name=f"run-{every}", checkpoint__rollouts_every=every))
        written = sorted((folder / "rollouts").glob("*")) if (folder / "rollouts").exists() else []
        assert [path.name for path in written] == [f"step-{step:06d}.jsonl" for step in expected]


def test_an_evaluation_is_made_once_and_only_where_due(tmp_path: Path):
    held_out = tiny_problems(tmp_path / "held-out.jsonl", PAIRS[:2])
    config = tiny_config(
        tmp_path, run__steps=7, evaluation__sources=[str(held_out)], evaluation__every=3, evaluation__samples=5
    )
    with opened(config) as (journal, parts):
        for step in (0, 0, 1, 3, 3, 4, 7):
            journal.evaluate(step, parts)
    rows = lines(tmp_path / "runs" / "run" / "evaluation.jsonl")
    assert [row["step"] for row in rows] == [0, 3, 7]
    assert rows[0] == rows[1] | {"step": 0}, "the same policy gives the same responses"
    assert rows[0]["eval/accuracy"] == pytest.approx(sum(rows[0]["scores"]) / 2)
    assert all(score * 5 == round(score * 5) for score in rows[0]["scores"])


def test_nothing_held_out_is_nothing_to_evaluate(tmp_path: Path):
    with opened(tiny_config(tmp_path)) as (journal, parts):
        journal.evaluate(0, parts)
    assert not (tmp_path / "runs" / "run" / "evaluation.jsonl").exists()


def test_a_finished_run_says_what_was_gained(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    held_out = tiny_problems(tmp_path / "held-out.jsonl", PAIRS[:2])
    with opened(tiny_config(tmp_path, evaluation__sources=[str(held_out)])) as (journal, parts):
        for step, score in ((0, 0.25), (3, 0.75)):
            journal.folder.append(
                "evaluation.jsonl", {"step": step, "eval/accuracy": score, "scores": [score - 0.1, score + 0.1]}
            )
        journal.finish(parts)
    said = capsys.readouterr().out
    assert "0.250 -> 0.750, gain +50.0 points" in said
    assert "+50.0 to +50.0" in said


def test_a_step_is_one_line_for_a_person(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = tiny_config(tmp_path, run__steps=5, rollout__prompts=2)
    with opened(config) as (journal, parts):
        groups, made = stepped(config, parts)
        capsys.readouterr()
        journal.record(2, parts, METRICS | {"prm/informative_pair_accuracy": 0.75}, groups, made)
    line = capsys.readouterr().out.splitlines()[0]
    for words in ("step 2/5", "accuracy 0.500", "kept 2/2", "PRM pairs 0.75", "PRM only", "30.0 s", "1m30s left"):
        assert words in line


def test_steps_that_were_not_taken_are_counted_for_both_models(tmp_path: Path):
    config = tiny_config(tmp_path)
    with opened(config) as (_, parts):
        _, made = stepped(config, parts)
    assert made.skipped == 0
    skipped = {"policy/skipped_steps": 1.0, "prm/skipped_steps": 2.0}
    broken = Step(batch=made.batch, log_ratios=None, returns=None, advantages=made.advantages, metrics=skipped)
    assert broken.skipped == 3


def test_the_batch_of_a_skipped_step_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = tiny_config(tmp_path, rollout__prompts=2)
    with opened(config) as (journal, parts):
        groups, made = stepped(config, parts)
        metrics = METRICS | {"policy/skipped_steps": 1.0}
        broken = Step(batch=made.batch, log_ratios=None, returns=None, advantages=made.advantages, metrics=metrics)
        journal.record(2, parts, metrics, groups, broken)
    path = tmp_path / "runs" / "run" / "nonfinite" / "step-000002.pt"
    dumped = torch.load(path, weights_only=True)
    assert torch.equal(dumped["tokens"], made.batch.tokens)
    assert torch.equal(dumped["outcomes"], made.batch.outcomes)
    assert str(path) in capsys.readouterr().out


def test_other_weights_at_the_same_path_are_noticed(tmp_path: Path):
    train(tiny_config(tmp_path, run__steps=2))
    shutil.rmtree(tmp_path / "model")
    tiny_model(tmp_path / "model", seed=1)
    with pytest.raises(ValueError, match=r"model\.path"):
        train(tiny_config(tmp_path, run__steps=4))
    assert len(lines(tmp_path / "runs" / "run" / "metrics.jsonl")) == 2


def test_a_resumed_run_is_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = train(tiny_config(tmp_path, run__steps=2))
    from credo.models.causal import load_model

    saved = load_model(str(folder / "checkpoints" / "step-000002" / "policy")).model
    with opened(tiny_config(tmp_path, run__steps=4)) as (journal, parts):
        assert journal.restore(parts) == 2
        assert parts.policy.version == 2
        assert collector_of(parts).stream.drawn == 8
        assert len(journal.watch.pair_accuracies) == 2
        pairs = zip(parts.policy.model.parameters(), saved.parameters(), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    assert "Resumed after step 2" in capsys.readouterr().out


def test_a_resumed_run_keeps_the_precision_that_was_chosen_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever is measured when it goes on."""
    alone = train(tiny_config(tmp_path, run__name="alone", run__steps=4, model__compute="bf16"))
    with monkeypatch.context() as patch:
        patch.setattr(precision, "WORTH", 0.0)
        folder = train(tiny_config(tmp_path, run__steps=2, model__compute="auto"))
    monkeypatch.setattr(precision, "WORTH", math.inf)
    assert train(tiny_config(tmp_path, run__steps=4, model__compute="auto")) == folder
    assert untimed(lines(folder / "metrics.jsonl")) == untimed(lines(alone / "metrics.jsonl"))
    assert 'compute = "bf16"' in (folder / "config.toml").read_text()
    assert read(folder / "checkpoints" / "step-000004").state["config"]["model.compute"] == "bf16"
    branched = tiny_config(tmp_path, run__name="other", run__steps=4, model__compute="auto")
    other = train(branched, resume=str(folder / "checkpoints" / "step-000002"))
    assert 'compute = "bf16"' in (other / "config.toml").read_text()
    with pytest.raises(ValueError, match=r"model\.compute"):
        train(tiny_config(tmp_path, run__steps=6, model__compute="fp32"))


def test_responses_end_at_stop_strings_in_evaluation_too(tmp_path: Path):
    held_out = tiny_problems(tmp_path / "held-out.jsonl", PAIRS[:2])
    sizes = []
    for stop in ([], ["a", "b", "c", "d", "="]):
        config = tiny_config(
            tmp_path,
            run__name=f"stop-{len(stop)}",
            rollout__stop=stop,
            rollout__max_tokens=6,
            evaluation__sources=[str(held_out)],
        )
        with opened(config) as (journal, parts):
            journal.evaluate(0, parts)
        sizes.append(lines(tmp_path / "runs" / config.run.name / "evaluation.jsonl")[0]["eval/mean_length"])
    assert sizes[1] <= 2 < sizes[0]


def test_a_fresh_run_starts_at_step_0(tmp_path: Path):
    with opened(tiny_config(tmp_path)) as (journal, parts):
        assert journal.restore(parts) == 0


def test_the_best_checkpoint_by_the_metric_stays_beside_the_newest(tmp_path: Path):
    config = tiny_config(
        tmp_path,
        run__steps=5,
        checkpoint__every=1,
        checkpoint__keep=1,
        checkpoint__best=1,
        checkpoint__metric="-prm/eos_log_ratio",
    )
    folder = train(config)
    values = {row["step"]: row["prm/eos_log_ratio"] for row in lines(folder / "metrics.jsonl")}
    best = min(values, key=values.__getitem__)
    assert best < 5, "or the newest would be all there is"
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {f"step-{best:06d}", "step-000005"}
