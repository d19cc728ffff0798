"""Which pairs a process reads, step after step."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import active_children
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from siammae.clips.clip import said
from siammae.config import PretrainConfig
from siammae.distributed import Processes
from siammae.errors import SiamMAEError, WorkerError
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


class _Careful(Dataset[Pairs | SiamMAEError]):
    """Gives an error as a value: raised in a process that reads ahead it would come as a page of text."""

    def __init__(self, stream: VideoPairs) -> None:
        self._stream = stream

    def __getitem__(self, position: int) -> Pairs | SiamMAEError:
        try:
            return self._stream[position]
        except SiamMAEError as error:
            return error
        except Exception as error:
            ours = WorkerError(f"reading failed: {said(error)}")
            ours.add_note(traceback.format_exc())
            return ours


def _collate(parts: Sequence[Pairs | SiamMAEError]) -> Pairs | SiamMAEError:
    whole = [part for part in parts if isinstance(part, Pairs)]
    errors = [part for part in parts if isinstance(part, SiamMAEError)]
    return errors[0] if errors else collate(whole)


@contextmanager
def _readers(loader: DataLoader[Any]) -> Iterator[Iterator[Pairs | SiamMAEError]]:
    """Start the processes that read ahead, and end them with the block, whatever happened in it.

    They ignore the signals of a scheduler, and so PyTorch's and Python's own ways to end them: whoever waited for them
    would wait for ever. Nor may PyTorch's handler of a reader's death raise wherever training happens to be, as between
    two halves of a step: the next batch will tell.
    """
    others = set(active_children())
    # A forked reader must not clear away what it has from its parent: decoders wait there for threads that it lacks.
    gc.collect()
    gc.freeze()
    batches = iter(loader)
    readers = set(active_children()) - others
    watch: Any = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    here = callable(watch) and threading.current_thread() is threading.main_thread()

    def quietly(number: int, frame: object) -> None:
        with contextlib.suppress(RuntimeError):
            watch(number, frame)

    if here:
        signal.signal(signal.SIGCHLD, quietly)
    try:
        yield batches
    finally:
        gc.unfreeze()
        for reader in readers:
            reader.kill()
        for reader in readers:
            reader.join()
        if here:
            signal.signal(signal.SIGCHLD, watch)


def read_batches(
    stream: VideoPairs,
    config: PretrainConfig,
    processes: Processes,
    steps: range,
    device: torch.device,
    waited: Callable[[float], None],
) -> Generator[Pairs, None, None]:
    """Yield this process's part of the batch of every step, on its device; close it to end the processes that read.

    Args:
        stream: of pairs.
        config: of the run.
        processes: the processes that share a batch.
        steps: of the run.
        device: where the pairs go.
        waited: told how long each batch took to come.

    Raises:
        DatasetError: too many clips cannot be read.
        WorkerError: a process that reads ahead was killed, or reading failed otherwise.
    """
    clips = clips_per_step(config, processes)
    loader = DataLoader(
        _Careful(stream),
        sampler=_Share(steps, clips, processes),
        batch_size=clips,
        collate_fn=_collate,
        num_workers=config.workers,
        worker_init_fn=ignore_stop_signals,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # PyTorch's global one stays as it was
    )
    with _readers(loader) as batches:
        while True:
            started = time.perf_counter()
            try:
                pairs = next(batches, None)
            except (RuntimeError, OSError, EOFError) as error:  # errors of reading come as values
                raise WorkerError(
                    f"a process that reads ahead was lost ({said(error)}), perhaps for want of memory, /dev/shm "
                    "included. Use fewer workers."
                ) from error
            if pairs is None:
                return
            if isinstance(pairs, SiamMAEError):
                raise pairs
            waited(time.perf_counter() - started)
            yield pairs.to(device)
