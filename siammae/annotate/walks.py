"""The frames of a segment, followed one after the other: between two annotated frames, or away from one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from siammae.annotate.files import FollowedPoint
from siammae.annotate.project import Project
from siammae.annotate.tracks import Segment, Track
from siammae.annotations.model import Visibility
from siammae.config import PropagationConfig
from siammae.features import FeatureExtractor
from siammae.frames.random_access import FrameAccess
from siammae.propagation.keyframes import follow_keyframes, follow_keypoint_frames
from siammae.propagation.keypoint_propagator import FrameKeypoints, KeypointPropagator
from siammae.propagation.labels import FrameMasks
from siammae.propagation.propagator import Propagator


@dataclass(frozen=True, slots=True)
class Found:
    """What was followed into a frame.

    Attributes:
        frame: its number.
        ids: map of ids ``(H, W)``; None where keypoints were followed.
        points: the keypoints.
        sure: how sure each track is.
        final: False = the other annotated frame has still to pull.
    """

    frame: int
    ids: NDArray[np.uint8] | None
    points: dict[Track, FollowedPoint]
    sure: dict[Track, float]
    final: bool


Keep = Callable[[Found], None]


class Way(Protocol):
    """What goes on from an annotated frame, step by step."""

    def step(self, frame: int, image: NDArray[np.uint8], *, final: bool) -> Found:
        """Follow into the next frame."""


class Walker:
    """Follows segments.

    Args:
        project: says what is annotated.
        frames: of the video; no one else uses them.
        extractor: turns frames into features.
        config: the rules; None = what the extractor recommends.
    """

    def __init__(
        self, project: Project, frames: FrameAccess, extractor: FeatureExtractor, config: PropagationConfig | None
    ) -> None:
        self._project, self._frames, self._extractor, self._config = project, frames, extractor, config

    def between(self, segment: Segment, keep: Keep) -> None:
        """Follow what lies between two annotated frames, from both; ``keep`` sees the forward pass's answers first."""
        start, end = segment.start, segment.stop + 1
        if not self._there(segment, start):
            start, end = end, start  # nothing could be followed from an empty frame, but what it says counts
        if not self._there(segment, start):
            for frame in segment.frames:
                keep(self.nowhere(segment, frame))
            return
        numbers = list(range(start, end + 1)) if start < end else list(range(start, end - 1, -1))
        if segment.tracks[0].joint:
            self._points_between(segment, numbers, keep)
        else:
            self._masks_between(segment, numbers, keep)

    def away(self, segment: Segment) -> Way:
        """Begin to follow away from an annotated frame; steps must take the frames of the segment in turn."""
        if not self._there(segment, segment.start):
            return _Nowhere(self, segment)
        if segment.tracks[0].joint:
            return _Points(self, segment, KeypointPropagator(self._extractor, self._config))
        return _Masks(self, segment, Propagator(self._extractor, self._config))

    def image(self, frame: int) -> NDArray[np.uint8]:
        """Read a frame."""
        return self._frames.frame(frame)

    def read(self, numbers: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Read frames in the order of their numbers, rising or falling."""
        return map(self._frames.frame, numbers)

    def _masks_between(self, segment: Segment, numbers: list[int], keep: Keep) -> None:
        ids = [track.object for track in segment.tracks]
        masks = {0: self.mask(segment, numbers[0]), len(numbers) - 1: self.mask(segment, numbers[-1])}
        results = follow_keyframes(
            self.read(numbers),
            masks,
            self._extractor,
            self._config,
            object_ids=ids,
            on_forward=lambda result: keep(self.masks_found(segment, numbers[result.frame_index], result, final=False)),
        )
        for place, result in enumerate(results):
            if 0 < place < len(numbers) - 1:
                keep(self.masks_found(segment, numbers[place], result, final=True))

    def _points_between(self, segment: Segment, numbers: list[int], keep: Keep) -> None:
        given = {0: self.points(segment, numbers[0]), len(numbers) - 1: self.points(segment, numbers[-1])}
        results = follow_keypoint_frames(
            self.read(numbers),
            given,
            self._extractor,
            self._config,
            on_forward=lambda place, result: keep(points_found(segment, numbers[place], result, final=False)),
        )
        for place, result in enumerate(results):
            if 0 < place < len(numbers) - 1:
                keep(points_found(segment, numbers[place], result, final=True))

    def masks_found(self, segment: Segment, frame: int, result: FrameMasks, *, final: bool) -> Found:
        """Describe masks."""
        sure = dict(zip(result.object_ids, result.confidence.tolist(), strict=True))
        return Found(frame, result.label_map(), {}, {t: float(sure[t.object]) for t in segment.tracks}, final)

    def mask(self, segment: Segment, frame: int) -> NDArray[np.uint8]:
        """Return what an annotated frame says of a segment's objects."""
        drawn = self._project.drawn(frame)
        if drawn is None:
            raise RuntimeError(f"frame {frame} is not annotated any more")
        return np.where(np.isin(drawn, [track.object for track in segment.tracks]), drawn, np.uint8(0))

    def points(self, segment: Segment, frame: int) -> NDArray[np.float64]:
        """Return what an annotated frame says of a segment's keypoints, ``(N, 2)``; -1, -1 = not there."""
        given = self._project.points.get(frame, {})
        some = [given[track] for track in segment.tracks]
        return np.array([(-1, -1) if p.visibility == Visibility.MISSING else (p.x, p.y) for p in some], np.float64)

    def _there(self, segment: Segment, frame: int) -> bool:
        """Say whether any track of a segment has a place in an annotated frame."""
        if segment.tracks[0].joint:
            return bool((self.points(segment, frame) != -1).any())
        return bool(self.mask(segment, frame).any())

    def nowhere(self, segment: Segment, frame: int) -> Found:
        """Describe a frame in which nothing is, as the annotated ones around it say."""
        sure = dict.fromkeys(segment.tracks, 1.0)
        if segment.tracks[0].joint:
            return Found(frame, None, dict.fromkeys(segment.tracks, FollowedPoint(-1, -1, 1)), sure, final=True)
        return Found(frame, np.zeros(self._project.size, np.uint8), {}, sure, final=True)


def points_found(segment: Segment, frame: int, result: FrameKeypoints, *, final: bool) -> Found:
    """Describe keypoints."""
    rows = zip(segment.tracks, result.points.tolist(), result.confidence.tolist(), strict=True)
    points = {track: FollowedPoint(x, y, sure) for track, (x, y), sure in rows}
    return Found(frame, None, points, {track: point.confidence for track, point in points.items()}, final)


class _Masks:
    def __init__(self, walker: Walker, segment: Segment, propagator: Propagator) -> None:
        self._walker, self._segment, self._propagator = walker, segment, propagator
        ids = [track.object for track in segment.tracks]
        propagator.step(walker.image(segment.start), mask=walker.mask(segment, segment.start), object_ids=ids)

    def step(self, frame: int, image: NDArray[np.uint8], *, final: bool) -> Found:
        return self._walker.masks_found(self._segment, frame, self._propagator.step(image), final=final)


class _Points:
    def __init__(self, walker: Walker, segment: Segment, propagator: KeypointPropagator) -> None:
        self._segment, self._propagator = segment, propagator
        propagator.step(walker.image(segment.start), keypoints=walker.points(segment, segment.start))

    def step(self, frame: int, image: NDArray[np.uint8], *, final: bool) -> Found:
        return points_found(self._segment, frame, self._propagator.step(image), final=final)


class _Nowhere:
    def __init__(self, walker: Walker, segment: Segment) -> None:
        self._walker, self._segment = walker, segment

    def step(self, frame: int, image: NDArray[np.uint8], *, final: bool) -> Found:
        return self._walker.nowhere(self._segment, frame)
