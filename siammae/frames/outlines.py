"""The outlines of masks, and masks filled from outlines; corners are pixels, by the place of their centre."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.int32]]:
    """Return the outer outline of each piece of a mask ``(H, W)``: x, y of pixels ``(N, 2)``, N at least 3.

    Pieces touch over edges and corners. Holes are not told.
    """
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    pieces = [np.asarray(piece, np.int32).reshape(-1, 2) for piece in found]
    return [np.concatenate([piece, piece[:1], piece[:1]]) if len(piece) < 3 else piece for piece in pieces]


def fill_outline(corners: NDArray[np.int32], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill an outline ``(N, 2)``, the pixels on it included, into a mask of ``size`` ``(H, W)``."""
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [corners], 1)
    return mask.astype(np.bool_)
