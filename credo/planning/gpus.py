"""What GPUs can do at most, by their data sheets. How much of that a program reaches is not known here."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

NODE = 8
"""GPUs of one machine, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU in the machine that it usually stands in. Speeds are peaks, in one direction, without sparsity."""

    name: str
    memory: float
    """GiB."""
    bandwidth: float
    """Bytes a second from its memory."""
    bf16: float
    """Operations a second, products in bf16 summed in fp32."""
    fp32: float
    """Operations a second in fp32 proper; credo does not turn TF32 on."""
    link: float
    """Bytes a second to the other GPUs of its machine: NVLink, else PCIe."""
    network: float
    """Bytes a second that a machine of 8 sends to others, over all its adapters."""
    source: str


A100 = "NVIDIA A100 data sheet (SXM4); network: DGX A100, 8 x 200 Gb/s"
H100 = "NVIDIA H100 data sheet (SXM5); network: DGX H100, 8 x 400 Gb/s"
A800 = "as A100, with NVLink cut to 400 GB/s in both directions"
H800 = "as H100, with NVLink cut to 400 GB/s in both directions"
H200 = "NVIDIA H200 data sheet (SXM); network: DGX H200, 8 x 400 Gb/s"
L40S = "NVIDIA L40S data sheet, PCIe 4.0 x16; network assumed 2 x 200 Gb/s"
RTX_4090 = "NVIDIA Ada architecture paper, PCIe 4.0 x16; network assumed 100 Gb/s"

GPUS = tuple(
    Gpu(
        name=name,
        memory=float(memory),
        bandwidth=bandwidth * 1e9,
        bf16=bf16 * 1e12,
        fp32=fp32 * 1e12,
        link=link * 1e9,
        network=network * 1e9,
        source=source,
    )
    for name, memory, bandwidth, bf16, fp32, link, network, source in (
        ("a100", 80, 2039, 312, 19.5, 300, 200, A100),
        ("a100-40gb", 40, 1555, 312, 19.5, 300, 200, A100),
        ("a800", 80, 2039, 312, 19.5, 200, 200, A800),
        ("h100", 80, 3350, 989, 67, 450, 400, H100),
        ("h800", 80, 3350, 989, 67, 200, 400, H800),
        ("h200", 141, 4800, 989, 67, 450, 400, H200),
        ("l40s", 48, 864, 362, 91.6, 32, 50, L40S),
        ("4090", 24, 1008, 165.2, 82.6, 32, 12.5, RTX_4090),
    )
)


def gpu_named(name: str) -> Gpu:
    """The GPU of that name. Raises ValueError for one that is not in the table."""
    table = {gpu.name: gpu for gpu in GPUS}
    if name.lower() not in table:
        near = difflib.get_close_matches(name.lower(), table, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise ValueError(f"--gpu: no figures for '{name}'. {hint}Known are {', '.join(table)}.")
    return table[name.lower()]
