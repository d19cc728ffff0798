"""Where to look next: the frame from which most is to be expected, and the stretches that are least certain."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from siammae.annotate.project import Project
from siammae.propagation.suggestion import expected_gain, frame_confidence

_STRETCH = 9  # frames over which certainty is averaged: a single doubtful frame is seldom worth a look
_MOST = 20  # stretches


def confidence_table(project: Project) -> tuple[list[str], NDArray[np.float64]]:
    """Return the followed tracks and how sure each frame is of each, ``(frames, tracks)``; NaN = unknown."""
    known = project.confidence()
    table = np.full((project.count, len(known)), np.nan)
    for column, frames in enumerate(known.values()):
        table[list(frames), column] = list(frames.values())
    return [str(track) for track in known], table


def where_to_look(project: Project) -> dict[str, Any]:
    """Say which frame to annotate next, and what is least certain.

    Returns:
        ``next``: a frame's number by the rule ``"gain"`` of :func:`siammae.suggest_frame`, among the followed frames;
        None where nothing was followed. ``doubtful``: stretches as first frame, last frame and mean confidence, the
        least certain one first.
    """
    _, table = confidence_table(project)
    annotated = project.annotated
    followed = np.array(~np.isnan(table).all(axis=1) & (table.shape[1] > 0), np.bool_)
    followed[annotated] = False
    if not followed.any() or not annotated:
        return {"next": None, "doubtful": []}
    sure = np.where(followed, frame_confidence(table), 1.0)  # frames that no one has followed are no one's doubt
    gain = np.where(followed, expected_gain(sure, annotated), -1.0)
    return {"next": int(gain.argmax()), "doubtful": _doubtful(sure, followed)}


def _doubtful(sure: NDArray[np.float64], followed: NDArray[np.bool_]) -> list[list[float]]:
    """Return stretches of followed frames, none of which touch, the least certain first."""
    around = slice(_STRETCH // 2, _STRETCH // 2 + len(sure))
    weights = np.convolve(followed.astype(float), np.ones(_STRETCH))[around]
    sums = np.convolve(np.where(followed, sure, 0.0), np.ones(_STRETCH))[around]
    mean = np.where(followed, sums / np.maximum(weights, 1), np.inf)
    stretches: list[list[float]] = []
    while len(stretches) < _MOST and np.isfinite(low := mean.min()):
        middle = int(mean.argmin())
        first, last = max(0, middle - _STRETCH // 2), min(len(sure) - 1, middle + _STRETCH // 2)
        stretches.append([first, last, round(float(low), 3)])
        mean[max(0, first - _STRETCH // 2) : last + _STRETCH // 2 + 1] = np.inf
    return stretches
