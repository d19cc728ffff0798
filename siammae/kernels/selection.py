"""The best patches of each query of a tile, exactly: few of its screened patches are compared by exact scores.

A score is the float64 product rounded to float32: unlike a float32 sum it does not depend on the order of summation
(short of one product in some 10^8, whose float64 value lies next to the middle between two float32 numbers).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from siammae.kernels.reference import best, pack
from siammae.kernels.screening import Part, Search

# Patches compared besides the top_k. More leave fewer queries in doubt, each costs a look at its vector.
_SPARE = 4
# Where this many leave doubt, all are compared.
_MANY = 512
# Vectors gathered at once: 13 MB in float64 for 384 channels.
_GATHERED = 4096
# All scores of a query held at once, packed in int64.
_PACKED = 1 << 19


def best_of_tile(
    search: Search, parts: list[Part], queries: Tensor, *, top_k: int, keep_ties: bool
) -> tuple[Tensor, Tensor]:
    """Return scores and indices ``(Q, k)`` of a tile's queries ``(Q, C)``, best first; -inf = no candidate."""
    longest = max(frame.longest for frame in search.context)
    # Rounding of a float32 sum of C products in any order (Higham 2002, section 3.1), and of the score itself.
    margin = (queries.shape[1] + 8) * 2.0**-24 * longest * queries.norm(dim=1)
    doubtful, count = torch.arange(len(queries)), top_k + _SPARE
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    while len(doubtful) and count <= _MANY:
        scores, indices, bound = _among_few(search, parts, queries, doubtful, count, top_k, keep_ties)
        kth = scores[:, min(top_k, scores.shape[1]) - 1]
        sure = (bound == -torch.inf) | (kth > bound + margin[doubtful])
        found.append((doubtful[sure], scores[sure], indices[sure]))
        doubtful, count = doubtful[~sure], 8 * count
    if len(doubtful):
        found.append((doubtful, *_among_all(search, parts, queries, doubtful, top_k, keep_ties)))
    width = max(scores.shape[1] for _, scores, _ in found)
    place = torch.cat([rows for rows, _, _ in found]).argsort()
    scores = torch.cat([F.pad(scores, (0, width - scores.shape[1]), value=-torch.inf) for _, scores, _ in found])
    indices = torch.cat([F.pad(indices, (0, width - indices.shape[1])) for _, _, indices in found])
    return scores[place], indices[place]


def _among_few(
    search: Search, parts: list[Part], queries: Tensor, rows: Tensor, count: int, top_k: int, keep_ties: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compare the ``count`` best screened patches of some queries; also return what the others may reach, screened."""
    tops = [_top(part, rows, count, search) for part in parts]
    values, indices = (torch.cat(part, dim=1) for part in zip(*tops, strict=True))
    width = min(count, values.shape[1])
    values, place = values.topk(width, dim=1)
    indices = indices.gather(1, place)
    bound = values[:, -1]
    if width == sum(len(part.frames) * part.box.size for part in parts):
        bound = torch.full_like(bound, -torch.inf)  # there are no others
    step = max(1, _GATHERED // width)
    exact = torch.empty_like(values)
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        exact[some] = _exact(search, queries[rows[some]], indices[some])
    return *best(pack(exact.masked_fill(values == -torch.inf, -torch.inf), indices), top_k, keep_ties), bound


def _top(part: Part, rows: Tensor, count: int, search: Search) -> tuple[Tensor, Tensor]:
    """Return scores and indices of all frames at the places with the ``count`` best maxima over the frames.

    The ``count`` best patches are among them.
    """
    maxima = part.best.T if len(rows) == part.best.shape[1] else part.best[:, rows].T
    maxima, places = maxima.contiguous().topk(min(count, part.box.size), dim=1)  # (R, places)
    scores = part.scores[:, places, rows[:, None]]  # (frames, R, places)
    scores = scores.masked_fill(maxima == -torch.inf, -torch.inf)
    indices = _index(places, part, search)  # (frames, R, places)
    return scores.transpose(0, 1).flatten(1), indices.transpose(0, 1).flatten(1)


def _index(places: Tensor, part: Part, search: Search) -> Tensor:
    """Turn places in a box into indices of the context, one more leading dimension for the frames."""
    width = part.box.right - part.box.left
    inside = (part.box.top + places // width) * search.w + part.box.left + places % width
    numbers = torch.arange(part.first, part.first + len(part.frames)).reshape(-1, *[1] * places.ndim)
    return numbers * (search.h * search.w) + inside


def _exact(search: Search, queries: Tensor, indices: Tensor) -> Tensor:
    """Return the exact scores of queries ``(R, C)`` with their patches ``(R, k)``."""
    numbers = (indices // (search.h * search.w)).flatten()
    order = numbers.argsort()  # one gather a frame
    places = (indices.flatten() % (search.h * search.w))[order]
    found = torch.empty(len(places), search.channels, dtype=torch.float64)
    start = 0
    for frame, some in zip(search.context, numbers.bincount(minlength=len(search.context)).tolist(), strict=True):
        if some:
            found[start : start + some] = frame.patches.flatten(0, 1)[places[start : start + some]]
            start += some
    found *= queries.double()[order // indices.shape[1]]
    scores = torch.empty(len(order))
    scores[order] = found.sum(dim=1).float()
    return scores.reshape(indices.shape)


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
    indices = torch.cat([_index(torch.arange(part.box.size), part, search).flatten() for part in parts])[None]
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
