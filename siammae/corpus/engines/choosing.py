"""Which engine does the work, and how many workers it has."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch

from siammae.corpus.work import Outcome, Part, Work, lost
from siammae.parallel.processes import each_in_processes

ENGINES = ("local", "ray")
Engine = Callable[[Work, Sequence[Part]], Iterable[Outcome]]


def usual_workers(device: str) -> int:
    """Return how many workers this machine has room for: one a GPU, or one a CPU that this process may use."""
    if device.startswith("cuda"):
        return torch.cuda.device_count() if device == "cuda" else 1
    if device != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_engine(
    name: str = "local", *, workers: int | None = None, device: str = "cpu", address: str | None = None
) -> Engine:
    """Return what applies work to videos.

    Args:
        name: ``"local"``: this machine; ``"ray"``: a Ray cluster (extra of its name).
        workers: processes, each with one torch thread; locally 1 is this process itself. None = one a CPU, or one a
            GPU.
        device: where the model is.
        address: of a running Ray cluster; None starts one on this machine.

    Raises:
        ValueError: there is no such engine, or an option is not for it.
        ImportError: Ray is not installed.
    """
    if name not in ENGINES:
        raise ValueError(f"engine is {name!r}: it must be one of {', '.join(map(repr, ENGINES))}.")
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}: it must be at least 1.")
    if name == "ray":
        from siammae.corpus.engines.ray_data import RayEngine

        return RayEngine(workers, device, address)
    if address is not None:
        raise ValueError(f"address is {address!r}, which is of a Ray cluster: choose the engine 'ray' with it.")
    return _Local(usual_workers(device) if workers is None else workers)


class _Local:
    """This process, or several of this machine."""

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def __call__(self, work: Work, parts: Sequence[Part]) -> Iterator[Outcome]:
        workers = min(self._workers, len(parts))
        if workers > 1:
            for _, outcome in each_in_processes(work, parts, workers=workers, lost=lost):
                yield outcome
            return
        with one_thread():
            for part in parts:
                yield work(part, _nothing)


def _nothing() -> None:
    return None


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute as the processes of the other engines do: sums of floats depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
