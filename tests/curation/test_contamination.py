"""Fifty altered copies of benchmark problems are all found among real rows, with few false alarms."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from credo.curation.contamination import BenchmarkIndex, Match, Prompt

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data" / "math"
here = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here")

TOM = "Tom has 12 red balls and 5 blue balls in a box. He gives 3 red balls to Ann. How many balls are left in the box?"
ANN = "A train leaves the station at 7 and travels 60 miles an hour for 4 hours before it stops. How far does it go?"


def index(*texts: str, n: int = 8, share: float = 0.3, common: int = 10) -> BenchmarkIndex:
    prompts = [Prompt(benchmark="bench", id=str(number), text=text) for number, text in enumerate(texts)]
    return BenchmarkIndex(prompts, n=n, share=share, common=common)


def matched(text: str, *texts: str) -> str | None:
    match = index(*texts).match(text)
    return match and match.prompt.id


@pytest.mark.parametrize(
    "text",
    [
        ANN,
        ANN.upper(),
        ANN.replace(" ", "\n  ").replace(".", "!"),
        f"Please help me with my homework. {ANN} Think step by step and explain every line of what you do.",
        ANN.partition(". ")[2] + " " + ANN.partition(". ")[0],
        ANN.partition("?")[0].rpartition(". ")[0],
    ],
)
def test_altered_copies_are_found(text: str):
    assert matched(text, TOM, ANN) == "1"


@pytest.mark.parametrize(
    "text",
    [
        "A train leaves the station at 8 and travels 55 miles in one hour. How long does it take to go 165 miles?",
        "How many balls are in the box?",
        "",
        "?!",
    ],
)
def test_other_texts_are_not(text: str):
    assert matched(text, TOM, ANN) is None


def test_the_overlap_is_the_share_of_the_shorter_texts_ngrams():
    text = " ".join(f"{letter}{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")
    row = " ".join(text.split()[6:]) + " " + " ".join(f"a{letter}" for letter in "abcdefghijklmnop")
    match = index(text, n=3).match(row)
    assert match is not None
    assert match.overlap == pytest.approx(18 / 24), "20 of 26 words, so 18 of 24 trigrams"
    assert index(text, n=3, share=0.76).match(row) is None


def test_the_prompt_with_the_largest_overlap_is_named():
    half = TOM.partition("He gives")[0] + "She eats four of them and sells all the others for two dollars each to Bob."
    match = index(half, TOM).match(f"Now then: {TOM}")
    assert isinstance(match, Match)
    assert (match.prompt.id, match.overlap) == ("1", 1.0)


@pytest.mark.parametrize(
    ("prompt", "text", "found"),
    [
        ("12+45=", "12 + 45 =", True),
        ("12+45=", "12+45+7=", False),
        (r"Simplify $\sqrt{242}$.", r"My homework: Simplify $\sqrt{242}$. Think step by step.", True),
        (r"Simplify $\sqrt{242}$.", r"Simplify $\sqrt{243}$.", False),
        ("Compute $2(x+3)$ now.", "Compute $2x+3$ now.", False),
        ("What is the gcd of 12 and 18 and 24?", "What is the gcd of 12 and 18 and 27?", False),
    ],
)
def test_short_prompts_have_to_be_there_as_a_whole(prompt: str, text: str, found: bool):
    assert (index(prompt).match(text) is not None) == found


def test_phrases_of_a_benchmark_do_not_count():
    phrase = "Give the final answer to the following problem in arithmetic and write it in a box:"
    texts = [f"{phrase} {number} + {number + 1} - {number + 2} =" for number in range(100, 120)]
    row = f"{phrase} 7 + 3 - 2 ="
    assert index(*texts, common=10).match(row) is None
    assert index(*texts, common=100).match(row) is not None
    assert all(index(*texts, common=10).match(f"Well. {text}") is not None for text in texts)


def test_the_same_prompt_twice_is_one():
    assert len(index(TOM, TOM.upper(), ANN)) == 2


@pytest.mark.parametrize("settings", [{"n": 1}, {"share": 0.0}, {"share": 1.1}, {"common": 0}])
def test_settings_out_of_range(settings: dict[str, float]):
    with pytest.raises(ValueError, match="--n"):
        index(TOM, **settings)  # pyright: ignore[reportArgumentType]


def test_no_prompts_are_an_error():
    with pytest.raises(ValueError, match="no benchmark prompts"):
        index("", "?")


def measurement() -> ModuleType:
    """The script that measures this at full size."""
    spec = importlib.util.spec_from_file_location("decontamination", ROOT / "benchmarks" / "decontamination.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@here
@pytest.mark.parametrize("seed", range(3))
def test_fifty_of_fifty_planted_copies_are_found(seed: int):
    script = measurement()
    names = ("gsm8k_test", "math500", "amc83", "aime90")
    prompts = [prompt for name in names for prompt in script.prompts_of(SHARED / f"{name}.jsonl")]
    searched = BenchmarkIndex(prompts)
    copies = script.planted(script.prompts_of(SHARED / "gsm8k_test.jsonl"), 50, seed)
    found = [(way, searched.match(text)) for way, _, text in copies]
    missed = [way for way, match in found if match is None]
    print(f"seed {seed}: {50 - len(missed)} of 50 planted copies found")
    assert {way for way, _ in found} == set(script.ALTERED)
    assert missed == []


@here
def test_few_false_alarms_on_gsm8k(capsys: pytest.CaptureFixture[str]):
    script = measurement()
    searched = BenchmarkIndex(script.prompts_of(SHARED / "gsm8k_test.jsonl"))
    train = script.prompts_of(SHARED / "gsm8k_train.jsonl")
    alarms = sum(searched.match(prompt.text) is not None for prompt in train)
    print(f"false alarms: {alarms} of {len(train)}")
    assert len(train) == 7473
    assert alarms < 0.01 * len(train)
    assert "false alarms" in capsys.readouterr().out
