"""Every operation in plain PyTorch: the definition that other backends are held to. Any device, float32 sums."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# Scores held at once. Query rows are taken in chunks so small that this bounds memory (about 24 bytes a score).
_CHUNK_SCORES = 1 << 21
_MINUS_INFINITY = -0x7F800001  # the upper half of a packed score of -inf


def status() -> str:
    """Return ``"available"``: it runs wherever PyTorch does."""
    return "available"


def detail() -> str:
    """Return nothing: it is the same on every machine."""
    return ""


def refusal(
    query: Tensor, *, top_k: int, radius: int | None, neighborhood: str, free_frames: int, keep_ties: bool
) -> None:
    """Refuse nothing."""


def prepare(features: Tensor) -> Tensor:
    """Return a context frame as it is."""
    return features


def topk_affinity(
    query: Tensor,
    context: Sequence[Tensor],
    *,
    top_k: int,
    temperature: float,
    radius: int | None,
    neighborhood: str,
    free_frames: int,
    keep_ties: bool,
) -> tuple[Tensor, Tensor]:
    """Match every query patch to its best context patches inside the window.

    Args:
        query: ``(C, h, w)``, unit length over C.
        context: M frames ``(C, h, w)``, unit length over C.
        top_k: neighbours kept.
        temperature: divisor of the similarity before the softmax.
        radius: of the window in patches; None looks everywhere.
        neighborhood: ``"disk"``: distance < radius; ``"closed_disk"``: distance <= radius; ``"square"``: both offsets
            <= radius.
        free_frames: this many leading context frames have no window.
        keep_ties: keep all patches as similar as the ``top_k``-th.

    Returns:
        Weights ``(h*w, k)`` float32, rows summing to 1, best first; indices ``(h*w, k)`` int64 into ``M*h*w``. Where
        the window holds fewer than k patches, the rest of the row has weight 0.
    """
    h = query.shape[1]
    free = len(context) if radius is None else min(free_frames, len(context))
    chunks = [
        _weights(packed, top_k, temperature, keep_ties)
        for packed in _packed_scores(query, context, radius, neighborhood, free)
    ]
    width = max(weights.shape[1] for weights, _ in chunks)  # rows near an edge may have fewer candidates
    padded = [_pad(weights, indices, width) for weights, indices in chunks]
    weights, indices = (torch.cat(part) for part in zip(*padded, strict=True))
    return weights.reshape(h * query.shape[2], width), indices


def _packed_scores(
    query: Tensor, context: Sequence[Tensor], radius: int | None, neighborhood: str, free: int
) -> Iterator[Tensor]:
    """Yield the similarities of a few query rows with all their candidates, packed with the candidates' indices."""
    (channels, h, w), frames = query.shape, len(context)
    reach = h if radius is None else radius
    # At most 2 * reach + 1 query rows at once: they see at most 4 * reach + 1 rows of a frame.
    row_cost = w * w * (free * h + (frames - free) * min(h, 4 * reach + 1))
    rows = max(1, min(2 * reach + 1, _CHUNK_SCORES // row_cost))
    index = torch.arange(frames * h * w, dtype=torch.int64, device=query.device).reshape(frames, h, w)
    for top in range(0, h, rows):
        bottom = min(h, top + rows)
        low, high = max(0, top - reach), min(h, bottom + reach)
        q = query[:, top:bottom].reshape(channels, -1).T.float()  # (Q, C)
        parts = []
        if free:
            parts.append(pack(_similarity(q, context[:free], 0, h), index[:free].flatten(1)).flatten(1))
        if free < frames:
            scores = _similarity(q, context[free:], low, high)  # (Q, frames-free, rows*w)
            inside = _window(top, bottom, low, high, w, reach, neighborhood).to(q.device)  # (Q, rows*w)
            scores = scores.masked_fill(~inside[:, None], -torch.inf)
            parts.append(pack(scores, index[free:, low:high].flatten(1)).flatten(1))
        yield torch.cat(parts, dim=1)


def _similarity(q: Tensor, context: Sequence[Tensor], low: int, high: int) -> Tensor:
    """Multiply ``(Q, C)`` with rows ``low:high`` of F frames to ``(Q, F, rows*w)``."""
    rows = torch.stack([frame[:, low:high].flatten(1) for frame in context])  # (F, C, rows*w)
    return torch.matmul(q, rows.float()).transpose(0, 1)


def _window(top: int, bottom: int, low: int, high: int, w: int, radius: int, neighborhood: str) -> Tensor:
    """Tell for query rows ``top:bottom`` and context rows ``low:high`` who is near whom: ``(Q, rows*w)`` bool."""
    rows, others, columns = (
        torch.arange(*ends, dtype=torch.int64, device="cpu") for ends in ((top, bottom), (low, high), (0, w))
    )
    dy = rows[:, None] - others  # (q rows, rows)
    dx = columns[:, None] - columns  # (w, w)
    if neighborhood == "square":
        inside = (dy.abs() <= radius)[:, None, :, None] & (dx.abs() <= radius)[None, :, None, :]
    else:
        squared = dy.square()[:, None, :, None] + dx.square()[None, :, None, :]
        inside = squared <= radius**2 if neighborhood == "closed_disk" else squared < radius**2
    return inside.reshape((bottom - top) * w, (high - low) * w)


def pack(scores: Tensor, index: Tensor) -> Tensor:
    """Join scores and indices, of shapes that broadcast, in int64 whose order is: higher score, then smaller index.

    A float32's bits, read as int32, order like the float once the lower 31 bits of negative ones are flipped.
    """
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0, which is equal but has other bits
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64)
    return (ordered << 32) | (0xFFFFFFFF - index)


def unpack(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores and indices that :func:`pack` joined."""
    ordered = (packed >> 32).to(torch.int32)
    scores = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    return scores, 0xFFFFFFFF - (packed & 0xFFFFFFFF)


def best(packed: Tensor, top_k: int, keep_ties: bool) -> tuple[Tensor, Tensor]:
    """Return the best scores of each row and their indices, best first; -inf stands for no candidate."""
    k = min(top_k, packed.shape[1])
    chosen = packed.topk(k, dim=1).values
    scores, indices = unpack(chosen)
    if keep_ties:
        threshold = scores[:, -1:]
        # Patches outside a small window tie at -inf: they have no weight, and there are many.
        bar = (chosen[:, -1:] >> 32).clamp_min(_MINUS_INFINITY + 1)
        tied = max(k, int(((packed >> 32) >= bar).sum(dim=1).max()))
        scores, indices = unpack(packed.topk(tied, dim=1).values)
        scores = scores.masked_fill(scores < threshold, -torch.inf)
    return scores, indices


def _weights(packed: Tensor, top_k: int, temperature: float, keep_ties: bool) -> tuple[Tensor, Tensor]:
    scores, indices = best(packed, top_k, keep_ties)
    return torch.softmax(scores / temperature, dim=1), indices


def _pad(weights: Tensor, indices: Tensor, width: int) -> tuple[Tensor, Tensor]:
    missing = (0, width - weights.shape[1])
    return torch.nn.functional.pad(weights, missing), torch.nn.functional.pad(indices, missing)


def gather_labels(weights: Tensor, indices: Tensor, labels: Tensor) -> Tensor:
    """Mix labels.

    Args:
        weights: ``(h*w, k)`` float32.
        indices: ``(h*w, k)`` int64 into ``M*h*w``.
        labels: ``(M, L, h, w)``, float.

    Returns:
        ``(L, h, w)`` float32.
    """
    _, channels, h, w = labels.shape
    table = labels.permute(0, 2, 3, 1).reshape(-1, channels).float()  # (M*h*w, L)
    mixed = torch.nn.functional.embedding_bag(indices, table, per_sample_weights=weights, mode="sum")  # (h*w, L)
    return mixed.T.reshape(channels, h, w)


def masked_patch_loss(prediction: Tensor, target: Tensor, hidden: Tensor, *, norm_pix: bool) -> Tensor:
    """Return the mean squared error over hidden patches; see :func:`siammae.network.loss.masked_patch_loss`."""
    target = target.float()
    if norm_pix:
        variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
        target = (target - mean) / (variance + 1e-6).sqrt()
    error = (prediction.float() - target).square().mean(dim=-1)  # (B, N)
    return (error * hidden).sum() / hidden.sum()
