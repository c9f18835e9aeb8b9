"""The table of GPUs: every figure is plausible and has a source, and a wrong name is answered with the right one."""

from __future__ import annotations

import pytest

from credo.planning.gpus import GPUS, Gpu, gpu_named


def test_a_gpu_is_found_by_its_name_in_any_case():
    found = gpu_named("H100")
    assert (found.name, found.memory, found.bandwidth, found.bf16) == ("h100", 80, 3.35e12, 989e12)


def test_the_a800_is_an_a100_with_a_slower_link():
    a100, a800 = gpu_named("a100"), gpu_named("a800")
    assert a800.link < a100.link
    assert (a800.memory, a800.bandwidth, a800.bf16, a800.fp32) == (80, 2.039e12, 312e12, 19.5e12)


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_figures_are_in_bytes_and_operations_a_second(gpu: Gpu):
    assert 2 * gpu.fp32 <= gpu.bf16 <= 20 * gpu.fp32
    assert 1e9 < gpu.network <= 1e12
    assert gpu.link < gpu.bandwidth < 1e13
    assert gpu.source


def test_names_are_unique():
    assert len({gpu.name for gpu in GPUS}) == len(GPUS)


@pytest.mark.parametrize(("name", "hint"), [("h10", "h100"), ("a80", "a800"), ("rtx4090", "4090")])
def test_a_name_that_is_not_there_is_answered_with_one_that_is(name: str, hint: str):
    with pytest.raises(ValueError, match=rf"'{name}'.* Did you mean {hint}\? .*l40s"):
        gpu_named(name)


def test_a_name_like_no_other_is_answered_with_all():
    with pytest.raises(ValueError, match=r"'abacus'\. Known are a100, .*4090\."):
        gpu_named("abacus")
