"""Three semantics side by side: the numbers of docs/algorithm.md, their marks, and files refused by row."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_config

from credo.algo.advantages import prime_advantages, prime_returns
from credo.diff_semantics import SEMANTICS, credit_by_semantics, diff_semantics, read_responses
from credo.options.files import DiffSemanticsOptions
from credo.train import train

EXAMPLE = {
    "log_ratios": [[0.2, -0.1, 0.4], [-0.3, 0.1], [0.5], [0.0, 0.6, -0.2]],
    "outcomes": [1, 0, 0, 1],
    "group_ids": [0, 0, 1, 1],
}
ROWS = [
    {"id": group, "score": outcome, "log_ratios": log_ratios}
    for log_ratios, outcome, group in zip(*EXAMPLE.values(), strict=True)
]


def written(path: Path, content: Any) -> Path:
    """A JSON file, of one object a line where the name says so; text as it is."""
    if not isinstance(content, str):
        content = "\n".join(map(json.dumps, content)) if path.suffix == ".jsonl" else json.dumps(content)
    path.write_text(content)
    return path


def compared(path: Path, **options: Any) -> list[str]:
    return diff_semantics(DiffSemanticsOptions(file=path, **options)).splitlines()


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    log_ratios = torch.tensor([[0.2, -0.1, 0.4], [-0.3, 0.1, math.nan], [0.5, math.nan, math.nan], [0.0, 0.6, -0.2]])
    return log_ratios, torch.tensor([1.0, 0.0, 0.0, 1.0]), ~log_ratios.isnan(), torch.tensor([0, 0, 1, 1])


def test_each_semantics_is_that_of_the_algorithm():
    log_ratios, outcomes, mask, group_ids = example()
    credits = credit_by_semantics(log_ratios, outcomes, mask, group_ids, beta=0.5, process_coef=0.7)
    assert tuple(credits) == SEMANTICS
    for semantics, credit in credits.items():
        options = {"semantics": semantics, "beta": 0.5, "process_coef": 0.7}
        advantages = prime_advantages(log_ratios, outcomes, mask, group_ids, **options)
        assert torch.equal(credit.advantages, advantages)
        rows = [advantages[row][mask[row]] for row in range(4)]
        torch.testing.assert_close(credit.means, torch.stack([row.mean() for row in rows]))
        returns = prime_returns(log_ratios, outcomes, mask, group_ids, **options)
        ratio = returns.process[mask].numpy().std() / returns.outcome[mask].numpy().std()
        assert credit.process_to_outcome == pytest.approx(ratio, rel=1e-4)


def test_a_contradiction_is_a_wrong_sign():
    """Only the official semantics turns the correct response of prompt 1 down: (-0.8089 - 0.0731 - 0.7315) / 3."""
    credits = credit_by_semantics(*example())
    assert credits["official"].means[3].item() == pytest.approx(-0.5378, abs=1e-4)
    assert credits["official"].contradicts.tolist() == [False, False, False, True]
    assert not credits["paper"].contradicts.any()
    log_ratios, outcomes, mask, group_ids = example()
    turned = credit_by_semantics(-log_ratios, 1 - outcomes, mask, group_ids)
    assert turned["official"].contradicts.tolist() == [False, False, False, True], "a wrong response, pushed up"
    half = credit_by_semantics(log_ratios, outcomes / 2, mask, group_ids, process_coef=0.0)
    assert all(credit.contradicts.tolist() == [True, False, False, True] for credit in half.values()), "0.5 is wrong"
    zero = credit_by_semantics(torch.zeros_like(log_ratios), torch.full((4,), 0.5), mask, group_ids)
    assert not any(credit.contradicts.any() for credit in zero.values()), "an advantage of 0 contradicts nothing"


def test_without_outcomes_that_differ_there_is_no_ratio(tmp_path: Path):
    log_ratios, outcomes, mask, group_ids = example()
    for outcome in (1.0, 0.3):
        one_group = torch.zeros_like(group_ids)
        credits = credit_by_semantics(log_ratios, torch.full_like(outcomes, outcome), mask, one_group)
        assert all(math.isnan(credit.process_to_outcome) for credit in credits.values())
    path = written(tmp_path / "x.json", EXAMPLE | {"outcomes": [1, 1, 1, 1]})
    (line,) = [line for line in compared(path) if line.startswith("process to outcome")]
    assert line.split()[-3:] == ["-", "-", "-"]


def test_the_table_has_a_marked_line_for_each_response(tmp_path: Path):
    lines = compared(written(tmp_path / "x.json", EXAMPLE))
    assert lines[0].split() == ["group", "outcome", "tokens", *SEMANTICS]
    assert lines[1].split() == ["row", "1", "0", "1.00", "3", "+1.2435", "+1.0300", "+0.5267"]
    assert lines[4].split() == ["row", "4", "1", "1.00", "3", "-0.5378!", "+0.9600", "+0.7125", "signs", "differ"]
    assert lines[5] == ""
    assert [line.endswith("signs differ") for line in lines[:5]] == [False, False, False, False, True]


def test_tokens_of_marked_responses_are_shown_up_to_the_limit(tmp_path: Path):
    path = written(tmp_path / "x.json", EXAMPLE)
    lines = compared(path, tokens=2)
    assert lines[5].split() == ["1", "-0.8089", "+0.9450", "+0.9356", "signs", "differ"]
    assert lines[6].split()[0] == "2"
    assert lines[7] == ""
    assert len(compared(path, tokens=9)) == len(lines) + 1


def test_the_text_of_tokens_is_shown_where_the_file_tells(tmp_path: Path):
    rows = [row | {"tokens": [f"t{i}" for i in range(len(row["log_ratios"]))]} for row in ROWS]
    lines = compared(written(tmp_path / "x.jsonl", rows), tokens=1)
    assert lines[5].split()[:2] == ["1", "'t0'"]


def test_the_summary(tmp_path: Path):
    lines = compared(written(tmp_path / "x.json", EXAMPLE))
    against, ratio, ranks = lines[-3:]
    assert against.split()[-3:] == ["25.0%", "0.0%", "0.0%"]
    credits = credit_by_semantics(*example())
    assert ratio.split()[-3:] == [f"{credit.process_to_outcome:.3f}" for credit in credits.values()]
    tokens = [credit.advantages[example()[2]] for credit in credits.values()]
    ranks_of = [(x[:, None] > x).sum(dim=1) + ((x[:, None] == x).sum(dim=1) + 1) / 2 for x in tokens]
    expected = torch.corrcoef(torch.stack(ranks_of)).tolist()
    said = [float(word.rstrip(",")) for word in ranks.split() if word[0].isdigit()]
    assert said == pytest.approx([expected[0][1], expected[0][2], expected[1][2]], abs=6e-4)


def test_options_reach_the_numbers(tmp_path: Path):
    path = written(tmp_path / "x.json", EXAMPLE)
    plain, steeper, quiet = (compared(path, **options) for options in ({}, {"beta": 0.5}, {"process_coef": 0.0}))
    assert [a.split()[6] != b.split()[6] for a, b in zip(plain[1:4], steeper[1:4], strict=True)] == [True] * 3
    assert plain[1].split()[5] == steeper[1].split()[5], "beta cancels in the official semantics"
    assert quiet[-2].split()[-3:] == ["0.000"] * 3
    assert not any("!" in line for line in quiet[:5])


def test_a_run_s_rollouts_and_the_same_object_give_the_same_numbers(tmp_path: Path):
    named = EXAMPLE | {"group_ids": ["one", "one", 2, 2]}
    rows = [row | {"id": group} for row, group in zip(ROWS, named["group_ids"], strict=True)]
    from_rows, from_object = (
        compared(written(tmp_path / name, content)) for name, content in (("x.jsonl", rows), ("x.json", named))
    )
    assert [line.replace("line ", "row ").split() for line in from_rows] == [line.split() for line in from_object]
    assert from_rows[1].split()[:3] == ["line", "1", "one"]


def test_the_order_of_rows_does_not_matter(tmp_path: Path):
    shuffled = [ROWS[i] for i in (2, 0, 3, 1)]
    lines = compared(written(tmp_path / "x.jsonl", ROWS))
    others = compared(written(tmp_path / "y.jsonl", shuffled))
    assert sorted(line.split()[2:] for line in lines[1:5]) == sorted(line.split()[2:] for line in others[1:5])
    assert lines[5:] == others[5:]


def test_a_run_can_be_compared(tmp_path: Path):
    folder = train(tiny_config(tmp_path, run__steps=1, checkpoint__rollouts_every=1))
    (path,) = (folder / "rollouts").glob("*.jsonl")
    responses = read_responses(path)
    lines = compared(path, tokens=2)
    assert sum(line.startswith("line ") for line in lines) == len(responses)
    assert all(response.texts for response in responses)


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in EXAMPLE.items() if name != key}


def changed(key: str, value: Any) -> dict[str, Any]:
    """The example with another entry in its second row."""
    return EXAMPLE | {key: [EXAMPLE[key][0], value, *EXAMPLE[key][2:]]}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("\xff", "not JSON"),
        ("[1]", "no object"),
        (without("outcomes"), "'outcomes'"),
        (EXAMPLE | {"group_ids": 3}, "'group_ids'"),
        (EXAMPLE | {"outcomes": [1, 0, 1]}, "log_ratios 4, outcomes 3, group_ids 4"),
        ({name: [] for name in EXAMPLE}, "no responses"),
        (changed("log_ratios", [0.1, math.nan]), "row 2.*finite.*nan"),
        (changed("log_ratios", [-math.inf]), "row 2.*finite"),
        (changed("log_ratios", [1e39]), "row 2.*finite"),
        (changed("log_ratios", [10**400]), "row 2.*finite"),
        (changed("log_ratios", [0.1, None]), "row 2.*finite.*None"),
        (changed("log_ratios", ["0.1"]), "row 2.*finite"),
        (changed("log_ratios", [True]), "row 2.*finite"),
        (changed("log_ratios", []), "row 2.*each token"),
        (changed("log_ratios", 0.5), "row 2.*each token"),
        (changed("outcomes", 1.5), r"row 2.*\[0, 1\]"),
        (changed("outcomes", -0.1), r"row 2.*\[0, 1\]"),
        (changed("outcomes", math.nan), r"row 2.*\[0, 1\]"),
        (changed("outcomes", None), r"row 2.*\[0, 1\]"),
        (changed("outcomes", True), r"row 2.*\[0, 1\]"),
        (changed("group_ids", 1.5), "row 2.*integer or a string"),
        (changed("group_ids", False), "row 2.*integer or a string"),
        (changed("group_ids", "0"), "row 1.*alone"),
    ],
)
def test_an_object_is_refused_by_row(tmp_path: Path, content: Any, named: str):
    path = written(tmp_path / "example.json", content)
    with pytest.raises(ValueError, match=rf"example\.json.*{named}") as refusal:
        read_responses(path)
    assert str(refusal.value).endswith(".")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("\n\n", "no responses"),
        ("{}\nnot JSON\n", "line 1.*'log_ratios'.*without a PRM"),
        (json.dumps(ROWS[0]) + "\nnot JSON\n", "line 2.*malformed JSON"),
        (json.dumps(ROWS[0]) + '\n{"id": 0, "score": 1, "log_ratios": [NaN]}\n', "line 2.*NaN"),
        ([ROWS[0], {"id": 0, "log_ratios": [1.0]}], "line 2.*'score'"),
        ([ROWS[0], {"score": 0, "log_ratios": [1.0]}], "line 2.*'id'"),
        (ROWS[:3], "line 3.*alone"),
    ],
)
def test_rollouts_are_refused_by_line(tmp_path: Path, content: Any, named: str):
    path = written(tmp_path / "step.jsonl", content)
    with pytest.raises(ValueError, match=rf"step\.jsonl.*{named}"):
        read_responses(path)


@pytest.mark.parametrize("options", [{"beta": 0.0}, {"process_coef": -1.0}, {"tokens": -1}])
def test_options_have_a_range(tmp_path: Path, options: dict[str, Any]):
    with pytest.raises(ValueError, match=next(iter(options))):
        compared(written(tmp_path / "x.json", EXAMPLE), **options)
