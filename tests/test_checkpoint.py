"""Checkpoints: whole or absent, bit for bit, and a damaged one refused by name."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from learners import OPTIMIZERS, batch, critic_of, flip, learnt, policy_of, prm_of, start, state_of

from credo import checkpoint
from credo.config import CheckpointConfig, LoraConfig, PrmConfig
from credo.models.causal import load_model
from credo.models.critic import Critic
from credo.models.lora import freeze, merged_state, with_adapter
from credo.models.prm import Prm
from credo.models.reference import Reference
from credo.models.trunk import Trunk, with_own_top


def saved(
    folder: Path, step: int, *, keep: int = 2, prm: Prm | None = None, critic: Critic | None = None, **state: Any
) -> Path:
    model = start()
    saver = checkpoint.Saver(folder, CheckpointConfig(keep=keep))
    roles = {"policy": policy_of(model), "prm": prm, "critic": critic}
    return saver.save(step, **roles, tokenizer=model.tokenizer, state=state)


def test_what_is_restored_is_what_was_saved_bit_for_bit(tmp_path: Path):
    model, judge = start(), start(1)
    policy, prm = policy_of(model), prm_of(judge)
    learnt(policy, prm)
    torch.manual_seed(7)
    saver = checkpoint.Saver(tmp_path, CheckpointConfig(keep=0))
    saver.save(5, policy=policy, prm=prm, tokenizer=model.tokenizer, state={"watch": [0.1 + 0.2]})
    drawn = torch.rand(3)

    found = checkpoint.read(tmp_path / "step-000005")
    other_policy, other_prm = policy_of(start(2)), prm_of(start(3))
    checkpoint.restore(found, policy=other_policy, prm=other_prm)
    assert (found.step, found.state["watch"]) == (5, [0.1 + 0.2])
    assert torch.equal(torch.rand(3), drawn), "random numbers go on where they were"
    for ours, theirs in ((policy, other_policy), (prm, other_prm)):
        assert theirs.optimizer.steps == ours.optimizer.steps > 0
        pairs = list(zip(state_of(ours), state_of(theirs), strict=True))
        assert all(torch.equal(one, other) for one, other in pairs)

    learnt(policy, prm)
    learnt(other_policy, other_prm)
    assert all(torch.equal(one, other) for one, other in zip(state_of(prm), state_of(other_prm), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(state_of(policy), state_of(other_policy), strict=True))


def test_critic_and_average_are_restored_bit_for_bit_and_go_on_alike(tmp_path: Path):
    rollouts = batch()
    zeros = torch.zeros(rollouts.tokens.shape)

    def learn(prm: Prm, critic: Critic) -> None:
        prm.update(rollouts, zeros)
        critic.update(rollouts, critic.values(rollouts), rollouts.mask * rollouts.outcomes[:, None])

    def tensors(prm: Prm, critic: Critic) -> list[torch.Tensor]:
        assert prm.average is not None
        moments = critic.optimizer.adamw.state_dict()["state"].values()
        kept = [*prm.average.parameters(), *critic.model.trunk.parameters(), *critic.model.head.parameters()]
        return [*state_of(prm), *kept, *(value for entry in moments for value in entry.values())]

    ours = prm_of(start(1), ema=0.9), critic_of(start(2))
    learn(*ours)
    folder = saved(tmp_path, 1, prm=ours[0], critic=ours[1])
    theirs = prm_of(start(3), ema=0.9), critic_of(start(4))
    checkpoint.restore(checkpoint.read(folder), policy=policy_of(start()), prm=theirs[0], critic=theirs[1])
    assert theirs[1].optimizer.steps == ours[1].optimizer.steps == 2
    for _ in range(2):
        assert all(torch.equal(*pair) for pair in zip(tensors(*ours), tensors(*theirs), strict=True))
        assert torch.equal(ours[0].score(rollouts, zeros), theirs[0].score(rollouts, zeros))
        assert torch.equal(ours[1].values(rollouts), theirs[1].values(rollouts))
        learn(*ours)
        learn(*theirs)
    assert theirs[0].average is not None
    assert not any(parameter.requires_grad for parameter in theirs[0].average.parameters())


def test_a_prm_on_the_layers_of_its_reference_is_saved_whole_and_restored_bit_for_bit(tmp_path: Path):
    rollouts = batch()

    def made() -> tuple[Prm, Reference]:
        common: dict[str, Any] = {"token_budget": 64, "compute": "fp32"}
        common["trunk"] = Trunk(base := start(1).model, 1, **common)
        prm = Prm(with_own_top(base, 1), PrmConfig(lr=1e-2, top_layers=1, ema=0.9), **common)
        return prm, Reference(base, **common)

    (ours, reference), (theirs, other) = made(), made()
    ours.update(rollouts, reference.logprobs(rollouts))
    before = other.logprobs(rollouts).clone()
    folder = saved(tmp_path, 1, prm=ours)
    loaded = load_model(str(folder / "prm")).model.parameters()
    assert all(torch.equal(*pair) for pair in zip(loaded, ours.model.parameters(), strict=True))
    checkpoint.restore(checkpoint.read(folder), policy=policy_of(start()), prm=theirs)
    assert torch.equal(other.logprobs(batch()), before)
    for _ in range(2):
        assert all(torch.equal(*pair) for pair in zip(state_of(ours), state_of(theirs), strict=True))
        assert torch.equal(ours.score(rollouts, before), theirs.score(rollouts, before))
        assert ours.update(rollouts, before)[1] == theirs.update(rollouts, before)[1]
    with pytest.raises(ValueError, match=r"prm\.top_layers"):
        checkpoint.restore(checkpoint.read(folder), policy=policy_of(start()), prm=prm_of(start(1), ema=0.9))


def test_the_average_is_not_the_newest_prm(tmp_path: Path):
    prm = prm_of(start(1), ema=0.9)
    learnt(policy_of(start()), prm)
    folder = saved(tmp_path, 1, prm=prm)
    newest, average = (folder / name / "model.safetensors" for name in ("prm", "prm-average"))
    assert newest.read_bytes() != average.read_bytes()


@pytest.mark.parametrize(
    ("option", "was", "now"),
    [
        ("prm.enabled", {}, {"prm": 0.0}),
        ("prm.enabled", {"prm": 0.0}, {}),
        ("prm.ema", {"prm": 0.0}, {"prm": 0.5}),
        ("prm.ema", {"prm": 0.5}, {"prm": 0.0}),
        ("advantage.estimator", {"prm": 0.0}, {"prm": 0.0, "critic": True}),
        ("advantage.estimator", {"critic": True}, {}),
    ],
)
def test_a_checkpoint_of_other_models_names_the_option(
    tmp_path: Path, option: str, was: dict[str, Any], now: dict[str, Any]
):
    def made(which: dict[str, Any]) -> dict[str, Any]:
        prm = prm_of(start(1), ema=which["prm"]) if "prm" in which else None
        return {"prm": prm, "critic": critic_of(start()) if "critic" in which else None}

    found = checkpoint.read(saved(tmp_path, 1, **made(was)))
    policy = policy_of(start(5))
    before = state_of(policy)[0].clone()
    with pytest.raises(ValueError, match="another") as error:
        checkpoint.restore(found, policy=policy, **made(now))
    assert option in str(error.value)
    assert torch.equal(state_of(policy)[0], before), "nothing is restored by halves"


@pytest.mark.parametrize("name", [OPTIMIZERS, "prm-average/model.safetensors"])
def test_a_damaged_critic_or_average_is_named(tmp_path: Path, name: str):
    folder = saved(tmp_path, 1, prm=prm_of(start(1), ema=0.5), critic=critic_of(start()))
    flip(folder / name)
    with pytest.raises(ValueError, match=name):
        checkpoint.read(folder)


def test_policy_and_prm_are_folders_that_transformers_loads(tmp_path: Path):
    folder = saved(tmp_path, 1, prm=prm_of(start(1)))
    for name, seed in (("policy", 0), ("prm", 1)):
        loaded = load_model(str(folder / name))
        expected = start(seed).model.state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in loaded.model.state_dict().items())


@pytest.mark.parametrize("asynchronous", [False, True])
def test_adapters_are_kept_beside_whole_models(tmp_path: Path, asynchronous: bool):
    model, rank = start(), LoraConfig(rank=2)
    freeze(model.model, "fp32")
    policy, prm = (replace(model, model=with_adapter(model.model, rank, seed)) for seed in (1, 2))
    roles = {"policy": policy_of(policy), "prm": prm_of(prm)}
    learnt(roles["policy"], roles["prm"])
    with closing(checkpoint.Saver(tmp_path, CheckpointConfig(asynchronous=asynchronous))) as saver:
        folder = saver.save(1, **roles, tokenizer=model.tokenizer, state={})
    for name, role in roles.items():
        expected = merged_state(role.model, lambda name, weight: weight)
        loaded = dict(load_model(str(folder / name)).model.named_parameters())
        assert all(torch.equal(value, expected[key]) for key, value in loaded.items())
    again = {
        "policy": policy_of(replace(model, model=with_adapter(model.model, rank, 3))),
        "prm": prm_of(replace(model, model=with_adapter(model.model, rank, 4))),
    }
    checkpoint.restore(checkpoint.read(folder), **again)
    for name, role in roles.items():
        pairs = zip(role.model.parameters(), again[name].model.parameters(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
        assert again[name].optimizer.steps == role.optimizer.steps == 1 + (name == "policy")
    with pytest.raises(ValueError, match=r"lora\.rank"):
        checkpoint.restore(checkpoint.read(folder), policy=policy_of(start()), prm=prm_of(start(1)))


def test_only_the_newest_are_kept(tmp_path: Path):
    for step in (1, 2, 3):
        saved(tmp_path, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000003"]
    saved(tmp_path, 4, keep=0)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_damaged_one_of_a_later_step_does_not_push_out_a_whole_one(tmp_path: Path):
    for step in (2, 4):
        saved(tmp_path, step, keep=0)
    flip(tmp_path / "step-000004" / OPTIMIZERS)
    saved(tmp_path, 3, keep=1)
    found = checkpoint.newest_whole(tmp_path, lambda line: None)
    assert found is not None
    assert found.step == 3


@pytest.mark.parametrize(
    "name", ["policy/model.safetensors", "policy/config.json", "policy/tokenizer.json", OPTIMIZERS, "state.json"]
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str):
    for step, damage in enumerate((flip, Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1]))):
        folder = saved(tmp_path, step, keep=0)
        damage(folder / name)
        with pytest.raises(ValueError, match=name) as error:
            checkpoint.read(folder)
        assert str(folder) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"state.json": 3}', b'{"state.json": {}}', b"\xff\xfe"])
def test_a_damaged_manifest_is_no_checkpoint(tmp_path: Path, content: bytes):
    folder = saved(tmp_path, 1)
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match="step-000001") as error:
        checkpoint.read(folder)
    assert type(error.value) is ValueError, "a sentence for the user"


def test_a_folder_that_is_none_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="absent"):
        checkpoint.read(tmp_path / "absent")


def test_the_newest_whole_one_is_taken_and_the_damaged_one_named(tmp_path: Path):
    for step in (2, 4, 6):
        saved(tmp_path, step, keep=0)
    flip(tmp_path / "step-000006" / "policy" / "model.safetensors")
    (tmp_path / "step-000008.tmp").mkdir()
    warnings: list[str] = []
    found = checkpoint.newest_whole(tmp_path, warnings.append)
    assert found is not None
    assert found.step == 4
    assert len(warnings) == 1
    assert "step-000006" in warnings[0]


def test_none_at_all_is_a_fresh_start_and_none_whole_is_not(tmp_path: Path):
    assert checkpoint.newest_whole(tmp_path, pytest.fail) is None
    flip(saved(tmp_path, 1) / "state.json", 0)
    with pytest.raises(ValueError, match="step-000001"):
        checkpoint.newest_whole(tmp_path, lambda line: None)


def test_a_whole_checkpoint_is_left_alone_and_a_damaged_one_replaced(tmp_path: Path):
    folder = saved(tmp_path, 1)
    made = folder.stat().st_ino
    assert saved(tmp_path, 1).stat().st_ino == made
    flip(folder / OPTIMIZERS)
    assert checkpoint.read(saved(tmp_path, 1)).step == 1


def test_a_refused_disk_is_the_users_to_mend(tmp_path: Path):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(RuntimeError, match="checkpoint of step 3"):
        saved(tmp_path / "checkpoints", 3)


def test_our_own_mistake_is_not_taken_for_the_disks_and_leaves_nothing_behind(tmp_path: Path):
    saved(tmp_path, 1)
    with pytest.raises(TypeError):
        saved(tmp_path, 2, collector=object())
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def test_a_run_with_a_prm_cannot_go_on_from_one_without(tmp_path: Path):
    without = checkpoint.read(saved(tmp_path / "without", 1))
    both = checkpoint.read(saved(tmp_path / "both", 1, prm=prm_of(start(1))))
    with pytest.raises(ValueError, match=r"prm\.enabled"):
        checkpoint.restore(without, policy=policy_of(start()), prm=prm_of(start()))
    with pytest.raises(ValueError, match=r"prm\.enabled"):
        checkpoint.restore(both, policy=policy_of(start()), prm=None)


def test_every_file_is_in_the_manifest(tmp_path: Path):
    folder = saved(tmp_path, 1, prm=prm_of(start(1), ema=0.5), critic=critic_of(start()))
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(json.loads((folder / "manifest.json").read_text())) == files - {"manifest.json"}
