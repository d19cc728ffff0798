"""Any frame of a video file by its number, quickly: PyAV with the file's list of timestamps as an index."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from siammae.frames.pyav_reader import PyAVReader, timeline_of

if TYPE_CHECKING:
    import av

_I_PICTURE = 1  # libavutil's number


class UnprovenError(Exception):
    """A decoded frame is not the one that the file's timestamps promise."""


class GivenUpError(Exception):
    """Who asked for a frame does not want it any more."""


class PyAVAccess(PyAVReader):
    """Goes on decoding where the last frame was, and seeks where a key frame lies between; one thread at a time.

    On the way from a key frame to the one that is wanted, frames that no other one needs are left out.

    Args:
        path: a video file.
        threads: that decode.
        behind: frames before the last one that stay decoded, for who steps back from it; until somebody steps forwards.

    Attributes:
        count: of the frames, by their timestamps.

    Raises:
        UnprovenError: the file's timestamps do not tell which frame is which.
        VideoReadError: the file cannot be opened as a video.
    """

    def __init__(self, path: Path, threads: int, behind: int = 0) -> None:
        super().__init__(path)
        self._stream.thread_type = "AUTO"
        self._stream.codec_context.thread_count = threads
        if (timeline := timeline_of(path)) is None:
            self.close()
            raise UnprovenError(f"{path} has no timestamps that tell its frames apart")
        self._timeline, self.count, self._behind = timeline, len(timeline.stamps), behind
        self._decoding: Iterator[av.VideoFrame] = iter(())
        self._position = -1  # number of the frame that was decoded last; -1: it is not known
        self._whole = 0  # from this frame on, none is left out
        self._kept: deque[tuple[int, Any]] = deque(maxlen=behind + 1)  # the last frames with their numbers

    def frame(self, number: int, given_up: Callable[[], bool] = lambda: False) -> NDArray[np.uint8]:
        """Return a frame, RGB ``(H, W, 3)``.

        Args:
            number: from 0 to ``count`` - 1.
            given_up: asked before each frame that has to be decoded, whether this one is still wanted.

        Raises:
            UnprovenError: it cannot be shown that what decodes is this frame.
            VideoReadError: it does not become RGB.
            GivenUpError: it is not wanted any more.
        """
        if all(known != number for known, _ in self._kept):
            try:
                self._decode(number, max(0, number - self._behind), given_up)
            except UnprovenError:
                self._position = -1
                self._decode(number, 0, given_up)
        return self._rgb(next(frame for known, frame in self._kept if known == number), number)

    def _decode(self, number: int, whole: int, given_up: Callable[[], bool]) -> None:
        """Decode up to a frame; of those before ``whole`` only what others need."""
        keys = self._timeline.keys
        key = int(keys[np.searchsorted(keys, number, "right") - 1])
        # An aim that was given up may have left out frames up to its own ``whole``.
        if number <= self._position or number < self._whole or key > self._position:
            self._land(key, whole)
        elif number == self._position + 1:
            self._kept.clear()
        self._whole = whole
        while self._position < number:
            if given_up():
                raise GivenUpError
            self._step(number)
        if self._position != number:
            raise UnprovenError(f"frame {number} was not found")

    def _land(self, key: int, whole: int) -> None:
        """Seek to a key frame, or to one before it where the file's own index leads there."""
        self._kept.clear()
        self._position, self._whole = -1, whole
        if not self._seek(int(self._timeline.stamps[key])):
            raise UnprovenError(f"no seeking to frame {key}")
        self._decoding = self._decoded()
        frame = next((f for f in self._decoding if f.key_frame and int(f.pict_type) == _I_PICTURE), None)
        landed = None if frame is None else self._timeline.number_of(frame)
        if landed is None:
            raise UnprovenError(f"frame {key} does not decode")
        self._keep(landed, frame)

    def _step(self, number: int) -> None:
        """Decode the next frame."""
        turn = self._turn
        frame = next(self._decoding, None)
        place = None if frame is None else self._timeline.number_of(frame)
        proven = place is not None and frame is not None and not frame.is_corrupt and place > self._position
        if place is None or not proven or (place > self._whole and place != self._position + 1):
            before, self._position = self._position, -1
            raise UnprovenError(f"frame {number} does not follow {before}")
        if self._turn != turn:
            self._kept.clear()  # they would be turned as this one
        self._keep(place, frame)

    def _keep(self, place: int, frame: Any) -> None:  # noqa: ANN401
        self._kept.append((place, frame))
        self._position = place

    def _before(self, packet: av.Packet[Any]) -> None:
        """Leave out frames that no other one needs where they are not wanted: each packet is told from the others."""
        spared = packet.pts is not None and packet.pts < self._timeline.stamps[self._whole]
        self._stream.codec_context.skip_frame = "NONREF" if spared else "DEFAULT"
