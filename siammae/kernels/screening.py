"""All similarities of a tile of queries with the patches of its window, by matrix products of crops."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from siammae import onednn


class Frame(NamedTuple):
    """A context frame as the CPU path wants it."""

    patches: Tensor  # (h, w, C) float32, contiguous
    longest: float  # length of its longest vector


class Box(NamedTuple):
    """Rows and columns of patches: a tile of queries, or the window that it shares."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> int:
        """Patches in it."""
        return (self.bottom - self.top) * (self.right - self.left)


class Part(NamedTuple):
    """Frames that a tile searches in the same box, and what was found there. Q queries, P patches of the box."""

    frames: Sequence[Frame]
    first: int  # number of the first of them in the context
    box: Box
    mask: Tensor | None  # (P, Q) 0 inside a query's window, -inf outside; None = all inside
    scores: Tensor  # (frames, P, Q), not masked
    best: Tensor  # (P, Q) masked maximum over the frames


class Search:
    """A context and the windows in it.

    Args:
        context: M frames.
        radius: as for :func:`siammae.kernels.reference.topk_affinity`.
        neighborhood: likewise.
        free_frames: likewise.
        tile: rows and columns of queries that are searched together.
        held: similarities of one tile that may be held at once; a tile is lower where there are too many.
    """

    def __init__(
        self,
        context: Sequence[Frame],
        *,
        radius: int | None,
        neighborhood: str,
        free_frames: int,
        tile: tuple[int, int],
        held: int,
    ) -> None:
        self.context = context
        self.h, self.w, self.channels = context[0].patches.shape
        self.free = len(context) if radius is None else min(free_frames, len(context))
        # A window that reaches over the frame's edge from everywhere reaches far enough.
        self._reach = (0, 0) if radius is None else (min(radius, self.h), min(radius, self.w))
        rows, columns = min(tile[0], self.h), min(tile[1], self.w)
        while rows > 1 and self._similarities(rows, columns) > held:
            rows -= 1
        self.tiles = [
            Box(top, bottom, left, right)
            for top, bottom in _spread(self.h, rows)
            for left, right in _spread(self.w, columns)
        ]
        if self.free < len(context) and radius is not None:
            self._mask = _mask(rows, columns, self._reach, radius, neighborhood)

    def held(self) -> int:
        """Similarities of the largest tile."""
        return max(self._similarities(tile.bottom - tile.top, tile.right - tile.left) for tile in self.tiles)

    def _similarities(self, rows: int, columns: int) -> int:
        window = min(self.h, rows + 2 * self._reach[0]) * min(self.w, columns + 2 * self._reach[1])
        candidates = self.free * self.h * self.w + (len(self.context) - self.free) * window
        return candidates * rows * columns

    def screen(self, tile: Box, queries: Tensor, held: Tensor) -> list[Part]:
        """Multiply queries ``(Q, C)`` of a tile with all patches of its windows; ``held`` is room for the results."""
        parts, used = [], 0
        for frames, first in ((self.context[: self.free], 0), (self.context[self.free :], self.free)):
            if not frames:
                continue
            box, mask = Box(0, self.h, 0, self.w), None
            if first or not self.free:
                box, mask = self._window(tile)
            shape = (len(frames), box.size, len(queries))
            scores = held[used : used + math.prod(shape)].view(shape)
            used += scores.numel()
            best = _multiply(frames, box, queries, scores)
            if mask is not None:
                best += mask
            parts.append(Part(frames, first, box, mask, scores, best))
        return parts

    def _window(self, tile: Box) -> tuple[Box, Tensor]:
        """Return the box that holds the windows of a tile's queries, and who is in whose window."""
        y, x = self._reach
        box = Box(
            max(0, tile.top - y), min(self.h, tile.bottom + y), max(0, tile.left - x), min(self.w, tile.right + x)
        )
        mask = self._mask[
            box.top - tile.top + y : box.bottom - tile.top + y,
            box.left - tile.left + x : box.right - tile.left + x,
            : tile.bottom - tile.top,
            : tile.right - tile.left,
        ]
        return box, mask.reshape(box.size, tile.size)


def _spread(length: int, most: int) -> list[tuple[int, int]]:
    """Cut a length into equal pieces, none longer than ``most``."""
    count = -(-length // most)
    return list(pairwise(i * length // count for i in range(count + 1)))


def _mask(rows: int, columns: int, reach: tuple[int, int], radius: int, neighborhood: str) -> Tensor:
    """Tell who is in whose window: ``(rows + 2 * reach, columns + 2 * reach, rows, columns)`` of 0 or -inf."""
    dy = (torch.arange(-reach[0], rows + reach[0])[:, None] - torch.arange(rows))[:, None, :, None]
    dx = (torch.arange(-reach[1], columns + reach[1])[:, None] - torch.arange(columns))[None, :, None, :]
    if neighborhood == "square":
        inside = (dy.abs() <= radius) & (dx.abs() <= radius)
    else:
        squared = dy.square() + dx.square()
        inside = squared <= radius**2 if neighborhood == "closed_disk" else squared < radius**2
    return torch.where(inside, 0.0, -torch.inf)


def _multiply(frames: Sequence[Frame], box: Box, queries: Tensor, scores: Tensor) -> Tensor:
    """Fill ``scores`` ``(frames, P, Q)`` and return their maximum over the frames ``(P, Q)``."""
    product = _PRODUCTS[product_name()]
    columns = queries.T.contiguous()  # (C, Q)
    best = torch.full(scores.shape[1:], -torch.inf)
    for frame, found in zip(frames, scores, strict=True):
        crop = frame.patches[box.top : box.bottom, box.left : box.right]  # (rows, columns, C)
        product(crop, columns, found.view(*crop.shape[:2], -1))
        torch.maximum(best, found, out=best)  # while they are in the cache
    return best


def _batched(crop: Tensor, columns: Tensor, out: Tensor) -> None:
    torch.bmm(crop, columns.expand(len(crop), *columns.shape), out=out)


def _onednn(crop: Tensor, columns: Tensor, out: Tensor) -> None:
    out.copy_(onednn.linear(crop, columns.T))


_PRODUCTS: dict[str, Callable[[Tensor, Tensor, Tensor], None]] = {"matrix product": _batched}
if onednn.available():
    _PRODUCTS["oneDNN"] = _onednn


@cache
def product_name() -> str:
    """Return the fastest product on this machine, measured once (some 20 ms); which one changes no result."""
    with torch.no_grad():
        crop, columns = torch.ones(48, 64, 384)[:, :48], torch.ones(384, 96)
        out = torch.empty(48, 48, 96)
        seconds = dict.fromkeys(_PRODUCTS, math.inf)
        for _ in range(4):  # in turns, the best of four: the first is slow, and others use the machine too
            for name, product in _PRODUCTS.items():
                start = time.perf_counter()
                product(crop, columns, out)
                seconds[name] = min(seconds[name], time.perf_counter() - start)
    return min(seconds, key=lambda name: seconds[name])
