"""The loop: who scores and who learns in which order, what a broken number does, and stopping without loss."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import PAIRS, lines, tiny_config, tiny_groups, tiny_model, tiny_parts, tiny_problems, untimed
from torch import Tensor, nn

from credo.algo.masked import row_mean, row_sum
from credo.algo.policy_losses import approx_kl
from credo.assemble import Parts, assemble
from credo.config import TrainConfig
from credo.dist.world import World
from credo.interruption import Interruption
from credo.journal import Journal, Step
from credo.loggers import Loggers, RecordingLogger
from credo.models.causal import load_model
from credo.run_folder import RunFolder
from credo.train import loop, prime_step, train
from credo.types import Group, Problem, Unknown, Verdict
from credo.verify.verifier import Verifier

OUTCOME_ONLY = {"prm__enabled": False, "filter__accuracy_low": 0.2, "filter__accuracy_high": 0.8}


@contextmanager
def assembled(folder: Path, **changes: Any) -> Iterator[tuple[TrainConfig, Parts, tuple[Group, ...]]]:
    """A run's objects, and groups sampled from its policy."""
    config, parts = tiny_parts(folder, **changes)
    with closing(parts.verifier):
        prompts = [tuple(parts.start.tokenizer(text)["input_ids"]) for text in ("ab=", "cd=", "b=")]  # pyright: ignore
        temperature = config.rollout.temperature
        yield (
            config,
            parts,
            tiny_groups(parts.start, prompts=prompts, per_prompt=4, max_tokens=3, temperature=temperature),
        )


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).clone()


def by_hand(model: nn.Module, made: Step) -> Tensor:
    """Log-probs of the response tokens at temperature 1, a row at a time."""
    result = torch.zeros(made.batch.mask.shape)
    for row, (tokens, attention) in enumerate(zip(made.batch.tokens, made.batch.attention, strict=True)):
        length = int(attention.sum())
        with torch.no_grad():
            logprobs = model(input_ids=tokens[None, :length]).logits[0].log_softmax(dim=-1)
        for position in range(1, length):
            result[row, position] = logprobs[position - 1, tokens[position]]
    return torch.where(made.batch.mask, result, 0.0)


def test_after_scores_before_the_prm_has_learnt(tmp_path: Path):
    with assembled(tmp_path, prm__update="after") as (config, parts, groups):
        assert parts.prm is not None
        before = weights(parts.prm.model)
        first = prime_step(parts, groups, config, 0)
        assert first.log_ratios is not None
        assert (first.log_ratios == 0).all(), "the PRM still was its reference"
        assert not torch.equal(weights(parts.prm.model), before), "and has learnt since"
        second = prime_step(parts, groups, config, 1)
        assert second.log_ratios is not None
        assert (second.log_ratios[second.batch.mask] != 0).all()


def test_before_scores_with_what_the_prm_has_learnt(tmp_path: Path):
    with assembled(tmp_path, prm__update="before") as (config, parts, groups):
        made = prime_step(parts, groups, config, 0)
        assert made.log_ratios is not None
        assert (made.log_ratios[made.batch.mask] != 0).all()
        sums, correct = row_sum(made.log_ratios, made.batch.mask), made.batch.outcomes > 0.5
        assert sums[correct].mean() > sums[~correct].mean(), "it has learnt from these very outcomes"
        assert made.metrics["prm/score_correct"] == made.metrics["prm/score_wrong"] == 0, "measured before it had"
        assert made.metrics["prm/cross_entropy"] == pytest.approx(made.metrics["prm/loss"], abs=1e-6)


def test_none_leaves_the_prm_as_it_is(tmp_path: Path):
    other = tiny_model(tmp_path / "other", seed=1)
    with assembled(tmp_path, prm__update="none", prm__path=str(other), prm__lr=None) as (config, parts, groups):
        assert parts.prm is not None
        assert parts.reference is not None
        before = weights(parts.prm.model)
        made = prime_step(parts, groups, config, 0)
        assert torch.equal(weights(parts.prm.model), before)
        assert made.log_ratios is not None
        assert (made.log_ratios[made.batch.mask] != 0).all()
        assert "prm/loss" not in made.metrics
        assert "prm/pair_accuracy" in made.metrics


