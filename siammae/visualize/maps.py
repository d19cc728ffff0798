"""Attention and matches as pictures: what a frame is about, and where a patch is found again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siammae.features import FeatureExtractor
from siammae.network.attention import cross_attention, has_cross_attention
from siammae.network.model import SiamMAE
from siammae.propagation.affinity import patch_affinity
from siammae.visualize.heat import mark_patch, overlay_heat
from siammae.visualize.pixels import check

_TOP = 0.999  # quantile of the values that is as light as can be: a single patch must not darken all others


class PointMatches(NamedTuple):
    """Where a patch of one frame is found in all frames."""

    patch: tuple[int, int]  # its row and column
    frame: int  # its frame's number in the clip
    features: Tensor  # (T, h, w) float32, softmax of the cosine of features; each frame sums to 1
    decoder: Tensor | None  # (T, depth, h, w) float32, cross-attention, mean over heads; None = the network has none


def match_patch(
    model: FeatureExtractor,
    clip: NDArray[np.uint8],
    patch: tuple[int, int],
    *,
    frame: int = 0,
    temperature: float,
    mask_ratio: float = 0.95,
    seed: int = 0,
) -> PointMatches:
    """Find a patch of one frame in all frames of a clip, by its features and by the decoder's cross-attention.

    For the decoder the patch's frame is the future one, and each frame of the clip in turn is the past one.

    Args:
        model: any extractor; those with cross-attention give both.
        clip: RGB frames ``(T, H, W, 3)`` uint8 as they enter the network, sides multiples of its patch.
        patch: row and column of the patch.
        frame: number in the clip of the frame it is in.
        temperature: divisor of the cosine of features, > 0.
        mask_ratio: part of the patches of the patch's frame that the decoder does not see.
        seed: of what it does not see.

    Raises:
        ValueError: there is no such frame or patch, or frames or options are refused.
    """
    check(0 <= frame < len(clip), f"frame is {frame}: the clip has {len(clip)} frames, numbered from 0.")
    features = model.extract(clip)
    grid = features.shape[-2:]
    (row, column), (h, w) = patch, grid
    check(0 <= row < h and 0 <= column < w, f"patch is {patch}: it must be a row and a column of a grid of {(h, w)}.")
    affinity = patch_affinity(features[frame, :, row, column], features, temperature=temperature)
    if not (isinstance(model, SiamMAE) and has_cross_attention(model)):
        return PointMatches(patch, frame, affinity, None)
    frames = torch.from_numpy(clip).permute(0, 3, 1, 2)  # (T, 3, H, W)
    wanted = torch.tensor([row * w + column], dtype=torch.int64, device="cpu")
    future, parts = frames[frame : frame + 1], []
    for past in torch.split(frames, 1):
        generator = torch.Generator().manual_seed(seed)  # the same patches are hidden for each
        pair = cross_attention(model, past, future, mask_ratio=mask_ratio, generator=generator, rows=wanted)
        parts.append(pair.weights.mean(dim=2)[:, :, 0, 1:])  # (1, depth, h*w)
    return PointMatches(patch, frame, affinity, torch.cat(parts).unflatten(2, grid))  # type: ignore[no-untyped-call]


def heat_row(frames: Sequence[NDArray[np.uint8]], heat: Tensor) -> list[NDArray[np.uint8]]:
    """Lay maps ``(T, h, w)`` over as many frames, all on one scale from 0 to nearly the largest value."""
    values = heat.detach().float().cpu().numpy()
    limits = (0.0, float(np.quantile(values, _TOP)))
    return [overlay_heat(frame, one, limits=limits) for frame, one in zip(frames, values, strict=True)]


def class_rows(frames: Sequence[NDArray[np.uint8]], maps: Tensor) -> dict[str, list[NDArray[np.uint8]]]:
    """Arrange attention of CLS for :func:`siammae.visualize.picture_table`: frames, the heads' mean, each head.

    Args:
        frames: RGB, ``(H, W, 3)`` uint8, of any one size.
        maps: ``(T, heads, h, w)``, as :func:`siammae.class_attention` gives them.
    """
    heads = {f"head {head}": heat_row(frames, maps[:, head]) for head in range(maps.shape[1])}
    return {"frame": list(frames), "mean of heads": heat_row(frames, maps.mean(dim=1)), **heads}


def point_rows(frames: Sequence[NDArray[np.uint8]], matches: PointMatches) -> dict[str, list[NDArray[np.uint8]]]:
    """Arrange matches for :func:`siammae.visualize.picture_table`: frames, features, each block of the decoder.

    Args:
        frames: RGB, ``(H, W, 3)`` uint8, of any one size; a box marks the patch in its own.
        matches: from :func:`match_patch`.
    """
    marked, (height, width) = list(frames), matches.features.shape[-2:]
    marked[matches.frame] = mark_patch(frames[matches.frame], matches.patch, (height, width))
    rows = {"frame": marked, "features": heat_row(frames, matches.features)}
    if matches.decoder is not None:
        depth = matches.decoder.shape[1]
        rows |= {f"decoder {block}": heat_row(frames, matches.decoder[:, block]) for block in range(depth)}
    return rows
