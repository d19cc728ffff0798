"""Self-attention to averaged keys: each patch looks at means of neighbouring patches, at a part of the cost.

Attention's time grows with queries times keys. Keys and values averaged over 2 x 2 patches leave a quarter of it; every
patch keeps its own query, and so its own features. CLS and registers are never averaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class KeyPooling(NamedTuple):
    """Which tokens are averaged."""

    side: int  # patches on a side of a mean; at the right and lower border of the grid there may be fewer
    grid: tuple[int, int]  # (h, w) patches, row by row, after the prefix
    prefix: int  # tokens before the patches

    def pool(self, tokens: Tensor) -> Tensor:
        """Average patches: ``(B, prefix + h*w, C)`` to ``(B, prefix + M, C)``."""
        prefix, patches = tokens[:, : self.prefix], tokens[:, self.prefix :]
        image = patches.unflatten(1, self.grid).permute(0, 3, 1, 2)  # type: ignore[no-untyped-call]
        means = F.avg_pool2d(image, self.side, ceil_mode=True, count_include_pad=False)
        return torch.cat([prefix, means.flatten(2).transpose(1, 2)], dim=1)


_pooling: ContextVar[KeyPooling | None] = ContextVar("key_pooling", default=None)
# How many contexts there are in all threads. PyTorch 2.6 cannot compile or export what asks a ContextVar, so that is
# done only where one may be set.
_open = 0
_counting = Lock()


def key_pooling() -> KeyPooling | None:
    """Return what the attention of this thread's running network averages; None = nothing."""
    return _pooling.get() if _open else None


@contextmanager
def pooled_keys(side: int, grid: tuple[int, int], prefix: int) -> Iterator[None]:
    """Let the attention layers of ``siammae.network.cpu_layers`` average their keys and values within a block.

    Args:
        side: patches on a side of a mean; 1 = none.
        grid: ``(h, w)`` patches of the tokens.
        prefix: tokens before them.

    Raises:
        ValueError: ``side`` is below 1.
    """
    if side < 1:
        raise ValueError(f"pool_keys is {side}: it must be at least 1 (1 = every patch is a key of its own).")
    token = _pooling.set(KeyPooling(side, grid, prefix) if side > 1 else None)
    _count(1)
    try:
        yield
    finally:
        _count(-1)
        _pooling.reset(token)


def _count(change: int) -> None:
    global _open
    with _counting:
        _open += change