@pytest.mark.parametrize("reference", ["initial", "policy"])
def test_log_ratios_are_prm_over_reference_at_temperature_1(tmp_path: Path, reference: str):
    other = tiny_model(tmp_path / "other", seed=1)
    changes = {"rollout__temperature": 0.5, "prm__path": str(other), "prm__reference": reference}
    with assembled(tmp_path, **changes) as (config, parts, groups):
        assert parts.prm is not None
        prime_step(parts, groups, config, 0)
        judge, policy = (by_hand_of(model) for model in (parts.prm.model, parts.policy.model))
        initial = by_hand_of(tiny_parts(tmp_path)[1].policy.model)
        made = prime_step(parts, groups, config, 1)
        assert made.log_ratios is not None
        ours, other_one = (policy, initial) if reference == "policy" else (initial, policy)
        torch.testing.assert_close(made.log_ratios, judge(made) - ours(made), atol=1e-5, rtol=1e-4)
        assert (made.log_ratios - (judge(made) - other_one(made))).abs().max() > 1e-3, "the two references differ"


def by_hand_of(model: nn.Module) -> Callable[[Step], Tensor]:
    """``by_hand`` with the weights as they are now."""
    kept = copy.deepcopy(model)
    return lambda made: by_hand(kept, made)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_the_old_policy_is_taken_at_the_temperature_of_sampling(tmp_path: Path, temperature: float):
    with assembled(tmp_path, rollout__temperature=temperature) as (config, parts, groups):
        made = prime_step(parts, groups, config, 0)
        assert made.metrics["rollout/sampler_kl"] < 1e-9
        at_1 = by_hand(tiny_parts(tmp_path)[1].policy.model, made)
        apart = (at_1 - made.batch.sampling_logprobs).abs().max()
        assert (apart > 0.1) == (temperature != 1.0), "the comparison can fail"


def test_while_the_prm_warms_up_the_policy_stays(tmp_path: Path):
    with assembled(tmp_path, prm__warmup_steps=2) as (config, parts, groups):
        assert parts.prm is not None
        policy, judge = weights(parts.policy.model), weights(parts.prm.model)
        for done in (0, 1):
            made = prime_step(parts, groups, config, done)
            assert "policy/loss" not in made.metrics
            assert torch.equal(weights(parts.policy.model), policy)
        assert parts.policy.version == 0
        assert not torch.equal(weights(parts.prm.model), judge)
        prime_step(parts, groups, config, 2)
        assert not torch.equal(weights(parts.policy.model), policy)


@pytest.mark.parametrize("with_prm", [True, False])
def test_while_the_critic_warms_up_the_policy_stays_and_the_others_learn(tmp_path: Path, with_prm: bool):
    changes = {"advantage__estimator": "gae", "critic__warmup_steps": 2, **({} if with_prm else OUTCOME_ONLY)}
    with assembled(tmp_path, **changes) as (config, parts, groups):
        assert parts.critic is not None
        policy = weights(parts.policy.model)
        for done in (0, 1):
            learners = [parts.critic.model.trunk, *([parts.prm.model] if parts.prm is not None else [])]
            before = [weights(learner) for learner in learners]
            made = prime_step(parts, groups, config, done)
            assert "policy/loss" not in made.metrics
            assert torch.equal(weights(parts.policy.model), policy)
            if done > 0:  # the first step only moves the head: it began at 0
                assert all(not torch.equal(weights(x), y) for x, y in zip(learners, before, strict=True))
        assert prime_step(parts, groups, config, 2).metrics["policy/optimizer_steps"] == 1
        assert not torch.equal(weights(parts.policy.model), policy)


