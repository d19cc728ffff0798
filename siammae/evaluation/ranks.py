"""Several processes that torchrun started: each scores its share of the videos, and all get the whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

_T = TypeVar("_T")
# One rank may have all the long videos: waiting for it must not end in a timeout. A rank that dies ends the wait too,
# and torchrun stops the others.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Ranks:
    """Where this process stands among those that score together.

    Attributes:
        rank: number of this process, from 0.
        count: of all processes; 1 where torchrun did not start them.
        group: of torch.distributed; None = alone.
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


@contextmanager
def ranks() -> Iterator[Ranks]:
    """Join the processes that torchrun started, over the CPU whatever the device; alone without torchrun.

    Yields:
        The place of this process; the connection ends with the block.
    """
    if dist.is_available() and dist.is_initialized():
        group = dist.new_group(backend="gloo", timeout=_PATIENCE)  # the caller's group may know GPUs only
        yield Ranks(dist.get_rank(), dist.get_world_size(), group)
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and "MASTER_ADDR" in os.environ:
        dist.init_process_group("gloo", timeout=_PATIENCE)
        try:
            yield Ranks(dist.get_rank(), dist.get_world_size())
        finally:
            dist.destroy_process_group()
    else:
        yield Ranks(0, 1)


def is_first_rank() -> bool:
    """Whether this process should print and write what all have found."""
    return int(os.environ.get("RANK", "0")) == 0
