"""Keypoints from several annotated frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from siammae.config import PropagationConfig
from siammae.features import FeatureExtractor
from siammae.propagation.affinity import Kernels
from siammae.propagation.context import EncodedFrame, Size
from siammae.propagation.keyframes.both_ways import Between, Frames, Said, follow_both_ways
from siammae.propagation.keypoint_propagator import (
    FrameKeypoints,
    KeypointPropagator,
    SoftKeypoints,
    are_there,
    check_keypoints,
    spoken_for,
)

_Points = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class _Keypoints:
    """The walk's steps, for keypoints: see :class:`Kind`."""

    given: Mapping[int, _Points]
    extractor: FeatureExtractor
    config: PropagationConfig | None
    kernels: Kernels

    def check(self, number: int, size: Size) -> None:
        first = min(self.given)
        check_keypoints(self.given[number], size, None if number == first else len(self.given[first]))

    def propagator(self) -> KeypointPropagator:
        return KeypointPropagator(self.extractor, self.config, kernels=self.kernels)

    def annotated(
        self, propagator: KeypointPropagator, frame: EncodedFrame, index: int
    ) -> tuple[SoftKeypoints, dict[int, Said]]:
        points = self.given[index]
        result, there = propagator.step_encoded(frame, keypoints=points), are_there(points)
        return result, {row: Said(index, bool(there[row])) for row in np.flatnonzero(spoken_for(points)).tolist()}

    def plain(self, propagator: KeypointPropagator, frame: EncodedFrame) -> SoftKeypoints:
        return propagator.step_encoded(frame)

    def after_all(self, propagator: KeypointPropagator, frame: NDArray[np.uint8], index: int) -> SoftKeypoints:
        return propagator.step_encoded(propagator.encode(frame))

    def turn(self, propagator: KeypointPropagator, frame: EncodedFrame, given: SoftKeypoints, index: int) -> bool:
        points = self.given[index]
        if there := bool(are_there(points).any()):
            propagator.step_encoded(frame, keypoints=points)
        return there

    def fused(self, between: Between[SoftKeypoints]) -> SoftKeypoints:
        backward = between.backward
        if backward is None:
            backward = torch.zeros_like(between.given.scores)
        scores = backward
        if between.forward:
            scores = _fuse(between, between.forward[0], backward)
        return replace(between.given, scores=scores, given=None)


def _fuse(between: Between[SoftKeypoints], forward: torch.Tensor, backward: torch.Tensor) -> torch.Tensor:
    """Mix the maps ``(N, h, w)`` of both passes, each by its weights; nowhere where they are less than a half.

    A keypoint's confidence does not say whether it is there: between a frame with it and one without, distance decides.
    """
    sure = [
        replace(between.given, scores=maps, given=None).places().confidence.tolist() for maps in (forward, backward)
    ]
    maps = []
    for row, (ahead, back) in enumerate(zip(*sure, strict=True)):
        ends = (between.before.get(row), between.after.get(row))
        leaves = any(end is not None and not end.there for end in ends)
        before, after = between.weights(row, 0.5, 0.5) if leaves else between.weights(row, ahead, back)
        there = before + after
        maps.append((before * forward[row] + after * backward[row]) * (there >= 0.5) / max(there, 0.5))
    return torch.stack(maps)


def follow_keypoint_frames(
    frames: Frames,
    points: Mapping[int, _Points],
    extractor: FeatureExtractor,
    config: PropagationConfig | None,
    *,
    kernels: Kernels = "auto",
    on_forward: Callable[[int, FrameKeypoints], None] | None = None,
) -> Iterator[FrameKeypoints]:
    """Follow keypoints from several annotated frames, both ways in time.

    Args:
        frames: of the video, from frame 0.
        points: frame number to keypoints ``(N, 2)``, the same N in all; see :meth:`KeypointPropagator.step` for rows
            that say nothing or "not there".
        extractor: turns frames into features.
        config: the rules; None = what the extractor recommends.
        kernels: backend of the affinity.
        on_forward: is given the number of each frame between two annotated ones and what the forward pass alone says.

    Yields:
        One :class:`FrameKeypoints` a frame. Those between two annotated frames come when the second one was reached.

    Raises:
        ValueError: a number is negative or beyond the video's end, or keypoints are refused.
    """
    given = {index: np.asarray(some) for index, some in points.items()}
    for index, some in given.items():
        if some.ndim == 2 and some.shape[1] == 2 and some.dtype.kind == "f" and np.isnan(some).all():
            raise ValueError(f"the keypoints of frame {index} are all NaN, so they say nothing: leave the frame out.")
    kind = _Keypoints(given, extractor, config, kernels)
    seen = None if on_forward is None else lambda number, result: on_forward(number, result.places())
    for result in follow_both_ways(frames, kind, "keypoints", seen):
        yield result.places()
