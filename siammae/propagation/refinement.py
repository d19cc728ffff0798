"""Soft masks made finer by the colours around each pixel; for output only, never fed back into propagation.

For every label l with soft mask p_l, the weighted mean and variance of the colours in a box around a pixel, weights
p_l squared, give how well the pixel's own colour fits the label there: the log-likelihood L_l of a normal distribution
with independent channels. From a radius of 4 on, mean and variance are those of means over 2 x 2 pixels, and lie
bilinearly between them: they vary slowly, and that takes a quarter of the time. The new soft mask is the posterior over
all labels,

    q_l  proportional to  p_l * exp(strength * clip(L_l - L_0, -6, 6)),

with label 0, the background, as the reference. For one object that is ``sigmoid(logit(p) + strength * ratio)``. A label
keeps to the pixels within the radius of where it was the best one, so nothing appears far from where it was.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_PASSES = 2
_STRIDE = 2  # pixels from one local mean to the next
_SMALL = 4  # radius from which that is so; below, there is one for every pixel
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
    soft = labels.to(torch.float32)
    soft = soft / soft.sum(dim=0).clamp_min(_LEAST)
    objects = (soft[1:] > soft[:1]).any(dim=0)
    refined = torch.zeros_like(soft)
    refined[0] = (soft[0] > 0).to(torch.float32)
    if not objects.any():
        return refined
    # Beyond the radius of all objects there is background, and it needs no colours: what counts lies within twice that
    # and some strides.
    part = (slice(None), *_around(objects, 2 * radius + 3 * _STRIDE))
    refined[part] = _refine(soft[part], image[part].to(torch.float32) / 255, radius, strength)
    return refined


def _around(objects: Tensor, margin: int) -> tuple[slice, slice]:
    """Return the rows and columns of a bool mask ``(H, W)``'s box and a margin around it, from a whole stride on."""
    sides = []
    for there in (objects.any(dim=1), objects.any(dim=0)):
        ends = there.nonzero()
        first, last = int(ends[0]), int(ends[-1])
        sides.append(slice(max(0, first - margin) // _STRIDE * _STRIDE, last + margin + 1))
    return sides[0], sides[1]


def _refine(soft: Tensor, colours: Tensor, radius: int, strength: float) -> Tensor:
    near = _near(soft, radius)
    stride = _STRIDE if radius >= _SMALL else 1
    moments = _coarser(torch.cat([colours, colours.square()]), stride)  # (6, H/2, W/2)
    for _ in range(_PASSES):
        background, *fits = (_fit(colours, moments, layer, radius, stride) for layer in soft)
        soft = soft * near
        for layer, fit in zip(soft[1:], fits, strict=True):
            layer *= torch.exp(strength * (fit - background).clamp(-_CLIP, _CLIP))
        soft = soft / soft.sum(dim=0).clamp_min(_LEAST)
    return soft


def _coarser(maps: Tensor, stride: int) -> Tensor:
    return F.avg_pool2d(maps[None], stride, ceil_mode=True, count_include_pad=False)[0]


def _near(soft: Tensor, radius: int) -> Tensor:
    """Tell for each label which pixels lie within the radius of one where it is the best, ``(L, H, W)`` float32."""
    best, label = soft[0].clone(), torch.zeros(soft.shape[1:], dtype=torch.uint8, device=soft.device)
    for channel, layer in enumerate(soft[1:], 1):  # argmax over a few labels takes several times as long
        label.masked_fill_(layer > best, channel)
        best = torch.maximum(best, layer)
    there = torch.stack([label == channel for channel in range(len(soft))])
    return (_box(there, radius) > 0).to(torch.float32)


def _fit(colours: Tensor, moments: Tensor, layer: Tensor, radius: int, stride: int) -> Tensor:
    """Return the log-likelihood of each pixel's colour under a label's colours around it, ``(H, W)``."""
    weights = _coarser(layer[None], stride).square()
    reach = round(radius / stride)
    boxed = _box(torch.cat([weights, weights * moments]), reach)
    total, first, second = boxed[:1].clamp_min(_LEAST * (2 * reach + 1) ** 2), boxed[1:4], boxed[4:]
    mean = first / total
    variance = (second / total - mean.square()).clamp_min(0) + _NOISE
    local = torch.cat([mean, 0.5 / variance, 0.5 * variance.log().sum(dim=0, keepdim=True)])
    local = F.interpolate(local[None], scale_factor=stride, mode="bilinear")[0, :, : layer.shape[0], : layer.shape[1]]
    squares = (colours - local[:3]).square_().mul_(local[3:6])
    log_likelihood: Tensor = squares.sum(dim=0).add_(local[6]).neg_()
    return log_likelihood


def _box(maps: Tensor, radius: int) -> Tensor:
    """Sum ``(N, H, W)`` over boxes; beyond the border there is nothing.

    By running sums, whose time does not grow with the radius; in float64, or small sums beside large ones were lost.
    """
    exact = torch.float64 if maps.is_floating_point() else torch.int32
    for axis, border in ((1, (0, 0, radius + 1, radius)), (2, (radius + 1, radius))):
        sums = F.pad(maps.to(exact), border).cumsum(dim=axis, dtype=exact)
        kept = maps.shape[axis]
        maps = sums.narrow(axis, 2 * radius + 1, kept) - sums.narrow(axis, 0, kept)
    return maps.to(torch.float32) if exact == torch.float64 else maps
