"""Products of a decode step in bf16: those of ``products.c`` against oneDNN's, of SmolLM2-135M's linear layers.

Run: ``python benchmarks/products.py [--rows 1 8 64 256] [--threads N] [--rounds 5]``. Weights are packed and read from
memory; the two take turns within a round, and the table gives medians in milliseconds and their ratio.
"""

from __future__ import annotations

import argparse
import os
import statistics
from unittest.mock import patch

import torch
from limits import decode_products, write

from credo.rollout import products


def measured(rows: int, rounds: int) -> dict[str, float]:
    """Seconds of all linear layers by either."""
    ours, onednn = [], []
    for _ in range(rounds):
        ours.append(decode_products(torch.bfloat16, "wall", rows))
        with patch.object(products, "compiled", lambda: None):
            onednn.append(decode_products(torch.bfloat16, "wall", rows))
    return {"rows": rows, "ours": statistics.median(ours), "oneDNN": statistics.median(onednn)}


def main() -> None:
    """Prints a line for each number of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if products.compiled() is None:
        raise SystemExit("This machine has no compiler, or no products of pairs of bf16: there is nothing to compare.")
    lines = [measured(rows, options.rounds) for rows in options.rows]
    for line in lines:
        ours, onednn = line["ours"], line["oneDNN"]
        print(
            f"{line['rows']:5.0f} rows: ours {ours * 1e3:7.1f} ms, oneDNN {onednn * 1e3:7.1f} ms: {ours / onednn:.2f}"
        )
    write("products", {"threads": options.threads, "lines": lines})


if __name__ == "__main__":
    main()
