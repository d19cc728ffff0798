"""Pieces cut out of one frame and pasted into another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siammae.frames.rgb import resize_frame


def cut_piece(
    frame: NDArray[np.uint8], box: tuple[int, int, int, int], side: int, outline: NDArray[np.floating]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Cut a piece out of a frame.

    Args:
        frame: RGB ``(H, W, 3)``.
        box: top, left, height and width of what becomes the piece's square.
        side: of that square, in pixels.
        outline: ``(N, 2)`` x, y of the piece's corners in that square, in pixels.

    Returns:
        The square ``(side, side, 3)`` uint8, and how much of each pixel belongs to the piece ``(side, side)`` float32,
        0 to 1 with an edge of two pixels.
    """
    import cv2

    fill: Callable[..., Any] = cv2.fillPoly
    top, left, height, width = box
    cut = np.ascontiguousarray(frame[top : top + height, left : left + width])
    mask = fill(np.zeros((side, side), np.float32), [outline.round().astype(np.int32)], 1.0)
    return resize_frame(cut, (side, side), interpolation="area"), cv2.GaussianBlur(mask, (3, 3), 0)


def paste_piece(
    frame: NDArray[np.uint8], piece: NDArray[np.uint8], mask: NDArray[np.float32], to_frame: NDArray[np.floating]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Paste a piece of :func:`cut_piece` into a frame.

    Args:
        frame: RGB ``(H, W, 3)``.
        piece: ``(n, n, 3)``.
        mask: ``(n, n)``.
        to_frame: ``(2, 3)``, from x, y of the piece to x, y of the frame; pixel centres at whole numbers.

    Returns:
        The frame anew, and how much of each pixel is the piece now ``(H, W)`` float32.
    """
    import cv2

    size = (frame.shape[1], frame.shape[0])
    moved = cv2.warpAffine(piece, to_frame, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    share = cv2.warpAffine(mask, to_frame, size, flags=cv2.INTER_LINEAR).astype(np.float32, copy=False)
    mixed = frame + share[..., None] * (moved.astype(np.float32) - frame)
    return mixed.round().clip(0, 255).astype(np.uint8), share
