"""Keypoints through a stream, one frame a call."""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siammae.config import PropagationConfig
from siammae.features import FeatureExtractor
from siammae.frames import FrameSource
from siammae.propagation.affinity import FrameFeatures, Kernels
from siammae.propagation.context import (
    ContextFrame,
    Size,
    StreamPropagator,
    in_turn,
)
from siammae.propagation.labels import decode_keypoints, encode_keypoints


class FrameKeypoints(NamedTuple):
    """Keypoints of one frame."""

    points: NDArray[np.float32]  # (N, 2) x, y pixels
    confidence: NDArray[np.float32]  # (N,) in [0, 1]


class KeypointPropagator(StreamPropagator):
    """Carries keypoints through a stream, one frame a call, in memory that does not grow.

    Args:
        extractor: turns frames into features.
        config: the rules; None = what the extractor recommends, else the defaults.
        kernels: backend of the affinity.

    Raises:
        KernelUnavailableError: the backend asked for cannot run here.
    """

    def __init__(
        self, extractor: FeatureExtractor, config: PropagationConfig | None = None, *, kernels: Kernels = "auto"
    ) -> None:
        super().__init__(extractor, config, kernels=kernels)
        self._count = 0

    @in_turn
    def reset(self) -> None:
        """Forget frames and keypoints; keep the model."""
        super().reset()
        self._count = 0

    @in_turn
    def step(self, frame: FrameSource, *, keypoints: NDArray[np.floating] | None = None) -> FrameKeypoints:
        """Take the next frame.

        Args:
            frame: RGB; NumPy ``(H, W, 3)`` uint8, torch ``(3, H, W)`` or PIL.
            keypoints: ``(N, 2)`` x, y in pixels, needed on the first frame; pixel (0, 0) has its centre at 0.0. On a
                later frame they correct: the same N, and rows of NaN are followed on.

        Returns:
            Points ``(N, 2)`` and confidence ``(N,)``. Given points come back as they are, with confidence 1.

        Raises:
            RuntimeError: there were no keypoints yet, or another thread is at work in this propagator.
            ValueError: frame or keypoints are refused; nothing has changed then.
        """
        stream = self._stream
        rgb, size = stream.open_frame(frame)
        first = not len(stream.queue)
        if first and keypoints is None:
            raise RuntimeError("no keypoints yet: give them on the first frame, step(frame, keypoints=...).")
        given = None if keypoints is None else self._check(np.asarray(keypoints), size, first)
        if given is not None and np.isnan(given).all():
            given = None  # corrects nothing, so the frame is not kept for good
        features = stream.encode(rgb).features
        maps = None if first else stream.propagate(features)
        if given is not None:
            maps = self._correct(maps, given, size, features.grid)
        config = stream.config
        points, confidence = decode_keypoints(
            cast(Tensor, maps), size, rule=config.keypoint_rule, top_k=config.keypoint_top_k
        )
        if given is not None and config.first_output == "given":
            known = ~np.isnan(given).any(axis=1)
            points[known], confidence[known] = given[known], 1.0
        known_rows = None
        if given is not None:
            known_rows = frozenset(np.flatnonzero(~np.isnan(given).any(axis=1)).tolist())
            self._revise_past(features, cast(Tensor, maps), known_rows)
        self._count = len(points)
        stream.close_frame(size, ContextFrame(features, cast(Tensor, maps), known_rows))
        return FrameKeypoints(points, confidence)

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

    def _check(self, keypoints: NDArray[np.floating], size: Size, first: bool) -> NDArray[np.floating]:
        if keypoints.ndim != 2 or keypoints.shape[1] != 2 or not len(keypoints) or keypoints.dtype.kind not in "fiu":
            raise ValueError(
                f"keypoints are {keypoints.shape} {keypoints.dtype}: they must be (N, 2) numbers, x and y in pixels."
            )
        if not first and len(keypoints) != self._count:
            raise ValueError(f"{len(keypoints)} keypoints, but {self._count} are followed. NaN rows are followed on.")
        limits = (size[1] - 0.5, size[0] - 0.5)
        missing = np.isnan(keypoints).all(axis=1)
        inside = ((keypoints >= -0.5) & (keypoints <= limits)).all(axis=1)
        if (bad := np.flatnonzero(~(inside if first else inside | missing))).size:
            x, y = keypoints[bad[0]]
            raise ValueError(
                f"keypoint {bad[0]} is ({x}, {y}): it must lie inside the frame, x in [-0.5, {limits[0]}] and y in "
                f"[-0.5, {limits[1]}]" + (", and not be NaN on the first frame." if first else ", or be all NaN.")
            )
        return keypoints

    def _correct(self, maps: Tensor | None, given: NDArray[np.floating], size: Size, grid: Size) -> Tensor:
        config = self._stream.config
        known = ~np.isnan(given).any(axis=1)
        drawn = encode_keypoints(given[known], size, grid, rule=config.keypoint_rule, sigma=config.keypoint_sigma)
        drawn = drawn.to(self._stream.device)
        if maps is None:
            return drawn
        maps[torch.from_numpy(known).to(maps.device)] = drawn
        return maps
