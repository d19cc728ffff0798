"""The best patches of each query of a tile, exactly: few of its screened patches are compared by exact scores.

A score is the float64 product rounded to float32: unlike a float32 sum it does not depend on the order of summation
(short of one product in some 10^8, whose float64 value lies next to the middle between two float32 numbers).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from siammae.kernels.reference import best, pack
from siammae.kernels.torch_cpu.screening import Part, Screen, Search

# Of a query, places or patches in question beyond which all its patches are compared: lists of them would be longer.
_MANY = 512
# One in so many of all patches in question is too many after a screen in 8 bits: float32 would have been faster.
_RARE = 128
# So are queries with _MANY, if they are one in so many.
_FEW = 16
# Vectors compared at once: 6 MB in float64 for 384 channels.
_GATHERED = 1024
# All scores of a query held at once, packed in int64.
_PACKED = 1 << 19


class Candidates(NamedTuple):
    """The patches among which a tile's best are, R pairs of a query and a patch, and queries that have too many."""

    rows: Tensor  # (R,) int64 numbers of queries
    indices: Tensor  # (R,) int64 into the context
    crowded: Tensor  # numbers of queries all of whose patches are to be compared
    common: bool  # after a screen in 8 bits they are so many that one in float32 is worth its time


def rounding_may_pay(search: Search, top_k: int) -> bool:
    """Tell whether a screen in 8 bits can leave few enough patches: the ``top_k`` best are always in question."""
    return top_k * _RARE < search.candidates()


def candidates(search: Search, screen: Screen, top_k: int) -> Candidates:
    """Find the patches that may be among the best.

    The ``top_k``-th best exact score is at least the ``top_k``-th best screened one less the margin, and what reaches
    it is screened at no less than that less another margin.
    """
    bar = _kth(screen.parts, top_k) - 2 * screen.margin
    lowest = torch.finfo(bar.dtype).min  # what lies outside the window is at -inf
    bar = bar.nan_to_num(nan=lowest, neginf=lowest)
    near = [part.best >= bar for part in screen.parts]  # (P, Q)
    crowded = torch.stack([places.sum(dim=0) for places in near]).sum(dim=0) > _MANY  # (Q,)
    if crowded.any():
        near = [places & ~crowded for places in near]
    hits = [_near(part, places, bar) for part, places in zip(screen.parts, near, strict=True)]
    count = torch.stack([hit.rows.bincount(hit.frames.sum(dim=0), len(bar)) for hit in hits]).sum(dim=0)
    size = sum(part.scores.numel() for part in screen.parts)
    crowded |= count > _MANY
    common = screen.rounded and bool(int(count.sum()) * _RARE > size or crowded.sum() * _FEW > len(bar))
    found = [_pairs(search, part, hit, crowded) for part, hit in zip(screen.parts, hits, strict=True)]
    rows, indices = (torch.cat(some) for some in zip(*found, strict=True))
    return Candidates(rows, indices, crowded.nonzero()[:, 0], common)


def _kth(parts: list[Part], top_k: int) -> Tensor:
    """Return the ``top_k``-th best screened score of each query, ``(Q,)``; -inf where it has fewer patches.

    At the places with the ``top_k`` best maxima over the frames are the ``top_k`` best patches.
    """
    tops = []
    for part in parts:
        maxima, places = part.best.T.contiguous().topk(min(top_k, part.box.size), dim=1)  # (Q, places)
        scores = part.scores.flatten(1).index_select(1, _flat(places, part).flatten())  # (frames, Q * places)
        scores = scores.view(len(scores), *maxima.shape).masked_fill_(maxima == -torch.inf, -torch.inf)
        tops.append(scores.transpose(0, 1).flatten(1))
    values = torch.cat(tops, dim=1)
    return values.topk(min(top_k, values.shape[1]), dim=1).values[:, -1]


def _flat(places: Tensor, part: Part) -> Tensor:
    """Number the scores of a frame ``(P, Q)`` at some places ``(Q, places)`` of each query."""
    queries = part.best.shape[1]
    return places * queries + torch.arange(queries, dtype=torch.int64, device="cpu")[:, None]


class _Hits(NamedTuple):
    """Pairs of a query and a place, and the frames in which a patch there reaches the query's bar."""

    rows: Tensor  # (pairs,)
    places: Tensor  # (pairs,)
    frames: Tensor  # (frames, pairs) bool


