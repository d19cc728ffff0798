"""What the network is trained on: the l2 error of hidden patches."""

from __future__ import annotations

import torch
from torch import Tensor


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
    target = target.float()
    if norm_pix:
        variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
        target = (target - mean) / (variance + 1e-6).sqrt()
    error = (prediction.float() - target).square().mean(dim=-1)  # (B, N)
    return (error * hidden).sum() / hidden.sum()
