"""Frames for the browser: JPEGs, the neighbours of the one that is looked at made before they are asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict

from siammae.errors import SiamMAEError
from siammae.frames import encode_image
from siammae.frames.random_access import FrameAccess

_CACHE_BYTES = 24_000_000
_QUALITY = 92  # of the JPEGs: what is drawn on should show no blocks
_AHEAD, _BEHIND = 6, 8  # neighbours; those behind cost a seek, so they are fetched by so many


class Pictures:
    """Makes JPEGs of frames, keeps the last ones, and fetches neighbours in a thread of its own.

    Args:
        frames: of the video.
    """

    def __init__(self, frames: FrameAccess) -> None:
        self._frames = frames
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()  # of what is kept
        self._wish: tuple[int, bool] | None = None  # the frame that was asked for last, and whether going backwards
        self._wished = threading.Condition()
        self._last = 0
        self._closed = False
        self._thread = threading.Thread(target=self._prefetch, name="prefetch", daemon=True)
        self._thread.start()

    def jpeg(self, number: int) -> bytes:
        """Return a frame.

        Raises:
            IndexError: there is none of this number.
            VideoReadError: it does not decode.
        """
        data = self._picture(number)
        with self._wished:
            self._wish, self._last = (number, number < self._last), number
            self._wished.notify()
        return data

    def close(self) -> None:
        """End the thread."""
        with self._wished:
            self._closed = True
            self._wished.notify()
        self._thread.join()

    def _picture(self, number: int) -> bytes:
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
        data = encode_image(self._frames.frame(number), "jpg", quality=_QUALITY)
        with self._lock:
            if number not in self._kept:
                self._kept[number] = data
                self._bytes += len(data)
            while self._bytes > _CACHE_BYTES and len(self._kept) > 1:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return data

    def _prefetch(self) -> None:
        while (wish := self._next_wish()) is not None:
            number, backwards = wish
            ahead = list(range(number + 1, number + 1 + _AHEAD))
            behind = list(range(number - _BEHIND, number))
            for near in behind + ahead if backwards else ahead + behind:
                if self._wish is not None or self._closed:
                    break
                if 0 <= near < self._frames.count:
                    try:
                        self._picture(near)
                    except (SiamMAEError, ValueError, IndexError):
                        break  # whoever asks for it hears why

    def _next_wish(self) -> tuple[int, bool] | None:
        """Wait for the next frame that is asked for; None at the end."""
        with self._wished:
            self._wished.wait_for(lambda: self._wish is not None or self._closed)
            wish, self._wish = self._wish, None
            return None if self._closed else wish
