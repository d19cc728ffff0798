"""Labels on the patch grid: masks and keypoints in, soft labels mixed by affinity, masks and keypoints out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from siammae.config import PropagationConfig
from siammae.propagation.affinity import TopK, mix_labels
from siammae.propagation.refinement import refine_by_colour

_VOID = 255
NOWHERE = (-1.0, -1.0)  # the place of a keypoint that is not there


@dataclass(frozen=True, slots=True)
class FrameMasks:
    """Soft labels of one frame; pixels are made only when asked for.

    Attributes:
        frame_index: counted from 0 since the propagator's start or reset.
        object_ids: the followed objects, in the order of ``scores[1:]``.
        scores: ``(1 + objects, h * c, w * c)`` float32 on the model's device, ``c`` = ``config.label_cells``; channel 0
            is the background.
        frame_size: ``(H, W)``.
        input_size: ``(H, W)`` of the network's input.
        config: the rules of rendering.
        given: the mask that came with this frame, ``(H, W)`` uint8, or None.
        given_ids: the objects that mask speaks for.
        image: the frame as the network took it, RGB ``input_size + (3,)`` uint8, for refinement; None = no refinement.
    """

    frame_index: int
    object_ids: tuple[int, ...]
    scores: Tensor
    frame_size: tuple[int, int]
    input_size: tuple[int, int]
    config: PropagationConfig
    given: NDArray[np.uint8] | None = field(default=None, repr=False)
    given_ids: tuple[int, ...] = ()
    image: NDArray[np.uint8] | None = field(default=None, repr=False)

    def label_map(self, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Return uint8 object ids; 0 is background.

        Args:
            size: of the map, ``(H, W)``, which takes the place of the frame's size in the rules of rendering; a given
                mask gets there by nearest neighbour. None = the frame's size.
        """
        config, size = self.config, size or self.frame_size
        upsampled = size if config.upsample_to == "frame" else self.input_size
        channels = render_labels(self._refined(), upsampled, min_max=config.min_max, upsampling=config.upsampling)
        labels = np.array([0, *self.object_ids], np.uint8)[resize_nearest(channels, size)]
        if self.given is None or config.first_output == "rendered":
            return labels
        given = resize_nearest(self.given, size)
        labels[np.isin(labels, self.given_ids)] = 0
        return np.where(np.isin(given, self.given_ids), given, labels)

    def _refined(self) -> Tensor:
        """Return the soft labels, refined where the rules say so: then at the input's size."""
        if self.config.refine == "none" or self.image is None or len(self.scores) == 1:
            return self.scores
        soft = F.interpolate(self.scores[None], self.input_size, mode="bilinear", align_corners=False)[0]
        image = torch.from_numpy(self.image).to(soft.device).permute(2, 0, 1)
        config = self.config
        return refine_by_colour(soft, image, radius=config.refine_radius, strength=config.refine_strength)

    @property
    def confidence(self) -> NDArray[np.float32]:
        """How sure the frame is of each object, ``(objects,)`` in [0, 1]: see :func:`confidence`; 1 for given ones."""
        sure = np.array(confidence(self.scores), np.float32)
        sure[np.isin(self.object_ids, self.given_ids)] = 1
        return sure

    def masks(self) -> NDArray[np.bool_]:
        """Return one mask per object: ``(objects, H, W)`` bool, in the order of ``object_ids``."""
        return np.equal(self.label_map(), np.array(self.object_ids, np.uint8).reshape(-1, 1, 1))


def confidence(scores: Tensor) -> list[float]:
    """Return how sure soft labels ``(1 + objects, h, w)`` are of each object, in [0, 1].

    It is the mean share of the object at its own patches, weighted by the share: 1 where its mask is sharp, less where
    it has spread or competes with others; 0 where it is gone. It is near J without any calibration: 0.07 off in the
    mean of 19 sequences (benchmarks/several_annotated_frames.md).
    """
    objects = scores[1:].double().flatten(1)
    mass = objects.sum(dim=1)
    squares = objects.square().sum(dim=1)
    return [float(value) for value in torch.where(mass > 0, squares / mass.clamp_min(1e-12), 0).clamp(0, 1)]


