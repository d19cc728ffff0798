"""Where every pixel of a frame was in another one, by optical flow, and what of it moves on its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Two flows agree where going there and back ends within this part of the way, plus half a pixel (Sundaram et al. 2010,
# eq. 5, has 0.01 and 0.5 for squares of lengths, which is about the same for short ways).
_PART, _PIXELS = 0.1, 0.5
# What is covered or too fast can get a wrong flow both ways, mostly none at all: its looks differ by more grey levels.
_LEVELS, _AREA = 16, (5, 5)
_LEAST_SIDE = 16  # OpenCV's flow fails below
_EVERY, _NEAR = 6, 1.0  # the dominant motion is fitted to every so many pixels; these lie so near it, in pixels
_LEAST_POINTS = 12  # of which it can be fitted


def find_flow(past: NDArray[np.uint8], future: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Find where each pixel of the future frame was in the past frame.

    Args:
        past: RGB ``(H, W, 3)``.
        future: the same size.

    Returns:
        ``(H, W, 2)`` float32, x and y to add to a future pixel's own, in pixels; NaN where flow forwards and backwards
        disagree or the two frames differ there: what is covered or uncovered, leaves the frame or is too fast.

    Source:
        OpenCV's DIS flow (Kroeger et al., ECCV 2016), its preset "fast".
    """
    import cv2

    remap: Any = cv2.remap  # OpenCV's own types know of no None
    flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    old, new = (cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in (past, future))
    if min(old.shape) < _LEAST_SIDE:
        return np.full((*old.shape, 2), np.nan, np.float32)
    # An array instead of None would be where the search begins.
    backwards, forwards = flow.calc(new, old, None), flow.calc(old, new, None)
    y, x = np.indices(old.shape, dtype=np.float32)
    place = backwards + np.stack([x, y], axis=2)
    back_again = remap(forwards, place, None, cv2.INTER_LINEAR, borderValue=(np.nan, np.nan))
    away = np.linalg.norm(backwards + back_again, axis=2)  # NaN outside the past frame, and no comparison holds for it
    differ = cv2.blur(cv2.absdiff(remap(old, place, None, cv2.INTER_LINEAR), new), _AREA)
    agree = (away <= _PIXELS + _PART * np.linalg.norm(backwards, axis=2)) & (differ <= _LEVELS)
    return np.where(agree[..., None], backwards, np.float32(np.nan))


def residual_motion(flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Measure how far each pixel moved against the dominant motion of the frame, such as the camera's.

    Args:
        flow: of :func:`find_flow`, ``(H, W, 2)``, pixels; NaN where it is not known.

    Returns:
        ``(H, W)`` float32, pixels: the distance of each pixel's flow from the affine motion that most pixels share;
        NaN where the flow is. Where too little is known to fit one, nothing counts as dominant motion.

    Source:
        OpenCV's estimateAffine2D by RANSAC, the random numbers of which always begin the same.
    """
    import cv2

    y, x = np.indices(flow.shape[:2], dtype=np.float32)
    places = np.stack([x, y], axis=2)
    some = flow[::_EVERY, ::_EVERY].reshape(-1, 2)
    known = np.isfinite(some).all(axis=1)
    fitted = None
    if known.sum() >= _LEAST_POINTS:
        start = places[::_EVERY, ::_EVERY].reshape(-1, 2)[known]
        fitted, _ = cv2.estimateAffine2D(start, start + some[known], ransacReprojThreshold=_NEAR)
    dominant = np.zeros_like(flow) if fitted is None else places @ fitted[:, :2].T + fitted[:, 2] - places
    distance: NDArray[np.float32] = np.linalg.norm(flow - dominant, axis=2).astype(np.float32)
    return distance
