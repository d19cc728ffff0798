"""Features kept for one video, so that many rules of propagation share one extraction."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siammae.features import FeatureExtractor, FeatureStream
from siammae.frames import VideoSource, read_frames

_Region: TypeAlias = tuple[int, int, int, int]


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

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> cache = siammae.FeatureCache(siammae.PixelExtractor())
        >>> frame = np.zeros((1, 48, 64, 3), np.uint8)
        >>> for _ in range(3):
        ...     features = cache.extract(frame)
        >>> cache.misses, cache.hits
        (1, 2)
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
            features = self.remembered(key)
            if features is None:
                features = self._make(frame[None], pixel_std=pixel_std, region=region, pool_keys=pool_keys)
                self.keep(key, features)
            parts.append(features)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def open_stream(self, **options: Any) -> FeatureStream:  # noqa: ANN401 -- an extractor's own
        """Return a stream of an extractor that has such, whose features are remembered by all frames up to theirs."""
        return _CachedStream(self, lambda: self._extractor.open_stream(**options), repr(sorted(options.items())))  # type: ignore[attr-defined]

    def remembered(self, key: bytes) -> Tensor | None:
        """Return the features kept under a key, and count."""
        features = self._kept.get(key)
        self.hits, self.misses = self.hits + (features is not None), self.misses + (features is None)
        return features

    def keep(self, key: bytes, features: Tensor) -> None:
        """Keep features where there is room."""
        size = features.numel() * features.element_size()
        if size <= self._room:
            self._kept[key] = features
            self._room -= size

    def _make(self, frames: NDArray[np.uint8], **options: Any) -> Tensor:  # noqa: ANN401 -- an extractor's own
        # Any extractor need not know the arguments.
        return self._extractor.extract(frames, **{name: given for name, given in options.items() if given is not None})


class _CachedStream:
    """A stream whose features depend on all frames so far: a key stands for these.

    Frames whose features were there wait until some are not: then the extractor's own stream sees them first, so that
    what it makes is the same, whatever was remembered.
    """

    def __init__(self, cache: FeatureCache, open_stream: Callable[[], FeatureStream], options: str) -> None:
        self._cache, self._open = cache, open_stream
        self._own: FeatureStream | None = None
        self._waiting: list[tuple[NDArray[np.uint8], _Region | None]] = []
        self._key = hashlib.blake2b(options.encode()).digest()
        self.region: _Region | None = None
        self.computed = self.asked = 0

    def extract(self, frame: NDArray[np.uint8], *, region: _Region | None = None) -> Tensor:
        self._key = hashlib.blake2b(frame.tobytes(), key=self._key, salt=b"stream").digest()
        key = hashlib.blake2b(f"{frame.shape} {region}".encode(), key=self._key).digest()
        self._key = key
        self._waiting.append((frame, region))
        features = self._cache.remembered(key)
        if features is None:
            own = self._own = self._own or self._open()
            for waiting, where in self._waiting:
                features = own.extract(waiting, region=where)
            self._waiting.clear()
            self.region, self.computed, self.asked = own.region, own.computed, own.asked
            self._cache.keep(key, cast(Tensor, features))
        return cast(Tensor, features)
