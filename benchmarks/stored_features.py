"""Features kept in a folder, one file a picture, so that a benchmark encodes every frame once and for all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from siammae.features import FeatureExtractor
from siammae.frames import VideoSource, read_frames
from siammae.outputs import whole


class StoredFeatures:
    """An extractor that looks a picture up in a folder before it makes its features.

    Args:
        extractor: makes the features.
        folder: of one model's features; made where it is missing.
    """

    def __init__(self, extractor: FeatureExtractor, folder: Path) -> None:
        self.patch_size = extractor.patch_size
        self.propagation = getattr(extractor, "propagation", None)
        self.extract_options: frozenset[str] = getattr(extractor, "extract_options", frozenset())
        self._extractor, self._folder = extractor, folder

    def extract(self, frames: VideoSource, *, batch_size: int = 8, **options: object) -> Tensor:
        """Return patch features ``(T, C, h, w)``; options are the extractor's own."""
        return torch.cat([self._one(frame, options) for frame in read_frames(frames)])

    def _one(self, frame: np.ndarray, options: dict[str, object]) -> Tensor:
        key = hashlib.blake2b(frame.tobytes(), key=str(frame.shape).encode(), digest_size=16)
        if options:
            key.update(repr(sorted(options.items())).encode())
        path = self._folder / f"{key.hexdigest()}.npy"
        if not path.is_file():
            with whole(path, sync=False) as part, part.open("wb") as file:
                np.save(file, self._extractor.extract(frame[None], **options)[0].cpu().numpy())
        return torch.from_numpy(np.load(path))[None]
