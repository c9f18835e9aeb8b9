"""Draws docs/demo.svg from the runs that demo_seeds.py made: learning curves, and two responses token by token.

Run: ``python benchmarks/picture.py`` after ``python benchmarks/demo_seeds.py``.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "runs" / "seeds"
ARMS = {"true": ("PRIME", "#2a7f62"), "false": ("outcome only", "#9a9a9a")}
WIDTH, HEIGHT, LEFT, TOP, PLOT_WIDTH, PLOT_HEIGHT = 720, 380, 60, 40, 600, 210


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def curves() -> list[str]:
    """Accuracy of the rollouts at each step, a line a seed."""
    parts = [f'<text x="{LEFT}" y="24" class="title">Accuracy of sampled responses, three seeds</text>']
    for share in (0.4, 0.6, 0.8, 1.0):
        y = height_of(share)
        parts.append(f'<line x1="{LEFT}" x2="{LEFT + PLOT_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" class="axis" text-anchor="end">{share:.0%}</text>')
    last = 0
    for enabled, (_, colour) in ARMS.items():
        for run in sorted(RUNS.glob(f"?-prm-{enabled}")):
            values = [row["rollout/accuracy"] for row in lines_of(run / "metrics.jsonl")]
            last = len(values)
            points = " ".join(
                f"{LEFT + PLOT_WIDTH * step / (last - 1):.1f},{height_of(value):.1f}"
                for step, value in enumerate(values)
            )
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" opacity=".75"/>')
    for index, (name, colour) in enumerate(ARMS.values()):
        y = height_of(0.52) + 18 * index
        parts.append(f'<text x="{LEFT + PLOT_WIDTH - 8}" y="{y}" style="fill:{colour}" text-anchor="end">{name}</text>')
    parts.append(
        f'<text x="{LEFT + PLOT_WIDTH}" y="{TOP + PLOT_HEIGHT + 18}" class="axis" text-anchor="end">step {last}</text>'
    )
    return parts


def height_of(share: float) -> float:
    """Vertical place of an accuracy on the plot, which runs from 0.3 to 1."""
    return TOP + PLOT_HEIGHT * (1 - (share - 0.3) / 0.7)


def responses() -> list[str]:
    """A guess and a worked response to one problem, each token on the colour of its log-ratio."""
    rows = lines_of(RUNS / "1-prm-true" / "rollouts" / "step-000015.jsonl")
    pairs = [
        (guess, worked)
        for guess in rows
        for worked in rows
        if guess["id"] == worked["id"]
        and not guess["score"]
        and worked["score"]
        and "=" in worked["response"]
        and "=" not in guess["response"]
    ]
    y, parts = TOP + PLOT_HEIGHT + 56, []
    title = f"q = log π_φ − log π_ref of each token, step 15: what the PRM makes of {escape(pairs[0][0]['prompt'])}"
    parts.append(f'<text x="{LEFT}" y="{y}" class="title">{title}</text>')
    for row in pairs[0]:
        y += 30
        mark = "right" if row["score"] else "wrong"
        parts.append(f'<text x="{LEFT - 8}" y="{y}" class="axis" text-anchor="end">{mark}</text>')
        for place, (token, q) in enumerate(zip(row["tokens"], row["log_ratios"], strict=True)):
            shown = "⏎" if token.startswith("<") else token
            x, strength = LEFT + 15 * place, min(1.0, abs(q) / 1.0)
            colour = "#2a7f62" if q > 0 else "#c0392b"
            parts.append(
                f'<rect x="{x}" y="{y - 16}" width="14" height="22" fill="{colour}" opacity="{strength:.2f}"/>'
            )
            parts.append(f'<text x="{x + 7}" y="{y}" text-anchor="middle" class="token">{escape(shown)}</text>')
    return parts


def main() -> None:
    """Writes the picture."""
    style = (
        "text{font:13px system-ui,sans-serif;fill:#333}.title{font-weight:600}.axis{font-size:11px;fill:#777}"
        ".token{font:14px ui-monospace,monospace}.grid{stroke:#ddd}"
    )
    body = "\n".join([*curves(), *responses()])
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    ground = '<rect width="100%" height="100%" fill="#fff"/>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {box}>\n<style>{style}</style>\n{ground}\n{body}\n</svg>\n'
    (ROOT / "docs" / "demo.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
