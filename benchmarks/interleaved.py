"""What the encoder's and the training step's benchmarks share: who is measured, on what, in turn."""

import datetime
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch


def headline() -> str:
    """Name command, machine and day."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        )
        cpu = next(lines, cpu)
    flags = (
        ("avx512", "_is_avx512_supported"),
        ("avx512_bf16", "_is_avx512_bf16_supported"),
        ("amx", "_is_amx_tile_supported"),
    )
    has = [name for name, ask in flags if getattr(torch.cpu, ask, bool)()]
    return (
        f"`python {' '.join(sys.argv)}`, {cpu} ({', '.join(has) or 'no AVX-512'}), {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, {datetime.date.today()}"
    )


def medians(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Time each run in turn, ``repeats`` rounds after one to warm up; returns median seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(some) for name, some in seconds.items()}
