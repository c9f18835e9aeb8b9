"""Seeds made from numbers, the same on every machine: what a rollout draws depends on its own seed and nothing else."""

from __future__ import annotations

_MASK = 0xFFFFFFFFFFFFFFFF


def mixed_seed(*parts: int) -> int:
    """A 63-bit seed that depends on every one of ``parts`` and on their order (in the manner of splitmix64)."""
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = ((state ^ (part & _MASK)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def uniform(seed: int, position: int) -> float:
    """The draw of ``seed`` at ``position``, uniform in [0, 1)."""
    return (mixed_seed(seed, position) >> 10) / (1 << 53)
