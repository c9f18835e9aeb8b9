"""vLLM on the CPU, sampling when asked, in a Python that has it. ``rollout.py`` starts it.

It runs as vLLM does by itself: compiled, its engine in processes of its own, a thread bound to each core; that was
faster than in one process, and than with Intel's OpenMP. Between requests those processes are suspended: waiting, they
take a few per cent of a core. No log-probs are asked for, which spares vLLM work that a training run would need, and
each request computes its prompts anew.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil  # pyright: ignore[reportMissingModuleSource]
from workers import Requests


def main() -> None:
    """First says which settings hold, and how many seconds loading (with compiling) and a first sample took."""
    requests = Requests()
    job = requests.wait()
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[: job["threads"]]))
    os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": cores, "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    started = time.perf_counter()
    import vllm  # pyright: ignore[reportMissingImports]

    settings = {
        "dtype": job["dtype"],
        "enforce_eager": job["eager"],
        "max_num_seqs": job["slots"],
        "max_model_len": 1024,
        "kv_cache_memory_bytes": 2 * 2**30,
    }
    model = vllm.LLM(job["folder"], **settings)
    loaded = time.perf_counter()
    sample(model, {"prompts": [[1, 2, 3]], "n": 1, "tokens": 4, "ends": []})
    seconds = {"loading": loaded - started, "first sample": time.perf_counter() - loaded}
    requests.answer({"vllm": vllm.__version__, "cores": cores, "seconds": seconds} | settings)
    while True:
        with others_suspended():
            request = requests.wait()
        model.reset_prefix_cache()
        begun, worked = time.perf_counter(), cpu_seconds()
        count = sample(model, request)
        requests.answer({"tokens": count, "wall": time.perf_counter() - begun, "cpu": cpu_seconds() - worked})


def sample(model: Any, request: dict[str, Any]) -> int:
    """How many tokens were sampled, end tokens included."""
    import vllm  # pyright: ignore[reportMissingImports]

    params = vllm.SamplingParams(
        n=request["n"],
        temperature=1.0,
        max_tokens=request["tokens"],
        stop_token_ids=request["ends"],
        ignore_eos=True,
        detokenize=False,
    )
    prompts = [{"prompt_token_ids": prompt} for prompt in request["prompts"]]
    outputs = model.generate(prompts, params, use_tqdm=False)
    return sum(len(completion.token_ids) for output in outputs for completion in output.outputs)


def cpu_seconds() -> float:
    """Of this process and those that it started."""
    here = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in [here, *here.children(recursive=True)])


@contextmanager
def others_suspended() -> Iterator[None]:
    """The processes that this one started do nothing for a while."""
    started = psutil.Process().children(recursive=True)
    for process in started:
        process.suspend()
    try:
        yield
    finally:
        for process in started:
            process.resume()


if __name__ == "__main__":
    main()