def gather_labels(topk: TopK, context_labels: Tensor) -> Tensor:
    """Mix context labels into the query frame's labels.

    Args:
        topk: from :func:`siammae.topk_affinity`, of a context of M frames of ``(h, w)`` patches.
        context_labels: ``(M, L, h, w)``, float, on the same device.

    Returns:
        ``(L, h, w)`` float32.

    Raises:
        ValueError: the labels do not belong to these matches.

    Example:
        >>> import siammae
        >>> import torch
        >>> context = torch.eye(12).reshape(1, 12, 3, 4)  # one frame of 3 x 4 patches, all different
        >>> matches = siammae.topk_affinity(context[0].flip(-1), context, top_k=1, temperature=0.1)
        >>> labels = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(1, 1, 3, 4)  # the left column
        >>> siammae.gather_labels(matches, labels)[0, 0].tolist()  # in the mirrored frame, the right one
        [0.0, 0.0, 0.0, 1.0]
    """
    if context_labels.ndim != 4:
        raise ValueError(f"context_labels is {tuple(context_labels.shape)}: it must be (M, L, h, w).")
    count, _, h, w = context_labels.shape
    if topk.weights.shape[0] != h * w or int(topk.indices.max()) >= count * h * w:
        raise ValueError(
            f"context_labels is {tuple(context_labels.shape)}, but the matches are {tuple(topk.weights.shape)} with "
            f"indices up to {int(topk.indices.max())}: pass the labels of the frames that topk_affinity searched."
        )
    return mix_labels(topk.weights, topk.indices, context_labels)


def encode_mask(
    mask: NDArray[np.uint8],
    object_ids: Sequence[int],
    grid: tuple[int, int],
    input_size: tuple[int, int],
    rule: Literal["area", "bilinear", "nearest"],
) -> Tensor:
    """Turn a mask into soft labels on the patch grid.

    Args:
        mask: ``(H, W)`` uint8 object ids; 255 is void and gives no label a share.
        object_ids: the channels after the background's.
        grid: patches ``(h, w)``.
        input_size: the network's input ``(H, W)``, where ``"bilinear"`` makes its one-hot maps.
        rule: see :class:`siammae.PropagationConfig`, ``first_labels``.

    Returns:
        ``(1 + len(object_ids), h, w)`` float32 in [0, 1].
    """
    if rule != "area":
        mask = resize_nearest(mask, grid if rule == "nearest" else input_size)
    source = torch.from_numpy(mask)[None, None]
    # One full-size map at a time, each into its place: those of all objects of a 4K frame would not fit, and small
    # results kept between large maps would leave holes of their size in the heap.
    labels = torch.empty((1 + len(object_ids), *grid), dtype=torch.float32, device="cpu")
    for channel, object_id in enumerate((0, *object_ids)):
        one_hot = (source == object_id).float()
        if rule == "area":
            one_hot = F.adaptive_avg_pool2d(one_hot, grid)
        elif rule == "bilinear":
            one_hot = F.interpolate(one_hot, grid, mode="bilinear", align_corners=False)
        labels[channel] = one_hot[0, 0]
    return labels


