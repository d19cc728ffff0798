"""The frames of a clip by their numbers, wherever they lie: in a video, an image or a shard."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import numpy as np
from numpy.typing import NDArray

from siammae.clips.clip import Clip
from siammae.clips.shards import ShardedClip
from siammae.errors import VideoReadError
from siammae.frames import Backend, FrameReader, VideoEndError, open_reader, shrink_frame

_ROUNDING = 1e-6  # frames: 1.2 s x 25 / s is frame 30, not 29.999999999


class OpenClip:
    """The frames of a clip; its file is opened when something of it is asked for, and closed with the ``with`` block.

    A time t of a cut becomes the frame t x rate, rounded up, by the rate in the file's header.

    Args:
        clip: which one.
        reader: decodes videos.
        short_side: frames are shrunk to this short side; None keeps them.
    """

    def __init__(self, clip: Clip, reader: Backend = "auto", short_side: int | None = None) -> None:
        self.clip, self._backend, self._short_side = clip, reader, short_side
        self._opened: FrameReader | ShardedClip | None = None
        self._first, self._limit = 0, sys.maxsize  # the clip's frames in the file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._opened is not None:
            self._opened.close()

    @property
    def random_access(self) -> bool:
        """Whether one frame costs no more than itself."""
        return self.clip.kind != "video"

    @property
    def count(self) -> int:
        """The frames by the header, which may be more than there are; 0 where it says nothing.

        Raises:
            VideoReadError: the file cannot be opened.
            ValueError: the cut begins after the end, or the file has no frame rate to place it by.
        """
        declared = self._open().frame_count
        return max(0, min(declared, self._limit) - self._first)

    @property
    def step(self) -> int:
        """Only every step-th frame is there; 1 except in shards."""
        opened = self._open()
        return opened.step if isinstance(opened, ShardedClip) else 1

    @property
    def frame_rate(self) -> float:
        """Frames per second, 0 where it is unknown."""
        return self._open().frame_rate

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield frames ``(H, W, 3)`` with their numbers in the clip.

        Args:
            numbers: which ones, rising; multiples of ``step``.

        Raises:
            VideoEndError: the clip is whole, but ends before one of them.
            VideoReadError: a frame does not decode, or the file breaks off before it.
        """
        reader, first = self._open(), self._first
        if isinstance(numbers, range):
            inside: Sequence[int] = range(numbers.start + first, min(numbers.stop + first, self._limit), numbers.step)
        else:
            inside = [number + first for number in numbers if number + first < self._limit]
        try:
            with _named(self.clip):
                for number, frame in reader.frames(inside):
                    yield number - first, shrink_frame(frame, self._short_side)
        except VideoEndError as end:
            raise VideoEndError(max(0, end.frame_count - first)) from end
        if len(inside) < len(numbers):
            raise VideoEndError(self._limit - first)

    def every_frame(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield all frames with their numbers, to the end.

        Raises:
            VideoReadError: a frame does not decode, or the file breaks off.
        """
        with contextlib.suppress(VideoEndError):
            yield from self.frames(range(sys.maxsize))

    def measure(self) -> int:
        """Count the frames that there are by decoding them all."""
        return sum(1 for _ in self.every_frame())

    def _open(self) -> FrameReader | ShardedClip:
        if self._opened is None:
            clip = self.clip
            if clip.kind == "shard":
                self._opened = ShardedClip(clip)
            else:
                with _named(clip):
                    self._opened = open_reader(clip.path, self._backend)
                self._first, self._limit = _cut(clip, self._opened)
        return self._opened


@contextmanager
def _named(clip: Clip) -> Iterator[None]:
    """Make one kind of error of the many that decoders raise for damaged files; no memory says nothing of the clip."""
    try:
        yield
    except (OSError, ValueError, VideoEndError, ImportError, MemoryError):
        raise
    except Exception as error:
        raise VideoReadError(f"{clip.path} cannot be read: {type(error).__name__}: {error}") from error


def _cut(clip: Clip, reader: FrameReader) -> tuple[int, int]:
    """Return the clip's first frame in the file, and the one to stop before."""
    if clip.start is None and clip.stop is None:
        return 0, sys.maxsize
    if reader.frame_rate <= 0:
        raise VideoReadError(f"{clip.name}: {clip.path} has no frame rate, so that times cannot be found in it.")
    first = math.ceil((clip.start or 0.0) * reader.frame_rate - _ROUNDING)
    limit = sys.maxsize if clip.stop is None else math.ceil(clip.stop * reader.frame_rate - _ROUNDING)
    if 0 < reader.frame_count <= first:
        length = reader.frame_count / reader.frame_rate
        raise VideoReadError(f"{clip.name}: it begins at {clip.start:g} s, but {clip.path} is {length:.4g} s long.")
    return first, limit
