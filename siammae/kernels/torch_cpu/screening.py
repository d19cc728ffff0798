"""All similarities of a tile of queries with the patches of its window, by matrix products of crops.

Where the machine multiplies 8-bit integers much faster, the products are of vectors rounded to 8 bits. By Cauchy's and
Schwarz's inequality a similarity is off by at most ``|q - q'| |k| + |q'| |k - k'|``, so few patches are in question
afterwards. Features that all look alike leave too many: those are screened in float32.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor

from siammae.kernels import onednn

# Times faster that products of 8 bits must be: the patches that they leave in question cost time too.
_WORTH = 1.5
# With fewer channels there is nothing to gain, and with one PyTorch 2.14 gives wrong products of 8 bits.
_FEWEST = 16


class Rounded(NamedTuple):
    """Vectors in 8 bits, each with a scale of its own: ``scale * values`` is near the vector."""

    values: Tensor  # (..., C) int8, contiguous
    scale: Tensor  # (...) float32
    error: Tensor  # (...) float32, length of what rounding took away


class Frame(NamedTuple):
    """A context frame as the CPU path wants it."""

    patches: Tensor  # (h, w, C) float32, contiguous
    longest: float  # length of its longest vector
    rounded: Rounded | None  # None where nothing is screened in 8 bits
    error: float  # the largest of its rounding errors


def lay_out(patches: Tensor) -> Frame:
    """Prepare a frame ``(h, w, C)`` float32, contiguous."""
    longest = float(_length(patches).max())
    if patches.shape[2] < _FEWEST or not rounds():
        return Frame(patches, longest, None, 0.0)
    rounded = _round(patches)
    return Frame(patches, longest, rounded, float(rounded.error.max()))


def _length(vectors: Tensor) -> Tensor:
    """Return no less than the length of vectors ``(..., C)`` but for rounding: squares may be too small for float32."""
    length: Tensor = vectors.norm(dim=-1)
    return length + math.sqrt(vectors.shape[-1] * torch.finfo(vectors.dtype).tiny)


def _round(vectors: Tensor) -> Rounded:
    scale = vectors.abs().amax(dim=-1) / 127
    scale = torch.where(scale > 0, scale, 1.0)
    scaled = vectors / scale[..., None]
    near = scaled.round().clamp_(-127, 127)  # the smallest scales are too coarse to keep within it
    off = scaled.sub_(near).norm(dim=-1) + 1e-4 * vectors.shape[-1] ** 0.5  # more than the division's own rounding
    return Rounded(near.to(torch.int8), scale, off * scale)


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
    scores: Tensor  # (frames, P, Q), not masked; of each query, in a unit of its own
    best: Tensor  # (P, Q) masked maximum over the frames


class Screen(NamedTuple):
    """All that a tile's queries may match, with similarities that are nearly right."""

    parts: list[Part]
    margin: Tensor  # (Q,) how far a score can be off, in its query's unit
    rounded: bool  # screened in 8 bits


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

    def candidates(self) -> float:
        """Patches that a query of the largest tile is multiplied with."""
        return self.held() / max(tile.size for tile in self.tiles)

    def held(self) -> int:
        """Similarities of the largest tile."""
        return max(self._similarities(tile.bottom - tile.top, tile.right - tile.left) for tile in self.tiles)

    def _similarities(self, rows: int, columns: int) -> int:
        window = min(self.h, rows + 2 * self._reach[0]) * min(self.w, columns + 2 * self._reach[1])
        candidates = self.free * self.h * self.w + (len(self.context) - self.free) * window
        return candidates * rows * columns

    def screen(self, tile: Box, queries: Tensor, held: Tensor, *, rounded: bool) -> Screen:
        """Multiply queries ``(Q, C)`` of a tile with all patches of its windows.

        Args:
            tile: where the queries are.
            queries: float32.
            held: room for :meth:`held` similarities.
            rounded: multiply in 8 bits; only where :func:`rounds` says so.
        """
        few = _round(queries) if rounded else None
        product = _rounded_product(few) if few else _float_product(queries)
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
            best = torch.full(shape[1:], -torch.inf, dtype=torch.float32, device="cpu")
            for frame, found in zip(frames, scores, strict=True):
                product(frame, box, found)
                torch.maximum(best, found, out=best)  # while they are in the cache
            if mask is not None:
                best += mask
            parts.append(Part(frames, first, box, mask, scores, best))
        return Screen(parts, self._margin(queries, few), rounded)

    def _margin(self, queries: Tensor, few: Rounded | None) -> Tensor:
        """Bound how far screened similarities and exact ones are apart, ``(Q,)``."""
        longest, length = max(frame.longest for frame in self.context), _length(queries)
        # Rounding of a float32 sum of C products in any order (Higham 2002, section 3.1), and of the score itself; in 8
        # bits, of the sum that becomes float32 and of both scales.
        margin: Tensor = (self.channels + 8) * 2.0**-24 * longest * length
        margin += torch.finfo(margin.dtype).tiny  # what is smaller is lost in any sum
        if few is not None:
            error = max(frame.error for frame in self.context)
            margin += few.error * longest + (length + few.error) * error
            margin /= few.scale
        return margin

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
    y, x = (_apart(side, far) for side, far in zip((rows, columns), reach, strict=True))
    dy, dx = y[:, None, :, None], x[None, :, None, :]
    if neighborhood == "square":
        inside = (dy.abs() <= radius) & (dx.abs() <= radius)
    else:
        squared = dy.square() + dx.square()
        inside = squared <= radius**2 if neighborhood == "closed_disk" else squared < radius**2
    mask = torch.zeros(inside.shape, dtype=torch.float32, device="cpu")
    return mask.masked_fill_(~inside, -torch.inf)


