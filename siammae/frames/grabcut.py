"""A thing cut out of a frame by its colours, from a box around it or scribbles on it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from siammae.frames.rgb import check_layout

_ROUNDS = 4
_LONGEST = 480  # pixels of the longer side that GrabCut works at: 0.1 to 0.4 s on one core
_MARGIN = 0.35  # of the box's sides, that is looked at around it for the colours of the background
_SEED = 0  # of OpenCV's k-means

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are not in it


def cut_out(
    frame: NDArray[np.uint8],
    box: Box,
    *,
    inside: NDArray[np.bool_] | None = None,
    outside: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Find the pixels of the thing in a box, by GrabCut.

    Args:
        frame: RGB uint8 ``(H, W, 3)``.
        box: nothing outside it is the thing.
        inside: ``(H, W)`` pixels that are the thing for sure, such as a scribble.
        outside: ``(H, W)`` pixels that are not.

    Returns:
        ``(H, W)`` bool. Deterministic.

    Raises:
        ValueError: the box holds no pixel of the frame.

    Source:
        Rother, Kolmogorov, Blake, SIGGRAPH 2004, as in OpenCV.
    """
    import cv2

    check_layout(frame, "frame", "(H, W, 3)")
    height, width = frame.shape[:2]
    left, top, right, bottom = max(0, box[0]), max(0, box[1]), min(width, box[2]), min(height, box[3])
    if left >= right or top >= bottom:
        raise ValueError(f"the box {box} holds no pixel of the frame of {width} x {height}: draw it inside.")
    rim_x, rim_y = int(_MARGIN * (right - left)) + 8, int(_MARGIN * (bottom - top)) + 8
    near = np.s_[max(0, top - rim_y) : bottom + rim_y, max(0, left - rim_x) : right + rim_x]
    known = np.full((height, width), cv2.GC_BGD, np.uint8)
    known[top:bottom, left:right] = cv2.GC_PR_FGD
    if outside is not None:
        known[outside] = cv2.GC_BGD
    if inside is not None:
        known[inside] = cv2.GC_FGD
    result = np.zeros((height, width), bool)
    result[near] = _cut(np.ascontiguousarray(frame[near]), np.ascontiguousarray(known[near]))
    return result


def _cut(part: NDArray[np.uint8], known: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Run GrabCut on a part of a frame, smaller where it is large."""
    import cv2

    size = (part.shape[1], part.shape[0])
    scale = min(1.0, _LONGEST / max(size))
    small, marks = part, known
    if scale < 1:
        to = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        small = cv2.resize(part, to, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        marks = cv2.resize(known, to, interpolation=cv2.INTER_NEAREST).astype(np.uint8, copy=False)
    sure, possible = marks == cv2.GC_FGD, (marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)
    if possible.all():  # no background whose colours could be learnt: only a rim of one pixel
        marks[[0, -1]], marks[:, [0, -1]] = cv2.GC_BGD, cv2.GC_BGD
        possible = marks != cv2.GC_BGD
    if not possible.any():
        return np.equal(known, cv2.GC_FGD)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(_SEED)
    cv2.grabCut(cv2.cvtColor(small, cv2.COLOR_RGB2BGR), marks, (0, 0, 1, 1), *models, _ROUNDS, cv2.GC_INIT_WITH_MASK)
    found = np.isin(marks, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if not (found & ~sure).any():  # colours alike inside and outside: the box as it is, or the scribble
        found = sure if sure.any() else possible
    if scale < 1:
        found = cv2.resize(255 * found.astype(np.uint8), size, interpolation=cv2.INTER_LINEAR) > 127
        found &= known != cv2.GC_BGD
    return np.asarray(found | (known == cv2.GC_FGD), np.bool_)
