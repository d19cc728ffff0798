"""The affinity as public evaluation code computes it, written plainly: what the benchmarks compare with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def window_mask(h: int, w: int, radius: int, shape: str) -> Tensor:
    """Return ``(h*w, h*w)`` bool: which patches see which."""
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy, dx = y[:, None] - y, x[:, None] - x
    if shape == "square":
        return (dy.abs() <= radius) & (dx.abs() <= radius)
    return dy.square() + dx.square() < radius**2


def dino_style(
    query: Tensor, context: Tensor, labels: Tensor, mask: Tensor, *, top_k: int, temperature: float
) -> Tensor:
    """The whole matrix at once: exponentials of all similarities, the mask, the ``top_k``, the labels.

    Args:
        query: ``(C, h, w)``, unit length.
        context: ``(M, C, h, w)``, unit length.
        labels: ``(M, L, h, w)``.
        mask: from :func:`window_mask`.
        top_k: neighbours kept.
        temperature: divisor of the similarity.

    Returns:
        ``(L, h, w)``.
    """
    frames, _, h, w = context.shape
    flat = query.flatten(1).T.expand(frames, -1, -1)  # (M, h*w, C)
    affinity = torch.exp(torch.bmm(flat, context.flatten(2)) / temperature)  # (M, queries, patches)
    affinity = affinity * mask.float()
    affinity = affinity.transpose(2, 1).reshape(-1, h * w)  # (M * patches, queries)
    kth = torch.topk(affinity, top_k, dim=0).values.min(dim=0).values
    affinity[affinity < kth] = 0
    affinity = affinity / affinity.sum(dim=0)
    table = labels.transpose(0, 1).reshape(labels.shape[1], -1)  # (L, M * patches)
    return (table @ affinity).reshape(-1, h, w)


def videowalk_style(
    query: Tensor, context: Tensor, labels: Tensor, mask: Tensor, *, top_k: int, temperature: float
) -> Tensor:
    """100 queries at a time, a column each, against all patches of all frames; the first frame without a window.

    Arguments and result as for :func:`dino_style`.
    """
    h, w = context.shape[2:]
    keys = context.transpose(0, 1).flatten(2).contiguous()  # (C, M, patches)
    table = labels.transpose(0, 1).reshape(labels.shape[1], -1)  # (L, M * patches)
    queries = query.flatten(1)
    bias = torch.where(mask.T, 0.0, -1e10)  # (patches, queries), added for every frame but the first
    out = []
    for start in range(0, h * w, 100):
        some = slice(start, start + 100)
        affinity = torch.einsum("cmp,cq->mpq", keys, queries[:, some])
        affinity[1:] += bias[:, some]
        affinity = affinity.flatten(0, 1)  # (M * patches, Q)
        affinity /= temperature
        weights, indices = torch.topk(affinity, top_k, dim=0)
        weights = F.softmax(weights, dim=0)
        out.append((table[:, indices] * weights).sum(dim=1))
    return torch.cat(out, dim=1).reshape(-1, h, w)
