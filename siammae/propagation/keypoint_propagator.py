"""Keypoints through a stream, one frame a call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siammae.config import PropagationConfig
from siammae.features import FeatureExtractor
from siammae.frames import FrameSource
from siammae.propagation.affinity import FrameFeatures, Kernels
from siammae.propagation.context import ContextFrame, EncodedFrame, Size, StreamPropagator, in_turn
from siammae.propagation.labels import NOWHERE, decode_keypoints, encode_keypoints


class FrameKeypoints(NamedTuple):
    """Keypoints of one frame."""

    points: NDArray[np.float32]  # (N, 2) x, y pixels; -1, -1 where a keypoint is not there
    confidence: NDArray[np.float32]  # (N,) in [0, 1]


@dataclass(frozen=True, slots=True)
class SoftKeypoints:
    """Maps of one frame's keypoints, before places are read from them.

    Attributes:
        scores: ``(N, h, w)`` float32 on the model's device; all 0 for a keypoint that is not there.
        frame_size: ``(H, W)``.
        config: the rules of reading.
        given: the keypoints that came with this frame, ``(N, 2)``, or None; NaN = it does not speak for them.
    """

    scores: Tensor
    frame_size: Size
    config: PropagationConfig
    given: NDArray[np.floating] | None = field(default=None, repr=False)

    def places(self) -> FrameKeypoints:
        """Read the places; given ones are as given, unless the rules say otherwise."""
        config = self.config
        points, confidence = decode_keypoints(
            self.scores, self.frame_size, rule=config.keypoint_rule, top_k=config.keypoint_top_k
        )
        if self.given is not None and config.first_output == "given":
            known = spoken_for(self.given)
            points[known], confidence[known] = self.given[known], 1.0
        return FrameKeypoints(points, confidence)


def spoken_for(keypoints: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return which keypoints ``(N, 2)`` say something, ``(N,)``: where they are, or with -1, -1 that they are not."""
    return np.asarray(~np.isnan(keypoints).any(axis=1))