@pytest.mark.parametrize(
    "changes", [{}, {"prm__reference": "policy"}, OUTCOME_ONLY], ids=["initial", "policy", "outcome"]
)
def test_the_kl_term_holds_the_policy_to_its_start(tmp_path: Path, changes: dict[str, Any]):
    changes = {"policy__kl_coef": 0.1, "rollout__temperature": 0.5, **changes}
    with assembled(tmp_path, **changes) as (config, parts, groups):
        first = prime_step(parts, groups, config, 0)
        assert first.metrics["policy/kl_to_reference"] == pytest.approx(0.0, abs=1e-9)
        start = tiny_parts(tmp_path)[1].policy.logprobs(first.batch, temperature=0.5)
        now = parts.policy.logprobs(first.batch, temperature=0.5)
        second = prime_step(parts, groups, config, 1)
        expected = approx_kl(start, now, first.batch.mask).item()
        assert expected > 1e-4
        assert second.metrics["policy/kl_to_reference"] == pytest.approx(expected, rel=1e-3)


def test_a_strong_kl_term_pulls_the_policy_back(tmp_path: Path):
    apart = []
    for coef in (0.001, 10.0):
        with assembled(tmp_path, policy__kl_coef=coef, **OUTCOME_ONLY) as (config, parts, groups):
            for done in range(4):
                made = prime_step(parts, groups, config, done)
            apart.append(made.metrics["policy/kl_to_reference"])
    assert apart[1] < apart[0] / 2


def test_outcome_only_credits_outcomes_alone(tmp_path: Path):
    with assembled(tmp_path, **OUTCOME_ONLY, prm__warmup_steps=9) as (config, parts, groups):
        before = weights(parts.policy.model)
        made = prime_step(parts, groups, config, 0)
        assert made.log_ratios is None
        assert not any(key.startswith("prm/") for key in made.metrics)
        assert not torch.equal(weights(parts.policy.model), before), (
            "a warm-up of a PRM that is not there is not waited for"
        )
        means = row_mean(made.advantages, made.batch.mask)
        assert ((means > 0) == (made.batch.outcomes > 0.5)).all()


def test_credit_is_whitened_and_lies_on_the_response(tmp_path: Path):
    with assembled(tmp_path, prm__update="before") as (config, parts, groups):
        made = prime_step(parts, groups, config, 0)
        assert (made.advantages[~made.batch.mask] == 0).all()
        credit = made.advantages[made.batch.mask]
        assert credit.mean().item() == pytest.approx(0.0, abs=1e-5)
        assert credit.std().item() == pytest.approx(1.0, abs=1e-3)


def test_how_tensors_are_cut_changes_no_number(tmp_path: Path):
    found = []
    for budget in (4096, 7):
        with assembled(tmp_path, training__tokens_per_microbatch=budget, prm__update="before") as (
            config,
            parts,
            groups,
        ):
            made = prime_step(parts, groups, config, 0)
            assert parts.prm is not None
            found.append((made.advantages, weights(parts.policy.model), weights(parts.prm.model)))
    for whole, cut in zip(*found, strict=True):
        torch.testing.assert_close(whole, cut, atol=2e-5, rtol=1e-3)