def resize_nearest(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a label map ``(H, W)`` by nearest neighbour, sampling pixel centres (Pillow's rule)."""
    if mask.shape == size:
        return mask
    return np.array(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))


def unit_sum(labels: Tensor) -> Tensor:
    """Divide soft labels ``(L, h, w)`` by their sum over L; where all are 0 they stay so."""
    total = labels.sum(dim=0)
    return labels / torch.where(total > 0, total, 1)


def render_labels(
    scores: Tensor,
    size: tuple[int, int],
    *,
    min_max: bool,
    upsampling: Literal["bilinear", "nearest"] = "bilinear",
) -> NDArray[np.uint8]:
    """Upsample soft labels and take the best label of each pixel.

    Args:
        scores: ``(L, h, w)``, float.
        size: ``(H, W)`` of the result.
        min_max: stretch every label's upsampled map to [0, 1] first.
        upsampling: ``"nearest"`` takes the patch in which a pixel's corner lies, as PyTorch does.

    Returns:
        ``(H, W)`` uint8 channel numbers; equal scores go to the smaller one.

    Source:
        min_max is DINO's norm_mask, eval_video_segmentation.py.
    """
    corners = False if upsampling == "bilinear" else None
    best = torch.full(size, -torch.inf, dtype=scores.dtype, device=scores.device)
    label = torch.zeros(size, dtype=torch.uint8, device=scores.device)
    for channel in range(len(scores)):  # one full-size map at a time bounds memory for many objects
        full = F.interpolate(scores[channel][None, None], size, mode=upsampling, align_corners=corners)[0, 0]
        if min_max and (peak := full.max()) > 0:
            full = full - full.min()
            # A constant map becomes NaN, which DINO's argmax prefers to every number. An object that fills the frame
            # is constant but for the rounding of weights whose sum is 1.
            full = torch.where(full.max() > 1e-6 * peak, full / full.max(), torch.inf)
        better = full > best
        torch.where(better, full, best, out=best)
        label.masked_fill_(better, channel)
    return label.cpu().numpy()


def encode_keypoints(
    points: NDArray[np.floating],
    frame_size: tuple[int, int],
    grid: tuple[int, int],
    *,
    rule: Literal["subpixel", "cell"],
    sigma: float,
) -> Tensor:
    """Turn keypoints into one map each on the patch grid.

    Args:
        points: ``(N, 2)`` x, y in pixels; pixel (0, 0) has its centre at 0.0.
        frame_size: ``(H, W)``.
        grid: patches ``(h, w)``.
        rule: ``"subpixel"`` = a Gaussian at the exact position, summing to 1; ``"cell"`` = videowalk's and CropMAE's
            labels: a Gaussian with peak 1 on a rounded cell, cut to 6 sigma + 1 cells.
        sigma: standard deviation in patches.

    Returns:
        ``(N, h, w)`` float32.

    Source:
        "cell": videowalk and CropMAE, data/jhmdb.py.
    """
    scale = np.array([grid[1] / frame_size[1], grid[0] / frame_size[0]])
    if rule == "cell":
        return torch.stack([_cell_map(point * scale, grid, sigma) for point in np.asarray(points, np.float64)])
    place = torch.from_numpy((np.asarray(points, np.float64) + 0.5) * scale - 0.5)
    dx = torch.arange(grid[1], dtype=torch.float64, device="cpu") - place[:, :1]  # (N, w)
    dy = torch.arange(grid[0], dtype=torch.float64, device="cpu") - place[:, 1:]  # (N, h)
    squared = dy.square()[:, :, None] + dx.square()[:, None, :]  # (N, h, w)
    # A softmax and not exp over its sum, which is 0 over 0 for a small sigma.
    return (-squared / (2 * sigma**2)).flatten(1).softmax(dim=1).reshape(squared.shape).float()


def _cell_map(place: NDArray[np.float64], grid: tuple[int, int], sigma: float) -> Tensor:
    """Draw one keypoint as the source does; its truncation towards zero is kept."""
    reach = 3 * sigma
    axis = np.arange(0, 2 * reach + 1)
    bell = np.exp(-((axis - len(axis) // 2) ** 2) / (2 * sigma**2))
    result = np.zeros(grid, np.float32)
    slices = []
    for place_1d, length in ((place[1], grid[0]), (place[0], grid[1])):  # y, x
        low, high = int(place_1d - reach), int(place_1d + reach + 1)
        if low >= length or high < 0:
            return torch.from_numpy(result)
        slices.append((slice(max(0, low), min(high, length)), bell[max(0, -low) : min(high, length) - low]))
    (rows, y), (columns, x) = slices
    result[rows, columns] = np.outer(y, x)
    return torch.from_numpy(result)


def decode_keypoints(
    maps: Tensor, frame_size: tuple[int, int], *, rule: Literal["subpixel", "cell"], top_k: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Find each keypoint in its map.

    Args:
        maps: ``(N, h, w)``, float, not negative.
        frame_size: ``(H, W)``.
        rule: ``"subpixel"`` = the centre of mass around the strongest spot; ``"cell"`` = the weighted mean of the
            ``top_k`` strongest cells' indices.
        top_k: for ``"cell"``.

    Returns:
        Points ``(N, 2)`` float32 x, y in pixels, ``(-1, -1)`` for an empty map, and confidence ``(N,)`` float32 in
        [0, 1]: the part of the label's mass that stayed together.
    """
    n, h, w = maps.shape
    scale = np.array([frame_size[1] / w, frame_size[0] / h])
    if rule == "cell":
        values, cells = maps.flatten(1).topk(min(top_k, h * w), dim=1)
        total = values.sum(dim=1)
        places = torch.stack([cells % w, cells // w], dim=2).float()  # (N, k, 2)
        mean = (values[..., None] * places).sum(dim=1) / torch.where(total > 0, total, 1)[:, None]
        points = mean.cpu().numpy() * scale
        points[(total == 0).cpu().numpy()] = NOWHERE
        return points.astype(np.float32), values[:, 0].clamp(0, 1).cpu().numpy()
    # A 3x3 sum finds the spot: one stray patch cannot win against a cluster.
    spot = F.avg_pool2d(maps[:, None], 3, stride=1, padding=1, divisor_override=1).flatten(1).argmax(dim=1)
    rows, columns = (torch.arange(side, dtype=torch.int64, device=maps.device) for side in (h, w))
    dy = (rows - (spot // w)[:, None]).abs() <= 2  # (N, h)
    dx = (columns - (spot % w)[:, None]).abs() <= 2  # (N, w)
    near = maps * (dy[:, :, None] & dx[:, None, :])
    mass = near.sum(dim=(1, 2))
    x = (near.sum(dim=1) * columns).sum(dim=1) / mass.clamp_min(1e-12)
    y = (near.sum(dim=2) * rows).sum(dim=1) / mass.clamp_min(1e-12)
    points = (torch.stack([x, y], dim=1).cpu().numpy() + 0.5) * scale - 0.5
    points[(mass == 0).cpu().numpy()] = NOWHERE
    return points.reshape(n, 2).astype(np.float32), mass.clamp(0, 1).cpu().numpy()
