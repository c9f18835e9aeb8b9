"""How well benchmark problems are found in training data: altered copies planted among real rows, and false alarms.

    python benchmarks/decontamination.py --folder ../shared/data/math

Prints the share of copies found for each way of altering one, with every problem of two test sets altered in every way;
what is found when 50 of them lie among the training rows; and the alarms where train and test set have nothing in
common. `../shared` is the folder with the shared data; any folder with the same files will do.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from credo.curation.contamination import BenchmarkIndex, Prompt

BEFORE = "Here is a problem from my homework, and I am not sure how to begin. Please work through it with me. "
AFTER = " Think step by step, write every intermediate result on a line of its own, and put the answer in a box."


def spaced(text: str, draw: random.Random) -> str:
    """Other white space, and LaTeX spaces within formulas."""
    parts = text.split("$")
    parts[1::2] = [
        re.sub(r"(?<=[0-9a-zA-Z}]) ?([+=<>-]) ?(?=[0-9a-zA-Z\\])", r"\\, \1\\; ", part) for part in parts[1::2]
    ]
    return re.sub(r" ", lambda _: draw.choice([" ", "  ", "\n", "\t"]), "$".join(parts))


def marked(text: str, draw: random.Random) -> str:
    """Sentence marks exchanged or left out, quotes and dashes in their other forms."""
    swapped = re.sub(r"[.?!](?=\s|$)", lambda _: draw.choice([" .", "", "!", "..."]), text)
    return re.sub(r",(?= )", lambda _: draw.choice(["", " ,", ";"]), swapped).replace("'", "’").replace('"', "“")


def latex(text: str, draw: random.Random) -> str:
    """The same formulas in other LaTeX."""
    for old, new in (
        (r"\frac", r"\dfrac"),
        (r"\left(", "("),
        (r"\right)", ")"),
        (r"\cdot", r"\times"),
        (r"\le ", r"\leq "),
    ):
        text = text.replace(old, new)
    text = re.sub(r"\$([^$]*)\$", r"\\(\1\\)" if draw.random() < 0.5 else r"$\\displaystyle{} \1$", text)
    return re.sub(r"(?<=\d),(?=\d{3})", draw.choice(["", "{,}"]), text)


def beheaded(text: str, draw: random.Random) -> str:
    """Without its first sentence, if there are more."""
    head, mark, rest = (
        re.split(r"(?<=[.?!])(\s+)", text, maxsplit=1) if re.search(r"[.?!]\s+\S", text) else ("", "", text)
    )
    return rest if len(rest.split()) >= 10 else head + mark + rest


ALTERED: dict[str, Callable[[str, random.Random], str]] = {
    "verbatim": lambda text, draw: text,
    "upper case": lambda text, draw: text.upper(),
    "white space": spaced,
    "sentence marks": marked,
    "other LaTeX": latex,
    "embedded": lambda text, draw: BEFORE + text + AFTER,
    "embedded, lower case, spaced": lambda text, draw: (BEFORE + spaced(text, draw) + AFTER).lower(),
    "first sentence dropped": beheaded,
    "last sentence dropped": lambda text, draw: cut(text),
    "embedded, first sentence dropped": lambda text, draw: BEFORE + beheaded(text, draw) + AFTER,
}


def cut(text: str) -> str:
    """Without its last sentence, if more than half is left."""
    rest = re.sub(r"(?<=[.?!])\s+[^.?!]*[.?!]*\s*$", "", text)
    return rest if len(rest.split()) >= max(10, len(text.split()) / 2) else text


def planted(prompts: list[Prompt], count: int, seed: int = 0) -> list[tuple[str, Prompt, str]]:
    """``count`` prompts drawn at random, each altered in the next way: (way, prompt, text)."""
    draw = random.Random(seed)
    ways = list(ALTERED)
    chosen = draw.sample(prompts, count)
    return [(way, prompt, ALTERED[way](prompt.text, draw)) for prompt, way in zip(chosen, ways * count, strict=False)]


def prompts_of(path: Path) -> list[Prompt]:
    """The prompts of a file of problems."""
    return [Prompt(benchmark=path.name, id=str(row["id"]), text=row["problem"]) for row in rows_of(path)]


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def report(folder: Path, n: int, share: float) -> None:
    """Prints every figure."""
    names = ("gsm8k_test", "math500", "amc83", "aime90", "minerva272", "olympiadbench675")
    sets = {name: prompts_of(folder / f"{name}.jsonl") for name in names}
    index = BenchmarkIndex([prompt for prompts in sets.values() for prompt in prompts], n=n, share=share)
    print(f"{len(index):,} different prompts of {', '.join(sets)}; n = {index.n}, share = {index.share}")
    for name in ("gsm8k_test", "math500"):
        print(f"\n{name}: share of altered copies found")
        for way, change in ALTERED.items():
            draw = random.Random(0)
            found = [index.match(change(prompt.text, draw)) is not None for prompt in sets[name]]
            print(f"  {way:<34}{sum(found) / len(found):8.2%}  ({sum(found):,} of {len(found):,})")
    train = prompts_of(folder / "gsm8k_train.jsonl")
    started = time.perf_counter()
    alarms = [prompt for prompt in train if index.match(prompt.text)]
    seconds = time.perf_counter() - started
    copies = planted([prompt for prompts in sets.values() for prompt in prompts], 50)
    found = sum(index.match(text) is not None for _, _, text in copies)
    print(f"\nplanted among the rows of gsm8k_train: {found} of {len(copies)} found")
    print(
        f"false alarms on gsm8k_train: {len(alarms)} of {len(train):,} ({len(alarms) / len(train):.3%}), "
        f"{len(train) / seconds:,.0f} rows/s"
    )
    report_math(folder, n, share)


def report_math(folder: Path, n: int, share: float) -> None:
    """A training set that is known to hold test problems, flagged."""
    index = BenchmarkIndex(prompts_of(folder / "math_test_5000.jsonl"), n=n, share=share)
    rows = rows_of(folder / "math_train_simplelr.jsonl")
    known, others = (
        [index.match(row["problem"]) is not None for row in rows if row["in_hendrycks_test"] is flag]
        for flag in (True, False)
    )
    print("\nmath_train_simplelr against math_test_5000")
    print(f"  rows known to be in it: {sum(known):,} of {len(known):,} found")
    print(f"  other rows: {sum(others):,} of {len(others):,} ({sum(others) / len(others):.2%}), most of them variants")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("../shared/data/math"))
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--share", type=float, default=0.3)
    chosen = parser.parse_args()
    report(chosen.folder, chosen.n, chosen.share)
