"""Weights of patches as heat over a frame, and the patch that a pixel lies in."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from siammae.visualize.pixels import check, check_frame, to_uint8

# From dark over red to light yellow (matplotlib's inferno at steps of 1/8): brightness alone tells the order.
_HEAT = np.array(
    [
        (0, 0, 4),
        (31, 12, 72),
        (85, 15, 109),
        (136, 34, 106),
        (186, 54, 85),
        (227, 89, 51),
        (249, 140, 10),
        (249, 201, 50),
        (252, 255, 164),
    ],
    dtype=np.float32,
)
_MARK, _RIM = (64, 224, 255), (20, 20, 20)


def overlay_heat(
    frame: NDArray[np.uint8],
    heat: NDArray[np.floating],
    *,
    limits: tuple[float, float] | None = None,
    alpha: float = 0.8,
) -> NDArray[np.uint8]:
    """Lay weights of patches over a grey copy of the frame: dark is little, light yellow is much.

    Args:
        frame: RGB, ``(H, W, 3)``, uint8.
        heat: ``(h, w)``, finite, one value a patch; resized to the frame bilinearly.
        limits: the values of the darkest and the lightest colour; None = the smallest and the largest of this map.
        alpha: share of the colour, from 0 (grey frame only) to 1 (colour only).

    Returns:
        The picture, ``(H, W, 3)``, uint8.

    Raises:
        ValueError: ``frame`` or ``heat`` has another shape, a value is not finite, or an option is out of range.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> frame = np.zeros((48, 64, 3), np.uint8)
        >>> siammae.overlay_heat(frame, np.arange(48.0).reshape(6, 8)).shape
        (48, 64, 3)
    """
    check_frame(frame, "frame")
    heat = np.asarray(heat, dtype=np.float32)
    valid = heat.ndim == 2 and heat.size > 0 and bool(np.isfinite(heat).all())
    check(valid, f"heat must be (h, w), finite, one value a patch, got {heat.shape}. Give the map of one frame.")
    check(0 <= alpha <= 1, f"alpha is {alpha}: it must be from 0 (frame only) to 1 (colour only).")
    low, high = limits or (float(heat.min()), float(heat.max()))
    check(low <= high, f"limits are {limits}: the first must not be above the second.")
    scaled = torch.from_numpy(np.clip((heat - low) / max(high - low, 1e-12), 0, 1))
    fine = F.interpolate(scaled[None, None], size=frame.shape[:2], mode="bilinear", align_corners=False)[0, 0].numpy()
    colors = np.stack([np.interp(fine, np.linspace(0, 1, len(_HEAT)), channel) for channel in _HEAT.T], axis=-1)
    grey = frame.astype(np.float32).mean(axis=-1, keepdims=True)
    return to_uint8(grey + alpha * (colors.astype(np.float32) - grey))


def patch_at(point: tuple[float, float], frame_size: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """Return the patch that a pixel lies in.

    Args:
        point: x and y in pixels of the frame, the centre of its first pixel at 0.0.
        frame_size: ``(H, W)`` of the frame, whatever size enters the network.
        grid: patches ``(h, w)`` that the frame is cut into.

    Returns:
        Row and column of the patch.

    Raises:
        ValueError: the point lies outside the frame.
    """
    (x, y), (height, width) = point, frame_size
    inside = -0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5
    check(inside, f"the point is x {x:g}, y {y:g}: it must lie in the frame, which is {width} wide and {height} high.")
    return int((y + 0.5) * grid[0] / height), int((x + 0.5) * grid[1] / width)


def mark_patch(frame: NDArray[np.uint8], patch: tuple[int, int], grid: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw a light blue frame with a dark rim around one patch.

    Args:
        frame: RGB, ``(H, W, 3)``, uint8.
        patch: its row and column.
        grid: patches ``(h, w)`` of the frame.

    Returns:
        The picture, ``(H, W, 3)``, uint8; what lies within the patch stays as it is.

    Raises:
        ValueError: ``frame`` has another shape or dtype, or there is no such patch.
    """
    check_frame(frame, "frame")
    inside = 0 <= patch[0] < grid[0] and 0 <= patch[1] < grid[1]
    check(inside, f"patch is {patch}: it must be a row and a column of a grid of {grid}.")
    edges = [
        [round(place * side / n) for place in (i, i + 1)]
        for i, side, n in zip(patch, frame.shape[:2], grid, strict=True)
    ]
    line = max(1, round(min(frame.shape[:2]) / 100))
    picture = frame.copy()
    for width, color in ((2 * line, _RIM), (line, _MARK)):
        (top, bottom), (left, right) = ((max(0, start - width), end + width) for start, end in edges)
        picture[top:bottom, left:right] = color
    (top, bottom), (left, right) = edges
    picture[top:bottom, left:right] = frame[top:bottom, left:right]
    return picture
