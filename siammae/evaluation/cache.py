"""Features kept for one video, so that many rules of propagation share one extraction."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siammae.features import FeatureExtractor
from siammae.frames import VideoSource, read_frames


class FeatureCache:
    """An extractor that makes the features of a picture once and remembers them.

    Pictures are told apart by their pixels, size and normalisation, so rules that resize frames differently never get
    each other's features. Memory is bounded: what does not fit is made anew each time. Propagation reads a video from
    its beginning for each set of rules, so the first pictures are kept and not the latest, which would have gone
    before they are asked for again.

    Attributes:
        patch_size: that of the extractor.
        hits: pictures whose features were there.
        misses: pictures whose features were made.

    Args:
        extractor: makes the features.
        max_bytes: of features, on the extractor's device; at least 0.

    Raises:
        ValueError: ``max_bytes`` is negative.
    """

    def __init__(self, extractor: FeatureExtractor, *, max_bytes: int = 2 * 2**30) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes is {max_bytes}: it must be at least 0.")
        self.patch_size = extractor.patch_size
        self.hits = self.misses = 0
        self.extract_options: frozenset[str] = getattr(extractor, "extract_options", frozenset())
        self._extractor, self._room = extractor, max_bytes
        self._kept: dict[bytes, Tensor] = {}

    def extract(
        self,
        frames: VideoSource,
        *,
        batch_size: int = 8,
        pixel_std: tuple[float, float, float] | None = None,
        region: tuple[int, int, int, int] | None = None,
        pool_keys: int | None = None,
    ) -> Tensor:
        """Return patch features, see :meth:`FeatureExtractor.extract`; pictures are encoded one by one.

        Args:
            frames: whose sides are multiples of ``patch_size``.
            batch_size: part of the protocol; not used.
            pixel_std: overrides the divisor of normalised pixels.
            region: see :meth:`SiamMAE.extract`; of extractors that take one.
            pool_keys: likewise.

        Returns:
            ``(T, C, H // patch_size, W // patch_size)``; a copy, unless there is one picture only.
        """
        parts = []
        for frame in read_frames(frames):
            key = hashlib.blake2b(
                frame.tobytes(), key=f"{frame.shape} {pixel_std} {region} {pool_keys}".encode()[:64]
            ).digest()
            features = self._kept.get(key)
            if features is None:
                self.misses += 1
                features = self._make(frame[None], pixel_std=pixel_std, region=region, pool_keys=pool_keys)
                self._keep(key, features)
            else:
                self.hits += 1
            parts.append(features)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _make(self, frames: NDArray[np.uint8], **options: Any) -> Tensor:  # noqa: ANN401 -- an extractor's own
        # Any extractor need not know the arguments.
        return self._extractor.extract(frames, **{name: given for name, given in options.items() if given is not None})

    def _keep(self, key: bytes, features: Tensor) -> None:
        size = features.numel() * features.element_size()
        if size <= self._room:
            self._kept[key] = features
            self._room -= size
