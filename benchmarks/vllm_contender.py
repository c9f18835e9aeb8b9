"""vLLM on the CPU as a contender: a worker that ``benchmarks/rollout.py`` starts with the Python of ``.venv-vllm``.

Run: ``.venv-vllm/bin/python benchmarks/vllm_contender.py FOLDER [--threads N] [--dtype bfloat16] [--eager]``. FOLDER
holds a Hugging Face model. The first line on stdout says, as JSON, which settings hold and how many seconds loading
(with compiling) and a first sample took. Then each line of stdin, ``{"prompts": [[1, 2]], "n": 4, "tokens": 128,
"ends": []}``, is answered by ``{"tokens": 512, "seconds": 1.5, "cpu_seconds": 3.0}``. Prompts are computed anew for every line, and no
log-probs are asked for, which spares vLLM work that a training run would need.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Answers until stdin ends."""
    options = arguments()
    settings = environment(options)
    if any(os.environ.get(name) != value for name, value in settings.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | settings)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever vLLM prints is no answer

    started = time.perf_counter()
    import vllm  # pyright: ignore[reportMissingImports]

    model = vllm.LLM(
        options.folder,
        dtype=options.dtype,
        enforce_eager=options.eager,
        max_num_seqs=options.sequences,
        max_model_len=options.context,
        kv_cache_memory_bytes=int(options.cache_gb * 2**30),
    )
    loaded = time.perf_counter()
    sample(model, [[1, 2, 3]], n=1, tokens=4, ends=[])
    said = {"vllm": vllm.__version__, "load_seconds": loaded - started}
    said |= {"warm_up_seconds": time.perf_counter() - loaded, "settings": settings, **vars(options)}
    print(json.dumps(said), file=answers)
    for line in sys.stdin:
        model.reset_prefix_cache()
        begun, worked = time.perf_counter(), cpu_seconds()
        count = sample(model, **json.loads(line))
        spent = {"seconds": time.perf_counter() - begun, "cpu_seconds": cpu_seconds() - worked}
        print(json.dumps({"tokens": count} | spent), file=answers)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--sequences", type=int, default=64, help="decoded at once")
    parser.add_argument("--context", type=int, default=1024, help="longest prompt with its response")
    parser.add_argument("--cache-gb", type=float, default=4.0, help="GiB of keys and values")
    parser.add_argument("--separate", action="store_true", help="vLLM's engine in processes of its own")
    return parser.parse_args()


def environment(options: argparse.Namespace) -> dict[str, str]:
    """Threads bound to cores by Intel's OpenMP, as vLLM recommends: by vLLM itself where it starts processes."""
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0))[: options.threads])
    library = Path(sys.prefix) / "lib" / "libiomp5.so"
    settings = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": str(int(options.separate)),
        "VLLM_CPU_OMP_THREADS_BIND": cores,
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "OMP_NUM_THREADS": str(options.threads),
        "LD_PRELOAD": str(library) if library.exists() else "",
    }
    if not options.separate:
        settings |= {"KMP_AFFINITY": f"granularity=fine,explicit,proclist=[{cores}]", "KMP_BLOCKTIME": "5"}
    return settings


def cpu_seconds() -> float:
    """Of this process and those that it started."""
    import psutil  # pyright: ignore[reportMissingModuleSource]

    here = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in [here, *here.children(recursive=True)])


def sample(model: Any, prompts: list[list[int]], *, n: int, tokens: int, ends: list[int]) -> int:
    """How many tokens were sampled, end tokens included."""
    import vllm  # pyright: ignore[reportMissingImports]

    params = vllm.SamplingParams(
        n=n, temperature=1.0, max_tokens=tokens, stop_token_ids=ends, ignore_eos=True, detokenize=False
    )
    outputs = model.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
    return sum(len(completion.token_ids) for output in outputs for completion in output.outputs)


if __name__ == "__main__":
    main()