def _near(part: Part, places: Tensor, bar: Tensor) -> _Hits:
    """Look into the frames at some places ``(P, Q)``."""
    flat = places.flatten().nonzero()[:, 0]
    rows = flat % len(bar)
    return _Hits(rows, flat // len(bar), part.scores.flatten(1).index_select(1, flat) >= bar[rows])


def _pairs(search: Search, part: Part, hits: _Hits, crowded: Tensor) -> tuple[Tensor, Tensor]:
    """Return queries and indices of the patches in question, but for those of crowded queries."""
    frame, pair = (hits.frames & ~crowded[hits.rows]).nonzero(as_tuple=True)
    return hits.rows[pair], _index(hits.places[pair], frame, part, search)


def _index(places: Tensor, frames: Tensor, part: Part, search: Search) -> Tensor:
    """Turn places in a box and numbers of a part's frames into indices of the context."""
    width = part.box.right - part.box.left
    inside = (part.box.top + places // width) * search.w + part.box.left + places % width
    return (part.first + frames) * (search.h * search.w) + inside


def best_of_tile(
    search: Search, screen: Screen, among: Candidates, queries: Tensor, *, top_k: int, keep_ties: bool
) -> tuple[Tensor, Tensor]:
    """Return scores and indices ``(Q, k)`` of a tile's queries ``(Q, C)``, best first; -inf = no candidate."""
    scores, indices = _among(search, among, queries, top_k, keep_ties)
    if len(among.crowded):
        every, places = _among_all(search, screen.parts, queries, among.crowded, top_k, keep_ties)
        width = max(scores.shape[1], every.shape[1])
        scores, indices = _widen(scores, indices, width)
        scores[among.crowded], indices[among.crowded] = _widen(every, places, width)
    return scores, indices


def _widen(scores: Tensor, indices: Tensor, width: int) -> tuple[Tensor, Tensor]:
    missing = (0, width - scores.shape[1])
    return F.pad(scores, missing, value=-torch.inf), F.pad(indices, missing)


def _among(search: Search, among: Candidates, queries: Tensor, top_k: int, keep_ties: bool) -> tuple[Tensor, Tensor]:
    """Compare the candidates of each query."""
    order = among.rows.argsort()
    rows, indices = among.rows[order], among.indices[order]
    count = rows.bincount(minlength=len(queries))
    place = (
        torch.arange(len(rows), dtype=torch.int64, device="cpu") - (count.cumsum(0) - count)[rows]
    )  # among its query's
    width = max(int(count.max()), min(top_k, len(search.context) * search.h * search.w))
    scores = torch.full((len(queries), width), -torch.inf, dtype=torch.float32, device="cpu")
    patches = torch.zeros(scores.shape, dtype=torch.int64, device="cpu")
    scores[rows, place] = _exact(search, queries, rows, indices)
    patches[rows, place] = indices
    return best(pack(scores, patches), top_k, keep_ties)


def _exact(search: Search, queries: Tensor, rows: Tensor, indices: Tensor) -> Tensor:
    """Return the exact scores ``(R,)`` of pairs of a query and a patch."""
    numbers = indices // (search.h * search.w)
    order = numbers.argsort()  # one gather a frame
    rows, places = rows[order], (indices % (search.h * search.w))[order]
    sums, start = torch.empty(len(order), dtype=torch.float64, device="cpu"), 0
    for frame, some in zip(search.context, numbers.bincount(minlength=len(search.context)).tolist(), strict=True):
        for low in range(start, start + some, _GATHERED):
            part = slice(low, min(low + _GATHERED, start + some))
            patches = frame.patches.flatten(0, 1).index_select(0, places[part]).double()
            sums[part] = patches.mul_(queries.index_select(0, rows[part]).double()).sum(dim=1)
        start += some
    scores = torch.empty(len(order), dtype=torch.float32, device="cpu")
    scores[order] = sums.float()
    return scores


def _among_all(
    search: Search, parts: list[Part], queries: Tensor, rows: Tensor, top_k: int, keep_ties: bool
) -> tuple[Tensor, Tensor]:
    """Compare all patches of some queries, of which very many are as good: they look alike."""
    columns = queries[rows].double().T  # (C, R)
    exact = []
    for part in parts:
        box, scores = part.box, part.scores[:, :, : len(rows)]
        for i, frame in enumerate(part.frames):
            crop = frame.patches[box.top : box.bottom, box.left : box.right]
            scores[i] = (crop.double() @ columns).flatten(0, 1).float()
        exact.append(scores)
    indices = torch.cat([_all(part, search) for part in parts])[None]
    step = max(1, _PACKED // indices.shape[1])
    results = []
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        masked = [
            scores[:, :, some] if part.mask is None else scores[:, :, some] + part.mask[:, rows[some]]
            for part, scores in zip(parts, exact, strict=True)
        ]
        values = torch.cat([part.flatten(0, 1) for part in masked]).T  # (R, candidates)
        results.append(best(pack(values, indices), top_k, keep_ties))
    width = max(scores.shape[1] for scores, _ in results)
    scores = torch.cat([F.pad(scores, (0, width - scores.shape[1]), value=-torch.inf) for scores, _ in results])
    return scores, torch.cat([F.pad(indices, (0, width - indices.shape[1])) for _, indices in results])


def _all(part: Part, search: Search) -> Tensor:
    """Return the indices of all patches of a part, in the order of its scores."""
    frames, places = (
        torch.arange(count, dtype=torch.int64, device="cpu") for count in (len(part.frames), part.box.size)
    )
    return _index(places, frames[:, None], part, search).flatten()