def are_there(keypoints: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return which keypoints ``(N, 2)`` have a place, ``(N,)``."""
    return np.asarray(spoken_for(keypoints) & ~(keypoints == NOWHERE).all(axis=1))


def check_keypoints(keypoints: NDArray[np.floating], size: Size, count: int | None) -> NDArray[np.floating]:
    """Return keypoints ``(N, 2)`` that fit a frame.

    Args:
        keypoints: to be checked.
        size: of the frame, ``(H, W)``.
        count: how many are followed; None = these are the first.

    Raises:
        ValueError: they do not fit.
    """
    if keypoints.ndim != 2 or keypoints.shape[1] != 2 or not len(keypoints) or keypoints.dtype.kind not in "fiu":
        raise ValueError(
            f"keypoints are {keypoints.shape} {keypoints.dtype}: they must be (N, 2) numbers, x and y in pixels."
        )
    if count not in (None, len(keypoints)):
        raise ValueError(f"{len(keypoints)} keypoints, but {count} are followed. NaN rows are followed on.")
    limits = (size[1] - 0.5, size[0] - 0.5)
    unsaid, nowhere = np.isnan(keypoints).all(axis=1), (keypoints == NOWHERE).all(axis=1)
    inside = ((keypoints >= -0.5) & (keypoints <= limits)).all(axis=1)
    if (bad := np.flatnonzero(~(inside | unsaid | nowhere))).size:
        x, y = keypoints[bad[0]]
        raise ValueError(
            f"keypoint {bad[0]} is ({x}, {y}): it must lie inside the frame, x in [-0.5, {limits[0]}] and y in "
            f"[-0.5, {limits[1]}], or be NaN, NaN (nothing is said of it) or -1, -1 (it is not there)."
        )
    if count is None and not inside.any():
        raise ValueError("the first keypoints are all NaN or -1: at least one must have a place in the frame.")
    return keypoints


class KeypointPropagator(StreamPropagator):
    """Carries keypoints through a stream, one frame a call, in memory that does not grow.

    Args:
        extractor: turns frames into features.
        config: the rules; None = what the extractor recommends, else the defaults.
        kernels: backend of the affinity.

    Raises:
        KernelUnavailableError: the backend asked for cannot run here.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> video = np.zeros((4, 48, 64, 3), np.uint8)
        >>> video[:, 16:32, 16:32] = 255  # a white square on black
        >>> points = np.array([[16.0, 16.0], [31.0, 31.0]])  # x, y of two corners
        >>> follow = siammae.KeypointPropagator(siammae.PixelExtractor(4))
        >>> for index, frame in enumerate(video):
        ...     result = follow.step(frame, keypoints=points if index == 0 else None)
        >>> result.points.shape, result.confidence.shape
        ((2, 2), (2,))
    """

    def __init__(
        self, extractor: FeatureExtractor, config: PropagationConfig | None = None, *, kernels: Kernels = "auto"
    ) -> None:
        super().__init__(extractor, config, kernels=kernels)
        self._count = 0
        self._gone: frozenset[int] = frozenset()

    @in_turn
    def reset(self) -> None:
        """Forget frames and keypoints; keep the model."""
        super().reset()
        self._count, self._gone = 0, frozenset()

    @in_turn
    def step(self, frame: FrameSource, *, keypoints: NDArray[np.floating] | None = None) -> FrameKeypoints:
        """Take the next frame.

        Args:
            frame: RGB; NumPy ``(H, W, 3)`` uint8, torch ``(3, H, W)`` or PIL.
            keypoints: ``(N, 2)`` x, y in pixels, needed on the first frame; pixel (0, 0) has its centre at 0.0. On a
                later frame they correct: the same N. A row of NaN says nothing: it is followed on, or not known yet.
                A row of -1, -1 says that the keypoint is not there, until a later frame gives it again.

        Returns:
            Points ``(N, 2)`` and confidence ``(N,)``. Given points come back as they are, with confidence 1; those that
            are not known or not there are -1, -1, with confidence 0.

        Raises:
            RuntimeError: there were no keypoints yet, or another thread is at work in this propagator.
            ValueError: frame or keypoints are refused; nothing has changed then.
        """
        rgb, size = self._stream.open_frame(frame)
        given = self._accept(keypoints, size)
        return self._advance(self._stream.encode(rgb), given).places()

    @in_turn
    def encode(self, frame: FrameSource) -> EncodedFrame:
        """Make a frame's features without a step: for :meth:`step_encoded`, here or in another propagator."""
        return self._stream.encode(self._stream.open_frame(frame)[0])

    @in_turn
    def step_encoded(self, frame: EncodedFrame, *, keypoints: NDArray[np.floating] | None = None) -> SoftKeypoints:
        """Take the next frame as :meth:`step` does, its features made before; places are not read yet."""
        return self._advance(frame, self._accept(keypoints, frame.size))

    def _accept(self, keypoints: NDArray[np.floating] | None, size: Size) -> NDArray[np.floating] | None:
        """Check what comes with a frame; None where it says nothing, so that the frame is not kept for good."""
        first = not len(self._stream.queue)
        if keypoints is None:
            if first:
                raise RuntimeError("no keypoints yet: give them on the first frame, step(frame, keypoints=...).")
            return None
        given = check_keypoints(np.asarray(keypoints), size, None if first else self._count)
        return given if spoken_for(given).any() else None

    def _advance(self, frame: EncodedFrame, given: NDArray[np.floating] | None) -> SoftKeypoints:
        stream, features = self._stream, frame.features
        maps = stream.propagate(features) if len(stream.queue) else None
        gone, spoken = self._gone, None
        if given is not None:
            maps = self._correct(maps, given, frame.size, features.grid)
            spoken, there = (frozenset(np.flatnonzero(rows).tolist()) for rows in (spoken_for(given), are_there(given)))
            gone = (gone - there) | (spoken - there)
        maps = cast(Tensor, maps)
        maps[sorted(gone)] = 0  # frames before may still know them
        if spoken is not None:
            self._revise_past(features, maps, spoken - gone)
        # From here on nothing is refused.
        self._count, self._gone = len(maps), gone
        stream.close_frame(frame.size, ContextFrame(features, maps, spoken))
        return SoftKeypoints(maps, frame.size, stream.config, given)

    def _revise_past(self, features: FrameFeatures, maps: Tensor, known: frozenset[int]) -> None:
        """Correct the frames before, which would outvote the correction; keypoints given with them stay."""

        def revised(past: ContextFrame) -> ContextFrame:
            rows = sorted(known - (past.given or frozenset()))
            if not rows:
                return past
            labels = past.labels.clone()
            labels[rows] = self._stream.look_back(past, features, maps)[rows]
            return past._replace(labels=labels)

        self._stream.queue.change(revised)

    def _correct(self, maps: Tensor | None, given: NDArray[np.floating], size: Size, grid: Size) -> Tensor:
        config, there = self._stream.config, are_there(given)
        drawn = encode_keypoints(given[there], size, grid, rule=config.keypoint_rule, sigma=config.keypoint_sigma)
        drawn = drawn.to(self._stream.device)
        if there.all():
            return drawn
        if maps is None:
            maps = drawn.new_zeros(len(given), *grid)
        maps[torch.from_numpy(there).to(maps.device)] = drawn
        return maps
