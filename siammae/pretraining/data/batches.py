"""Which pairs a process reads, step after step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch.utils.data import DataLoader, Sampler

from siammae.config import PretrainConfig
from siammae.distributed import Processes
from siammae.pretraining.data.crops import Pairs, collate
from siammae.pretraining.data.pairs import VideoPairs
from siammae.pretraining.stopping import ignore_stop_signals


def clips_per_step(config: PretrainConfig, processes: Processes) -> int:
    """Return of how many clips one process reads pairs for one optimiser step.

    Raises:
        ValueError: a batch cannot be shared equally.
    """
    parts = processes.count * config.accumulate
    clips, rest = divmod(config.batch_size, config.samples_per_video * parts)
    if rest:
        raise ValueError(
            f"batch_size is {config.batch_size}: it must be a multiple of samples_per_video x accumulate x processes = "
            f"{config.samples_per_video} x {config.accumulate} x {processes.count}."
        )
    return clips * config.accumulate


class _Share(Sampler[int]):
    """Positions of one process in the stream of all clips: the batch of a step is one run of the stream, cut evenly."""

    def __init__(self, steps: range, clips: int, processes: Processes) -> None:
        self._steps, self._clips, self._processes = steps, clips, processes

    def __len__(self) -> int:
        return len(self._steps) * self._clips

    def __iter__(self) -> Iterator[int]:
        for step in self._steps:
            first = (step * self._processes.count + self._processes.rank) * self._clips
            yield from range(first, first + self._clips)


def read_batches(
    stream: VideoPairs,
    config: PretrainConfig,
    processes: Processes,
    steps: range,
    device: torch.device,
    waited: Callable[[float], None],
) -> Iterator[Pairs]:
    """Yield this process's part of the batch of every step, on its device.

    Args:
        stream: of pairs.
        config: of the run.
        processes: the processes that share a batch.
        steps: of the run.
        device: where the pairs go.
        waited: told how long each batch took to come.
    """
    clips = clips_per_step(config, processes)
    loader = DataLoader(
        stream,
        sampler=_Share(steps, clips, processes),
        batch_size=clips,
        collate_fn=collate,
        num_workers=config.workers,
        worker_init_fn=ignore_stop_signals,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # PyTorch's global one stays as it was
    )
    batches = iter(loader)
    while True:
        started = time.perf_counter()
        pairs = next(batches, None)
        if pairs is None:
            return
        waited(time.perf_counter() - started)
        yield pairs.to(device)
