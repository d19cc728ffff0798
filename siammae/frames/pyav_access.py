"""Any frame of a video file by its number, quickly: PyAV with the file's list of timestamps as an index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from siammae.frames.pyav_reader import PyAVReader, timeline_of

if TYPE_CHECKING:
    import av

_I_PICTURE = 1  # libavutil's number
_ALL_FROM = 20  # frames before the one that is wanted, from which on all are decoded: more than are ever reordered


class UnprovenError(Exception):
    """A decoded frame is not the one that the file's timestamps promise."""


class PyAVAccess(PyAVReader):
    """Goes on decoding where the last frame was, and seeks where a key frame lies between; one thread at a time.

    Args:
        path: a video file.
        threads: that decode.

    Attributes:
        count: of the frames, by their timestamps.

    Raises:
        UnprovenError: the file's timestamps do not tell which frame is which.
        VideoReadError: the file cannot be opened as a video.
    """

    def __init__(self, path: Path, threads: int) -> None:
        super().__init__(path)
        self._threads = threads
        self._use_threads()
        if (timeline := timeline_of(path)) is None:
            self.close()
            raise UnprovenError(f"{path} has no timestamps that tell its frames apart")
        self._timeline, self.count = timeline, len(timeline.stamps)
        self._decoding: Iterator[av.VideoFrame] = iter(())
        self._position = -1  # number of the frame that was decoded last
        self._last: Any = None

    def _use_threads(self) -> None:
        self._stream.thread_type = "AUTO"
        self._stream.codec_context.thread_count = self._threads

    def frame(self, number: int) -> NDArray[np.uint8]:
        """Return a frame, RGB ``(H, W, 3)``.

        Args:
            number: from 0 to ``count`` - 1.

        Raises:
            UnprovenError: it cannot be shown that what decodes is this frame.
            VideoReadError: it does not become RGB.
        """
        try:
            self._decode(number, sparing=True)
        except UnprovenError:
            self._last = None
            self._decode(number, sparing=False)
        return self._rgb(cast("av.VideoFrame", self._last), number)

    def _decode(self, number: int, *, sparing: bool) -> None:
        keys = self._timeline.keys
        key = int(keys[np.searchsorted(keys, number, "right") - 1])
        if self._last is None or number < self._position or key > self._position:
            self._land(key)
        if self._position < number:
            self._go_on(number, sparing=sparing)
        if self._position != number:
            raise UnprovenError(f"frame {number} was not found")

    def _land(self, key: int) -> None:
        """Seek to a key frame, or to one before it where the file's own index leads there."""
        self._last = None
        if not self._seek(int(self._timeline.stamps[key])):
            raise UnprovenError(f"no seeking to frame {key}")
        self._stream.codec_context.skip_frame = "DEFAULT"
        self._decoding = self._decoded()
        frame = next((f for f in self._decoding if f.key_frame and int(f.pict_type) == _I_PICTURE), None)
        landed = None if frame is None else self._timeline.number_of(frame)
        if landed is None:
            raise UnprovenError(f"frame {key} does not decode")
        self._last, self._position = frame, landed

    def _go_on(self, number: int, *, sparing: bool) -> None:
        """Decode up to a frame; sparing: of those far before it only what others need."""
        context, stamps = self._stream.codec_context, self._timeline.stamps
        skipping = sparing and number - self._position > _ALL_FROM
        context.skip_frame = "NONREF" if skipping else "DEFAULT"
        for frame in self._decoding:
            place = self._timeline.number_of(frame)
            if place is None or frame.is_corrupt or (not skipping and place != self._position + 1):
                break
            self._last, self._position = frame, place
            if skipping and number - place <= _ALL_FROM:
                # Frames that are under way may still have holes: the number is proven by the timestamp alone.
                context.skip_frame = "DEFAULT"
            if place >= number:
                return
        self._last = None
        raise UnprovenError(f"frame {number} does not follow {stamps[self._position]}")
