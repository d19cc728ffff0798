"""Soft masks made finer by the colours around each pixel; for output only, never fed back into propagation.

For every label l with soft mask p_l, the weighted mean and variance of the colours in a box around a pixel, weights
p_l squared, give how well the pixel's own colour fits the label there: the log-likelihood L_l of a normal distribution
with independent channels. The new soft mask is the posterior over all labels,

    q_l  proportional to  p_l * exp(strength * clip(L_l - L_0, -6, 6)),

with label 0, the background, as the reference. For one object that is ``sigmoid(logit(p) + strength * ratio)``. A label
keeps to the pixels within the radius of where it was the best one, so nothing appears far from where it was.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_PASSES = 2
_NOISE = 5e-4  # added to the variance of colours in [0, 1]: a flat region must not be sure of itself
_CLIP = 6.0
_LEAST = 1e-6  # of a soft label, and of the weight of a box; below there is nothing to learn from


def refine_by_colour(labels: Tensor, image: Tensor, *, radius: int, strength: float) -> Tensor:
    """Let each pixel's colour decide between the labels around it.

    Args:
        labels: soft masks ``(L, H, W)`` float, not negative; channel 0 is the background.
        image: RGB of the same size, ``(3, H, W)`` uint8, on the same device.
        radius: of the box, in pixels; at least 1.
        strength: weight of the colours; 0 leaves the labels as they are but for their sum.

    Returns:
        ``(L, H, W)`` float32, summing to 1 over L where any label is there. A label is 0 wherever its soft mask was.
    """
    colours = image.to(torch.float32) / 255
    soft = labels.to(torch.float32)
    soft = soft / soft.sum(dim=0).clamp_min(_LEAST)
    near = _near(soft, radius)
    for _ in range(_PASSES):
        fits = torch.stack([_fit(colours, layer, radius) for layer in soft])
        ratio = (fits - fits[:1]).clamp(-_CLIP, _CLIP)
        soft = (soft * near) * torch.exp(strength * ratio)
        soft = soft / soft.sum(dim=0).clamp_min(_LEAST)
    return soft


def _near(soft: Tensor, radius: int) -> Tensor:
    """Tell for each label which pixels lie within the radius of one where it is the best, ``(L, H, W)`` float32."""
    best = F.one_hot(soft.argmax(dim=0), len(soft)).permute(2, 0, 1).to(torch.float32)
    side = 2 * radius + 1
    rows = F.max_pool2d(best, (side, 1), stride=1, padding=(radius, 0))
    return F.max_pool2d(rows, (1, side), stride=1, padding=(0, radius))


def _fit(colours: Tensor, layer: Tensor, radius: int) -> Tensor:
    """Return the log-likelihood of each pixel's colour under a label's colours around it, ``(H, W)``."""
    weight = layer.square()
    stacked = torch.cat([weight[None], weight * colours, weight * colours.square()])  # (7, H, W)
    boxed = _box(stacked, radius)
    total, first, second = boxed[:1], boxed[1:4], boxed[4:]
    total = total.clamp_min(_LEAST)
    mean = first / total
    variance = (second / total - mean.square()).clamp_min(0) + _NOISE
    log_likelihood: Tensor = -0.5 * ((colours - mean).square() / variance + variance.log()).sum(dim=0)
    return log_likelihood


def _box(maps: Tensor, radius: int) -> Tensor:
    """Average ``(N, H, W)`` over boxes; beyond the border there is nothing, and it does not count."""
    side = 2 * radius + 1
    rows = F.avg_pool2d(maps, (side, 1), stride=1, padding=(radius, 0), count_include_pad=True)
    return F.avg_pool2d(rows, (1, side), stride=1, padding=(0, radius), count_include_pad=True)
