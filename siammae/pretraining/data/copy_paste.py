"""Pieces of picture that move on their own through a still pair.

Nearly all that a crop shows moves with the scene, so "where in the scene" may answer what the matching loss asks, and
labels of what moves would stay behind. A piece that is pasted into both crops at places of its own is found by its
looks alone.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from siammae.frames import cut_piece, paste_piece

_SIDE = (0.15, 0.6)  # of a piece's square, in sides of the crop
_TAKEN = (0.1, 0.6)  # the same in short sides of the frame it is cut from
_SCALE = (0.75, 1.33)  # from past to future
_CORNERS = 10
_LEAST = 8  # pixels of a piece's side
_GONE, _SHOWN = 0.2, 0.8  # shares of a patch from which it is no longer what it was, and is the piece


def copy_paste(
    crops: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    places: NDArray[np.float32],
    frame: NDArray[np.uint8],
    rng: np.random.Generator,
    *,
    most: int,
    degrees: float,
) -> tuple[list[NDArray[np.uint8]], NDArray[np.float32], NDArray[np.bool_]]:
    """Paste pieces of a frame into both crops of a still pair, each at a place of its own in either.

    Args:
        crops: past and future, ``(S, S, 3)``.
        places: ``(h*w, 2)`` float32 as in :class:`siammae.pretraining.data.crops.Pairs`.
        frame: ``(H, W, 3)``, where the pieces are cut from.
        rng: source of randomness.
        most: 0 to so many pieces are pasted.
        degrees: the future piece is turned by up to this many either way.

    Returns:
        Both crops and the places anew: a future patch that shows a piece knows where that is in the past crop; NaN
        where a patch shows a piece's edge, or a piece covers what it showed before. And which future patches show a
        piece, ``(h*w,)`` bool.
    """
    past, future = crops
    grid = math.isqrt(len(places))
    patch = len(past) // grid
    centres = np.stack(np.meshgrid(*2 * [np.arange(grid)]), axis=-1).reshape(-1, 2) * patch + (patch - 1) / 2  # pixels
    pasted = np.zeros(len(places), bool)
    for _ in range(int(rng.integers(0, most, endpoint=True))):
        side = max(_LEAST, round(len(past) * _log_uniform(rng, _SIDE)))
        piece, mask = cut_piece(frame, _square(frame, rng), side, _outline(side, rng))
        to_past = _leads(side, rng.uniform(0, len(past), 2))
        to_future = _leads(
            side, rng.uniform(0, len(past), 2), _log_uniform(rng, _SCALE), rng.uniform(-degrees, degrees)
        )
        past, hidden = paste_piece(past, piece, mask, to_past)
        future, shown = paste_piece(future, piece, mask, to_future)
        covered = _shares(shown, patch).ravel()
        column, row = np.nan_to_num(places).round().astype(int).clip(0, grid - 1).T
        places = np.where(((covered > _GONE) | (_shares(hidden, patch)[row, column] > _GONE))[:, None], np.nan, places)
        spots = _apply(to_past, _apply(_inverse(to_future), centres))
        places = np.where((covered > _SHOWN)[:, None], (spots - (patch - 1) / 2) / patch, places).astype(np.float32)
        pasted = (pasted & (covered <= _GONE)) | (covered > _SHOWN)
    return [past, future], places, pasted


def _log_uniform(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    return math.exp(rng.uniform(math.log(limits[0]), math.log(limits[1])))


def _square(frame: NDArray[np.uint8], rng: np.random.Generator) -> tuple[int, int, int, int]:
    height, width = frame.shape[:2]
    side = max(1, int(min(height, width) * _log_uniform(rng, _TAKEN)))
    return int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1)), side, side


def _outline(side: int, rng: np.random.Generator) -> NDArray[np.floating]:
    """Draw the corners of a star, ``(N, 2)`` x, y in a square."""
    angles = np.arange(_CORNERS) * (2 * math.pi / _CORNERS)
    reach = rng.uniform(0.45, 1, _CORNERS)[:, None] * (side / 2 - 1)
    corners: NDArray[np.floating] = (side - 1) / 2 + reach * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return corners


def _leads(side: int, middle: NDArray[np.floating], scale: float = 1.0, degrees: float = 0.0) -> NDArray[np.floating]:
    """Return the way from a square's x, y to a crop's, ``(2, 3)``, with the square's middle at ``middle``."""
    turn = math.radians(degrees)
    turned: NDArray[np.floating] = scale * np.array(
        [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
    )
    return np.concatenate([turned, (middle - turned @ np.full(2, (side - 1) / 2))[:, None]], axis=1)


def _inverse(way: NDArray[np.floating]) -> NDArray[np.floating]:
    back: NDArray[np.floating] = np.linalg.inv(way[:, :2])
    return np.concatenate([back, -back @ way[:, 2:]], axis=1)


def _apply(way: NDArray[np.floating], points: NDArray[np.floating]) -> NDArray[np.floating]:
    moved: NDArray[np.floating] = points @ way[:, :2].T + way[:, 2]
    return moved


def _shares(covered: NDArray[np.float32], patch: int) -> NDArray[np.float32]:
    """Average over patches: ``(S, S)`` to ``(h, w)``."""
    grid = len(covered) // patch
    means: NDArray[np.float32] = covered.reshape(grid, patch, grid, patch).mean(axis=(1, 3))
    return means
