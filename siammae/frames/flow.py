"""Where every pixel of a frame was in another one, by optical flow."""

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
