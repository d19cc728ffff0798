"""Which frame to annotate next: the one from which most is to be expected."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

Rule = Literal["gain", "uniform", "lowest", "random"]


class _Result(Protocol):
    @property
    def confidence(self) -> NDArray[np.float32]: ...


def suggest_frame(result: _Result, annotated: Collection[int], *, rule: Rule = "gain", seed: int = 0) -> int | None:
    """Say which frame to annotate next.

    Args:
        result: :class:`VideoMasks` or :class:`VideoKeypoints` of a run from the annotated frames.
        annotated: numbers of the frames that are annotated, at least one.
        rule: ``"gain"`` = where most doubt would go, see :func:`expected_gain`; ``"uniform"`` = the same as if all
            frames were equally doubtful, so that they are spaced evenly; ``"lowest"`` = the frame that is least sure;
            ``"random"``.
        seed: of ``"random"``.

    Returns:
        The frame's number; None when all are annotated.

    Raises:
        ValueError: the rule is unknown, or ``annotated`` is empty or names a frame that the video has not.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> video = np.zeros((4, 48, 64, 3), np.uint8)
        >>> video[:, 16:32, 16:32] = 255  # a white square on black
        >>> mask = np.zeros((48, 64), np.uint8)
        >>> mask[16:32, 16:32] = 1
        >>> tracks = siammae.propagate_masks(video, mask, model=siammae.PixelExtractor())
        >>> siammae.suggest_frame(tracks, [0]) in (1, 2, 3)
        True
        >>> siammae.suggest_frame(tracks, [0, 1, 2, 3]) is None  # all are annotated
        True
    """
    if rule not in get_args(Rule):
        raise ValueError(f"rule is {rule!r}: it must be one of {', '.join(get_args(Rule))}.")
    sure = frame_confidence(result.confidence)
    away = _distances(len(sure), annotated)
    left = np.flatnonzero(away)
    if not left.size:
        return None
    if rule == "random":
        return int(np.random.default_rng([seed, len(left)]).choice(left))
    if rule == "uniform":
        sure = np.zeros_like(sure)
    worth = -sure if rule == "lowest" else expected_gain(sure, annotated)
    return int(left[worth[left].argmax()])


def frame_confidence(confidence: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the mean confidence of each frame, ``(T,)``, from ``(T, objects)``; NaN does not count."""
    known = ~np.isnan(confidence)
    return np.asarray(np.where(known, confidence, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1), np.float64)


def expected_gain(confidence: NDArray[np.floating], annotated: Collection[int]) -> NDArray[np.float64]:
    """Return for each frame how much doubt would go if it were annotated.

    The doubt of a frame is 1 - its confidence. It is taken to shrink in proportion with the distance to the nearest
    annotated frame: to a half where that is halved.

    Args:
        confidence: of each frame, ``(T,)`` in [0, 1].
        annotated: numbers of the frames that are annotated, at least one.

    Returns:
        ``(T,)`` in frames: 1 is as much as a whole frame's doubt.
    """
    away = _distances(len(confidence), annotated)
    frames = np.flatnonzero(away)
    # A frame t that is d away from what is annotated gives doubt * max(0, 1 - |t - c| / d) to each candidate c: a
    # triangle, which is the double sum of three impulses.
    slope = (1 - confidence[frames]) / away[frames]
    bends = np.zeros(3 * len(confidence))
    origin = len(confidence)
    for shift, weight in ((-1, 1), (0, -2), (1, 1)):
        np.add.at(bends, origin + frames + shift * away[frames], weight * slope)
    triangles = bends.cumsum().cumsum()
    return triangles[origin - 1 : 2 * origin - 1]


def _distances(frames: int, annotated: Collection[int]) -> NDArray[np.int64]:
    """Return how far each frame is from the nearest annotated one, ``(T,)``."""
    if not annotated or min(annotated) < 0 or max(annotated) >= frames:
        raise ValueError(f"annotated is {sorted(annotated)}: at least one number, each from 0 to {frames - 1}.")
    marks = np.array(sorted(annotated))
    places = np.arange(frames)
    after = marks.searchsorted(places).clip(max=len(marks) - 1)
    before = (after - 1).clip(min=0)
    return np.asarray(np.minimum(np.abs(places - marks[after]), np.abs(places - marks[before])))
