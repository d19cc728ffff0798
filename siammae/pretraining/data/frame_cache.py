"""Decoded frames kept in memory, so that a clip is decoded once."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from siammae.clips.open_clip import OpenClip
from siammae.errors import VideoReadError
from siammae.frames import VideoEndError

Frames = dict[int, NDArray[np.uint8]]


class _Kept:
    """Frames of one clip, and why there are no more of them, where that is known."""

    def __init__(self) -> None:
        self.frames: Frames = {}
        self.end: VideoEndError | VideoReadError | None = None
        self.bytes = 0

    def load(self, clip: OpenClip, numbers: Sequence[int], budget: int) -> bool:
        """Add frames; return whether they fit."""
        for number, frame in clip.frames(numbers):
            self.frames[number] = np.ascontiguousarray(frame)
            self.bytes += frame.nbytes
            if self.bytes > budget:
                return False
        return True


class FrameCache:
    """The clips used last, up to a number of bytes.

    Of a video all frames are kept: it is decoded from its beginning anyway. Of images and shards, those asked for. What
    is returned or raised never depends on what is kept.

    Args:
        budget: bytes; 0 keeps nothing. A clip larger than that is never kept.
    """

    def __init__(self, budget: int) -> None:
        self._budget, self._bytes = budget, 0
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._large: set[int] = set()

    @property
    def keys(self) -> list[int]:
        """The clips of which frames are kept, the one used last at the end."""
        return list(self._kept)

    def read(self, key: int, clip: OpenClip, numbers: Sequence[int]) -> Frames:
        """Return frames by their numbers.

        Args:
            key: tells clips apart.
            clip: where to read what is missing.
            numbers: as for :meth:`OpenClip.frames`, which says what is raised.
        """
        if self._budget == 0 or key in self._large:
            return dict(clip.frames(numbers))
        kept = self._kept.pop(key, _Kept())
        self._bytes -= kept.bytes
        missing = [number for number in numbers if number not in kept.frames]
        if missing and kept.end is None and not self._load(kept, clip, missing):
            self._large.add(key)
            return dict(clip.frames(numbers))
        self._kept[key] = kept
        self._bytes += kept.bytes
        while self._bytes > self._budget:
            self._bytes -= self._kept.popitem(last=False)[1].bytes
        if kept.end is not None and numbers[-1] not in kept.frames:
            raise kept.end.with_traceback(None)
        return {number: kept.frames[number] for number in numbers}

    def _load(self, kept: _Kept, clip: OpenClip, missing: Sequence[int]) -> bool:
        if clip.random_access:
            return kept.load(clip, missing, self._budget)
        try:
            fits = kept.load(clip, range(sys.maxsize), self._budget)
        except (VideoEndError, VideoReadError) as end:  # the frames before are good, as they are without a cache
            kept.end = end
            return True
        return fits