def poisoned_model(folder: Path) -> str:
    from safetensors.torch import load_file, save_file

    tiny_model(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"].fill_(float("nan"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def test_a_prm_of_nans_teaches_nobody_anything(tmp_path: Path):
    with assembled(tmp_path, prm__path=poisoned_model(tmp_path / "poisoned")) as (config, parts, groups):
        before = weights(parts.policy.model)
        made = prime_step(parts, groups, config, 0)
        assert torch.equal(weights(parts.policy.model), before)
        assert made.skipped == 2, "one of the PRM, one of the policy"
        assert (made.advantages == 0).all()


def test_log_ratios_of_nans_teach_the_critic_nothing_either(tmp_path: Path):
    changes = {"prm__path": poisoned_model(tmp_path / "poisoned"), "advantage__estimator": "gae"}
    with assembled(tmp_path, **changes) as (config, parts, groups):
        assert parts.critic is not None
        before = weights(parts.critic.model.head), weights(parts.policy.model)
        made = prime_step(parts, groups, config, 0)
        assert made.metrics["policy/skipped_steps"] == 1
        assert "critic/loss" not in made.metrics
        assert torch.equal(weights(parts.critic.model.head), before[0])
        assert torch.equal(weights(parts.policy.model), before[1])


def test_nans_are_dumped_and_stop_the_run_at_the_limit(tmp_path: Path):
    poisoned = poisoned_model(tmp_path / "poisoned")
    config = tiny_config(tmp_path, run__steps=9, prm__path=poisoned, training__max_nonfinite_steps=3)
    with pytest.raises(RuntimeError, match="max_nonfinite_steps"):
        train(config)
    folder = tmp_path / "runs" / "run"
    assert [row["policy/skipped_steps"] for row in lines(folder / "metrics.jsonl")] == [1, 1]
    assert sorted(path.name for path in (folder / "nonfinite").iterdir()) == ["step-000001.pt", "step-000002.pt"]
    dumped = torch.load(folder / "nonfinite" / "step-000001.pt", weights_only=True)
    assert dumped["log_ratios"].isnan().any()
    assert dumped["tokens"].shape == dumped["mask"].shape == dumped["advantages"].shape


ESTIMATORS = ("rloo", "grpo", "reinforce", "reinforce_pp", "gae", "remax")
RUNS = [
    *(({"advantage__estimator": name}, 4) for name in (*ESTIMATORS, "implicit_value", "calibrated_value")),
    *(({"advantage__estimator": name, **OUTCOME_ONLY}, 4) for name in ESTIMATORS),
    *(({"advantage__estimator": name}, 1) for name in ("reinforce", "gae")),
    *(
        ({"advantage__estimator": name, "prm__enabled": False, "filter__accuracy_high": 1.0}, 1)
        for name in ("reinforce", "gae", "remax")
    ),
]


@pytest.mark.parametrize(("changes", "per_prompt"), RUNS, ids=str)
def test_every_estimator_runs_with_and_without_a_prm(tmp_path: Path, changes: dict[str, Any], per_prompt: int):
    config = tiny_config(tmp_path, run__steps=2, rollout__per_prompt=per_prompt, **changes)
    folder = train(config)
    rows = lines(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["policy/skipped_steps"] == 0 and row["policy/optimizer_steps"] == 1 for row in rows)
    assert all(row["outcome/responses"] == 4 * per_prompt for row in rows)
    for row in rows:
        assert ("prm/loss" in row) == config.prm.enabled
        assert ("critic/loss" in row) == (config.advantage.estimator == "gae")
    last = load_model(str(folder / "checkpoints" / "step-000002" / "policy")).model
    moved = weights(last) - weights(load_model(config.model.path).model)
    assert moved.isfinite().all()
    assert moved.abs().max() > 1e-3


def test_remax_compares_with_the_greedy_response_of_the_prompt(tmp_path: Path):
    config = tiny_config(
        tmp_path, advantage__estimator="remax", advantage__whitening="none", **OUTCOME_ONLY, run__steps=2
    )
    folder = train(config)
    baselines: set[float] = set()
    for path in sorted((folder / "rollouts").iterdir()):
        greedy: dict[str, set[float]] = {}
        for row in lines(path):
            (advantage,) = set(row["advantages"])
            greedy.setdefault(row["id"], set()).add(row["score"] - advantage)
        assert all(len(each) == 1 for each in greedy.values()), "one baseline a prompt"
        baselines |= set.union(*greedy.values())
    assert baselines <= {0.0, 1.0}


def test_steps_without_a_group_stop_the_run(tmp_path: Path):
    config = tiny_config(
        tmp_path, run__steps=9, filter__accuracy_low=1.0, filter__max_rounds=1, filter__max_empty_steps=2
    )
    with pytest.raises(RuntimeError, match="2 steps in a row"):
        train(config)
    rows = lines(tmp_path / "runs" / "run" / "metrics.jsonl")
    assert [row["filter/kept"] for row in rows] == [0, 0]
    assert not any(key.startswith(("outcome/", "prm/", "policy/")) for row in rows for key in row)


def test_a_run_leaves_what_it_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = train(tiny_config(tmp_path))
    assert [row["step"] for row in lines(folder / "metrics.jsonl")] == [1, 2, 3]
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["step-000002", "step-000003"]
    assert [path.name for path in sorted((folder / "rollouts").iterdir())] == [
        f"step-00000{n}.jsonl" for n in (1, 2, 3)
    ]
    assert capsys.readouterr().out.splitlines() == [line[21:] for line in (folder / "log.txt").read_text().splitlines()]


class Stopper(RecordingLogger):
    """Sends this process a signal while step ``at`` is being logged."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == self.at:
            signal.raise_signal(signal.SIGTERM)


class Interrupter:
    """Judges as ``verifier`` does, and sends this process a signal in the second call."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier, self.calls = verifier, 0

    def verify(self, tasks: Sequence[tuple[Problem, str]]) -> list[Verdict | Unknown]:
        self.calls += 1
        if self.calls == 2:
            signal.raise_signal(signal.SIGTERM)
        return self.verifier.verify(tasks)

    def close(self) -> None:
        self.verifier.close()


def stopped(config: TrainConfig, prepare: Callable[[Journal, Parts], None]) -> None:
    """``train``, with something prepared before the first step."""
    folder = RunFolder(Path(config.run.folder) / config.run.name)
    with (
        folder,
        Interruption().listening() as interruption,
        closing(Journal(config, folder, "auto", World())) as journal,
    ):
        parts = assemble(config, World(), journal.console)
        prepare(journal, parts)
        with closing(parts.verifier):
            loop(config, parts, journal, interruption)


def evaluated(folder: Path, **changes: Any) -> TrainConfig:
    held_out = tiny_problems(folder / "held-out.jsonl", PAIRS[:2])
    return tiny_config(
        folder, run__steps=4, evaluation__sources=[str(held_out)], evaluation__every=2, checkpoint__every=3, **changes
    )


def written(config: TrainConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    folder = Path(config.run.folder) / config.run.name
    return untimed(lines(folder / "metrics.jsonl")), lines(folder / "evaluation.jsonl")


def test_evaluations_are_due_at_the_start_at_the_end_and_between(tmp_path: Path):
    config = evaluated(tmp_path)
    train(config)
    assert [row["step"] for row in written(config)[1]] == [0, 2, 4]


@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_signal_while_a_step_is_written_loses_nothing(tmp_path: Path, at: int):
    whole, cut = evaluated(tmp_path, run__name="whole"), evaluated(tmp_path, run__name="cut")
    train(whole)
    stopped(cut, lambda journal, _: setattr(journal, "logger", Loggers([journal.logger, Stopper(at)])))
    assert len(written(cut)[0]) == at, "the step that had begun is finished"
    assert (Path(cut.run.folder) / "cut" / "checkpoints" / f"step-{at:06d}").is_dir()
    train(cut)
    assert written(cut) == written(whole), "the evaluation that was due is made up for"


def test_a_signal_while_sampling_undoes_the_sampling(tmp_path: Path):
    whole, cut = evaluated(tmp_path, run__name="whole"), evaluated(tmp_path, run__name="cut")
    train(whole)

    stopped(cut, lambda _, parts: setattr(parts.collector, "verifier", Interrupter(parts.verifier)))
    assert len(written(cut)[0]) == 1
    train(cut)
    assert written(cut) == written(whole)


def test_a_finished_run_stays_finished_and_can_be_made_longer(tmp_path: Path):
    config = evaluated(tmp_path)
    folder = train(config)
    checkpoint, before = folder / "checkpoints" / "step-000004", written(config)
    inode = checkpoint.stat().st_ino
    train(config)
    assert written(config) == before
    assert checkpoint.stat().st_ino == inode, "the last checkpoint is not written again"
    train(tiny_config(tmp_path, run__steps=5, evaluation__sources=list(config.evaluation.sources)))
    assert [row["step"] for row in written(config)[0]] == [1, 2, 3, 4, 5]
    assert written(config)[0][:4] == before[0]
