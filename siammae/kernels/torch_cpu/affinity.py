"""The affinity on a CPU in PyTorch alone: tiles of queries against their windows, several threads, nothing dense.

A tile of queries shares one window a frame, so its similarities are a matrix product with a crop of the frame
(:mod:`siammae.kernels.torch_cpu.screening`). They decide which few patches can be among the best, and those are
compared by scores that do not depend on the order of summation (:mod:`siammae.kernels.torch_cpu.selection`). So neither
tiles nor threads nor the way to multiply change a result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from siammae.kernels.onednn import coarse_precision
from siammae.kernels.torch_cpu import screening
from siammae.kernels.torch_cpu.screening import Box, Frame, Search
from siammae.kernels.torch_cpu.selection import best_of_tile, candidates, rounding_may_pay

T = TypeVar("T")

# Larger tiles multiply faster and look at more patches outside a query's own window: on a Xeon with AVX-512, 60 x 110
# patches, radius 12 or 20, tiles of 80 to 256 queries differ by less than 10 %; with products of 8 bits, on an EPYC
# (Zen 4), 256 are up to a fifth faster than 128.
_TILE = (16, 16)
# Similarities of a tile that each thread holds: 25 MB. Products of 8 bits and lists of patches add a few.
_HELD = 6 << 20


def status() -> str:
    """Return ``"available"``: it needs nothing but PyTorch."""
    return "available"


def detail() -> str:
    """Say how it multiplies."""
    return f"by {screening.detail()}"


def refusal(
    query: Tensor, *, top_k: int, radius: int | None, neighborhood: str, free_frames: int, keep_ties: bool
) -> str | None:
    """Refuse what is not on a CPU, and settings under which PyTorch may round the products more coarsely."""
    if query.device.type != "cpu":
        return f"query is on {query.device}"
    if (setting := coarse_precision()) is not None:
        return f"{setting} is on, and it needs full float32 products"
    return None


def prepare(features: Tensor) -> Frame:
    """Lay out a frame ``(C, h, w)`` with a patch's values side by side; without a copy where they are so already."""
    return screening.lay_out(features.detach().permute(1, 2, 0).float().contiguous())


def topk_affinity(
    query: Tensor,
    context: Sequence[Frame],
    *,
    top_k: int,
    temperature: float,
    radius: int | None,
    neighborhood: str,
    free_frames: int,
    keep_ties: bool,
) -> tuple[Tensor, Tensor]:
    """Match as :func:`siammae.kernels.reference.topk_affinity` does, on prepared frames.

    Its scores are float64 products rounded to float32. The reference's differ from them by the rounding of float32
    sums, at most ``(C + 1) * 2**-24`` for unit vectors; only between patches whose scores are that close can the two
    choose differently.
    """
    patches = query.detach().permute(1, 2, 0).float().contiguous()  # (h, w, C)
    search = Search(context, radius=radius, neighborhood=neighborhood, free_frames=free_frames, tile=_TILE, held=_HELD)
    screening.product_name()  # measured before the threads disturb each other
    waiting = iter(search.tiles)

    def work() -> list[tuple[Box, Tensor, Tensor]]:
        with torch.no_grad():
            held = torch.empty(search.held(), dtype=torch.float32, device="cpu")
            may_round = all(frame.rounded is not None for frame in context) and rounding_may_pay(search, top_k)
            paid = failed = 0
            done = []
            for tile in waiting:
                rounded = may_round and failed <= paid + 1  # where it failed more often, it will again
                queries = patches[tile.top : tile.bottom, tile.left : tile.right].flatten(0, 1)  # (Q, C)
                screen = search.screen(tile, queries, held, rounded=rounded)
                among = candidates(search, screen, top_k)
                if among.common:
                    screen = search.screen(tile, queries, held, rounded=False)
                    among = candidates(search, screen, top_k)
                paid, failed = paid + screen.rounded, failed + (rounded and not screen.rounded)
                done.append((tile, *best_of_tile(search, screen, among, queries, top_k=top_k, keep_ties=keep_ties)))
            return done

    done = _in_threads(work, min(torch.get_num_threads(), len(search.tiles)))
    scores, indices = _assemble([result for part in done for result in part], search.h, search.w)
    return torch.softmax(scores / temperature, dim=1), indices


def _in_threads(work: Callable[[], T], count: int) -> list[T]:
    """Run the same work in several threads, each with PyTorch's own threads off: a tile is too small to share."""
    if count == 1:
        return [work()]
    before = torch.get_num_threads()

    def alone() -> T:
        torch.set_num_threads(1)
        return work()

    try:
        # A pool that lives on would hang in forked processes.
        with ThreadPoolExecutor(count) as pool:
            return [future.result() for future in [pool.submit(alone) for _ in range(count)]]
    finally:
        torch.set_num_threads(before)


def _assemble(done: list[tuple[Box, Tensor, Tensor]], h: int, w: int) -> tuple[Tensor, Tensor]:
    """Put the tiles' scores and indices together: ``(h*w, k)`` each."""
    width = max(scores.shape[1] for _, scores, _ in done)
    scores = torch.full((h, w, width), -torch.inf, dtype=torch.float32, device="cpu")
    indices = torch.zeros((h, w, width), dtype=torch.int64, device="cpu")
    for tile, some, places in done:
        shape = (tile.bottom - tile.top, tile.right - tile.left, some.shape[1])
        rows, columns = slice(tile.top, tile.bottom), slice(tile.left, tile.right)
        scores[rows, columns, : some.shape[1]] = some.reshape(shape)
        indices[rows, columns, : some.shape[1]] = places.reshape(shape)
    return scores.flatten(0, 1), indices.flatten(0, 1)
