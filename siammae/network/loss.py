"""What the network is trained on: the l2 error of hidden patches, and the matching of patches that show the same."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from siammae import kernels as _kernels

_GROUP_PATCHES = 6144  # patches told apart at once: their similarities fill 150 MB


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut images into flat patches.

    Args:
        images: ``(B, 3, H, W)``, sides multiples of ``patch_size``.
        patch_size: pixels on a side.

    Returns:
        Patches ``(B, h*w, patch_size*patch_size*3)``, row by row; within a patch row, column, colour (MAE's order).
    """
    b, c, height, width = images.shape
    h, w = height // patch_size, width // patch_size
    x = images.reshape(b, c, h, patch_size, w, patch_size)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(b, h * w, patch_size * patch_size * c)  # (B, h*w, P*P*3)


def unpatchify(patches: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Put patches back together: the inverse of :func:`patchify`.

    Args:
        patches: ``(B, h*w, patch_size*patch_size*3)``.
        grid: ``(h, w)``.
        patch_size: pixels on a side.

    Returns:
        Images ``(B, 3, h*patch_size, w*patch_size)``.
    """
    h, w = grid
    x = patches.reshape(patches.shape[0], h, w, patch_size, patch_size, 3)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(patches.shape[0], 3, h * patch_size, w * patch_size)


def masked_patch_loss(prediction: Tensor, target: Tensor, hidden: Tensor, *, norm_pix: bool = True) -> Tensor:
    """Mean squared error over the hidden patches.

    Args:
        prediction: ``(B, N, P*P*3)``, float.
        target: true patches, same shape.
        hidden: ``(B, N)`` bool, True = counts.
        norm_pix: bring each target patch to mean 0 and variance 1 first (unbiased variance plus 1e-6, as MAE).

    Returns:
        The loss, a float32 scalar.
    """
    return _kernels.masked_patch_loss(prediction, target, hidden, norm_pix=norm_pix)


def matching_loss(
    past: Tensor,
    future: Tensor,
    places: Tensor,
    *,
    temperature: float = 0.1,
    weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of finding every future patch among the past ones by the cosine of their features.

    The right answer is known where both frames are crops of one picture: it lies between four past patches, which
    share the target bilinearly. All past patches of some dozens of pairs are candidates.

    Args:
        past: features ``(B, h*w, C)`` of the past frames, float.
        future: features ``(B, h*w, C)`` of the future frames.
        places: ``(B, h*w, 2)`` x, y of each future patch's centre in past patches, where patch ``i`` has its centre at
            ``i``; outside the grid or NaN = not visible there.
        temperature: divisor of the cosine, > 0.
        weights: what each future patch counts, ``(B, h*w)`` float, >= 0; None = all alike.

    Returns:
        The weighted mean over all visible patches, a float32 scalar; 0 where none is visible.
    """
    if not len(past):
        return past.float().sum() + future.float().sum()  # 0, and still a function of both
    side = math.isqrt(past.shape[1])
    past, future = F.normalize(past.float(), dim=-1), F.normalize(future.float(), dim=-1)
    group = max(1, _GROUP_PATCHES // past.shape[1])
    weights = past.new_ones(past.shape[:2]) if weights is None else weights.to(past)
    parts = zip(*(torch.split(part, group) for part in (past, future, places, weights)), strict=True)
    sums = torch.stack([_matching_sum(p, f, where, counts, side, temperature) for p, f, where, counts in parts]).sum(
        dim=0
    )
    return sums[0] / sums[1].clamp_min(1)


def _matching_sum(
    past: Tensor,
    future: Tensor,
    places: Tensor,
    weights: Tensor,
    side: int,
    temperature: float,
) -> Tensor:
    """Return the weighted sums of the cross-entropy and of the visible patches, ``(2,)``."""
    batch, patches = past.shape[:2]
    visible = ((places >= -0.5) & (places <= side - 0.5)).all(dim=-1).reshape(-1)  # False for NaN
    logits = future.flatten(0, 1) @ past.flatten(0, 1).T / temperature
    places = places.nan_to_num().clamp(0, side - 1)
    corner = places.floor().clamp(max=max(0, side - 2))
    share = places - corner  # (B, h*w, 2)
    frames = torch.arange(batch, dtype=torch.int64, device=past.device)[:, None]
    first = (corner[..., 1] * side + corner[..., 0]).long() + patches * frames
    right = torch.zeros(len(logits), dtype=logits.dtype, device=logits.device)
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)) if side > 1 else ((0, 0),):
        weight = (share[..., 1] if dy else 1 - share[..., 1]) * (share[..., 0] if dx else 1 - share[..., 0])
        right = right + weight.reshape(-1) * logits.gather(1, (first + dy * side + dx).reshape(-1, 1))[:, 0]
    counts = weights.reshape(-1).to(logits.dtype) * visible
    errors = (logits.logsumexp(dim=1) - right).masked_fill(~visible, 0.0)
    return torch.stack([(errors * counts).sum(), counts.sum()])