def _apart(side: int, reach: int) -> Tensor:
    """Return how far an axis's places, up to ``reach`` outside, are from those inside: ``(side + 2 * reach, side)``."""
    places = torch.arange(-reach, side + reach, dtype=torch.int64, device="cpu")
    return places[:, None] - places[reach : reach + side]


def _crop(frame: Tensor, box: Box) -> Tensor:
    return frame[box.top : box.bottom, box.left : box.right]


def _float_product(queries: Tensor) -> Callable[[Frame, Box, Tensor], None]:
    """Return what fills ``(P, Q)`` with the products of a box's patches and the queries ``(Q, C)``."""
    product, columns = _PRODUCTS[product_name()], queries.T.contiguous()  # (C, Q)

    def multiply(frame: Frame, box: Box, out: Tensor) -> None:
        crop = _crop(frame.patches, box)  # (rows, columns, C)
        product(crop, columns, out.view(*crop.shape[:2], -1))

    return multiply


def _rounded_product(queries: Rounded) -> Callable[[Frame, Box, Tensor], None]:
    """Return what fills ``(P, Q)`` with the products in 8 bits, short of the queries' scales."""
    columns = queries.values.T  # (C, Q)

    def multiply(frame: Frame, box: Box, out: Tensor) -> None:
        values, scale, _ = cast("Rounded", frame.rounded)
        sums = torch._int_mm(_crop(values, box).flatten(0, 1), columns)
        out.copy_(sums).mul_(_crop(scale, box).reshape(-1, 1))

    return multiply


def _batched(crop: Tensor, columns: Tensor, out: Tensor) -> None:
    torch.bmm(crop, columns.expand(len(crop), *columns.shape), out=out)


def _onednn(crop: Tensor, columns: Tensor, out: Tensor) -> None:
    out.copy_(onednn.linear(crop, columns.T))


_PRODUCTS: dict[str, Callable[[Tensor, Tensor, Tensor], None]] = {"matrix product": _batched}
if onednn.available():
    _PRODUCTS["oneDNN"] = _onednn


def detail() -> str:
    """Say how products are made here."""
    return f"{product_name()}, screened in 8 bits" if rounds() else product_name()


@cache
def product_name() -> str:
    """Return the fastest float32 product on this machine, measured once (some 20 ms); which one changes no result."""
    crop, columns, out = _ones()
    seconds = _seconds({name: partial(product, crop, columns, out) for name, product in _PRODUCTS.items()})
    return min(seconds, key=lambda name: seconds[name])


@cache
def rounds() -> bool:
    """Tell whether products of 8 bits are right here and much faster, measured once; it changes no result."""
    if not right_in_8_bits():
        return False
    crop, columns, out = _ones()
    few = crop.flatten(0, 1).to(torch.int8), columns.to(torch.int8)
    plain = partial(_PRODUCTS[product_name()], crop, columns, out)
    seconds = _seconds({"float32": plain, "8 bits": partial(torch._int_mm, *few)})
    return seconds["float32"] > _WORTH * seconds["8 bits"]


@cache
def right_in_8_bits() -> bool:
    """Tell whether products of 8 bits are there and exact: without instructions of their own, sums are cut off."""
    if not hasattr(torch, "_int_mm"):
        return False
    extreme = torch.full((32, 384), 127, dtype=torch.int8, device="cpu")
    extreme[::2] = -127
    return torch.equal(torch._int_mm(extreme, extreme.T).long(), extreme.long() @ extreme.T.long())


def _ones() -> Iterator[Tensor]:
    """Make a frame's crop, queries and room for their products, to measure with."""
    for shape in ((48, 48, 384), (384, 96), (48, 48, 96)):
        yield torch.ones(shape, dtype=torch.float32, device="cpu")


def _seconds(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Time ways in turns, the best of four: the first is slow, and others use the machine too."""
    seconds = dict.fromkeys(ways, math.inf)
    with torch.no_grad():
        for _ in range(4):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds
