"""Several processes that torchrun started: where this one stands among them, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from siammae.errors import WorkerError

_T = TypeVar("_T")
# One rank may have all the long videos: waiting for it must not end in a timeout. A rank that dies ends the wait too,
# and torchrun stops the others.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Processes:
    """Where this process stands among those that work together.

    Attributes:
        rank: number of this process, from 0.
        count: of all processes; 1 where torchrun did not start them.
        group: of torch.distributed, for what lies in the CPU's memory; None = alone, or the default group.
    """

    rank: int
    count: int
    group: Any = None

    def share(self, items: Sequence[_T]) -> Sequence[_T]:
        """Return the items of this process."""
        return items[self.rank :: self.count]

    def gather(self, part: _T) -> list[_T]:
        """Wait for all processes and return what each of them gave, in order."""
        if self.count == 1:
            return [part]
        parts: list[Any] = [None] * self.count
        dist.all_gather_object(parts, part, group=self.group)
        return parts

    def first_before_others(self, act: Callable[[], object]) -> None:
        """Do something in the first process, then in all others: it may make files that they look for."""
        if self.rank == 0:
            act()
        self.gather(None)
        if self.rank:
            act()

    def together(self, act: Callable[[], _T]) -> _T:
        """Do something that may fail in one process: then all of them fail, and none waits for one that has left.

        Raises:
            Exception: what ``act`` raised here.
            WorkerError: it failed in another process only.
        """
        try:
            result = act()
        except Exception as error:
            self.raise_all(error)
            raise
        self.raise_all(None)
        return result

    def raise_all(self, error: Exception | None) -> None:
        """Raise this process's error, or else that of another one; return where none has any.

        Raises:
            Exception: ``error``.
            WorkerError: another process has one.
        """
        said = self.gather(None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        for rank, text in enumerate(said):
            if text is not None:
                raise WorkerError(f"process {rank} of {self.count} failed, so this one stops too: {text}")

    def highest(self, number: int) -> int:
        """Wait for all processes and return the largest of their numbers."""
        if self.count == 1:
            return number
        numbers = torch.tensor(number, dtype=torch.int64, device="cpu")
        dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self.group)
        return int(numbers)

    def mean(self, numbers: Sequence[float]) -> list[float]:
        """Wait for all processes and return the mean of each of the numbers."""
        if self.count == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64, device="cpu")
        dist.all_reduce(sums, group=self.group)
        return [float(value) for value in sums / self.count]


@contextmanager
def join_processes(*, cuda: bool = False) -> Iterator[Processes]:
    """Join the processes that torchrun started; alone without torchrun.

    Args:
        cuda: tensors on GPUs will be sent too, by NCCL; else all goes over the CPU, whatever the device.

    Yields:
        The place of this process; the connection ends with the block.
    """
    if dist.is_available() and dist.is_initialized():
        group = dist.new_group(backend="gloo", timeout=_PATIENCE)  # the caller's group may know GPUs only
        yield Processes(dist.get_rank(), dist.get_world_size(), group)
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and "MASTER_ADDR" in os.environ:
        store, rank, count = next(rendezvous("env://", timeout=_PATIENCE))
        # torchrun's store outlives the processes that it restarts, and gloo would find the addresses of dead ones.
        round_of_restarts = f"siammae-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}-{count}"
        store = PrefixStore(round_of_restarts, store)
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_PATIENCE)
        try:
            yield Processes(dist.get_rank(), dist.get_world_size())
        finally:
            dist.destroy_process_group()
    else:
        yield Processes(0, 1)


def is_main_process() -> bool:
    """Whether this process should print and write what all have found."""
    return int(os.environ.get("RANK", "0")) == 0
